"""A domain's gateway: its registry, its door to its clusters, and `invoke` for those who may not send code.

Everything from outside is size-limited, typed and signed; refusals are answers, errors say what to do.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ioi_dagster.adapters.http.calls import REJOIN_S, Call, Calls, ForgottenError
from ioi_dagster.adapters.http.hanging_up import HungUpError, hearing, while_wanted
from ioi_dagster.adapters.http.membership import MemberBook, Members, NoMembers
from ioi_dagster.adapters.http.protocol import (
    BY_PATH,
    DOORS,
    MAX_JSON,
    PERMIT_HEADER,
    PREFIX,
    PROOF_HEADER,
    VERSION,
    AnnounceTo,
    Door,
    Health,
    Invocation,
    Invoked,
    JoinRequest,
    OrderAnswer,
    OrderRequest,
    Problem,
    ProblemAnswer,
    ReleaseAt,
    RenewAt,
    RunAnswer,
    RunOrder,
    StateEntry,
    Streamed,
    Word,
)
from ioi_dagster.adapters.http.refusals import RefusalLog, Refused
from ioi_dagster.adapters.http.standing import StandingDesk
from ioi_dagster.adapters.http.streaming import StreamedAnswer, written
from ioi_dagster.adapters.http.tls import HANDSHAKES, STAMPS, Peers
from ioi_dagster.adapters.link.caller import RefusedError
from ioi_dagster.clock import Clock
from ioi_dagster.decoding import converted, from_json, from_msgpack
from ioi_dagster.domain import DomainConfig
from ioi_dagster.errors import BadInputError, FinalError, NotAllowedError, RetryableError, UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.model.block import Begun, Made, Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    RejectedRequest,
    Renewed,
    VerifyRequest,
)
from ioi_dagster.model.order import Order
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import Experiences
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.policy.permits import ReadPermits, check_step_permit, from_plain
from ioi_dagster.policy.proof import Caller, check_proof
from ioi_dagster.ras.leases import LeasedState
from ioi_dagster.ras.record import Kind
from ioi_dagster.ras.selection import Query, discover
from ioi_dagster.ras.store import RecordStore
from ioi_dagster.signing import TrustedKeys, digest_bytes

T = TypeVar("T")
MAX_INVOKE_S = 3_600.0
CANCEL_S = 5.0
"""So long may take what is done when nobody waits for an answer any more."""
BODY_S, LEAST_RATE = 10.0, 64 * 2**10
"""A message must be there after so long, and a second more for so many bytes of it."""
ANSWER_S, LOOK_S = 5.0, 0.25
"""So long is waited for the answer of a run that is told something, which looks twice a second."""
LOOK_AGAIN_S = 1.0
"""So often it is asked whether what a streamed call gives may still go out."""
MAX_WAITING = 128
"""Announcements that wait for room, each on a connection. No domain has more than are left for others; what comes beyond that is
answered at once."""


class BlockRunner(Protocol):
    """Runs a start on a node of the domain's own cluster; raises `UnreachableError` when it was lost."""

    async def run(self, request: bytes, key: str, call: str, node: str, timeout_s: float) -> bytes:
        """`key`: that of the lease; `call` tells calls under it apart."""
        ...

    def stream(
        self, request: bytes, stream: str, key: str, call: str, node: str, timeout_s: float
    ) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        """The same; before the answer comes who gives the pieces, and they, framed, as they come. `stream`: its name in the
        request."""
        ...


class ClusterDoor(Protocol):
    """To the governor of one of the domain's clusters."""

    async def ask(self, door: str, message: Any, kind: type[T], timeout_s: float) -> T:
        """Raises `UnreachableError`, `RefusedError`, and `msgspec.ValidationError` on an answer of another kind."""
        ...


DecidePlacement = Callable[[str, str, str, DataClass], Decision]
"""(origin domain, its authority, capability, data class) → this domain's own decision."""


class OrderDesk(Protocol):
    """Takes what is ordered in the domain, as its policy allows."""

    def give(self, order: Order, subject: str, of: str) -> OrderAnswer:
        """`subject` orders it, for whom the domain `of` vouches. Raises `BadInputError`, `NotAllowedError` and `OSError`; may
        wait for a disk."""
        ...

    def in_force(self) -> list[dict[str, Any]]: ...

    def say(self, said: RunOrder, of: str) -> RunAnswer:
        """Leave word for a run. Raises as `give`."""
        ...

    def heard(self, said: RunAnswer) -> RunAnswer:
        """With what came of it by now."""
        ...


@dataclass(slots=True)
class GatewayContext:
    """What the gateway stands on; everything is a port."""

    config: DomainConfig
    token: str
    trusted: TrustedKeys
    store: RecordStore
    decide: DecidePlacement
    runners: Mapping[str, BlockRunner]
    clusters: Mapping[str, ClusterDoor]
    clock: Clock
    peers: Peers | None = None
    """Whose certificate a connection was opened with; None where the listener is not one of TLS."""
    http_to: Callable[[MemberRecord], httpx.AsyncClient] | None = None
    """Member → what asks its gateway; None: nobody is asked."""
    shown: Callable[[], object] = lambda: None
    """The certificate that it shows there."""
    book: MemberBook = field(default_factory=NoMembers)
    orders: OrderDesk | None = None
    """None: nothing is ordered here."""
    state: LeasedState = field(default_factory=LeasedState)
    standing: StandingDesk | None = None
    """How clusters stand with the domain; None: that is forgotten with the gateway."""
    epoch: int = 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call that may be run."""

    door: str
    body: Invocation
    payload: bytes
    run_permit: RunPermit
    data_class: DataClass
    nonce: str
    runner: BlockRunner
    timeout_s: float

    @property
    def lease(self) -> Lease:
        return self.body.lease

    @property
    def key(self) -> tuple[str, ...]:
        """Of the permit, which its issuer makes anew for each start."""
        return (self.run_permit.issuer, self.lease.key, self.nonce)

    @property
    def call(self) -> str:
        """Tells it apart, also from one under the same permit at another door, whose result is of another kind."""
        return f"{self.door}/{self.nonce}"

    def start(self, stream: str = "") -> bytes:
        body = self.body
        request = StartRequest("block", body.lease, body.permit, body.capability, self.payload, self.timeout_s)
        made = Made(body.block, body.version)
        return msgspec.msgpack.encode(replace(request, stream=stream, after=body.after, made=made))


class _Problem(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, text: str, remedy: str = "", hang_up: bool = False) -> None:
        """`hang_up`: the connection is closed with it."""
        self.status, self.code, self.text, self.remedy = status, code, text, remedy
        self.hang_up = hang_up
        super().__init__(text)


def create_app(context: GatewayContext) -> Starlette:
    """The gateway as an ASGI application; probing of peers runs with its lifespan. `state.refused()` is what it
    has refused."""
    gateway = _Gateway(context)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(gateway.members.run())
        yield
        task.cancel()
        await gateway.members.close()
        await gateway.standing.close()

    routes = [Route(PREFIX + door.path, gateway.answer_at(door), methods=[door.method]) for door in DOORS]
    app = Starlette(routes=[*routes, Route("/{path:path}", gateway.nowhere, methods=_METHODS)], lifespan=lifespan)
    app.state.refused = gateway.refused
    return app


_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class _Gateway:
    def __init__(self, context: GatewayContext) -> None:
        self._c = context
        name = context.config.spec.name
        self.members = Members(name, context.book, context.http_to, context.clock, context.shown)
        self._calls = Calls(context.clock.monotonic)
        self._waiting: Counter[str] = Counter()
        """By domain."""
        self._refusals = RefusalLog()
        self._permits = ReadPermits(context.trusted)
        self.standing = context.standing or StandingDesk(context.clock)

    def answer_at(self, door: Door) -> Callable[[Request], Any]:
        """The handler of a door is the method of its name."""
        handler = getattr(self, "_" + door.path.rpartition("/")[2])

        async def answer(request: Request) -> Response | StreamedAnswer:
            try:
                self._check_connection(request)
                value = await handler(request)
            except _Problem as problem:
                return self._problem(request, problem)
            if isinstance(value, StreamedAnswer):
                return value
            if isinstance(value, bytes):
                return Response(value, media_type="application/octet-stream")
            return Response(msgspec.json.encode(value), media_type="application/json")

        return answer

    async def nowhere(self, request: Request) -> Response:
        """What was asked of no door."""
        path = request.url.path
        if not path.startswith(PREFIX):
            text, todo = f"this gateway speaks version {VERSION} of the protocol", f"ask below {PREFIX}"
            problem = _Problem(404, "protocol.version", text, todo)
        elif path.removeprefix(PREFIX) in BY_PATH:
            method = BY_PATH[path.removeprefix(PREFIX)].method
            problem = _Problem(405, "protocol.method", f"this door takes {method}", f"send it by {method}")
        else:
            problem = _Problem(404, "protocol.no_door", "there is no such door", "see the protocol's schema")
        return self._problem(request, problem)

    def _problem(self, request: Request, problem: _Problem) -> Response:
        where = request.url.path
        known = where.startswith(PREFIX) and where.removeprefix(PREFIX) in BY_PATH
        self._refusals.refused(where if known else "no door", problem.code, self._c.clock.monotonic())
        body = ProblemAnswer(Problem(problem.code, problem.text, problem.remedy))
        headers = {"connection": "close"} if problem.hang_up else None
        return Response(msgspec.json.encode(body), problem.status, headers, media_type="application/json")

    def refused(self) -> list[Refused]:
        """Since the start."""
        return [*self._refusals.counts(), *HANDSHAKES.counts()]

    # Reading ----------------------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Any:
        return Health(self._c.config.spec.name, self._c.epoch, True, (VERSION,), self.members.view())

    async def _members(self, _request: Request) -> Any:
        return self.members.snapshot()

    async def _member(self, request: Request) -> Any:
        try:
            after = int(request.query_params.get("after", "0")[:20])
        except ValueError:
            raise _Problem(400, "gateway.malformed", "`after` is a number") from None
        return self._c.book.chain(request.query_params.get("domain", "")[:100], after)

    async def _join(self, request: Request) -> Any:
        if self._c.peers is None:
            raise _Problem(401, "tls.no_certificate", "one joins over mutual TLS only")
        name = self._c.config.spec.name
        shown = self._c.peers.invited(request.scope.get(STAMPS, ""), name)
        if isinstance(shown, Refusal):
            raise _Problem(401, shown.code, shown.text, shown.remedy)
        body = await self._read(request, JoinRequest, None)
        answer = self.members.join(shown, body.record, self._c.clock.wall())
        if isinstance(answer, Refusal):
            raise _Problem(403, answer.code, answer.text, answer.remedy)
        return answer

    async def _status(self, request: Request) -> Any:
        """For those who are known here. Which lease is whose, and of which run and step, is told to its own domain."""
        asker = "" if self._is_own(request) else self._caller(request).domain
        every = asker in ("", self._c.config.spec.name)
        clusters = {}
        for name in self._c.clusters:
            try:
                told = await self._forward(name, "status", None, dict)
                clusters[name] = told if every else _without_others(told, asker)
            except _Problem as problem:
                clusters[name] = {"error": problem.text}
        return {
            "domain": self._c.config.spec.name,
            "spec": self._c.config.spec,
            "clusters": clusters,
            "peers": self.members.snapshot(),
            "refused": self.refused(),
            # What a domain thinks of others is nobody else's.
            "standing": self.standing.all() if every else (),
            "orders": await asyncio.to_thread(self._in_force) if every else [],
            "blocks": [
                {"urn": r.urn, "version": r.version, "of": r.spec.get("version"), "handles": r.spec.get("handles")}
                for r in self._c.store.records(Kind.BLOCK)
            ],
        }

    async def _records(self, request: Request) -> Any:
        kind = request.query_params.get("kind")
        try:
            return [record.signed for record in self._c.store.records(Kind(kind) if kind else None)]
        except ValueError:
            raise _Problem(400, "registry.unknown_kind", f"no kind {kind!r}") from None

    async def _state(self, request: Request) -> Any:
        if not self._is_own(request):
            self._caller(request)
        return self._c.state.items(self._c.clock.monotonic())

    async def _discover(self, request: Request) -> Any:
        caller = self._caller(request)
        query = await self._read(request, Query, caller)
        # Who asks is what is proved, not what is written in the question.
        authority = self._authority(caller.domain)
        query = replace(query, origin=caller.domain, authority=authority)
        state = self._c.state.items(self._c.clock.monotonic(), "cluster/")
        return discover(query, self._c.config.spec, self._c.store.records(Kind.BLOCK), state)

    async def _lease(self, request: Request) -> Any:
        if not self._is_own(request):
            raise _Problem(401, "gateway.unauthorised", "run-time state is written by the domain's own processes only")
        now, own = self._c.clock.monotonic(), {cluster.name for cluster in self._c.config.clusters}
        entries = await self._read(request, list[StateEntry], None)
        for entry in entries:
            kind, _, rest = entry.key.partition("/")
            if kind not in ("cluster", "node") or rest.partition("/")[0] not in own:
                text = f"{entry.key[:100]!r} is not the state of a cluster or node of {self._c.config.spec.name}"
                raise _Problem(403, "gateway.not_its_own", text)
        for entry in entries:
            self._c.state.put(entry.key, entry.value, min(max(entry.ttl_s, 0.1), 60.0), now)
        return {}

    async def _standing(self, request: Request) -> Any:
        """Nobody but the domain's own runs is believed, or told."""
        caller, name = self._caller(request), self._c.config.spec.name
        if caller.domain != name:
            text = (
                f"how clusters stand with {name} goes by what its own runs have seen, not by what {caller.domain} says"
            )
            raise _Problem(403, "gateway.not_its_own", text, "tell it to your own gateway")
        told = await self._read(request, Experiences, caller)
        return await self.standing.told(told)

    # Negotiation ------------------------------------------------------------------------------------------------

    async def _announce(self, request: Request) -> Any:
        permit, caller = self._permitted(request)
        body = await self._read(request, AnnounceTo, caller)
        self._for_run(permit, body.announce.run)
        self._in_own_name(caller, body.announce.origin)
        verdicts = await self._verdicts(permit, {(g.capability, g.data_class) for g in body.announce.groups})
        allowed, refusals = [], []
        for group in body.announce.groups:
            refusal = verdicts[group.capability, group.data_class]
            if refusal is None:
                allowed.append(group)
            else:
                refusals.append(refusal)
        announce = replace(body.announce, groups=tuple(allowed))
        if not allowed:
            return Bid(body.cluster, self._c.config.spec.name, announce.run, announce.round, 0, (), tuple(refusals))
        bid = await self._bid(request, body.cluster, announce)
        return replace(bid, refusals=(*refusals, *bid.refusals))

    async def _bid(self, request: Request, cluster: str, announce: Announce) -> Bid:
        """The cluster's answer, which may wait for room. The cluster is told if nobody waits for it any more."""
        whose = announce.origin
        if not announce.wait_s or self._waiting[whose] >= MAX_WAITING - self._waiting.total():
            return await self._forward(cluster, "announce", replace(announce, wait_s=0.0), Bid)
        self._waiting[whose] += 1
        try:
            # Cancelled, it closes the connection on which the cluster would answer.
            asked = self._forward(cluster, "announce", announce, Bid, 1.0 + announce.wait_s)
            return await _while_wanted(request, asked)
        finally:
            self._waiting[whose] -= 1
            if not self._waiting[whose]:
                del self._waiting[whose]

    async def _award(self, request: Request) -> Any:
        permit, caller = self._permitted(request)
        award = await self._read(request, Award, caller)
        self._for_run(permit, award.run)
        self._in_own_name(caller, award.origin)
        verdicts = await self._verdicts(permit, {(r.capability, r.data_class) for r in award.requests})
        asked, rejected = [], []
        for item in award.requests:
            refusal = verdicts[item.capability, item.data_class]
            if item.run != award.run:
                refusal = Refusal("gateway.other_run", "the request is for another run", self._c.config.spec.name)
            if refusal is None:
                asked.append(item)
            else:
                rejected.append(RejectedRequest(item.step, item.fence, refusal))
        narrowed = Award(award.cluster, award.run, award.round, award.origin, tuple(asked))
        awarded = await self._forward(award.cluster, "award", narrowed, Awarded)
        return Awarded(awarded.cluster, awarded.leases, (*rejected, *awarded.rejected))

    async def _renew(self, request: Request) -> Any:
        permit, caller = self._permitted(request)
        body = await self._read(request, RenewAt, caller)
        self._for_run(permit, body.renew.run)
        # Whose lease it is, is found out here: any domain may issue a permit for a run that it calls as another's.
        renew = replace(body.renew, origin=caller.domain)
        return await self._forward(body.cluster, "renew", renew, Renewed)

    async def _release(self, request: Request) -> Any:
        permit, caller = self._permitted(request)
        body = await self._read(request, ReleaseAt, caller)
        self._for_run(permit, body.release.run)
        release = replace(body.release, origin=caller.domain)
        return await self._forward(body.cluster, "release", release, dict)

    async def _invoke(self, request: Request) -> bytes:
        asked = await self._checked(request, "invoke")
        if isinstance(asked, Refusal):
            return self._refusal(asked)
        call = self._known(asked)
        if isinstance(call, Refusal):
            return self._refusal(call)
        if call is None:
            call = self._calls.begin(asked.key, asked.door, self._whole(asked))
        try:
            with call.reading():
                data = await _while_wanted(request, call.result())
        except UnreachableError as error:
            return _frame(Invoked(False, error=str(error), infrastructure=True))
        answer = from_msgpack(data, StartAnswer)
        return self._refusal(answer.refusal) if answer.refusal is not None else _answer(answer)

    def _known(self, asked: _Asked) -> Call | Refusal | None:
        """The call of that permit, if there is one; a permit is for one call, whole or streamed."""
        call, name = self._calls.get(asked.key), self._c.config.spec.name
        if call is not None and call.door != asked.door:
            return Refusal(
                "gateway.other_door", f"the permit is used at {call.door} already", name, "issue another one"
            )
        if call is None and asked.body.rejoin:
            text = "nothing is there of the call that is to be gone on with"
            return Refusal("gateway.no_call", text, name, "begin it anew, under a new fence")
        return call

    async def _whole(self, asked: _Asked) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        yield await asked.runner.run(asked.start(), asked.lease.key, asked.call, asked.lease.node, asked.timeout_s)

    async def _stream(self, request: Request) -> StreamedAnswer:
        asked = await self._checked(request, "invoke/stream")
        if isinstance(asked, Refusal):
            return StreamedAnswer(_refused_stream(self._refused_call("invoke/stream", asked)))
        call = self._known(asked)
        if isinstance(call, Refusal):
            return StreamedAnswer(_refused_stream(self._refused_call("invoke/stream", call)))
        if call is None:
            name = "/".join(asked.key)
            source = asked.runner.stream(
                asked.start(name), name, asked.lease.key, asked.call, asked.lease.node, asked.timeout_s
            )
            call = self._calls.begin(asked.key, asked.door, source, REJOIN_S)
        return StreamedAnswer(self._streamed(request, asked, call))

    async def _streamed(self, request: Request, asked: _Asked, call: Call) -> AsyncGenerator[bytes, None]:
        """Policy has its word on what goes out as long as something goes out."""
        body, looked = asked.body, self._c.clock.monotonic()
        number = first = body.after
        with call.reading() as reader:
            try:
                # Only the node knows which version takes the call, and so after what it can go on.
                begun = await call.beginning()
                if begun is not None:
                    made = begun.made
                    goes_on = body.rejoin and made == Made(body.block, body.version)
                    number = first = first if goes_on else min(first, begun.number)
                    yield written(Streamed(Word.BEGUN, first, block=made.block, version=made.version))
                async for number, frames in call.pieces(reader, first):
                    if self._c.clock.monotonic() >= looked + LOOK_AGAIN_S:
                        refusal, looked = await self._refused_by_now(request, asked), self._c.clock.monotonic()
                        if refusal is not None:
                            end = Invoked(False, refusal=self._refused_call("invoke/stream", refusal))
                            yield written(Streamed(Word.ENDED, number, end=end))
                            return
                    yield b"".join(_piece(at, frame) for at, frame in enumerate(frames, number))
                    number += len(frames)
                answer = from_msgpack(await call.result(), StartAnswer)
                end = _ended(answer)[0]
            except ForgottenError:
                text = f"its pieces from {number} on are not kept any more"
                refusal = Refusal("gateway.no_call", text, self._c.config.spec.name, "begin it anew, under a new fence")
                end = Invoked(False, refusal=refusal)
            except UnreachableError as error:
                end = Invoked(False, error=str(error), infrastructure=True)
            except BadInputError as error:
                end = Invoked(False, error=f"piece {number} cannot be passed on: {error}")
        if end.refusal is not None:
            self._refused_call("invoke/stream", end.refusal)
        yield written(Streamed(Word.ENDED, call.count if end.ok else number, end=end))

    async def _refused_by_now(self, request: Request, asked: _Asked) -> Refusal | None:
        try:
            self._check_connection(request)
        except _Problem as problem:
            return Refusal(problem.code, problem.text, self._c.config.spec.name, problem.remedy)
        wanted = {(asked.body.capability, asked.data_class)}
        return (await self._verdicts(asked.run_permit, wanted, new=False)).popitem()[1]

    async def _checked(self, request: Request, door: str) -> _Asked | Refusal:
        """A call that may be run here under the lease that it names, which it holds."""
        run_permit, caller = self._permitted(request)
        try:
            frame = decode_payload(await self._body(request, BY_PATH[door].limit, caller))
            body = converted(frame.document, Invocation)
        except (BadInputError, msgspec.MsgspecError) as error:
            raise _Problem(400, "gateway.malformed", str(error)) from error
        lease, name = body.lease, self._c.config.spec.name
        self._for_run(run_permit, lease.run)
        runner = self._c.runners.get(lease.cluster)
        if lease.domain != name or runner is None:
            return Refusal("gateway.not_ours", f"the lease is not one of {name}'s", name)
        payload = encode_payload(Payload(body.payload, frame.parts))
        signed = from_plain(body.permit)
        permit = (
            signed
            if isinstance(signed, Refusal)
            else check_step_permit(
                signed,
                self._c.trusted,
                lease=lease,
                payload=digest_bytes(payload),
                audience=name,
                now=self._c.clock.wall(),
            )
        )
        if isinstance(permit, Refusal):
            return permit
        if permit.issuer != run_permit.issuer:
            return Refusal("gateway.other_issuer", "the step permit is not of the run's own domain", name)
        if permit.capability != body.capability:
            return Refusal("gateway.other_capability", f"the permit is for {permit.capability}", name)
        refusal = (await self._verdicts(run_permit, {(body.capability, permit.data_class)}, new=False)).popitem()[1]
        if refusal is not None:
            return refusal
        held = await self._forward(lease.cluster, "verify", VerifyRequest(lease, caller.domain), Renewed)
        if lease.id not in held.held:
            return Refusal("gateway.no_lease", f"{lease.cluster} granted no such lease", name, "ask again")
        timeout_s = min(max(body.timeout_s, 1.0), MAX_INVOKE_S)
        return _Asked(door, body, payload, run_permit, permit.data_class, permit.nonce, runner, timeout_s)

    # What people order -------------------------------------------------------------------------------------------

    async def _order(self, request: Request) -> Any:
        caller = self._caller(request)
        body = await self._read(request, OrderRequest, caller)
        return await self._to_desk(lambda desk: desk.give(body.order, body.subject, caller.domain))

    async def _intervene(self, request: Request) -> Any:
        caller = self._caller(request)
        body = await self._read(request, RunOrder, caller)
        said = await self._to_desk(lambda desk: desk.say(body, caller.domain))
        for _ in range(round(ANSWER_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            said = await self._to_desk(lambda desk, said=said: desk.heard(said))
            if said.answer:
                break
        return said

    async def _to_desk(self, ask: Callable[[OrderDesk], T]) -> T:
        desk = self._c.orders
        if desk is None:
            raise _Problem(403, "order.none", "nothing is ordered at this gateway")
        try:
            return await asyncio.to_thread(ask, desk)
        except NotAllowedError as error:
            raise _Problem(403, "order.not_allowed", str(error)[:1_000], "ask the owner of the domain") from error
        except BadInputError as error:
            raise _Problem(400, "order.impossible", error.what, error.todo or "") from error
        except (OSError, RetryableError) as error:
            raise _Problem(503, "order.not_written", f"it cannot be written down: {error}"[:300]) from error

    def _in_force(self) -> list[dict[str, Any]]:
        """A file that cannot be read is told where it is to be changed, and by the schedulers."""
        try:
            return self._c.orders.in_force() if self._c.orders is not None else []
        except (BadInputError, OSError):
            return []

    # Shared -----------------------------------------------------------------------------------------------------

    def _refusal(self, refusal: Refusal) -> bytes:
        """The answer to an invocation that is not run."""
        return _frame(Invoked(False, refusal=self._refused_call("invoke", refusal)))

    def _refused_call(self, door: str, refusal: Refusal) -> Refusal:
        self._refusals.refused(PREFIX + door, refusal.code, self._c.clock.monotonic())
        return refusal

    def _authority(self, domain: str) -> str:
        """The name of its certificate authority; empty where it is not known."""
        return self._c.book.authorities().get(domain) or self._c.config.authorities.get(domain, "")

    def _is_own(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._c.token}".encode())

    def _caller(self, request: Request) -> Caller:
        """Which domain signed this request for this gateway."""
        caller = check_proof(
            request.headers.get(PROOF_HEADER, ""),
            self._c.trusted,
            audience=self._c.config.spec.name,
            method=request.method,
            path=request.url.path,
            now=self._c.clock.wall(),
        )
        if isinstance(caller, Refusal):
            raise _Problem(401, caller.code, caller.text, caller.remedy)
        if self._c.peers is not None:
            self._same_domain(request, self._c.peers, caller.domain)
        return caller

    def _check_connection(self, request: Request) -> None:
        """Whoever would not be let in any more is not answered on a connection that he has kept either."""
        if self._c.peers is None:
            return
        name, now = self._c.config.spec.name, self._c.clock.wall()
        refusal = self._c.peers.refused(request.scope.get(STAMPS, ""), name, now)
        if refusal is not None:
            raise _Problem(401, refusal.code, refusal.text, refusal.remedy, hang_up=True)

    def _same_domain(self, request: Request, peers: Peers, signer: str) -> None:
        """Who has opened the connection is who signed the request: nobody passes on what another signed."""
        name = self._c.config.spec.name
        shown = peers.domain(request.scope.get(STAMPS, ""), name)
        if isinstance(shown, Refusal):
            raise _Problem(401, shown.code, shown.text, shown.remedy)
        if shown != signer:
            text = f"the connection is {shown}'s, and the request is signed by {signer}"
            raise _Problem(401, "tls.other_domain", text, "send it with the signing domain's own certificate")

    def _permitted(self, request: Request) -> tuple[RunPermit, Caller]:
        """The run permit, sent by its own issuer, for this domain. Checked before a byte of the body is read."""
        caller = self._caller(request)
        text = request.headers.get(PERMIT_HEADER)
        if not text:
            raise _Problem(403, "permit.missing", "the request shows no run permit", f"send it as {PERMIT_HEADER!r}")
        permit = self._permits.read(text, self._c.clock.wall(), self._c.clock.monotonic())
        if isinstance(permit, Refusal):
            raise _Problem(403, permit.code, permit.text, permit.remedy)
        if permit.issuer != caller.domain:
            raise _Problem(403, "permit.not_yours", f"{caller.domain} shows a permit of {permit.issuer}")
        name = self._c.config.spec.name
        if name not in permit.domains:
            raise _Problem(403, "permit.domain", f"the run's permit does not name {name}")
        return permit, caller

    def _for_run(self, permit: RunPermit, run: str) -> None:
        if permit.run != run:
            raise _Problem(403, "permit.run_mismatch", "the permit is for another run")

    def _in_own_name(self, caller: Caller, origin: str) -> None:
        if origin != caller.domain:
            text = f"{caller.domain} asks in the name of {origin[:100]}"
            raise _Problem(403, "gateway.other_origin", text, "name the domain that signs the request as origin")

    async def _verdicts(
        self, permit: RunPermit, wanted: set[tuple[str, DataClass]], new: bool = True
    ) -> dict[tuple[str, DataClass], Refusal | None]:
        """This domain's word on each kind of ask, decided beside the event loop. `new`: it asks for a lease."""
        if new and self._c.book.leaving():
            name = self._c.config.spec.name
            text = f"{name} leaves the network: it takes nothing new"
            return dict.fromkeys(wanted, Refusal("gateway.leaving", text, name, "ask another domain"))
        return await asyncio.to_thread(lambda: {pair: self._refused(permit, *pair) for pair in wanted})

    def _refused(self, permit: RunPermit, capability: str, data_class: DataClass) -> Refusal | None:
        """This domain's own last word: the permit's bounds, then its own policy."""
        name = self._c.config.spec.name
        if not data_class.within(permit.highest):
            return Refusal("permit.class", f"the run's permit ends at {permit.highest}", name)
        decision = self._c.decide(permit.issuer, self._authority(permit.issuer), capability, data_class)
        if decision.allowed:
            return None
        return decision.refusals[0] if decision.refusals else Refusal("policy.held", "policy could not decide", name)

    async def _forward(self, cluster: str, door: str, message: Any, kind: type[T], timeout_s: float = 1.0) -> T:
        line = self._c.clusters.get(cluster)
        if line is None:
            raise _Problem(404, "gateway.no_cluster", f"{self._c.config.spec.name} has no cluster {cluster!r}")
        try:
            return await line.ask(door, message, kind, timeout_s)
        except UnreachableError as error:
            raise _Problem(503, "cluster.unreachable", f"{cluster} does not answer: {error}") from error
        except RefusedError as error:
            raise _Problem(502, "cluster.error", f"{cluster} answered: {error}"[:300]) from error
        except msgspec.MsgspecError as error:
            raise _Problem(502, "cluster.error", f"{cluster} answered with something else: {error}") from error

    async def _read(self, request: Request, kind: Any, caller: Caller | None) -> Any:
        try:
            return from_json(await self._body(request, MAX_JSON, caller), kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise _Problem(400, "gateway.malformed", str(error)) from error

    async def _body(self, request: Request, limit: int, caller: Caller | None) -> bytes:
        """The bytes that the caller signed; None for the domain's own processes, which show their token instead."""
        parts, size, clock = [], 0, asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(BODY_S) as patience:
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise _Problem(413, "gateway.too_large", f"a message here may have {limit} bytes at most")
                    parts.append(part)
                    patience.reschedule(began + BODY_S + size / LEAST_RATE)
        except TimeoutError:
            text = f"{size} bytes came in {clock() - began:.0f} s"
            raise _Problem(408, "gateway.too_slow", text, "send it faster", hang_up=True) from None
        data = b"".join(parts)
        if caller is not None and not hmac.compare_digest(caller.body, digest_bytes(data)):
            raise _Problem(401, "proof.body_mismatch", "the request was signed for another body")
        return data


def _without_others(snapshot: dict[str, Any], domain: str) -> dict[str, Any]:
    """A cluster's snapshot as `domain` may see it: of others' leases it is told that they are there, of what its owner orders
    nothing."""
    hidden = {"id": "", "origin": "", "run": "", "step": ""}
    leases = [one if one.get("origin") == domain else one | hidden for one in snapshot.get("leases", ())]
    return snapshot | {"leases": leases, "ordered": []}


async def _while_wanted(request: Request, work: Awaitable[T]) -> T:
    with hearing(request.receive) as gone:
        try:
            return await while_wanted(gone, work, CANCEL_S)
        except HungUpError:
            raise _Problem(408, "gateway.hung_up", "nobody waits for the answer any longer") from None


def _answer(answer: StartAnswer) -> bytes:
    return _frame(*_ended(answer))


def _ended(answer: StartAnswer) -> tuple[Invoked, Mapping[str, bytes]]:
    if answer.refusal is not None:
        return Invoked(False, refusal=answer.refusal), {}
    if answer.result is None:
        lost = answer.cause == Cause.NODE_ERROR
        return Invoked(False, error=answer.error or "the node returned nothing", infrastructure=lost), {}
    try:
        result = decode_payload(answer.result)
    except FinalError as error:
        return Invoked(False, error=str(error)), {}
    where = {"node": answer.node, "attempt": answer.attempt, "started": answer.started, "ended": answer.ended}
    return Invoked(True, result.document, **where), result.parts


def _piece(number: int, frame: bytes) -> bytes:
    """Raises `BadInputError` for what a node has not framed as it should."""
    payload = decode_payload(frame)
    return written(Streamed(Word.PIECE, number, payload.document), payload.parts)


async def _refused_stream(refusal: Refusal) -> AsyncGenerator[bytes, None]:
    yield written(Streamed(Word.ENDED, end=Invoked(False, refusal=refusal)))


def _frame(answer: Invoked, parts: Mapping[str, bytes] | None = None) -> bytes:
    return encode_payload(Payload(msgspec.to_builtins(answer), parts or {}))
