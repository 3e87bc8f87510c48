"""The rules of the wire protocol hold for our gateway, and each is broken by a gateway that does not keep it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.http.conformance import Ask, Outcome, Subject, check
from ioi_dagster.adapters.http.gateway import GatewayContext, create_app
from ioi_dagster.adapters.http.protocol import BY_PATH, DOORS, schema
from ioi_dagster.adapters.http.refusals import Refused
from ioi_dagster.adapters.link.caller import ClusterLine
from ioi_dagster.adapters.link.door import Waiting, open_door
from ioi_dagster.clock import ManualClock
from ioi_dagster.domain import ClusterAddress, DomainConfig
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply, Tick
from ioi_dagster.local.home import PROJECT
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.negotiation import Announce, Award, ReleaseRequest, RenewRequest, VerifyRequest
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec
from ioi_dagster.signing import SigningKey, TrustedKeys

KEY = SigningKey.generate("library")
MESSAGES = {
    "announce": Announce,
    "award": Award,
    "renew": RenewRequest,
    "release": ReleaseRequest,
    "verify": VerifyRequest,
}


class Peer:
    """A gateway in this process before a real cluster governor of two nodes."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        for node in ("one", "two"):
            self.governor.handle(NodeJoined(node, 2, frozenset({"echo"})), 0.0)
        config = DomainConfig(
            network="n",
            home="library",
            spec=DomainSpec("lab", "books", (ClusterSpec("lab-c", (NodeSpec("one"), NodeSpec("two"))),)),
            gateway="http://lab",
            clusters=(ClusterAddress("lab-c", "tcp://lab", "unix:/governor"),),
            peers={},
            policies="",
            scopes=("n",),
            authorities={"library": "books", "lab": "books"},
            limits={},
        )
        context = GatewayContext(
            config=config,
            token="own",
            trusted=TrustedKeys({KEY.key_id: KEY.public_bytes}),
            store=None,  # pyright: ignore[reportArgumentType]
            decide=lambda *_: Decision("d", Verdict.ALLOW),
            runners={},
            clock=self.clock,
            clusters={"lab-c": ClusterLine("lab-c", f"unix:{folder}/governor.sock", "own")},
        )
        app = create_app(context)
        self.refused: Callable[[], list[Refused]] = app.state.refused
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://lab")
        self._loop = asyncio.new_event_loop()
        self.waiting = Waiting()
        self._door = self._loop.run_until_complete(open_door(self, "own", f"unix:{folder}/governor.sock"))

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        answer = self._loop.run_until_complete(self._client.request(method, path, content=body, headers=headers))
        return answer.status_code, answer.content

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._door.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def status(self) -> Any:
        return self.governor.snapshot()

    def request(self, message: Any) -> Any:
        replies = [i.answer for i in self.governor.handle(message, self.clock.monotonic()) if isinstance(i, Reply)]
        return replies[0] if replies else None

    def outcomes(self, ask: Ask | None = None) -> list[Outcome]:
        return list(check(Subject(ask or self.ask, KEY, "lab", "lab-c", "echo", self.clock.wall)))


@pytest.fixture
def peer(tmp_path_factory: pytest.TempPathFactory):
    peer = Peer(tmp_path_factory.mktemp("peer"))
    yield peer
    peer.close()


def test_our_gateway_keeps_every_rule_and_gets_its_capacity_back(peer: Peer) -> None:
    outcomes = peer.outcomes()
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    assert len(outcomes) == len({outcome.rule for outcome in outcomes}) == 34
    assert peer.governor.snapshot().leases == ()


def _answer(door: str, change: Callable[[Any], Any]) -> Callable[[str, int, Any], tuple[int, Any]]:
    def changed(path: str, status: int, answer: Any) -> tuple[int, Any]:
        return status, change(answer) if path.endswith(door) and status == 200 else answer

    return changed


@pytest.mark.parametrize(
    ("rule", "sabotage"),
    [
        (
            "another version of the protocol is refused by name",
            lambda path, status, answer: (404, "not found") if path.startswith("/v0") else (status, answer),
        ),
        (
            "a request that is not signed is refused",
            lambda path, status, answer: (200 if status == 401 else status, answer),
        ),
        ("a negative amount is refused", lambda path, status, answer: (500 if status == 400 else status, answer)),
        (
            "health tells the domain, its epoch and the versions it speaks",
            _answer("health", lambda a: a | {"epoch": 0}),
        ),
        ("a bid answers its announcement", _answer("announce", lambda a: a | {"round": a["round"] + 1})),
        ("what nobody there can do is refused in the bid", _answer("announce", lambda a: a | {"refusals": []})),
        ("each request of an award is leased or rejected", _answer("award", lambda a: a | {"rejected": []})),
        (
            "an award that is sent again gives the same lease",
            _answer("award", lambda a: a | {"leases": [i | {"id": str(id(a))} for i in a["leases"]]}),
        ),
        ("renewing tells what is held and what is not", _answer("renew", lambda a: {"held": [], "lost": []})),
        ("every message of a negotiation is answered", _answer("release", lambda a: [])),
    ],
)
def test_a_rule_that_is_not_kept_is_named(peer: Peer, rule: str, sabotage) -> None:
    def ask(method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        status, answer = peer.ask(method, path, body, headers)
        status, changed = sabotage(path, status, json.loads(answer))
        return status, json.dumps(changed).encode()

    assert rule in [outcome.rule for outcome in peer.outcomes(ask) if not outcome.holds]


def test_a_full_cluster_is_said_to_be_that(peer: Peer) -> None:
    peer.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
    broken = [outcome for outcome in peer.outcomes() if not outcome.holds]
    assert [outcome.rule for outcome in broken] == ["a cluster that has room bids for it"]


def test_the_published_schema_is_that_of_the_code() -> None:
    published = json.loads((PROJECT / "docs" / "reference" / "protocol.json").read_text())
    assert published == msgspec.json.decode(msgspec.json.encode(schema())), (
        "write it anew: ioi protocol show --json > docs/reference/protocol.json"
    )


def test_a_schema_names_each_door_once_and_explains_every_value() -> None:
    told = schema()
    assert [door["path"] for door in told["doors"]] == ["/v1/" + door.path for door in DOORS]
    assert len(BY_PATH) == len(DOORS)
    for door in told["doors"]:
        for kind in (door["asks"], door["answers"]):
            assert kind is None or kind.get("$ref", "#/$defs/").removeprefix("#/$defs/") in {*told["$defs"], ""}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["cluster", "run", "round", "origin", "groups", "capability", "data_class", "count", "requests", "step", "fence"]
)


OF = {"run": "r", "round": 1, "origin": "library"}
ASKED = {"capability": "echo", "data_class": "public"}
SENT = [
    json.dumps({**OF, "groups": [{**ASKED, "count": 1}]}),
    json.dumps({**OF, "cluster": "lab-c", "requests": [{**ASKED, "run": "r", "step": "s", "fence": 1}]}),
    json.dumps({"run": "r", "leases": ["lab-c/1/1"]}),
]


@st.composite
def _almost(draw: st.DrawFn) -> bytes:
    """A message of the protocol in which something is wrong, or nothing."""
    sent = json.loads(draw(st.sampled_from(SENT)))
    inner = draw(st.sampled_from([sent, *sent.get("groups", ()), *sent.get("requests", ())]))
    for field in draw(st.lists(FIELDS, max_size=2)):
        inner[field] = draw(JSON)
    data = json.dumps(sent).encode()
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


MESSAGES_SENT = st.lists(st.tuples(st.sampled_from(sorted(MESSAGES)), _almost() | st.binary(max_size=200)), max_size=20)


def feed(messages: list[tuple[str, bytes]]) -> None:
    governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
    governor.handle(NodeJoined("one", 2, frozenset({"echo"})), 0.0)
    for now, (door, body) in enumerate(messages):
        try:
            message = msgspec.json.decode(body, type=MESSAGES[door])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        answers = [i.answer for i in governor.handle(message, float(now)) if isinstance(i, Reply)]
        governor.validate()
        assert len(answers) == (0 if door == "release" else 1)
        assert len(governor.snapshot().leases) <= 2
    governor.handle(Tick(), 1e9)
    assert governor.snapshot().leases == ()


@settings(max_examples=300, deadline=None)
@given(MESSAGES_SENT)
def test_no_message_of_a_peer_ends_a_governor_or_unbalances_its_books(messages: list[tuple[str, bytes]]) -> None:
    feed(messages)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@settings(max_examples=12_000, deadline=None)
@given(MESSAGES_SENT)
def test_a_hundred_thousand_messages_do_not_either(messages: list[tuple[str, bytes]]) -> None:
    feed(messages)
