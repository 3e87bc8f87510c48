"""Whatever a peer sends to a gateway before a cluster: it is answered, or refused with a code and counted; the books balance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.http.doors import MAX_JSON
from ioi_dagster.adapters.http.protocol import PERMIT_HEADER, PROOF_HEADER, ProblemAnswer
from ioi_dagster.clock import ManualClock
from ioi_dagster.decoding import from_json
from ioi_dagster.governors.cluster import Tick
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.policy.permits import encode, issue
from ioi_dagster.policy.proof import VALID_S, prove
from ioi_dagster.signing import SigningKey, digest_bytes
from tests.unit.test_protocol import JSON, KEY, Peer

NODES, SLOTS = 2, 2
ANSWER_S = 60.0
STRANGER = SigningKey.generate("library")
ASKED = {"capability": "echo", "data_class": "public"}
SENT: dict[str, Any] = {
    "announce": {
        "cluster": "lab-c",
        "announce": {"run": "r", "round": 1, "origin": "library", "groups": [{**ASKED, "count": 3}]},
    },
    "award": {
        "cluster": "lab-c",
        "run": "r",
        "round": 1,
        "origin": "library",
        "requests": [
            {**ASKED, "run": "r", "step": "s", "fence": 1},
            {**ASKED, "run": "r", "step": "t", "fence": 2},
            {**ASKED, "run": "r", "step": "u", "fence": 1, "gang": "g"},
            {**ASKED, "run": "r", "step": "v", "fence": 1, "gang": "g"},
        ],
    },
    "renew": {"cluster": "lab-c", "renew": {"run": "r", "leases": ["lab-c/1/1"]}},
    "release": {"cluster": "lab-c", "release": {"run": "r", "leases": ["lab-c/1/1", "lab-c/1/2"]}},
}
ABSURD = st.sampled_from([-1, 0, 2**31, 2**53, 10**18, 1e308, "", "x" * 5_000, None, [], {}, True])


@dataclass(frozen=True)
class Sent:
    """`proof` and `permit` name what is wrong with it, or nothing."""

    door: str
    body: bytes
    path: str = ""
    method: str = "POST"
    proof: str = ""
    permit: str = ""
    waits_s: float = 0.0
    again: bool = False


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in it."""
    for key, value in list(document.items() if isinstance(document, dict) else enumerate(document)):
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    door = draw(st.sampled_from(sorted(SENT)))
    document = json.loads(json.dumps(SENT[door]))
    for _ in range(draw(st.integers(0, 2))):
        there = list(places(document))
        container, key = there[draw(st.integers(0, len(there) - 1))]
        container[key] = draw(ABSURD | JSON)
    if door == "award" and isinstance(document.get("requests"), list) and draw(st.booleans()):
        document["requests"] = (
            draw(st.lists(st.sampled_from(document["requests"]), max_size=6)) if document["requests"] else []
        )
    body = json.dumps(document).encode()
    cut = draw(st.integers(0, 9))
    if cut == 0:
        body = draw(st.sampled_from([b"", b"\xff\xfe", b"[" * 50_000, body[: len(body) // 2], b" " * (MAX_JSON + 1)]))
    return Sent(
        door,
        body,
        path=draw(st.sampled_from([""] * 30 + ["/v0/announce", "/v2/award", "/v1/nowhere", "/", "/v1/award/../renew"])),
        method=draw(st.sampled_from(["POST"] * 30 + ["GET", "DELETE"])),
        proof=draw(
            st.sampled_from([""] * 30 + ["none", "old", "ahead", "audience", "path", "body", "stranger", "rubbish"])
        ),
        permit=draw(st.sampled_from([""] * 30 + ["none", "expired", "run", "domain", "stranger", "rubbish"])),
        waits_s=draw(st.sampled_from([0.0] * 8 + [1.0, 29.0, 31.0])),
        again=draw(st.booleans()),
    )


def permit(of: str, now: float) -> str:
    if of in ("none", "rubbish"):
        return "" if of == "none" else "rubbish"
    key = STRANGER if of == "stranger" else KEY
    claims = RunPermit(
        run="other" if of == "run" else "r",
        job="j",
        subject="ann",
        issuer=key.domain,
        **dict.fromkeys(("job_snapshot", "plan", "config", "selection", "code", "revision"), ""),
        highest=DataClass.INTERNAL,
        domains=("elsewhere",) if of == "domain" else ("lab",),
        decision_ids=(),
        not_before=float(int(now)) - 10,
        expires=now - 1 if of == "expired" else float(int(now)) + 1_000,
        nonce="n",
    )
    return encode(issue(key, claims))


def proof(of: str, sent: Sent, path: str, now: float) -> str:
    if of in ("none", "rubbish"):
        return "" if of == "none" else "rubbish"
    return prove(
        STRANGER if of == "stranger" else KEY,
        audience="elsewhere" if of == "audience" else "lab",
        method=sent.method,
        path="/v1/health" if of == "path" else path,
        body=digest_bytes(sent.body + (b" " if of == "body" else b"")),
        now=now + {"old": -2 * VALID_S, "ahead": 2 * VALID_S}.get(of, 0.0),
    )


def feed(peer: Peer, clock: ManualClock, messages: list[Sent], told: Counter[str]) -> None:
    for sent in messages:
        clock.advance(sent.waits_s)
        now, path = clock.wall(), sent.path or f"/v1/{sent.door}"
        headers = {PROOF_HEADER: proof(sent.proof, sent, path, now), PERMIT_HEADER: permit(sent.permit, now)}
        given = {name: text for name, text in headers.items() if text}
        for _ in range(2 if sent.again else 1):
            answered = peer.ask(sent.method, path, sent.body, given, ANSWER_S)
            assert answered is not None, "no answer"
            status, answer = answered
            if status != 200:
                code = from_json(answer, ProblemAnswer).error.code
                assert (status < 500, code) == (True, code), "a defect, not a refusal"
                told[code] += 1
            else:
                told["answered"] += 1
                assert (sent.proof, sent.permit, sent.path) == ("", "", "")
            peer.governor.validate()
            assert len(peer.governor.snapshot().leases) <= NODES * SLOTS


def fuzz(tmp_path_factory: pytest.TempPathFactory, examples: int, size: int) -> int:
    """How many requests were sent."""
    clock, told = ManualClock(), Counter[str]()
    peer = Peer(tmp_path_factory.mktemp("fuzzed"), clock)
    before = refused(peer)

    @settings(max_examples=examples, deadline=None)
    @given(st.lists(requests(), min_size=size // 2, max_size=size))
    def all_of(messages: list[Sent]) -> None:
        feed(peer, clock, messages, told)

    try:
        all_of()
        count, answered = told.total(), told.pop("answered")
        assert refused(peer) - before == told
        assert {"proof.stale", "permit.expired", "gateway.malformed", "protocol.version"} <= set(told)
        assert answered > count / 50, "much of it is as it should be"
        peer.governor.handle(Tick(), 1e9)
        assert peer.governor.snapshot().leases == ()
    finally:
        peer.close()
    return count


def refused(peer: Peer) -> Counter[str]:
    """How often by code, as `ioi status` tells it."""
    found: Counter[str] = Counter()
    for row in peer.refused():
        found[row.code] += row.count
    return found


def test_a_peers_messages_are_answered_or_refused_and_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert fuzz(tmp_path_factory, 40, 40) > 500


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_hundred_thousand_of_them_are_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert fuzz(tmp_path_factory, 2_500, 60) >= 100_000
