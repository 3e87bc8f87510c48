"""The registry's doors: who asks is proved, what he asks is read and bounded, and the registry answers beside the event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ioi_dagster.adapters.http.askers import Asker, Askers
from ioi_dagster.adapters.http.context import GatewayContext, RegistryDesk
from ioi_dagster.adapters.http.meter import Family, Meter
from ioi_dagster.adapters.http.protocol import BY_PATH, Telling
from ioi_dagster.adapters.http.refusals import ProblemError, RefusalLog
from ioi_dagster.adapters.http.who_asks import WhoAsks, wanted
from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.ras.asking import Demand, Finding, FoundTold, Registered, Registration, RegistryHealth, Selected
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.record import Kind
from ioi_dagster.ras.summary import Liveness, Living
from ioi_dagster.ras.urn import Urn

T = TypeVar("T")
THREADS, MAX_WAITING = 2, 64
"""Questions that are answered at a time, and that may wait for that: what comes beyond is refused at once."""


class RasDesk:
    """A method for each door below `ras/`, of its name."""

    def __init__(
        self,
        context: GatewayContext,
        who: WhoAsks,
        askers: Askers,
        meter: Meter,
        refusals: RefusalLog,
    ) -> None:
        self._c, self._who, self.askers = context, who, askers
        self._meter, self._refusals = meter, refusals
        self._own = context.config.spec.name
        # Not where policies decide: a flood of questions must not hold those up.
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="registry")
        self._waiting = 0

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # From an intent to a choice

    async def find(self, request: Request) -> FoundTold:
        asker = self.asker(request, "ras/find")
        asked = await self.read(request, "ras/find", Finding, asker)
        return await self._found(request, asked.demand(), asker)

    async def discover(self, request: Request) -> FoundTold:
        asker = self.asker(request, "ras/discover")
        return await self._found(request, await self.read(request, "ras/discover", Demand, asker), asker)

    async def _found(self, request: Request, demand: Demand, asker: Asker) -> FoundTold:
        living = self.living()
        return await self.ask(request, lambda desk: desk.found(demand, asker.sees, living))

    async def select(self, request: Request) -> Selected:
        asker, living = self.asker(request, "ras/select"), self.living()
        demand = await self.read(request, "ras/select", Demand, asker)
        selected = await self.ask(request, lambda desk: desk.selected(demand, asker.sees, living))
        return selected if isinstance(selected, Selected) else _nothing(selected)

    # One name

    async def resolve(self, request: Request) -> Any:
        asker, query = self.asker(request, "ras/resolve"), request.query_params
        urn, as_of = _asked_for(query)
        words = {name: query.get(name, "")[:500] for name in ("version", "range", "alias")}
        found = await self.ask(request, lambda desk: desk.resolved(urn, asker.sees, **words, as_of=as_of))
        what = " ".join(f"{name} {text}" for name, text in words.items() if text)
        return found or _gone(f"{urn} {what}".rstrip())

    async def pointers(self, request: Request) -> Any:
        asker = self.asker(request, "ras/pointers")
        urn, as_of = _asked_for(request.query_params)
        return await self.ask(request, lambda desk: desk.pointers(urn, asker.sees, as_of)) or _gone(urn)

    async def history(self, request: Request) -> Any:
        asker = self.asker(request, "ras/history")
        urn, _ = _asked_for(request.query_params)
        return await self.ask(request, lambda desk: desk.history(urn, asker.sees)) or _gone(urn)

    # Writing

    async def register(self, request: Request) -> Registered:
        asker = self.asker(request, "ras/register")
        asked = await self.read(request, "ras/register", Registration, asker)
        done = await self.ask(request, lambda desk: desk.register(asked, asker.signs))
        if asker.signs != self._own or self._c.feeds is None:
            return done
        new = [one for one, its in zip(asked.records, done.records, strict=True) if its.state == "registered"]
        if not new:
            return done
        try:
            await self._c.feeds.tell(Telling(tuple(new)))
        except ProblemError as problem:
            # It is registered all the same, and stated when the gateway starts.
            return Registered(done.written, done.records, done.events, f"{problem.text} [{problem.code}]")
        return done

    # How it is

    async def health(self, request: Request) -> RegistryHealth:
        asker = self.asker(request, "ras/health")
        try:
            counted = await self.ask(request, lambda desk: (desk.counts(asker.sees), desk.database()))
        except ProblemError as problem:
            if problem.code != "registry.database":
                raise
            return RegistryHealth(self._own, False, problem.text, {}, {}, self._feeds(asker))
        records, database = counted
        problem = f"it was {database['restored']}, and nobody has said how it goes on" if database["restored"] else ""
        return RegistryHealth(self._own, not problem, problem, records, database, self._feeds(asker))

    def _feeds(self, asker: Asker) -> dict[str, dict[str, Any]]:
        if self._c.feeds is None:
            return {}
        told = {name.partition("/")[::2]: (name, its) for name, its in self._c.feeds.snapshot().items()}
        return {name: its for of, (name, its) in told.items() if Feed(*of).seen_by(asker.sees)}

    async def metrics(self, request: Request) -> Response:
        self.asker(request, "ras/metrics")
        counts = await self.ask(request, lambda desk: desk.counts(None))
        text = self._meter.text(self._families(counts))
        return PlainTextResponse(text, media_type=BY_PATH["ras/metrics"].media)

    def _families(self, counts: Mapping[str, Mapping[str, int]]) -> Iterator[Family]:
        rows = [({"kind": kind, "status": status}, n) for kind, its in counts.items() for status, n in its.items()]
        yield Family("ioi_registry_records", "gauge", "Versions of records by kind and status.", rows)
        refused = [({"door": its.door, "code": its.code}, its.count) for its in self._refusals.counts()]
        yield Family("ioi_gateway_refusals_total", "counter", "What was refused, by door and code.", refused)
        yield Family("ioi_gateway_epoch", "gauge", "Rises with each start.", [({}, self._c.epoch)])
        held = self._who.bodies.total()
        yield Family("ioi_gateway_message_bytes", "gauge", "Of messages that are looked at.", [({}, held)])
        feeds = self._c.feeds.snapshot() if self._c.feeds is not None else {}
        by_feed = [({"feed": name}, told) for name, told in feeds.items()]
        yield Family("ioi_feed_seq", "gauge", "Entries that are here.", [(of, told["seq"]) for of, told in by_feed])
        fresh = [(of, float(told["standing"] == "fresh")) for of, told in by_feed]
        yield Family("ioi_feed_fresh", "gauge", "1: its owner's word for it holds.", fresh)
        there = [(of, float(told["home"] == "there")) for of, told in by_feed]
        yield Family("ioi_feed_home_there", "gauge", "1: its owner answers.", there)

    # What all of them do

    def asker(self, request: Request, path: str) -> Asker:
        return self.askers.asker(request, BY_PATH[path])

    async def read(self, request: Request, path: str, kind: type[T], asker: Asker) -> T:
        whose = "" if asker.caller is not None else asker.name
        return await self._who.read(request, kind, asker.caller, BY_PATH[path].limit, whose)

    async def ask(self, request: Request, question: Callable[[RegistryDesk], T]) -> T:
        """The registry's answer, for who waits for it. Raises `ProblemError`."""
        return await wanted(request, self.answered(question))

    async def answered(self, question: Callable[[RegistryDesk], T]) -> T:
        desk = self._c.registry
        if desk is None:
            raise ProblemError(403, "registry.closed", "this gateway answers for no registry")
        if self._waiting >= MAX_WAITING:
            text = f"{MAX_WAITING} questions wait for the registry"
            raise ProblemError(503, "registry.busy", text, "wait, and ask again", headers={"retry-after": "1"})
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, question, desk)
        except BadInputError as error:
            raise ProblemError(400, "registry.malformed", str(error)[:1_000], error.todo or "") from error
        except FinalError as error:
            raise ProblemError(403, "registry.refused", str(error)[:1_000]) from error
        except (SQLAlchemyError, OSError) as error:
            text = f"the database does not answer: {type(error).__name__}"
            raise ProblemError(503, "registry.database", text, "see its disk and its log") from error
        finally:
            self._waiting -= 1

    def living(self) -> dict[str, Living]:
        """What is heard of the domain's own clusters and nodes; of what is not in it nothing is heard."""
        state = self._c.state.items(self._c.clock.monotonic())
        found = {}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "cluster":
                there = value.get("nodes") or value.get("may_come")
                slots = value.get("slots") or 0
                load = 1.0 - value.get("free", 0) / slots if slots else None
                liveness = Liveness.ALIVE if there else Liveness.DEAD
                found[str(Urn(self._own, Kind.CLUSTER, name))] = Living(liveness, load)
            elif kind == "node":
                found[str(Urn(self._own, Kind.NODE, name.replace("/", ":")))] = Living()
        return found


def _nothing(found: FoundTold) -> Any:
    """Raises that nothing would do, with what was refused most."""
    counts = ", ".join(f"{code} {n}" for code, n in sorted(found.rejected_by_code.items(), key=lambda one: -one[1])[:5])
    near = f"; nearest are {', '.join(one.urn for one in found.closest)}" if found.closest else ""
    text = f"nothing would do ({counts or 'nothing such is registered'}){near}"
    raise ProblemError(
        404, "ras.nothing_fits", text[:1_000], "ask otherwise; `ras/discover` tells each that was refused"
    )


def _gone(what: str) -> Any:
    raise ProblemError(404, "ras.not_there", f"there is no {what[:700]} here", "see `ras/find` and `ras/pointers`")


def _asked_for(query: Mapping[str, str]) -> tuple[str, float | None]:
    try:
        as_of = float(query["as_of"][:30]) if query.get("as_of") else None
        if as_of is not None and not math.isfinite(as_of):
            raise ValueError
    except ValueError:
        raise ProblemError(400, "registry.malformed", "`as_of` is a time in seconds", "as in 1764300000") from None
    return query.get("urn", "")[:600], as_of
