"""Calls of blocks by what is wanted of them: found, selected, allowed, leased, and run in one of the domain's own clusters.

The gateway makes the call in its own domain's name, as one of its runs would: a lease for each start, a step permit that its key
signs, and its node's own last word. Its policy decides with the asking domain as the origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ioi_dagster.adapters.http.askers import Asker
from ioi_dagster.adapters.http.bodies import Bodies
from ioi_dagster.adapters.http.calls import KEPT_CALLS, REJOIN_S, Call, Calls, ForgottenError
from ioi_dagster.adapters.http.clusters import Clusters
from ioi_dagster.adapters.http.context import BlockRunner, GatewayContext
from ioi_dagster.adapters.http.invoking import LOOK_AGAIN_S
from ioi_dagster.adapters.http.protocol import PREFIX, PROOF_HEADER
from ioi_dagster.adapters.http.ras_desk import RasDesk
from ioi_dagster.adapters.http.ras_room import Room
from ioi_dagster.adapters.http.refusals import ProblemError, RefusalLog
from ioi_dagster.adapters.http.streaming import StreamedAnswer
from ioi_dagster.adapters.http.who_asks import WhoAsks, wanted
from ioi_dagster.decoding import from_json, from_msgpack
from ioi_dagster.errors import BadInputError, FinalError, UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.model.block import Begun, Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Effect, Lease
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.policy.permits import issue
from ioi_dagster.ras.asking import Called, CalledPiece, Calling, FoundTold, Selected
from ioi_dagster.ras.record import Record, record_of
from ioi_dagster.ras.selection import Query, discover
from ioi_dagster.ras.summary import Details, Summary
from ioi_dagster.ras.urn import Kind
from ioi_dagster.signing import digest_bytes

MAX_STARTS = 3
"""Of one call, where its node was lost and a second start does no harm."""
MAX_CALLS = 256
"""That are under way; nobody has more than are left for others."""
WHOLE, STREAMED = "ras/invoke", "ras/invoke/stream"
_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class _Asked:
    """`ends_at` is of the event loop's clock."""

    asker: Asker
    calling: Calling
    payload: bytes
    run: str
    ends_at: float

    @property
    def data_class(self) -> DataClass:
        return self.calling.demand.trust.data_class


@dataclass(frozen=True, slots=True)
class _Chosen:
    record: Record
    capability: str
    lock: str
    clusters: tuple[str, ...]

    def told(self, **more: Any) -> Called:
        return Called(urn=self.record.urn, version=self.record.version, lock=self.lock, **more)

    @property
    def again(self) -> bool:
        """May it be started a second time?"""
        contract = self.record.spec.get("contract")
        effect = contract.get("effect", Effect.PURE.value) if isinstance(contract, dict) else Effect.AT_MOST_ONCE.value
        return effect in (Effect.PURE.value, Effect.IDEMPOTENT.value)


class RasCalling:
    def __init__(
        self, context: GatewayContext, who: WhoAsks, clusters: Clusters, desk: RasDesk, refusals: RefusalLog
    ) -> None:
        self._c, self._who, self._clusters, self._desk, self._refusals = context, who, clusters, desk, refusals
        self._own = context.config.spec.name
        self._calls, self._bodies = Calls(context.clock.monotonic), Bodies()
        self._under_way: dict[str, int] = {}
        self._keys: dict[tuple[str, str], tuple[str]] = {}
        """(who asks, his key) → the call that was made with it last."""

    def at(self, name: str) -> Callable[[Request], Any]:
        """What answers at the door of that name below `ras/`."""
        its: dict[str, Callable[[Request], Any]] = {"invoke": self.invoke, "stream": self.stream}
        return its.get(name) or getattr(self._desk, name)

    async def invoke(self, request: Request) -> Response:
        _, call = await self._begun(request, WHOLE)
        with call.reading():
            try:
                data = await wanted(request, call.result())
            except UnreachableError as error:
                data = _encoded(Called(False, error=str(error), infrastructure=True))
        return Response(data, media_type="application/json")

    async def stream(self, request: Request) -> StreamedAnswer:
        asker, call = await self._begun(request, STREAMED)
        return StreamedAnswer(self._lines(request, asker, call), {"content-type": _LINES})

    async def _begun(self, request: Request, door: str) -> tuple[Asker, Call]:
        """The call of that key, or a new one."""
        asker = self._desk.asker(request, door)
        if self._c.key is None:
            raise ProblemError(403, "ras.no_calls", "this gateway calls nothing for others")
        calling = await self._desk.read(request, door, Calling, asker)
        given = calling.demand.trust.data_class
        if not given.within(asker.highest):
            text = f"{asker.subject or asker.name} may give {asker.highest} at most, the data is {given}"
            raise ProblemError(403, "token.class", text, "ask its owner for a token of that class")
        # What is signed once is asked once, also where somebody sends it again.
        shown = request.headers.get(PROOF_HEADER, "") if asker.caller is not None else uuid.uuid4().hex
        key = (asker.name, calling.key or digest_bytes(shown.encode()))
        called = f"{door} {digest_bytes(msgspec.json.encode(calling))}"
        known = self._calls.get(self._keys.get(key, ()))
        if known is None or _began_nothing(known):
            return asker, self._new(key, called, asker, calling, door == STREAMED)
        if known.door != called:
            text = "another call was made with this key"
            raise ProblemError(409, "ras.key_used", text, "draw another key for another call")
        return asker, known

    def _new(self, key: tuple[str, str], called: str, asker: Asker, calling: Calling, streamed: bool) -> Call:
        mine, all_ = self._under_way.get(asker.name, 0), sum(self._under_way.values())
        if mine >= MAX_CALLS - all_:
            text = "more calls of one who asks are under way than are left for others"
            raise ProblemError(503, "ras.too_many_calls", text, "wait for some to end", headers={"retry-after": "1"})
        payload = encode_payload(Payload(calling.payload, calling.parts))
        ends_at = asyncio.get_running_loop().time() + calling.timeout_s
        asked = _Asked(asker, replace(calling, payload={}, parts={}), payload, f"call-{uuid.uuid4().hex}", ends_at)
        self._keys[key] = (asked.run,)
        if len(self._keys) > KEPT_CALLS:
            del self._keys[next(iter(self._keys))]
        return self._calls.begin((asked.run,), called, self._counted(asked, streamed), REJOIN_S)

    async def _counted(self, asked: _Asked, streamed: bool) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        name = asked.asker.name
        self._under_way[name] = self._under_way.get(name, 0) + 1
        try:
            with self._bodies.of(name) as held:
                if not held.grows(len(asked.payload)):
                    text = "more bytes of one who asks are under way than are left for others"
                    yield _encoded(Called(False, refusal=Refusal("gateway.too_much", text, self._own, "wait")))
                    return
                async with contextlib.aclosing(self._made(asked, streamed)) as made:
                    async for one in made:
                        yield one
        finally:
            self._under_way[name] -= 1
            if not self._under_way[name]:
                del self._under_way[name]

    # From what is wanted to what runs

    async def _made(self, asked: _Asked, streamed: bool) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        try:
            chosen = await self._chosen(asked, streamed)
        except ProblemError as problem:
            chosen = Refusal(problem.code, problem.text, self._own, problem.remedy)
        if isinstance(chosen, Refusal):
            yield _encoded(self._refused(streamed, Called(False, refusal=chosen)))
            return
        room = Room(self._clusters, self._own, asked.run, chosen.capability, asked.data_class)
        called = chosen.told(ok=False)
        for attempts in range(1, MAX_STARTS + 1):
            lease = await room.lease(chosen.clusters, asked.ends_at - asyncio.get_running_loop().time())
            if isinstance(lease, Refusal):
                yield _encoded(self._refused(streamed, chosen.told(ok=False, refusal=lease, attempts=attempts - 1)))
                return
            called = chosen.told(ok=False, cluster=lease.cluster, node=lease.node, attempts=attempts)
            if streamed:
                async with contextlib.aclosing(self._pieces(asked, room, lease, called)) as pieces:
                    async for one in pieces:
                        yield one
                return
            called = await self._run(asked, room, lease, called)
            over = asyncio.get_running_loop().time() >= asked.ends_at
            if called.ok or not called.infrastructure or not chosen.again or over:
                break
        yield _encoded(self._refused(streamed, called))

    async def _chosen(self, asked: _Asked, streamed: bool) -> _Chosen | Refusal:
        """By discovery and selection, with this domain's policy as the last filter; then where it lives."""
        asker, data_class = asked.asker, asked.data_class

        def policy(summary: Summary, details: Details) -> Refusal | None:
            if summary.domain != self._own:
                text = f"it is {summary.domain}'s, whose own gateway calls it"
                return Refusal("ras.elsewhere", text, self._own, f"ask the gateway of {summary.domain}")
            if streamed and not (details.contract and details.contract.streams):
                return Refusal("ras.not_streamed", "its result comes whole", self._own, f"ask at {PREFIX}{WHOLE}")
            return self._refused_by_policy(asker, summary.capability, data_class)

        demand = replace(asked.calling.demand, kinds=(Kind.BLOCK,))
        living = self._desk.living()
        selected = await self._desk.answered(lambda desk: desk.selected(demand, asker.sees, living, policy))
        if isinstance(selected, FoundTold):
            return _why_none(selected, self._own)
        return self._placed(selected, asker, data_class)

    def _refused_by_policy(self, asker: Asker, capability: str, data_class: DataClass) -> Refusal | None:
        decision = self._c.decide(asker.domain, self._who.authority(asker.domain), capability, data_class)
        if decision.allowed:
            return None
        return (
            decision.refusals[0] if decision.refusals else Refusal("policy.held", "policy could not decide", self._own)
        )

    def _placed(self, selected: Selected, asker: Asker, data_class: DataClass) -> _Chosen | Refusal:
        record = record_of(selected.record)
        capability = str(selected.lock["considered"][0]["capability"])
        state = self._c.state.items(self._c.clock.monotonic(), "cluster/")
        query = Query(capability, data_class, asker.domain, self._who.authority(asker.domain))
        found = discover(query, self._c.config.spec, [record], state)
        if not found.candidates:
            return found.rejected[0].refusal
        return _Chosen(record, capability, selected.digest, tuple(one.cluster for one in found.candidates))

    def _start(self, asked: _Asked, lease: Lease, stream: str = "") -> tuple[bytes, str, BlockRunner, float]:
        """(request, what tells the call apart, who runs it, seconds that are left)"""
        nonce, left_s = uuid.uuid4().hex, max(0.1, asked.ends_at - asyncio.get_running_loop().time())
        permit = StepPermit.of(
            lease,
            issuer=self._own,
            data_class=asked.data_class,
            payload=digest_bytes(asked.payload),
            nonce=nonce,
            now=self._c.clock.wall(),
        )
        assert self._c.key is not None
        signed = msgspec.to_builtins(issue(self._c.key(), permit))
        request = StartRequest("block", lease, signed, lease.capability, asked.payload, left_s, stream=stream)
        return msgspec.msgpack.encode(request), f"{WHOLE}/{nonce}", self._c.runners[lease.cluster], left_s

    async def _run(self, asked: _Asked, room: Room, lease: Lease, called: Called) -> Called:
        async with room.holding(lease) as lost:
            request, name, runner, left_s = self._start(asked, lease)
            running = asyncio.ensure_future(runner.run(request, lease.key, name, lease.node, left_s))
            losing = asyncio.ensure_future(lost.wait())
            try:
                await asyncio.wait({running, losing}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not running.done():
                    return _unfinished(called, lost.is_set())
                return _ended(called, from_msgpack(running.result(), StartAnswer))
            except UnreachableError as error:
                return replace(called, error=str(error), infrastructure=True)
            finally:
                losing.cancel()
                if running.cancel():
                    await asyncio.wait({running}, timeout=5.0)

    async def _pieces(
        self, asked: _Asked, room: Room, lease: Lease, called: Called
    ) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        """Begun once: what its reader has cannot be taken back. Policy has its word as long as pieces come."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        async with room.holding(lease) as lost:
            request, name, runner, left_s = self._start(asked, lease, asked.run)
            source = runner.stream(request, asked.run, lease.key, name, lease.node, left_s)
            losing = asyncio.ensure_future(lost.wait())
            ends = asyncio.ensure_future(asyncio.sleep(left_s))
            try:
                while True:
                    coming = asyncio.ensure_future(anext(source, None))
                    await asyncio.wait({coming, losing, ends}, return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        coming.cancel()
                        await asyncio.wait({coming}, timeout=5.0)
                        yield _encoded(_unfinished(called, lost.is_set()))
                        return
                    one = coming.result()
                    if one is None:
                        return
                    if loop.time() >= looked + LOOK_AGAIN_S:
                        looked = loop.time()
                        its = asked.asker, lease.capability, asked.data_class
                        refusal = await asyncio.to_thread(self._refused_by_policy, *its)
                        if refusal is not None:
                            yield _encoded(self._refused(True, replace(called, refusal=refusal)))
                            return
                    yield _encoded(_ended(called, from_msgpack(one, StartAnswer))) if isinstance(one, bytes) else one
            except UnreachableError as error:
                yield _encoded(replace(called, error=str(error), infrastructure=True))
            finally:
                losing.cancel()
                ends.cancel()
                await source.aclose()

    # What is read of it

    async def _lines(self, request: Request, asker: Asker, call: Call) -> AsyncGenerator[bytes, None]:
        """Whether it may still go out is asked as long as something goes out."""
        number, looked = 0, self._c.clock.monotonic()
        with call.reading() as reader:
            try:
                if await call.beginning() is not None:
                    yield _line(CalledPiece("begun"))
                async for number, frames in call.pieces(reader, call.first):
                    if self._c.clock.monotonic() >= looked + LOOK_AGAIN_S:
                        looked = self._c.clock.monotonic()
                        self._desk.askers.check_still(request, asker)
                    for frame in frames:
                        piece = decode_payload(frame)
                        yield _line(CalledPiece("piece", number, piece.document, dict(piece.parts)))
                        number += 1
                end = from_json(await call.result(), Called)
            except ProblemError as problem:
                end = Called(False, refusal=Refusal(problem.code, problem.text, self._own, problem.remedy))
                self._refused(True, end)
            except ForgottenError:
                text = f"its pieces from {number} on are not kept any more"
                end = Called(
                    False, refusal=Refusal("gateway.no_call", text, self._own, "begin another, with another key")
                )
            except UnreachableError as error:
                end = Called(False, error=str(error), infrastructure=True)
            except BadInputError as error:
                end = Called(False, error=f"piece {number} cannot be passed on: {error}")
        yield _line(CalledPiece("ended", number, end=end))

    def _refused(self, streamed: bool, called: Called) -> Called:
        if called.refusal is not None:
            door = PREFIX + (STREAMED if streamed else WHOLE)
            self._refusals.refused(door, called.refusal.code, self._c.clock.monotonic())
        return called


def _began_nothing(call: Call) -> bool:
    """It was refused before anything was started: whoever asks again asks anew."""
    if not call.ended or call.answer is None:
        return False
    told = from_json(call.answer, Called)
    return not told.ok and told.attempts == 0


def _why_none(found: FoundTold, by: str) -> Refusal:
    """What its own blocks that were meant are refused for, where that is one thing; else that nothing would do."""
    meant = [one for one in found.rejected if one.refusal.code not in ("ras.kind", "ras.no_capability")]
    own = [one for one in meant if one.urn.startswith(f"urn:ioi:{by}:")]
    told = [one.refusal for one in own or meant]
    counts = ", ".join(f"{code} {count}" for code, count in found.rejected_by_code.items())
    if len({refusal.code for refusal in told}) == 1:
        return told[0]
    text = f"no block here would do ({counts or 'none is registered'})"
    return Refusal("ras.nothing_fits", text[:1_000], by, "ask otherwise; `ras/discover` tells each that was refused")


def _unfinished(called: Called, lost: bool) -> Called:
    if lost:
        return replace(called, error="its lease was lost while it ran", infrastructure=True)
    return replace(called, error="it has not ended in the time that it was given", infrastructure=True)


def _ended(called: Called, answer: StartAnswer) -> Called:
    where = {"node": answer.node, "attempt": answer.attempt, "started": answer.started, "ended": answer.ended}
    if answer.refusal is not None:
        return replace(called, refusal=answer.refusal, **where)
    if answer.result is None:
        lost = answer.cause in (Cause.NODE_ERROR, Cause.LEASE_LOST)
        error = answer.error or "the node returned nothing"
        return replace(called, error=error, infrastructure=lost, **where)
    try:
        result = decode_payload(answer.result)
    except FinalError as error:
        return replace(called, error=str(error), **where)
    return replace(called, ok=True, payload=result.document, parts=dict(result.parts), **where)


def _encoded(called: Called) -> bytes:
    return msgspec.json.encode(called)


def _line(piece: CalledPiece) -> bytes:
    return msgspec.json.encode(piece) + b"\n"
