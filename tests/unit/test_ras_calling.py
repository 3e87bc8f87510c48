"""Calls of blocks by what is wanted of them: found, allowed, leased by a real cluster governor, and run by a stand-in of its
nodes, which holds each start to its lease and permit as they do."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ioi_dagster.adapters.http import ras_calling
from ioi_dagster.adapters.http.protocol import BY_PATH
from ioi_dagster.decoding import converted, from_msgpack
from ioi_dagster.errors import UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply
from ioi_dagster.model.block import Begun, Made, Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.negotiation import Announce, Award, Awarded, Lease, LeaseRequest, ReleaseRequest
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.model.token import TokenScope
from ioi_dagster.policy.permits import check_step_permit, from_plain
from ioi_dagster.ras.asking import Called, CalledPiece
from ioi_dagster.ras.record import Kind, make_record
from ioi_dagster.signing import Signed, SigningKey, digest_bytes
from tests.unit.test_ras_doors import CLOUD, LAB, TRUSTED, Gateway, problem

WANTED = {"capability": "echo", "trust": {"data_class": "public"}}
CALL = {"demand": WANTED, "payload": {"say": "hello"}, "parts": {"raw": base64.b64encode(b"\0\1").decode()}}


def echo(name: str = "echo", key: SigningKey = LAB, **contract: Any) -> Signed:
    its = Contract("echo", "Echo", "Says again what it is told.", **contract)
    spec = msgspec.to_builtins(BlockSpec(name, "1", "echo", "echo:Echo", its, DataClass.INTERNAL))
    return make_record(key, Kind.BLOCK, name, "1", spec).signed


class Cluster:
    """One node of one slot, before a real governor."""

    def __init__(self) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        self.governor.handle(NodeJoined("lab-1", 1, frozenset({"echo"})), 0.0)
        self._waiting: dict[tuple[str, int, str], asyncio.Future[Any]] = {}
        self.parked = asyncio.Event()

    async def ask(self, door: str, message: Any, kind: type, timeout_s: float) -> Any:
        answer = None
        for told in self.governor.handle(message, 0.0):
            if isinstance(told, Reply) and told.waited is not None:
                self._waiting.pop(told.waited).set_result(told.answer)
            elif isinstance(told, Reply):
                answer = told.answer
        if answer is None and isinstance(message, Announce):
            waits = self._waiting[message.run, message.round, message.origin] = asyncio.Future()
            self.parked.set()
            return await asyncio.wait_for(waits, timeout_s)
        return {} if answer is None else answer

    def take(self) -> Lease:
        """All there is."""
        request = LeaseRequest("other", "s", 1, "echo", DataClass.PUBLIC)
        told = self.governor.handle(Award("lab-c", "other", 1, "cloud", (request,)), 0.0)
        (awarded,) = (one.answer for one in told if isinstance(one, Reply))
        assert isinstance(awarded, Awarded)
        return awarded.leases[0]


class Node:
    def __init__(self) -> None:
        self.starts: list[StepPermit] = []
        self.lost = 0
        """So many starts are lost with their node."""
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    def _admit(self, request: bytes) -> StartRequest:
        asked = from_msgpack(request, StartRequest)
        assert asked.permit is not None
        signed = from_plain(asked.permit)
        assert isinstance(signed, Signed)
        its = {"lease": asked.lease, "payload": digest_bytes(asked.payload), "audience": "lab"}
        permit = check_step_permit(signed, TRUSTED, now=1_700_000_000.0, **its)
        assert isinstance(permit, StepPermit), permit
        assert permit.issuer == asked.lease.origin
        assert permit.nonce not in {one.nonce for one in self.starts}
        self.starts.append(permit)
        self.began.set()
        return asked

    async def run(self, request: bytes, key: str, call: str, node: str, timeout_s: float) -> bytes:
        asked = self._admit(request)
        await self.go.wait()
        if self.lost:
            self.lost -= 1
            raise UnreachableError("node lab-1", "it was switched off")
        return msgspec.msgpack.encode(StartAnswer("a", node, 1.0, 2.0, result=asked.payload))

    async def stream(
        self, request: bytes, stream: str, key: str, call: str, node: str, timeout_s: float
    ) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        asked = self._admit(request)
        assert asked.stream == stream
        yield Begun(Made("echo", "1"), 0)
        sent = decode_payload(asked.payload)
        for number in range(3):
            yield [encode_payload(Payload({"number": number}, sent.parts))]
        yield msgspec.msgpack.encode(StartAnswer("a", node, 1.0, 2.0, result=encode_payload(Payload({}))))


class Calling(Gateway):
    def __init__(self, folder: Path) -> None:
        self.cluster, self.node = Cluster(), Node()
        self.decided: list[tuple[Any, ...]] = []
        self.verdict = Decision("d", Verdict.ALLOW)
        super().__init__(
            folder,
            decide=self._decide,
            runners={"lab-c": self.node},
            clusters={"lab-c": self.cluster},
            key=lambda: LAB,
        )
        self.bearer = {"authorization": f"Bearer {self.token(TokenScope.INVOKE, ttl_s=600.0)[0]}"}
        self.reports({"nodes": 1, "scheduler": "tcp://x"})

    def _decide(self, *asked: Any) -> Decision:
        self.decided.append(asked)
        return self.verdict

    def reports(self, told: dict[str, Any]) -> None:
        self.context.state.put("cluster/lab-c", told, 60.0, self.clock.monotonic())

    def call(self, asked: Any = CALL, **more: Any) -> Called:
        answer = self.send("ras/invoke", asked | more, **self.bearer)
        assert answer.status_code == 200, answer.text
        assert self.cluster.governor.snapshot().leases == (), "what was leased is given back"
        return converted(answer.json(), Called)


@pytest.fixture
def lab(tmp_path: Path) -> Calling:
    return Calling(tmp_path)


def test_a_block_is_called_by_what_it_can_do_under_a_lease_and_a_permit_of_the_domains_own(lab: Calling) -> None:
    lab.store.put(echo())
    called = lab.call()
    assert (called.ok, called.payload, called.parts) == (True, {"say": "hello"}, {"raw": b"\0\1"})
    assert (called.urn, called.version, called.node, called.attempts) == ("urn:ioi:lab:block:echo", "1", "lab-1", 1)
    assert called.lock.startswith("sha256:")
    assert lab.decided == [("lab", "books", "echo", DataClass.PUBLIC)]
    member = lab.as_(CLOUD, "ras/invoke", CALL).json()
    assert member["ok"]
    assert lab.decided[1] == ("cloud", "clouds", "echo", DataClass.PUBLIC), "policy knows who asks"
    assert [permit.issuer for permit in lab.node.starts] == ["lab", "lab"]


def test_what_may_not_be_called_is_refused_and_nothing_is_started(lab: Calling) -> None:
    def code(**more: Any) -> str:
        refusal = lab.call(**more).refusal
        return refusal.code if refusal is not None else ""

    assert code() == "ras.nothing_fits"
    lab.store.put(echo("theirs", CLOUD))
    assert code() == "ras.elsewhere"
    lab.store.put(echo())
    lab.verdict = Decision("d", Verdict.DENY, (Refusal("policy.closed", "not on Sundays", "lab"),))
    assert code() == "policy.closed"
    lab.verdict = Decision("d", Verdict.ALLOW)
    lab.reports({"nodes": 0})
    assert code() == "ras.no_living_node"
    secret = {"demand": WANTED | {"trust": {"data_class": "internal"}}, "payload": {}}
    assert problem(lab.send("ras/invoke", secret, **lab.bearer)) == (403, "token.class")
    reading = lab.token(TokenScope.READ)[0]
    assert problem(lab.bearing(reading, "ras/invoke", CALL)) == (403, "token.scope")
    assert lab.node.starts == []


def test_who_asks_again_with_the_same_key_gets_what_became_of_the_first_call(lab: Calling) -> None:
    assert lab.call(key="one").refusal is not None
    lab.store.put(echo())
    first, again = lab.call(key="one"), lab.call(key="one")
    assert first.ok, "of what was refused nothing is kept"
    assert (first, len(lab.node.starts)) == (again, 1)
    other = lab.send("ras/invoke", CALL | {"key": "one", "payload": {"say": "else"}}, **lab.bearer)
    assert problem(other) == (409, "ras.key_used")
    assert lab.as_(CLOUD, "ras/invoke", CALL | {"key": "one"}).json()["ok"], "another's key is another key"
    assert len(lab.node.starts) == 2

    async def together() -> list[httpx.Response]:
        return await asyncio.gather(*(lab.sent("ras/invoke", CALL | {"key": "two"}, **lab.bearer) for _ in range(3)))

    assert [answer.json()["ok"] for answer in asyncio.run(together())] == [True] * 3
    assert len(lab.node.starts) == 3


def test_a_call_whose_node_is_lost_is_started_again_where_that_does_no_harm(lab: Calling) -> None:
    lab.store.put(echo(effect="pure"))
    lab.node.lost = 2
    called = lab.call()
    assert (called.ok, called.attempts) == (True, 3)
    assert [permit.fence for permit in lab.node.starts] == [1, 2, 3]
    lab.node.lost = 3
    called = lab.call()
    assert (called.ok, called.attempts, called.infrastructure) == (False, 3, True)


def test_what_may_happen_once_alone_is_not_started_again(lab: Calling) -> None:
    lab.store.put(echo(effect="at_most_once"))
    lab.node.lost = 1
    called = lab.call()
    assert (called.ok, called.attempts, called.infrastructure) == (False, 1, True)
    assert "switched off" in called.error


def test_a_call_waits_for_room_until_its_time_is_over(lab: Calling) -> None:
    lab.store.put(echo())
    taken = lab.cluster.take()

    async def waiting() -> tuple[httpx.Response, httpx.Response]:
        late = await lab.sent("ras/invoke", CALL | {"timeout_s": 0.1}, **lab.bearer)
        asked = asyncio.create_task(lab.sent("ras/invoke", CALL | {"timeout_s": 60.0}, **lab.bearer))
        await lab.cluster.parked.wait()
        await lab.cluster.ask("release", ReleaseRequest("other", (taken.id,), "cloud"), dict, 1.0)
        return late, await asked

    late, asked = asyncio.run(waiting())
    assert converted(late.json(), Called).refusal is not None
    assert late.json()["refusal"]["code"] == "ras.no_room"
    assert (asked.json()["ok"], len(lab.node.starts)) == (True, 1)
    assert lab.cluster.governor.snapshot().leases == ()


def test_a_call_that_takes_longer_than_it_may_is_stopped_and_its_lease_given_back(lab: Calling) -> None:
    lab.store.put(echo())

    async def left() -> None:
        lab.node.go.clear()
        call = asyncio.create_task(lab.sent("ras/invoke", CALL | {"timeout_s": 0.2}, **lab.bearer))
        told = (await call).json()
        assert (told["ok"], told["error"]) == (False, "it has not ended in the time that it was given")

    asyncio.run(left())
    assert len(lab.node.starts) == 1
    assert lab.cluster.governor.snapshot().leases == ()


def test_who_hangs_up_has_the_call_stopped_and_its_lease_given_back(
    lab: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ras_calling, "REJOIN_S", 0.0)
    lab.store.put(echo())
    lab.node.go.clear()
    sent = [{"type": "http.request", "body": msgspec.json.encode(CALL)}]
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await lab.node.began.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message)

    async def hung_up() -> None:
        headers = [(b"authorization", lab.bearer["authorization"].encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/ras/invoke", "query_string": b"", "headers": headers}
        await lab.app(scope, receive, send)
        while lab.cluster.governor.snapshot().leases:
            await asyncio.sleep(0.01)

    asyncio.run(hung_up())
    assert len(lab.node.starts) == 1
    assert b"gateway.hung_up" in told[-1]["body"]


def test_a_streamed_result_comes_in_lines_and_of_a_block_that_gives_none_it_is_refused(lab: Calling) -> None:
    lab.store.put(echo())

    def lines() -> list[CalledPiece]:
        answer = lab.send("ras/invoke/stream", CALL, **lab.bearer)
        assert answer.headers["content-type"] == BY_PATH["ras/invoke/stream"].media
        return [converted(json.loads(line), CalledPiece) for line in answer.text.splitlines()]

    (refused,) = lines()
    assert refused.end is not None
    assert refused.end.refusal is not None
    assert refused.end.refusal.code == "ras.not_streamed"
    lab.store.put(echo("telling", streams=True))
    begun, *pieces, ended = lines()
    assert (begun.word, ended.word, ended.number) == ("begun", "ended", 3)
    assert [(piece.number, piece.payload) for piece in pieces] == [(n, {"number": n}) for n in range(3)]
    assert pieces[0].parts == {"raw": b"\0\1"}
    assert ended.end is not None
    assert (ended.end.ok, ended.end.urn) == (True, "urn:ioi:lab:block:telling")
    assert lab.cluster.governor.snapshot().leases == ()
