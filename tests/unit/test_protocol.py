"""The rules of the wire protocol hold for our gateway, and each is broken by a gateway that does not keep it."""

from __future__ import annotations

import asyncio
import json
import struct
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.http.conformance import Ask, Outcome, Subject, check
from ioi_dagster.adapters.http.conformance.asker import Asker, found
from ioi_dagster.adapters.http.conformance.calls import REFUSED, RUN
from ioi_dagster.adapters.http.conformance.members import GUESTS, MEMBERS
from ioi_dagster.adapters.http.conformance.messages import RULES
from ioi_dagster.adapters.http.conformance.room import WITH_ROOM, WITHOUT_ROOM, Room
from ioi_dagster.adapters.http.gateway import GatewayContext, create_app
from ioi_dagster.adapters.http.protocol import BY_PATH, DOORS, Invoked, JoinAnswer, Streamed, Word, schema
from ioi_dagster.adapters.http.refusals import Refused
from ioi_dagster.adapters.http.streaming import FrameReader, written
from ioi_dagster.adapters.http.tls import STAMPS, tls_of
from ioi_dagster.adapters.link.caller import ClusterLine
from ioi_dagster.adapters.link.door import Waiting, open_door
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.clock import Clock, SystemClock
from ioi_dagster.decoding import from_json
from ioi_dagster.domain import ClusterAddress, DomainConfig, DomainHome
from ioi_dagster.framing import encode_payload
from ioi_dagster.governors.autoscale import Group, WantNodes
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply, Tick, Withdrawn
from ioi_dagster.local.home import PROJECT
from ioi_dagster.local.joining import invite
from ioi_dagster.local.member_book import FolderBook
from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.block import Begun, Made, Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    ReleaseRequest,
    RenewRequest,
    VerifyRequest,
)
from ioi_dagster.model.start import StartAnswer
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec
from ioi_dagster.ras.record import Kind, make_record
from ioi_dagster.signing import SigningKey
from tests.members import author
from tests.realms import introduce, realm

KEY = SigningKey.generate("library")
T = TypeVar("T")
WAIT_S, SETTLE_S = 2.0, 0.2
CALL = Payload({"say": "hello"}, {"raw": b"\0"})
MESSAGES = {
    "announce": Announce,
    "award": Award,
    "renew": RenewRequest,
    "release": ReleaseRequest,
    "verify": VerifyRequest,
}

ANEW = count()
"""Numbers, no two alike: where something lies in memory something else may lie soon."""


class _Node:
    """Stands for the nodes: its block gives three pieces, as they are asked for. `begun`: how often each call was."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    async def run(self, request: bytes, key: str, call: str, node: str, timeout_s: float) -> bytes:
        self.begun[call] += 1
        return msgspec.msgpack.encode(StartAnswer(uuid4().hex, node, 1.0, 2.0, result=encode_payload(CALL)))

    async def stream(self, request: bytes, stream: str, key: str, call: str, node: str, timeout_s: float) -> Any:
        self.begun[call] += 1
        yield Begun(Made("telling", "1"), 0)
        for number in range(3):
            await asyncio.sleep(0)
            yield [encode_payload(Payload({"number": number}))]
        yield msgspec.msgpack.encode(StartAnswer(uuid4().hex, node, 1.0, 2.0, result=encode_payload(Payload({}))))


def _shown(app: Any, certificate: str) -> Any:
    """As a listener has it of a connection that was opened with that certificate."""

    async def stamped(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {STAMPS: certificate}, receive, send)

    return stamped


@cache
def _made() -> TemporaryDirectory[str]:
    """The folders of three domains that know each other, and a second record of the lab."""
    made = TemporaryDirectory()
    key = Path(made.name) / "library" / "keys" / "domain.key"
    key.parent.mkdir(parents=True)
    KEY.save(key)
    realms = [realm(Path(made.name), name) for name in ("lab", "library", "cloud")]
    introduce(*realms)
    introduce(*realms, gateways={"lab": "https://127.0.0.1:2"})
    return made


class Peer:
    """The gateway of the lab in this process, before a real cluster governor of two nodes. The library and the cloud are
    members too; the library asks, and has been given an invitation."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.clock, self.node = clock or SystemClock(), _Node()
        copytree(_made().name, folder / "domains")
        self.home, library = (DomainHome(folder / "domains" / name) for name in ("lab", "library"))
        store = SqlRecordStore(folder / "registry.db", self.home.trusted())
        store.put(make_record(self.home.signing_key(), Kind.BLOCK, "echo", "1", {"capability": "echo"}).signed)
        self.wanted: list[WantNodes] = []
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        for node in ("one", "two"):
            self.governor.handle(NodeJoined(node, 2, frozenset({"echo"}), (("memory", 8.0),)), self.clock.monotonic())
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
        self.home.save_config(config)
        context = GatewayContext(
            config=config,
            token="own",
            trusted=self.home.trusted(),
            store=store,
            book=FolderBook(self.home),
            peers=tls_of(self.home)[1],
            decide=lambda *_: Decision("d", Verdict.ALLOW),
            runners={"lab-c": self.node},  # pyright: ignore[reportArgumentType]
            clock=self.clock,
            clusters={"lab-c": ClusterLine("lab-c", f"unix:{folder}/governor.sock", "own")},
        )
        app = create_app(context)
        self.refused: Callable[[], list[Refused]] = app.state.refused
        self.invitation = invite(self.home, "", DataClass.PUBLIC, 1.0, self.clock.wall())
        self.invited = FolderBook(self.home).invited(self.invitation.name)
        self._clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(_shown(app, certificate)), base_url="http://lab")
            for certificate in (library.client_certificate.read_text(), self.invitation.certificate)
        ]
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()
        self.waiting = Waiting()
        self._door = self._on_loop(open_door(self, "own", f"unix:{folder}/governor.sock"))
        self._ticks = asyncio.run_coroutine_threadsafe(self._tick(), self._loop)

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _tick(self) -> None:
        while True:
            self.request(Tick())
            await asyncio.sleep(0.02)

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str], seconds: float
    ) -> tuple[int, bytes] | None:
        return self._asked(self._clients[0], method, path, body, headers, seconds)

    def guest(
        self, method: str, path: str, body: bytes, headers: dict[str, str], seconds: float
    ) -> tuple[int, bytes] | None:
        """As `ask`, by the invitation."""
        return self._asked(self._clients[1], method, path, body, headers, seconds)

    def _asked(
        self, client: httpx.AsyncClient, method: str, path: str, body: bytes, headers: dict[str, str], seconds: float
    ) -> tuple[int, bytes] | None:
        async def asked() -> tuple[int, bytes] | None:
            its = client.request(method, path, content=body, headers=headers)
            try:
                answer = await asyncio.wait_for(its, seconds)
            except TimeoutError:
                return None
            return answer.status_code, answer.content

        return self._on_loop(asked())

    def close(self) -> None:
        async def closed() -> None:
            self._ticks.cancel()
            for client in self._clients:
                await client.aclose()
            self._door.close()
            await asyncio.sleep(0)

        self._on_loop(closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def status(self) -> Any:
        return self.governor.snapshot()

    def request(self, message: Any) -> Any:
        answer = None
        for told in self.governor.handle(message, self.clock.monotonic()):
            if isinstance(told, Reply) and told.waited is not None:
                self.waiting.answer(told.waited, told.answer)
            elif isinstance(told, Reply):
                answer = told.answer
            elif isinstance(told, WantNodes):
                self.wanted.append(told)
        return answer

    def outcomes(self, ask: Ask | None = None, guest: Ask | None = None) -> list[Outcome]:
        return list(check(replace(self.subject(ask or self.ask), guest=guest or self.guest)))

    def subject(self, ask: Ask) -> Subject:
        its = Subject(ask, KEY, "lab", "lab-c", "echo", self.clock.wall, wait_s=WAIT_S, settle_s=SETTLE_S)
        return replace(its, call=CALL)


@pytest.fixture
def peer(tmp_path_factory: pytest.TempPathFactory):
    peer = Peer(tmp_path_factory.mktemp("peer"))
    yield peer
    peer.close()


def test_our_gateway_keeps_every_rule_and_gets_its_capacity_back(peer: Peer) -> None:
    outcomes = peer.outcomes()
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    assert len(outcomes) == len({outcome.rule for outcome in outcomes}) == 117
    assert peer.governor.snapshot().leases == ()
    assert set(peer.home.members()) == {"lab", "library", "cloud"}, "nobody has joined"
    assert FolderBook(peer.home).invited(peer.invitation.name) == peer.invited, "and the invitation may be used still"


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
            _answer("award", lambda a: a | {"leases": [i | {"id": str(next(ANEW))} for i in a["leases"]]}),
        ),
        ("renewing tells what is held and what is not", _answer("renew", lambda a: {"held": [], "lost": []})),
        ("every message of a negotiation is answered", _answer("release", lambda a: [])),
    ],
)
def test_a_rule_that_is_not_kept_is_named(peer: Peer, rule: str, sabotage) -> None:
    def ask(method: str, path: str, body: bytes, headers: dict[str, str], seconds: float) -> tuple[int, bytes] | None:
        told = peer.ask(method, path, body, headers, seconds)
        if told is None or "invoke" in path:
            return told
        status, answer = told
        status, changed = sabotage(path, status, json.loads(answer))
        return status, json.dumps(changed).encode()

    assert rule in [outcome.rule for outcome in peer.outcomes(ask) if not outcome.holds]


def test_who_refuses_nothing_is_told_each_rule_that_asks_for_it(peer: Peer) -> None:
    def ask(method: str, path: str, body: bytes, headers: dict[str, str], seconds: float) -> tuple[int, bytes] | None:
        told = peer.ask(method, path, body, headers, seconds)
        return told if told is None or told[0] == 200 else (200, b"{}")

    def guest(*_: object) -> tuple[int, bytes]:
        return 200, msgspec.json.encode(JoinAnswer(author("lab").signed(), DataClass.PUBLIC))

    answered = {
        "health tells the domain, its epoch and the versions it speaks",
        "fields of a later version are ignored",
        "what nobody there can do is refused in the bid",
    }
    broken = {outcome.rule for outcome in peer.outcomes(ask, guest) if not outcome.holds}
    assert (
        broken == RULES.keys() - answered | {"what is no streamed call is refused"} | REFUSED_OF_MEMBERS | GUESTS.keys()
    )


REFUSED_OF_MEMBERS = {
    "a serial that is no number is refused",
    "a kind of record that is not there is refused by name",
    "who has no invitation does not join",
}
Records = Callable[[list[Any]], list[Any]]


def _records(door: str, change: Records) -> Callable[[str, Any], Any]:
    """What is given at that door, changed."""
    return lambda path, told: change(told) if path.startswith(door) and isinstance(told, list) else told


def _of(domain: str, change: Records) -> Callable[[str, Any], Any]:
    return _records(f"/v1/member?domain={domain}&", change)


def _forged(told: list[Any]) -> list[Any]:
    """The newest says something else than was signed."""
    return [*told[:-1], told[-1] | {"body": told[-1]["body"] | {"gateway": "https://127.0.0.1:9"}}]


def _by_itself(told: list[Any]) -> list[Any]:
    """The newest is signed well, by a key of which no record before it tells."""
    stranger = author(told[-1]["body"]["domain"])
    return [*told[:-1], msgspec.to_builtins(stranger.signed(told[-1]["body"]["serial"]))]


def _deaf(told: Any) -> Any:
    """Health that tells of nobody."""
    return told | {"heard": []}


BROKEN_OF_MEMBERS: dict[str, list[Callable[[str, Any], Any]]] = {
    "its own record is signed by a key that it names, and names its cluster": [
        _of("lab", _forged),
        _of("lab", lambda told: []),
        _of("lab", lambda told: told[:-1]),
        _of("lab", lambda told: [msgspec.to_builtins(author("lab").signed(2, clusters=("other-c",)))]),
        _of("lab", lambda told: [msgspec.to_builtins(author("cloud").signed(2))]),
        _of("lab", lambda told: told + [told[-1] | {"key_id": "x" * 2**20}]),
    ],
    "each of its records is signed by a key of the one before it": [
        _of("lab", _by_itself),
        _of("lab", lambda told: told[::-1]),
        _of("lab", lambda told: told * 10),
    ],
    "records of members are given as they signed them, the asking domain's too": [
        _of("cloud", _forged),
        _of("library", lambda told: []),
        _of("library", _by_itself),
        _of("cloud", lambda told: [msgspec.to_builtins(author("cloud").signed(network="other"))]),
        lambda path, told: _deaf(told) if path == "/v1/health" else told,
    ],
    "records up to the serial that is asked for are left out": [
        lambda path, told: [msgspec.to_builtins(author("lab").signed())] if path.endswith("after=2") else told,
    ],
    "of whom it does not know it gives no record": [
        _of("nobody.example", lambda told: [msgspec.to_builtins(author("lab").signed())])
    ],
    "its members are those of whom it tells its peers": [
        lambda path, told: told | {"edge": {}} if path == "/v1/members" else told,
        lambda path, told: told | {"lab": {}} if path == "/v1/members" else told,
        lambda path, told: {} if path == "/v1/members" else told,
    ],
    "what it has registered is signed by a key of its record": [
        _records("/v1/registry/records", lambda told: [told[0] | {"body": told[0]["body"] | {"version": "2"}}]),
        _records("/v1/registry/records", lambda told: []),
        _records(
            "/v1/registry/records",
            lambda told: [msgspec.to_builtins(make_record(author("cloud").key, Kind.BLOCK, "b", "1", {}).signed)],
        ),
    ],
}


def test_each_rule_of_members_is_broken_by_somebody_here() -> None:
    assert BROKEN_OF_MEMBERS.keys() | REFUSED_OF_MEMBERS == MEMBERS.keys()


def test_a_rule_of_members_that_is_not_kept_is_named(peer: Peer) -> None:
    def changing(change: Callable[[str, Any], Any]) -> Ask:
        def ask(*asked: Any) -> tuple[int, bytes] | None:
            status, answer = peer.ask(*asked) or (0, b"{}")
            return status, json.dumps(change(asked[1], json.loads(answer))).encode()

        return ask

    for rule, changes in BROKEN_OF_MEMBERS.items():
        assert found(lambda rule=rule: MEMBERS[rule](Asker(peer.subject(peer.ask)))) == ""
        asks = [changing(change) for change in changes]
        broken = [found(lambda rule=rule, ask=ask: MEMBERS[rule](Asker(peer.subject(ask)))) for ask in asks]
        assert all(broken), (rule, broken)


def test_who_lets_a_guest_in_or_refuses_it_for_something_else_is_named(peer: Peer) -> None:
    asker = Asker(peer.subject(peer.ask))

    def takes_all(*_: object) -> tuple[int, bytes]:
        return 200, msgspec.json.encode(JoinAnswer(author("lab").signed(), DataClass.PUBLIC))

    def says_something_else(*asked: Any) -> tuple[int, bytes]:
        status, answer = peer.guest(*asked) or (0, b"")
        return status, answer.replace(b'"code":"', b'"code":"x')

    for rule, probe in GUESTS.items():
        told = [found(lambda probe=probe, ask=ask: probe(asker, ask)) for ask in (takes_all, says_something_else)]
        assert [text[:10] for text in told] == ["status 200", told[1][:10]], rule
        assert ".x" not in told[1]
        assert "with x" in told[1], rule
        assert found(lambda probe=probe: probe(asker, peer.guest)) == ""


def _out_of_order(frames: list[Streamed]) -> list[Streamed]:
    return [frames[0], *reversed(frames[1:-1]), frames[-1]]


def _begun_anew(frames: list[Streamed]) -> list[Streamed]:
    end = frames[-1].end
    assert end is not None
    return [*frames[:-1], replace(frames[-1], end=replace(end, attempt=uuid4().hex))]


def _failed(frames: list[Streamed]) -> list[Streamed]:
    return [Streamed(Word.ENDED, end=Invoked(False, error="no"))]


def _never_refused(frames: list[Streamed]) -> list[Streamed]:
    return [Streamed(Word.BEGUN), Streamed(Word.ENDED, end=Invoked(True))]


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        *[(rule, _never_refused) for rule in REFUSED if rule != "what is no streamed call is refused"],
        ("what is no streamed call is refused", None),
        ("pieces come in order, and how many they are is told at the end", _out_of_order),
        ("pieces come in order, and how many they are is told at the end", lambda frames: frames[:-1]),
        ("a streamed call that is sent again is not begun again", _begun_anew),
        ("the permit of a streamed call is of no use at the other door", None),
        ("who hung up on a streamed call hears what became of it", _failed),
    ],
)
def test_a_rule_of_streamed_calls_that_is_not_kept_is_named(peer: Peer, rule: str, change: Any) -> None:
    """None: everything at either door is answered well."""

    def ask(method: str, path: str, body: bytes, headers: dict[str, str], seconds: float) -> tuple[int, bytes] | None:
        told = peer.ask(method, path, body, headers, seconds)
        if told is None or "invoke" not in path:
            return told
        if change is None:
            well = Invoked(True, {}) if path.endswith("invoke") else Streamed(Word.ENDED, end=Invoked(True))
            framed = encode_payload(Payload(msgspec.to_builtins(well)))
            return 200, framed if isinstance(well, Invoked) else struct.pack(">I", len(framed)) + framed
        frames = [frame for frame, _ in FrameReader().feed(told[1])]
        return told[0], b"".join(written(frame) for frame in change(frames)) if frames else told[1]

    probe = (REFUSED | RUN)[rule]
    assert found(lambda: Room(Asker(peer.subject(peer.ask))).hold_for(probe)) == ""
    assert found(lambda: Room(Asker(peer.subject(ask))).hold_for(probe)) != ""


Change = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""What was sent, and the answer as it should be → the answer."""


def _changing(door: str, change: Change) -> Callable[[Peer], Ask]:
    def sabotaged(peer: Peer) -> Ask:
        def ask(method: str, path: str, body: bytes, headers: dict[str, str], seconds: float) -> Any:
            told = peer.ask(method, path, body, headers, seconds)
            if told is None or told[0] != 200 or not path.endswith(door):
                return told
            return 200, json.dumps(change(json.loads(body), json.loads(told[1]))).encode()

        return ask

    return sabotaged


def _bid(change: Change) -> Callable[[Peer], Ask]:
    """Of an announcement that names what is changed, in its first group or by itself."""
    return _changing("announce", lambda sent, bid: bid | change(sent["announce"], bid))


def _of_gang(change: Change) -> Callable[[Peer], Ask]:
    return _changing("award", lambda sent, told: told | (change(sent, told) if _is_gang(sent) else {}))


def _is_gang(sent: dict[str, Any]) -> bool:
    return any(request["gang"] for request in sent["requests"])


def _a_part(steps: int) -> Callable[[Peer], Ask]:
    """Of a gang of so many that is to get nothing, a step gets a lease."""

    def change(sent: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        first, *others = told["rejected"] or [None]
        if first is None or len(sent["requests"]) != steps:
            return {}
        lease = Lease("x", sent["run"], first["step"], 1, 0, "echo", "lab-c", "lab", "one", 1)
        return {"leases": [msgspec.to_builtins(lease)], "rejected": others}

    return _of_gang(change)


def _when_it_waits(change: Change) -> Callable[[Peer], Ask]:
    return _bid(lambda sent, bid: change(sent, bid) if sent["wait_s"] else {})


def _never_waits(peer: Peer) -> Ask:
    def ask(method: str, path: str, body: bytes, headers: dict[str, str], seconds: float) -> Any:
        if b'"wait_s":2' in body:
            sent = json.loads(body)["announce"]
            return 200, msgspec.json.encode(Bid("lab-c", "lab", sent["run"], sent["round"], 1))
        return peer.ask(method, path, body, headers, seconds)

    return ask


def _does_not_hear_who_hangs_up(peer: Peer) -> Ask:
    request = peer.request
    peer.request = lambda message: None if isinstance(message, Withdrawn) else request(message)
    return peer.ask


def _breaks_its_word(peer: Peer) -> Ask:
    """What it has offered to one that waited it gives to nobody."""
    offered: list[bool] = []

    def change(sent: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        if "announce" in sent:
            offered[:] = [True] if sent["announce"]["wait_s"] and told["points"] else []
        return told | ({"leases": []} if offered and "requests" in sent else {})

    return _changing("", change)(peer)


def _does_not_hear_what_is_declined(peer: Peer) -> Ask:
    def ask(method: str, path: str, body: bytes, headers: dict[str, str], seconds: float) -> Any:
        if path.endswith("award") and b'"requests":[]' in body:
            return 200, msgspec.json.encode(Awarded("lab-c"))
        return peer.ask(method, path, body, headers, seconds)

    return ask


SABOTAGED: dict[str, Callable[[Peer], Ask]] = {
    "a gang is bid for as a whole": _bid(
        lambda sent, bid: {
            "points": [point | {"slots": point["slots"] - bool(point["gang"])} for point in bid["points"]]
        }
    ),
    "a gang is leased whole or not at all": _of_gang(lambda sent, told: {"leases": told["leases"][1:]}),
    "a gang that is awarded again gets the same leases": _of_gang(
        lambda sent, told: {"leases": [one | {"id": f"{one['id']}-{next(ANEW)}"} for one in told["leases"]]}
    ),
    "a gang for which there is not room enough gets none": _a_part(5),
    "a gang of which one fence is old gets none": _a_part(2),
    "a request that stands twice in an award is leased once": _changing(
        "award",
        lambda sent, told: (
            told | {"leases": [one | {"id": f"{n} {one['id']}"} for n, one in enumerate(told["leases"] * 2)]}
        ),
    ),
    "another copy of a step has a lease of its own": _changing(
        "award", lambda sent, told: told | {"leases": [one | {"copy": 0} for one in told["leases"]]}
    ),
    "a gang larger than the cluster is told at once that it can never be": _bid(
        lambda sent, bid: {"never": []} if sent["groups"][0]["gang"] else {}
    ),
    "more of a resource than a node has can never be": _bid(
        lambda sent, bid: {"never": []} if sent["groups"][0]["resources"] else {}
    ),
    "what asks for resources is answered under them": _bid(
        lambda sent, bid: {"points": [point | {"resources": []} for point in bid["points"]]}
    ),
    "who plans ahead is told of nodes that can do it": _bid(
        lambda sent, bid: {"nodes": [node | {"able": [7]} for node in bid["nodes"]]}
    ),
    "who does not plan ahead is told of none": _bid(lambda sent, bid: {"nodes": [{"node": "one", "slots": 2}]}),
    "any tenant and priority is answered": _bid(
        lambda sent, bid: {"points": [], "refusals": []} if sent["groups"][0]["tenant"] == "conformance" else {}
    ),
    "where there is no room an announcement waits": _never_waits,
    "who has hung up waits no longer": _does_not_hear_who_hangs_up,
    "what waits is answered when there is room": _when_it_waits(lambda sent, bid: {"points": []}),
    "what was offered after a wait is kept until it is awarded": _breaks_its_word,
    "an award without requests declines what was offered": _does_not_hear_what_is_declined,
    "what waits in vain is told so when its time is over": _when_it_waits(lambda sent, bid: {"refusals": []}),
    "a newer announcement has the older one answered": _when_it_waits(lambda sent, bid: {"round": 3}),
}


def test_each_rule_of_room_is_broken_by_somebody_here() -> None:
    assert SABOTAGED.keys() == WITH_ROOM.keys() | WITHOUT_ROOM.keys()


@pytest.mark.parametrize("rule", SABOTAGED)
def test_a_rule_of_room_that_is_not_kept_is_named(peer: Peer, rule: str) -> None:
    def found_with(ask: Ask) -> str:
        room = Room(Asker(peer.subject(ask)))
        hold, its = (room.hold_for, WITH_ROOM) if rule in WITH_ROOM else (room.fill_for, WITHOUT_ROOM)
        return found(lambda: hold(its[rule]))

    assert found_with(peer.ask) == ""
    assert found_with(SABOTAGED[rule](peer)) != ""


def test_a_full_cluster_is_said_to_be_that(peer: Peer) -> None:
    peer.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
    broken = [outcome for outcome in peer.outcomes() if not outcome.holds]
    assert [outcome.rule for outcome in broken] == ["a cluster that has room bids for it"]


def test_to_be_checked_costs_no_node(peer: Peer) -> None:
    """All that is free is held by the check itself while it waits for room, which would bring nodes where they come and go."""
    rules = Autoscale(max=4, boot_s=0.1, after_s=SETTLE_S / 2, up_pause_s=0.0)
    pool = Group("g", {"slots": 2.0, "memory": 8.0}, frozenset({"echo"}), ("g-1", "g-2", "g-3", "g-4"), rules)
    peer.governor = ClusterGovernor("lab", "lab-c", 1, 1.0, groups=(pool,))
    for node in ("one", "two"):
        peer.governor.handle(NodeJoined(node, 2, frozenset({"echo"}), (("memory", 8.0),)), peer.clock.monotonic())
    assert [outcome for outcome in peer.outcomes() if not outcome.holds] == []
    assert [want for want in peer.wanted if want.nodes] == []


def test_the_published_schema_is_that_of_the_code() -> None:
    published = json.loads((PROJECT / "docs" / "reference" / "protocol.json").read_text())
    assert published == from_json(msgspec.json.encode(schema())), (
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


MESSAGE = st.tuples(st.sampled_from(sorted(MESSAGES)), _almost() | st.binary(max_size=200))


def feed(messages: list[tuple[str, bytes]]) -> int:
    """How many of them could be read."""
    read = 0
    governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
    governor.handle(NodeJoined("one", 2, frozenset({"echo"})), 0.0)
    for now, (door, body) in enumerate(messages):
        try:
            message = from_json(body, MESSAGES[door])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        read += 1
        answers = [i.answer for i in governor.handle(message, float(now)) if isinstance(i, Reply)]
        governor.validate()
        assert len(answers) == (0 if door == "release" else 1)
        assert len(governor.snapshot().leases) <= 2
    governor.handle(Tick(), 1e9)
    assert governor.snapshot().leases == ()
    return read


def fuzz(examples: int, size: int) -> tuple[int, int]:
    """How many messages were sent, and how many of them could be read."""
    sent = read = 0

    @settings(max_examples=examples, deadline=None)
    @given(st.lists(MESSAGE, min_size=size, max_size=size))
    def all_of(messages: list[tuple[str, bytes]]) -> None:
        nonlocal sent, read
        sent, read = sent + len(messages), read + feed(messages)

    all_of()
    return sent, read


def test_no_message_of_a_peer_ends_a_governor_or_unbalances_its_books() -> None:
    sent, read = fuzz(300, 10)
    assert sent >= 3_000
    assert read > sent / 50, "some of it is as it should be"


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_hundred_thousand_messages_do_not_either() -> None:
    sent, read = fuzz(10_000, 10)
    assert sent >= 100_000
    assert read > sent / 50
