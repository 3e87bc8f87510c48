"""A domain's gateway: its registry, its door to its clusters, and `invoke` for those who may not send code.

Everything from outside is size-limited, typed and signed; refusals are answers, errors say what to do.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

import msgspec

from ioi_dagster.adapters.http.membership import MemberBook, Members, NoMembers
from ioi_dagster.adapters.http.protocol import (
    BY_PATH,
    DOORS,
    PERMIT_HEADER,
    PREFIX,
    PROOF_HEADER,
    VERSION,
    AnnounceTo,
    Door,
    For,
    Health,
    Invocation,
    Invoked,
    JoinRequest,
    Problem,
    ProblemAnswer,
    ReleaseAt,
    RenewAt,
    StateEntry,
)
from ioi_dagster.adapters.http.refusals import RefusalLog, Refused
from ioi_dagster.adapters.http.server import Answer, Head, Line, Reception
from ioi_dagster.adapters.http.tls import HANDSHAKES, Peers
from ioi_dagster.adapters.http.transport import Pool
from ioi_dagster.adapters.link.caller import RefusedError
from ioi_dagster.clock import Clock
from ioi_dagster.domain import DomainConfig
from ioi_dagster.errors import BadInputError, FinalError, UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    RejectedRequest,
    Renewed,
    VerifyRequest,
)
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.policy.permits import ReadPermits, check_step_permit, from_plain
from ioi_dagster.policy.proof import Caller, check_proof
from ioi_dagster.ras.leases import LeasedState
from ioi_dagster.ras.record import Kind
from ioi_dagster.ras.selection import Query, discover
from ioi_dagster.ras.store import RecordStore
from ioi_dagster.signing import TrustedKeys, digest_bytes

MAX_INVOKE_S = 3_600.0
CANCEL_S = 5.0
"""So long may take what is done when nobody waits for an answer any more."""
MAX_WAITING = 128
"""Announcements that wait for room, each on a connection; what comes beyond that is answered at once."""
DECIDED_S, MAX_DECIDED = 1.0, 4_096
"""What policy said of one kind of ask holds for so long, or for as long as it says."""

T = TypeVar("T")


class BlockRunner(Protocol):
    """Runs a start on a node of the domain's own cluster; raises `UnreachableError` when it was lost."""

    async def run(self, request: bytes, key: str, node: str, timeout_s: float) -> bytes: ...


class ClusterDoor(Protocol):
    """To the governor of one of the domain's clusters."""

    async def ask(self, door: str, message: Any, kind: type[T], timeout_s: float) -> T:
        """Raises `UnreachableError`, `RefusedError`, and `msgspec.ValidationError` on an answer of another kind."""
        ...


DecidePlacement = Callable[[str, str, str, DataClass], Decision]
"""(origin domain, its authority, capability, data class) → this domain's own decision."""


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
    pool_to: Callable[[MemberRecord], Pool] | None = None
    """Member → what asks its gateway; None: nobody is asked."""
    book: MemberBook = field(default_factory=NoMembers)
    state: LeasedState = field(default_factory=LeasedState)
    epoch: int = 1


class _Problem(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, text: str, remedy: str = "") -> None:
        self.status, self.code, self.text, self.remedy = status, code, text, remedy
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class _Request:
    """One that may pass its door. `caller` is None where anyone may, `permit` where no run asks."""

    head: Head
    door: Door
    line: Line
    body: bytes
    caller: Caller | None
    permit: RunPermit | None

    def read(self, kind: type[T]) -> T:
        try:
            return _decoders[kind].decode(self.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise _Problem(400, "gateway.malformed", str(error)) from error


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {
    door.asks: msgspec.json.Decoder(door.asks) for door in DOORS if door.asks is not None
}
_encode = msgspec.json.Encoder().encode


class Gateway:
    """The `Site` that a domain's server serves."""

    def __init__(self, context: GatewayContext) -> None:
        self._c = context
        self._name = context.config.spec.name
        self.members = Members(self._name, context.book, context.pool_to, context.clock)
        self._waiting = 0
        self._refusals = RefusalLog()
        self._permits = ReadPermits(context.trusted)
        self._decided: dict[tuple[str, str, DataClass], tuple[float, Refusal | None]] = {}
        self._handlers = {door.path: getattr(self, "_" + door.path.rpartition("/")[2]) for door in DOORS}
        """The handler of a door is the method of its name."""

    def admit(self, head: Head) -> Reception | Answer:
        """Who asks, and whether he may, before a byte of the body is kept."""
        door = BY_PATH.get(head.path.removeprefix(PREFIX)) if head.path.startswith(PREFIX) else None
        try:
            if door is None or door.method != head.method:
                raise _nowhere(head, door)
            caller, permit = self._who(head, door)
        except _Problem as problem:
            return self._problem(door, problem)
        return Reception(door.limit, partial(self._answer, head, door, caller, permit))

    def refuse(self, status: int, code: str, text: str) -> Answer:
        """See `Site`: what has not come as far as to a door."""
        return self._problem(None, _Problem(status, code, text))

    def refused(self) -> list[Refused]:
        """Since the start."""
        return [*self._refusals.counts(), *HANDSHAKES.counts()]

    async def _answer(
        self, head: Head, door: Door, caller: Caller | None, permit: RunPermit | None, body: bytes, line: Line
    ) -> Answer:
        try:
            if caller is not None and not hmac.compare_digest(caller.body, digest_bytes(body)):
                raise _Problem(401, "proof.body_mismatch", "the request was signed for another body")
            value = await self._handlers[door.path](_Request(head, door, line, body, caller, permit))
        except _Problem as problem:
            return self._problem(door, problem)
        return Answer(200, value, "application/octet-stream") if door.framed else Answer(200, _encode(value))

    def _problem(self, door: Door | None, problem: _Problem) -> Answer:
        where = PREFIX + door.path if door is not None else "no door"
        self._refusals.refused(where, problem.code, self._c.clock.monotonic())
        return Answer(problem.status, _encode(ProblemAnswer(Problem(problem.code, problem.text, problem.remedy))))

    # Who asks ---------------------------------------------------------------------------------------------------

    def _who(self, head: Head, door: Door) -> tuple[Caller | None, RunPermit | None]:
        """Of the domain's own processes, which show its token, nothing is signed."""
        match door.who:
            case For.ANYONE:
                return None, None
            case For.OWN:
                if not self._is_own(head):
                    text = "run-time state is written by the domain's own processes only"
                    raise _Problem(401, "gateway.unauthorised", text)
                return None, None
            case For.DOMAIN:
                return (None if self._is_own(head) else self._caller(head)), None
            case For.RUN:
                permit, caller = self._permitted(head)
                return caller, permit
            case For.INVITED:
                self._invited(head)
                return None, None

    def _invited(self, head: Head) -> str:
        """The name in the invitation's certificate."""
        if self._c.peers is None:
            raise _Problem(401, "tls.no_certificate", "one joins over mutual TLS only")
        shown = self._c.peers.invited(head.certificate, self._name)
        if isinstance(shown, Refusal):
            raise _Problem(401, shown.code, shown.text, shown.remedy)
        return shown

    def _is_own(self, head: Head) -> bool:
        given = head.headers.get("authorization", "")
        return bool(given) and hmac.compare_digest(given.encode(), f"Bearer {self._c.token}".encode())

    def _caller(self, head: Head) -> Caller:
        """Which domain signed this request for this gateway."""
        caller = check_proof(
            head.headers.get(PROOF_HEADER, ""),
            self._c.trusted,
            audience=self._name,
            method=head.method,
            path=head.path,
            now=self._c.clock.wall(),
        )
        if isinstance(caller, Refusal):
            raise _Problem(401, caller.code, caller.text, caller.remedy)
        if self._c.peers is not None:
            self._same_domain(head, self._c.peers, caller.domain)
        return caller

    def _same_domain(self, head: Head, peers: Peers, signer: str) -> None:
        """Who has opened the connection is who signed the request: nobody passes on what another signed."""
        shown = peers.domain(head.certificate, self._name)
        if isinstance(shown, Refusal):
            raise _Problem(401, shown.code, shown.text, shown.remedy)
        if shown != signer:
            text = f"the connection is {shown}'s, and the request is signed by {signer}"
            raise _Problem(401, "tls.other_domain", text, "send it with the signing domain's own certificate")

    def _permitted(self, head: Head) -> tuple[RunPermit, Caller]:
        """The run permit, sent by its own issuer, for this domain."""
        caller = self._caller(head)
        text = head.headers.get(PERMIT_HEADER)
        if not text:
            raise _Problem(403, "permit.missing", "the request shows no run permit", f"send it as {PERMIT_HEADER!r}")
        permit = self._permits.read(text, self._c.clock.wall())
        if isinstance(permit, Refusal):
            raise _Problem(403, permit.code, permit.text, permit.remedy)
        if permit.issuer != caller.domain:
            raise _Problem(403, "permit.not_yours", f"{caller.domain} shows a permit of {permit.issuer}")
        if self._name not in permit.domains:
            raise _Problem(403, "permit.domain", f"the run's permit does not name {self._name}")
        return permit, caller

    # Reading ----------------------------------------------------------------------------------------------------

    async def _health(self, _request: _Request) -> Any:
        return Health(self._name, self._c.epoch, True, (VERSION,), self.members.view())

    async def _members(self, _request: _Request) -> Any:
        return self.members.snapshot()

    async def _member(self, request: _Request) -> Any:
        asked = parse_qs(request.head.query)
        try:
            after = int(asked.get("after", ["0"])[-1][:20])
        except ValueError:
            raise _Problem(400, "gateway.malformed", "`after` is a number") from None
        return self._c.book.chain(asked.get("domain", [""])[-1][:100], after)

    async def _join(self, request: _Request) -> Any:
        answer = self.members.join(self._invited(request.head), request.read(JoinRequest).record, self._c.clock.wall())
        if isinstance(answer, Refusal):
            raise _Problem(403, answer.code, answer.text, answer.remedy)
        return answer

    async def _status(self, _request: _Request) -> Any:
        """Runs, steps and leases are for those who are known here."""
        clusters = {}
        for name in self._c.clusters:
            try:
                clusters[name] = await self._forward(name, "status", None, dict)
            except _Problem as problem:
                clusters[name] = {"error": problem.text}
        return {
            "domain": self._c.config.spec.name,
            "spec": self._c.config.spec,
            "clusters": clusters,
            "peers": self.members.snapshot(),
            "refused": self.refused(),
            "blocks": [
                {"urn": r.urn, "version": r.version, "of": r.spec.get("version"), "handles": r.spec.get("handles")}
                for r in self._c.store.records(Kind.BLOCK)
            ],
        }

    async def _records(self, request: _Request) -> Any:
        kind = parse_qs(request.head.query).get("kind", [""])[-1]
        try:
            return [record.signed for record in self._c.store.records(Kind(kind) if kind else None)]
        except ValueError:
            raise _Problem(400, "registry.unknown_kind", f"no kind {kind!r}") from None

    async def _state(self, _request: _Request) -> Any:
        return self._c.state.items(self._c.clock.monotonic())

    async def _discover(self, request: _Request) -> Any:
        # Who asks is what is proved, not what is written in the question.
        origin = request.caller.domain if request.caller is not None else self._name
        query = replace(request.read(Query), origin=origin, authority=self._authority(origin))
        state = self._c.state.items(self._c.clock.monotonic(), "cluster/")
        return discover(query, self._c.config.spec, self._c.store.records(Kind.BLOCK), state)

    async def _lease(self, request: _Request) -> Any:
        now, own = self._c.clock.monotonic(), {cluster.name for cluster in self._c.config.clusters}
        entries = request.read(list[StateEntry])
        for entry in entries:
            kind, _, rest = entry.key.partition("/")
            if kind not in ("cluster", "node") or rest.partition("/")[0] not in own:
                text = f"{entry.key[:100]!r} is not the state of a cluster or node of {self._name}"
                raise _Problem(403, "gateway.not_its_own", text)
        for entry in entries:
            self._c.state.put(entry.key, entry.value, min(max(entry.ttl_s, 0.1), 60.0), now)
        return {}

    # Negotiation ------------------------------------------------------------------------------------------------

    async def _announce(self, request: _Request) -> Any:
        body = request.read(AnnounceTo)
        permit = _for_run(request, body.announce.run)
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
            return Bid(body.cluster, self._name, announce.run, announce.round, 0, (), tuple(refusals))
        bid = await self._bid(request.line, body.cluster, announce)
        return replace(bid, refusals=(*refusals, *bid.refusals)) if refusals else bid

    async def _bid(self, line: Line, cluster: str, announce: Announce) -> Bid:
        """The cluster's answer, which may wait for room. The cluster is told if nobody waits for it any more."""
        if not announce.wait_s or self._waiting >= MAX_WAITING:
            return await self._forward(cluster, "announce", replace(announce, wait_s=0.0), Bid)
        self._waiting += 1
        try:
            return await _while_wanted(line, self._forward(cluster, "announce", announce, Bid, 1.0 + announce.wait_s))
        finally:
            self._waiting -= 1

    async def _award(self, request: _Request) -> Any:
        award = request.read(Award)
        permit = _for_run(request, award.run)
        verdicts = await self._verdicts(permit, {(r.capability, r.data_class) for r in award.requests})
        asked, rejected = [], []
        for item in award.requests:
            refusal = verdicts[item.capability, item.data_class]
            if item.run != award.run:
                refusal = Refusal("gateway.other_run", "the request is for another run", self._name)
            if refusal is None:
                asked.append(item)
            else:
                rejected.append(RejectedRequest(item.step, item.fence, refusal))
        narrowed = Award(award.cluster, award.run, award.round, award.origin, tuple(asked))
        awarded = await self._forward(award.cluster, "award", narrowed, Awarded)
        return replace(awarded, rejected=(*rejected, *awarded.rejected)) if rejected else awarded

    async def _renew(self, request: _Request) -> Any:
        body = request.read(RenewAt)
        _for_run(request, body.renew.run)
        return await self._forward(body.cluster, "renew", body.renew, Renewed)

    async def _release(self, request: _Request) -> Any:
        body = request.read(ReleaseAt)
        _for_run(request, body.release.run)
        return await self._forward(body.cluster, "release", body.release, dict)

    async def _invoke(self, request: _Request) -> bytes:
        try:
            frame = decode_payload(request.body)
            body = msgspec.convert(frame.document, Invocation)
        except (BadInputError, msgspec.MsgspecError) as error:
            raise _Problem(400, "gateway.malformed", str(error)) from error
        lease, name = body.lease, self._name
        run_permit = _for_run(request, lease.run)
        runner = self._c.runners.get(lease.cluster)
        if lease.domain != name or runner is None:
            return self._refusal(Refusal("gateway.not_ours", f"the lease is not one of {name}'s", name))
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
            return self._refusal(permit)
        if permit.issuer != run_permit.issuer:
            return self._refusal(
                Refusal("gateway.other_issuer", "the step permit is not of the run's own domain", name)
            )
        if permit.capability != body.capability:
            return self._refusal(Refusal("gateway.other_capability", f"the permit is for {permit.capability}", name))
        refusal = (await self._verdicts(run_permit, {(body.capability, permit.data_class)}, new=False)).popitem()[1]
        if refusal is not None:
            return self._refusal(refusal)
        held = await self._forward(lease.cluster, "verify", VerifyRequest(lease), Renewed)
        if lease.id not in held.held:
            return self._refusal(
                Refusal("gateway.no_lease", f"{lease.cluster} granted no such lease", name, "ask again")
            )
        timeout_s = min(max(body.timeout_s, 1.0), MAX_INVOKE_S)
        start = StartRequest("block", lease, body.permit, body.capability, payload, timeout_s)
        # The nonce makes the key the caller's own: under a key in flight Dask hands out the first caller's result.
        key = f"{lease.run}/{lease.step}/{lease.fence}/{lease.copy}/{permit.nonce}"
        try:
            running = runner.run(msgspec.msgpack.encode(start), key, lease.node, timeout_s)
            data = await _while_wanted(request.line, running)
        except UnreachableError as error:
            return _frame(Invoked(False, error=str(error), infrastructure=True))
        answer = msgspec.msgpack.decode(data, type=StartAnswer)
        return self._refusal(answer.refusal) if answer.refusal is not None else _answer(answer)

    # Shared -----------------------------------------------------------------------------------------------------

    def _refusal(self, refusal: Refusal) -> bytes:
        """The answer to an invocation that is not run."""
        self._refusals.refused("/v1/invoke", refusal.code, self._c.clock.monotonic())
        return _frame(Invoked(False, refusal=refusal))

    def _authority(self, domain: str) -> str:
        """The name of its certificate authority; empty where it is not known."""
        return self._c.book.authorities().get(domain) or self._c.config.authorities.get(domain, "")

    async def _verdicts(
        self, permit: RunPermit, wanted: set[tuple[str, DataClass]], new: bool = True
    ) -> dict[tuple[str, DataClass], Refusal | None]:
        """This domain's own last word on each kind of ask: the permit's bounds, then its own policy. `new`: it asks for a
        lease."""
        if new and self._c.book.leaving():
            text = f"{self._name} leaves the network: it takes nothing new"
            return dict.fromkeys(wanted, Refusal("gateway.leaving", text, self._name, "ask another domain"))
        found: dict[tuple[str, DataClass], Refusal | None] = {}
        for capability, data_class in wanted:
            if not data_class.within(permit.highest):
                text = f"the run's permit ends at {permit.highest}"
                found[capability, data_class] = Refusal("permit.class", text, self._name)
            else:
                found[capability, data_class] = await self._decide(permit.issuer, capability, data_class)
        return found

    async def _decide(self, origin: str, capability: str, data_class: DataClass) -> Refusal | None:
        """What was decided a moment ago is not asked again; what is asked is decided beside the event loop."""
        key, now = (origin, capability, data_class), self._c.clock.monotonic()
        until, refusal = self._decided.get(key, (now, None))
        if until > now:
            return refusal
        decision = await asyncio.to_thread(self._c.decide, origin, self._authority(origin), capability, data_class)
        refusal = None
        if not decision.allowed:
            held = Refusal("policy.held", "policy could not decide", self._name)
            refusal = decision.refusals[0] if decision.refusals else held
        if decision.verdict is not Verdict.HOLD:
            while len(self._decided) >= MAX_DECIDED:
                del self._decided[next(iter(self._decided))]
            self._decided[key] = (now + min(decision.ttl_s, DECIDED_S), refusal)
        return refusal

    async def _forward(self, cluster: str, door: str, message: Any, kind: type[T], timeout_s: float = 1.0) -> T:
        line = self._c.clusters.get(cluster)
        if line is None:
            raise _Problem(404, "gateway.no_cluster", f"{self._name} has no cluster {cluster!r}")
        try:
            return await line.ask(door, message, kind, timeout_s)
        except UnreachableError as error:
            raise _Problem(503, "cluster.unreachable", f"{cluster} does not answer: {error}") from error
        except RefusedError as error:
            raise _Problem(502, "cluster.error", f"{cluster} answered: {error}"[:300]) from error
        except msgspec.MsgspecError as error:
            raise _Problem(502, "cluster.error", f"{cluster} answered with something else: {error}") from error


async def _while_wanted(line: Line, work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, which is cancelled when the caller hangs up."""
    asked, gone = asyncio.ensure_future(work), line.hung_up()
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise _Problem(408, "gateway.hung_up", "nobody waits for the answer any longer")
        return asked.result()
    finally:
        if asked.cancel():
            await asyncio.wait({asked}, timeout=CANCEL_S)


def _nowhere(head: Head, door: Door | None) -> _Problem:
    """What was asked of no door, or in the wrong way."""
    if door is not None:
        return _Problem(405, "protocol.method", f"this door takes {door.method}", f"send it by {door.method}")
    if not head.path.startswith(PREFIX):
        text, todo = f"this gateway speaks version {VERSION} of the protocol", f"ask below {PREFIX}"
        return _Problem(404, "protocol.version", text, todo)
    return _Problem(404, "protocol.no_door", "there is no such door", "see the protocol's schema")


def _for_run(request: _Request, run: str) -> RunPermit:
    assert request.permit is not None
    if request.permit.run != run:
        raise _Problem(403, "permit.run_mismatch", "the permit is for another run")
    return request.permit


def _answer(answer: StartAnswer) -> bytes:
    if answer.result is None:
        lost = answer.cause == Cause.NODE_ERROR
        return _frame(Invoked(False, error=answer.error or "the node returned nothing", infrastructure=lost))
    try:
        result = decode_payload(answer.result)
    except FinalError as error:
        return _frame(Invoked(False, error=str(error)))
    where = {"node": answer.node, "attempt": answer.attempt, "started": answer.started, "ended": answer.ended}
    return _frame(Invoked(True, result.document, **where), result.parts)


def _frame(answer: Invoked, parts: Mapping[str, bytes] | None = None) -> bytes:
    return encode_payload(Payload(msgspec.to_builtins(answer), parts or {}))
