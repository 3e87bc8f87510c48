"""Whatever is sent to the doors of calls of blocks: it is answered whole, or refused and counted; nothing runs twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.http.conformance.asker import Asker
from ioi_dagster.adapters.http.conformance.calls import STREAM, WHOLE, Call, frames_of
from ioi_dagster.adapters.http.conformance.room import Room
from ioi_dagster.adapters.http.protocol import Invocation, Invoked, ProblemAnswer, Word
from ioi_dagster.clock import ManualClock
from ioi_dagster.decoding import converted, from_json
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Payload
from ioi_dagster.model.refusal import Refusal
from tests.properties.test_fuzzed_gateway import ABSURD, places, refused
from tests.unit.test_protocol import JSON, Peer

PERMITS = ["good"] * 12 + ["another step", "another payload", "another door's", "expired", "rubbish"]
CHANGES: dict[str, dict[str, Any]] = {
    "another step": {"step": "another"},
    "another payload": {"payload": "sha256:00"},
    "expired": {"expires": 1.0},
}


@dataclass(frozen=True)
class Sent:
    """A call of the number `call`; `harm` are changes of its message at random places, `cut` is what of its bytes is wrong."""

    door: str
    call: int
    permit: str
    harm: tuple[tuple[int, Any], ...]
    cut: str
    after: int
    rejoin: bool
    made: bool


SENT = st.builds(
    Sent,
    door=st.sampled_from([STREAM, STREAM, WHOLE]),
    call=st.integers(0, 5),
    permit=st.sampled_from(PERMITS),
    harm=st.lists(st.tuples(st.integers(0, 10_000), ABSURD | JSON), max_size=2).map(tuple) | st.just(()),
    cut=st.sampled_from([""] * 12 + ["half", "more", "nothing", "no frame"]),
    after=st.sampled_from([0, 0, 0, 1, 3, 7, 2**17]),
    rejoin=st.booleans(),
    made=st.booleans(),
)


OF_EACH = [Sent(STREAM, 0, permit, (), "", 0, False, False) for permit in dict.fromkeys(PERMITS)]
"""What chance may leave out."""


def body(call: Call, sent: Sent) -> bytes:
    permit: Any = "rubbish" if sent.permit == "rubbish" else call.permit(**CHANGES.get(sent.permit, {}))
    asked = Invocation(
        call.lease, {}, call.lease.capability, dict(call.payload.document), after=sent.after, rejoin=sent.rejoin
    )
    named = replace(asked, block="telling", version="1") if sent.made else asked
    document = json.loads(msgspec.json.encode({**msgspec.to_builtins(named), "permit": permit}))
    for at, value in sent.harm:
        there = list(places(document))
        container, key = there[at % len(there)]
        container[key] = value
    framed = encode_payload(Payload(document, call.payload.parts))
    cuts = {"half": framed[: len(framed) // 2], "more": framed + b"x", "nothing": b"", "no frame": b"[" * 10_000}
    return cuts.get(sent.cut, framed)


def told(door: str, status: int, answer: bytes) -> str:
    """The code of what was refused; empty where it was answered."""
    refusal: Refusal | None
    if status != 200:
        code = from_json(answer, ProblemAnswer).error.code
        assert status < 500, f"{code} is a defect, not a refusal"
        return code
    if door == STREAM:
        frames = frames_of(status, answer)
        numbers = [frame.number for frame in frames if frame.word is Word.PIECE]
        assert numbers == list(range(frames[0].number, frames[0].number + len(numbers)))
        end = frames[-1].end
    else:
        end = converted(decode_payload(answer).document, Invoked)
    assert end is not None
    refusal = end.refusal
    assert refusal is not None or end.ok, end
    return refusal.code if refusal is not None else ""


def fuzz(tmp_path_factory: pytest.TempPathFactory, examples: int, each: int) -> int:
    """`examples` lists of `each` messages at most. Returns how many were sent."""
    peer, counts = Peer(tmp_path_factory.mktemp("fuzzed"), ManualClock()), Counter[str]()
    asker = Asker(peer.subject(peer.ask))
    call = Call.of(Room(asker))

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    @given(st.lists(SENT, min_size=each // 5, max_size=each))
    @example([*OF_EACH, replace(OF_EACH[0], cut="half")])
    def all_of(messages: list[Sent]) -> None:
        for sent in messages:
            call.nonce = f"call {sent.call}"
            door = {STREAM: WHOLE, WHOLE: STREAM}[sent.door] if sent.permit == "another door's" else sent.door
            counts[told(door, *asker.send("POST", door, body(call, sent)))] += 1
            assert set(peer.node.begun.values()) <= {1}, "a call was begun twice"

    try:
        before = refused(peer)
        all_of()
        answered = counts.pop("")
        assert refused(peer) - before == counts
        assert {"gateway.malformed", "permit.expired", "permit.step_mismatch", "gateway.other_door"} <= set(counts)
        assert answered > counts.total() / 20, "much of it is as it should be"
        assert len({name.rpartition("/")[2] for name in peer.node.begun}) == len(peer.node.begun), "one door each"
        return answered + counts.total()
    finally:
        peer.close()


def test_what_is_sent_to_the_doors_of_calls_is_answered_or_refused_and_nothing_runs_twice(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    assert fuzz(tmp_path_factory, 40, 25) > 200


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_nor_does_anything_of_a_hundred_thousand(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert fuzz(tmp_path_factory, 3_500, 60) >= 100_000
