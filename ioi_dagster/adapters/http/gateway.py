"""A domain's gateway: its registry, its door to its clusters, and `invoke` for those who may not send code.

Everything from outside is size-limited, typed and signed; refusals are answers, errors say what to do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ioi_dagster.adapters.http.askers import Askers
from ioi_dagster.adapters.http.clocks import told_as
from ioi_dagster.adapters.http.clusters import Clusters
from ioi_dagster.adapters.http.context import GatewayContext, OrderDesk
from ioi_dagster.adapters.http.data import DataDesk
from ioi_dagster.adapters.http.doors import Door
from ioi_dagster.adapters.http.feeds import FeedDesk
from ioi_dagster.adapters.http.invoking import Invoking
from ioi_dagster.adapters.http.membership import Members
from ioi_dagster.adapters.http.meter import Meter
from ioi_dagster.adapters.http.openapi import document
from ioi_dagster.adapters.http.protocol import (
    BY_PATH,
    CLOCK_HEADER,
    DOORS,
    PREFIX,
    VERSION,
    AnnounceTo,
    Health,
    Held,
    JoinRequest,
    OrderRequest,
    Problem,
    ProblemAnswer,
    ReleaseAt,
    RenewAt,
    RunOrder,
    StateEntry,
    SwapHeads,
    Telling,
)
from ioi_dagster.adapters.http.ras_calling import RasCalling
from ioi_dagster.adapters.http.ras_desk import RasDesk
from ioi_dagster.adapters.http.refusals import ProblemError, RefusalLog, Refused
from ioi_dagster.adapters.http.standing import StandingDesk
from ioi_dagster.adapters.http.streaming import StreamedAnswer
from ioi_dagster.adapters.http.tls import HANDSHAKES, PEOPLE, STAMPS
from ioi_dagster.adapters.http.who_asks import WhoAsks, wanted
from ioi_dagster.errors import BadInputError, NotAllowedError, RetryableError
from ioi_dagster.governors.network import PeerState
from ioi_dagster.model.negotiation import LATE_S, Announce, Award, Awarded, Bid, RejectedRequest, Renewed
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import Experiences
from ioi_dagster.ras.record import PARTNER, PUBLIC, Kind, Record
from ioi_dagster.ras.selection import Query, discover

T = TypeVar("T")
ANSWER_S, LOOK_S = 5.0, 0.25
"""So long is waited for the answer of a run that is told something, which looks twice a second."""
MAX_WAITING = 128
"""Announcements that wait for room, each on a connection. No domain has more than are left for others; what comes beyond that is
answered at once."""


def create_app(context: GatewayContext) -> Starlette:
    """The gateway as an ASGI application; probing of peers runs with its lifespan. `state.refused()` is what it
    has refused, `state.kept()` how many bytes of messages it has that it is still looking at."""
    gateway = _Gateway(context)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(gateway.members.run())]
        if context.feeds is not None:
            tasks.append(asyncio.create_task(context.feeds.run(gateway.away)))
        if context.data is not None:
            tasks.append(asyncio.create_task(context.data.run()))
        yield
        for task in tasks:
            task.cancel()
        if context.feeds is not None:
            await context.feeds.close()
        await gateway.members.close()
        await gateway.standing.close()
        gateway.ras.close()

    routes = [Route(PREFIX + door.path, gateway.answer_at(door), methods=[door.method]) for door in DOORS]
    app = Starlette(routes=[*routes, Route("/{path:path}", gateway.nowhere, methods=_METHODS)], lifespan=lifespan)
    app.state.refused, app.state.kept = gateway.refused, gateway.kept
    return app


_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class _Gateway:
    def __init__(self, context: GatewayContext) -> None:
        self._c = context
        name = context.config.spec.name
        self.members = Members(name, context.book, context.http_to, context.clock, context.shown)
        self._waiting: Counter[str] = Counter()
        """By domain."""
        self._refusals = RefusalLog()
        self._who, self._clusters = WhoAsks(context), Clusters(context)
        invoking = Invoking(context, self._who, self._clusters, self._refusals)
        self._invoke, self._stream = invoking.invoke, invoking.stream
        self._meter, self._askers = Meter(), Askers(context, self._who)
        self.ras = RasDesk(context, self._who, self._askers, self._meter, self._refusals)
        self._calling = RasCalling(context, self._who, self._clusters, self.ras, self._refusals)
        self.standing = context.standing or StandingDesk(context.clock)

    def answer_at(self, door: Door) -> Callable[[Request], Any]:
        """The handler of a door is the method of its name; of those below `ras/`, of the desk's."""
        room, _, name = door.path.replace(".", "_").rpartition("/")
        handler = getattr(self, "_" + name) if room not in ("ras", "ras/invoke") else self._calling.at(name)

        async def metered(request: Request) -> Response | StreamedAnswer:
            since = self._c.clock.monotonic()
            answered = await answer(request)
            status = answered.status_code if isinstance(answered, Response) else 200
            self._meter.answered(door.method, PREFIX + door.path, status, self._c.clock.monotonic() - since)
            return answered

        async def answer(request: Request) -> Response | StreamedAnswer:
            try:
                self._who.check_connection(request)
                if PEOPLE in request.scope and door.scope is None and door.path != "openapi.json":
                    todo = f"those for people are below {PREFIX}ras/"
                    raise ProblemError(403, "gateway.no_certificate", "this door is for who shows a certificate", todo)
                value = await handler(request)
            except ProblemError as problem:
                return self._problem(request, problem)
            if isinstance(value, StreamedAnswer):
                return replace(value, headers={**value.headers, **self._clock_told()})
            if isinstance(value, Response):
                value.headers.update(self._clock_told())
                return value
            if isinstance(value, bytes):
                return Response(value, 200, self._clock_told(), media_type="application/octet-stream")
            return Response(msgspec.json.encode(value), 200, self._clock_told(), media_type="application/json")

        return metered

    async def nowhere(self, request: Request) -> Response:
        """What was asked of no door."""
        path = request.url.path
        if not path.startswith(PREFIX):
            text, todo = f"this gateway speaks version {VERSION} of the protocol", f"ask below {PREFIX}"
            problem = ProblemError(404, "protocol.version", text, todo)
        elif path.removeprefix(PREFIX) in BY_PATH:
            method = BY_PATH[path.removeprefix(PREFIX)].method
            problem = ProblemError(405, "protocol.method", f"this door takes {method}", f"send it by {method}")
        else:
            problem = ProblemError(404, "protocol.no_door", "there is no such door", "see the protocol's schema")
        return self._problem(request, problem)

    def _problem(self, request: Request, problem: ProblemError) -> Response:
        where = request.url.path
        known = where.startswith(PREFIX) and where.removeprefix(PREFIX) in BY_PATH
        self._refusals.refused(where if known else "no door", problem.code, self._c.clock.monotonic())
        body = ProblemAnswer(Problem(problem.code, problem.text, problem.remedy))
        headers = self._clock_told() | problem.headers | ({"connection": "close"} if problem.hang_up else {})
        return Response(msgspec.json.encode(body), problem.status, headers, media_type="application/json")

    def _clock_told(self) -> dict[str, str]:
        return {CLOCK_HEADER: told_as(self._c.clock.wall())}

    def refused(self) -> list[Refused]:
        """Since the start."""
        return [*self._refusals.counts(), *HANDSHAKES.counts()]

    def kept(self) -> int:
        return self._who.bodies.total()

    # Reading ----------------------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Any:
        return Health(self._c.config.spec.name, self._c.epoch, True, (VERSION,), self.members.view())

    async def _openapi_json(self, request: Request) -> Any:
        shown = request.scope.get(STAMPS, "")
        address = request.client.host if request.client is not None else "somebody"
        whose = self._c.peers.proven(shown) if self._c.peers is not None and shown else address
        self._askers.check_rate(whose, BY_PATH["openapi.json"])
        return document()

    async def _members(self, _request: Request) -> Any:
        return self.members.snapshot()

    async def _member(self, request: Request) -> Any:
        try:
            after = int(request.query_params.get("after", "0")[:20])
        except ValueError:
            raise ProblemError(400, "gateway.malformed", "`after` is a number") from None
        return self._c.book.chain(request.query_params.get("domain", "")[:100], after)

    async def _join(self, request: Request) -> Any:
        if self._c.peers is None:
            raise ProblemError(401, "tls.no_certificate", "one joins over mutual TLS only")
        name = self._c.config.spec.name
        shown = self._c.peers.invited(request.scope.get(STAMPS, ""), name)
        if isinstance(shown, Refusal):
            raise ProblemError(401, shown.code, shown.text, shown.remedy)
        body = await self._who.read(request, JoinRequest, None)
        answer = self.members.join(shown, body.record, self._c.clock.wall())
        if isinstance(answer, Refusal):
            raise ProblemError(403, answer.code, answer.text, answer.remedy)
        return answer

    async def _status(self, request: Request) -> Any:
        """For those who are known here. Which lease is whose, and of which run and step, is told to its own domain."""
        asker = "" if self._who.is_own(request) else self._who.caller(request).domain
        every = asker in ("", self._c.config.spec.name)
        clusters = {}
        for name in self._c.clusters:
            try:
                told = await self._clusters.ask(name, "status", None, dict)
                clusters[name] = told if every else _without_others(told, asker)
            except ProblemError as problem:
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
                for r in self._own_records(Kind.BLOCK)
            ],
        }

    async def _records(self, request: Request) -> Any:
        kind = request.query_params.get("kind")
        try:
            found = self._own_records(Kind(kind) if kind else None)
        except ValueError:
            raise ProblemError(400, "registry.unknown_kind", f"no kind {kind!r}") from None
        every = self._who.is_own(request)
        return [record.signed for record in found if every or record.audience == PUBLIC]

    def _own_records(self, kind: Kind | None) -> list[Record]:
        """What others state, and its registry holds as well, is theirs to offer."""
        return self._c.store.records(kind, self._c.config.spec.name)

    async def _state(self, request: Request) -> Any:
        if not self._who.is_own(request):
            self._who.caller(request)
        return self._c.state.items(self._c.clock.monotonic())

    async def _discover(self, request: Request) -> Any:
        caller = self._who.caller(request)
        query = await self._who.read(request, Query, caller)
        # Who asks is what is proved, not what is written in the question.
        authority = self._who.authority(caller.domain)
        query = replace(query, origin=caller.domain, authority=authority)
        state = self._c.state.items(self._c.clock.monotonic(), "cluster/")
        may_see = (PUBLIC, PARTNER + caller.domain)
        own = caller.domain == self._c.config.spec.name
        blocks = [record for record in self._own_records(Kind.BLOCK) if own or record.audience in may_see]
        return discover(query, self._c.config.spec, blocks, state)

    async def _lease(self, request: Request) -> Any:
        if not self._who.is_own(request):
            raise ProblemError(
                401, "gateway.unauthorised", "run-time state is written by the domain's own processes only"
            )
        now, own = self._c.clock.monotonic(), {cluster.name for cluster in self._c.config.clusters}
        entries = await self._who.read(request, list[StateEntry], None)
        for entry in entries:
            kind, _, rest = entry.key.partition("/")
            if kind not in ("cluster", "node") or rest.partition("/")[0] not in own:
                text = f"{entry.key[:100]!r} is not the state of a cluster or node of {self._c.config.spec.name}"
                raise ProblemError(403, "gateway.not_its_own", text)
        for entry in entries:
            self._c.state.put(entry.key, entry.value, min(max(entry.ttl_s, 0.1), 60.0), now)
        return {}

    # Feeds ------------------------------------------------------------------------------------------------------

    def away(self) -> list[str]:
        """Members that do not answer."""
        doubted = (PeerState.SUSPECT, PeerState.GONE, PeerState.LEFT)
        return [name for name, told in self.members.snapshot().items() if told.get("state") in doubted]

    async def _entries(self, request: Request) -> Any:
        caller, feeds = self._who.caller(request), self._feeds()
        return await wanted(request, feeds.entries(caller.domain, request.query_params))

    async def _heads(self, request: Request) -> Any:
        caller, feeds = self._who.caller(request), self._feeds()
        return feeds.heads(caller.domain, await self._who.read(request, SwapHeads, caller))

    async def _tell(self, request: Request) -> Any:
        if not self._who.is_own(request):
            raise ProblemError(401, "gateway.unauthorised", "feeds are written by the domain's own processes only")
        feeds = self._feeds()
        return await feeds.tell(await self._who.read(request, Telling, None))

    def _feeds(self) -> FeedDesk:
        if self._c.feeds is None:
            raise ProblemError(403, "feeds.closed", "this gateway tells nothing to other registries")
        return self._c.feeds

    # Data -------------------------------------------------------------------------------------------------------

    async def _copies(self, request: Request) -> Any:
        caller, desk = self._who.caller(request), self._data()
        try:
            return await desk.copies(caller.domain, request.query_params.get("asset", "")[:1_000])
        except BadInputError as error:
            raise ProblemError(400, "data.no_urn", error.what, error.todo or "") from error

    async def _held(self, request: Request) -> Any:
        caller, desk = self._who.caller(request), self._data()
        if caller.domain != self._c.config.spec.name:
            raise ProblemError(403, "gateway.not_its_own", "what a domain holds is told by its own processes only")
        refusal = desk.held(await self._who.read(request, Held, caller))
        if refusal is not None:
            raise ProblemError(400, refusal.code, refusal.text, refusal.remedy)
        return {}

    def _data(self) -> DataDesk:
        if self._c.data is None:
            raise ProblemError(403, "data.closed", "this gateway says nothing of data")
        return self._c.data

    async def _standing(self, request: Request) -> Any:
        """Nobody but the domain's own runs is believed, or told."""
        caller, name = self._who.caller(request), self._c.config.spec.name
        if caller.domain != name:
            text = (
                f"how clusters stand with {name} goes by what its own runs have seen, not by what {caller.domain} says"
            )
            raise ProblemError(403, "gateway.not_its_own", text, "tell it to your own gateway")
        told = await self._who.read(request, Experiences, caller)
        return await self.standing.told(told)

    # Negotiation ------------------------------------------------------------------------------------------------

    async def _announce(self, request: Request) -> Any:
        permit, caller = self._who.permitted(request)
        body = await self._who.read(request, AnnounceTo, caller)
        self._who.for_run(permit, body.announce.run)
        self._who.in_own_name(caller, body.announce.origin)
        verdicts = await self._who.verdicts(permit, {(g.capability, g.data_class) for g in body.announce.groups})
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
            return await self._clusters.ask(cluster, "announce", replace(announce, wait_s=0.0), Bid)
        self._waiting[whose] += 1
        try:
            # Cancelled, it closes the connection on which the cluster would answer.
            asked = self._clusters.ask(cluster, "announce", announce, Bid, 1.0 + announce.wait_s + LATE_S)
            return await wanted(request, asked)
        finally:
            self._waiting[whose] -= 1
            if not self._waiting[whose]:
                del self._waiting[whose]

    async def _award(self, request: Request) -> Any:
        permit, caller = self._who.permitted(request)
        award = await self._who.read(request, Award, caller)
        self._who.for_run(permit, award.run)
        self._who.in_own_name(caller, award.origin)
        verdicts = await self._who.verdicts(permit, {(r.capability, r.data_class) for r in award.requests})
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
        awarded = await self._clusters.ask(award.cluster, "award", narrowed, Awarded)
        return Awarded(awarded.cluster, awarded.leases, (*rejected, *awarded.rejected))

    async def _renew(self, request: Request) -> Any:
        permit, caller = self._who.permitted(request)
        body = await self._who.read(request, RenewAt, caller)
        self._who.for_run(permit, body.renew.run)
        # Whose lease it is, is found out here: any domain may issue a permit for a run that it calls as another's.
        renew = replace(body.renew, origin=caller.domain)
        return await self._clusters.ask(body.cluster, "renew", renew, Renewed)

    async def _release(self, request: Request) -> Any:
        permit, caller = self._who.permitted(request)
        body = await self._who.read(request, ReleaseAt, caller)
        self._who.for_run(permit, body.release.run)
        release = replace(body.release, origin=caller.domain)
        return await self._clusters.ask(body.cluster, "release", release, dict)

    # What people order -------------------------------------------------------------------------------------------

    async def _order(self, request: Request) -> Any:
        caller = self._who.caller(request)
        body = await self._who.read(request, OrderRequest, caller)
        return await self._to_desk(lambda desk: desk.give(body.order, body.subject, caller.domain, body.unseen))

    async def _intervene(self, request: Request) -> Any:
        caller = self._who.caller(request)
        body = await self._who.read(request, RunOrder, caller)
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
            raise ProblemError(403, "order.none", "nothing is ordered at this gateway")
        try:
            return await asyncio.to_thread(ask, desk)
        except NotAllowedError as error:
            raise ProblemError(403, "order.not_allowed", str(error)[:1_000], "ask the owner of the domain") from error
        except BadInputError as error:
            raise ProblemError(400, "order.impossible", error.what, error.todo or "") from error
        except (OSError, RetryableError) as error:
            raise ProblemError(503, "order.not_written", f"it cannot be written down: {error}"[:300]) from error

    def _in_force(self) -> list[dict[str, Any]]:
        """A file that cannot be read is told where it is to be changed, and by the schedulers."""
        try:
            return self._c.orders.in_force() if self._c.orders is not None else []
        except (BadInputError, OSError):
            return []


def _without_others(snapshot: dict[str, Any], domain: str) -> dict[str, Any]:
    """A cluster's snapshot as `domain` may see it: of others' leases it is told that they are there, of what its owner orders
    nothing."""
    hidden = {"id": "", "origin": "", "run": "", "step": ""}
    leases = {
        part: [one if one.get("origin") == domain else one | hidden for one in snapshot.get(part, ())]
        for part in ("leases", "abandoned")
    }
    return snapshot | leases | {"ordered": []}
