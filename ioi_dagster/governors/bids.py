"""A cluster's bids and grants: what the fair arbiter says of what runs ask for, kept as offers for those that waited.

A bid is not binding: it says what would start now, and nothing is kept for it. What waits stands in the arbiter's queues; what it
is granted there is kept for a while as an offer, and an award takes that first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Protocol

from ioi_dagster.governors.fairness.arbiter import Arbiter
from ioi_dagster.governors.fairness.tree import Entry
from ioi_dagster.governors.fairness.values import Request
from ioi_dagster.governors.orders_in_force import Narrowed
from ioi_dagster.governors.parked import ASKS_S, MAX_PARKED, OFFER_S, Asked, Desk, Kind, Like, Offered, like
from ioi_dagster.governors.prices import Load, curve
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    OWN_STEP,
    SLOTS,
    Announce,
    AskGroup,
    Bid,
    LeaseRequest,
    Never,
    Resources,
    SupplyPoint,
    Whose,
)
from ioi_dagster.model.refusal import Refusal

BID_S = 2.0
"""So long a bid for which nothing is kept may be taken to be true."""
CODES = {
    "fair.full": "cluster.full",
    "fair.limit": "cluster.limit",
    "fair.kept": "cluster.kept",
    "fair.not_its_turn": "cluster.not_its_turn",
    "fair.too_many_tenants": "cluster.full",
    "fair.unknown_tenant": "cluster.never",
    "fair.not_offered": "cluster.never",
    "fair.too_large": "cluster.never",
    "fair.over_limit": "cluster.never",
}
OF_NODES = frozenset({"fair.not_offered", "fair.too_large"})
"""Refusals that others than the nodes that are there could make good."""


LOADS_NOTHING = frozenset({OWN_STEP})
Curve = tuple[str, DataClass, Resources, int, bool, bool]
"""What tells one supply curve of a bid from the others: capability, data class, resources, gang, whether it is for copies, and
whether for parts of maps, which may start where an owner's order keeps all else from it."""


def curve_of(one: AskGroup | SupplyPoint) -> Curve:
    return one.capability, one.data_class, one.resources, one.gang, one.idle, one.part


def loads_nothing(one: AskGroup) -> bool:
    """A run's own code begins at once wherever it may: there is no replica of it that could be warm."""
    return one.capability in LOADS_NOTHING


class Rooms(Protocol):
    """What the governor knows of its nodes beyond the arbiter's books."""

    def offered(self, capability: str) -> bool:
        """Does any node that is there offer it?"""
        ...

    def away(self, capability: str, amounts: Mapping[str, float]) -> list[str]:
        """Nodes that are not there and could take it."""
        ...

    def counted(self, resource: str) -> bool:
        """Is it taken account of?"""
        ...

    def scaling(self, capability: str, amounts: Mapping[str, float]) -> Refusal | None:
        """What is done about nodes that could take it and are not there; None where there are none such."""
        ...

    def full(self, capability: str) -> Refusal:
        """Why nothing is free for a step that takes its slot alone."""
        ...

    def load(self) -> Load:
        """What prices go by."""
        ...


class Bids:
    """All times are monotonic seconds."""

    def __init__(self, cluster: str, domain: str, epoch: int, arbiter: Arbiter, rooms: Rooms) -> None:
        self._cluster, self._domain, self._epoch = cluster, domain, epoch
        self._arbiter, self._rooms = arbiter, rooms
        self.desk = Desk()
        self._overdue: list[Asked] = []
        """Those that wait and have done so for long enough, or have got all that they asked for by an award."""
        self._ids = count(1)
        self._like: dict[Kind, Entry | Refusal] = {}
        self._refused: dict[Kind, Refusal] = {}
        """Of the award at hand: what requests of a kind are in the books, and why there is no more of it."""

    # Announcements ----------------------------------------------------------------------------------------------

    def announced(self, narrowed: Narrowed, now: float) -> tuple[Announce | None, Asked, Bid | None]:
        """The announcement of the run that waited until now, what is asked for from now on, and the answer, if there is one
        already."""
        announce = narrowed.announce
        older = self.forget(announce.whose, now)
        # What is kept for it and it has not heard of is free from here; it comes first, as who waits does.
        untold = self.desk.take_untold(announce.whose)
        self.decline(untold)
        waits = bool(announce.wait_s) or untold is not None
        while self.desk.full() and (oldest := self.desk.oldest()) is not None:
            self.forget(oldest.announce.whose, now)
        since = self.desk.since(announce.whose, now)
        groups = [(group, self._entry(group, since, announce.remaining_s)) for group in announce.groups]
        asked = Asked(announce, groups, now + ASKS_S, narrowed.wanted, narrowed.refusals, at=now)
        self.desk.add(asked)
        for entry in asked.entries():
            self._arbiter.wish(entry)
        points = self._points(asked) if untold is None else []
        if points or not waits or not asked.entries() or len(self.desk) >= MAX_PARKED:
            if points:
                self.desk.lose_place(announce.whose)
            answered = set(map(curve_of, points))
            left = [self._why_not(group, one) for group, one in asked.groups if curve_of(group) not in answered]
            return older, asked, self._made(announce, points, left, asked)
        for entry in asked.entries():
            self._arbiter.wait(entry)
        self.desk.park(asked, since, now + announce.wait_s)
        if not announce.wait_s:
            self._overdue.append(asked)
        return older, asked, None

    def owe(self, asked: Asked) -> None:
        """It was answered with nothing, and its tenant is guaranteed some of it: that stands in line until it is asked for again,
        or who waits and has no right to that room would be given it meanwhile. Not so while it has heard of an offer: that it may
        take."""
        if asked.announce.whose in self.desk.offers:
            return
        for entry in asked.entries():
            if self._arbiter.asks(entry) and not entry.queued and self._arbiter.guarantees(entry):
                self._arbiter.wait(entry)

    def forget(self, run: Whose, now: float) -> Announce | None:
        """The run asks for nothing any more. Its announcement, if that waited."""
        asked = self.desk.asked.get(run)
        if asked is None:
            return None
        waited = asked.waits
        if waited:
            self.desk.answered(asked, False, now)
        for entry in asked.entries():
            if self._arbiter.asks(entry):
                self._arbiter.less(entry, entry.left)
        self.desk.remove(run)
        return asked.announce if waited else None

    def withdrawn(self, run: Whose, round_: int, now: float) -> None:
        asked = self.desk.asked.get(run)
        if asked is not None and asked.waits and asked.announce.round == round_:
            self.forget(run, now)
            self.desk.lose_place(run)

    def _entry(self, group: AskGroup, since: float, left_s: float) -> Entry | Refusal:
        copies = max(1, group.gang)
        if not group.count:
            return Refusal("cluster.never", "no step is asked for", self._cluster, "ask for one or more")
        if group.count < copies:
            return Refusal(
                "cluster.never", f"a gang of {copies} of {group.count} steps", self._cluster, "ask for all of it"
            )
        return self._request(like(group), since, copies, group.count // copies, group.priority, left_s, group.seconds)

    def _request(
        self,
        its: Like,
        since: float,
        copies: int,
        wanted: int,
        priority: int = 0,
        left_s: float = 0.0,
        seconds: float = 0.0,
    ) -> Entry | Refusal:
        tenant, capability, resources = its
        amounts = {name: amount for name, amount in resources if self._rooms.counted(name)}
        amounts[SLOTS] = 1.0
        found = self._arbiter.entry(
            Request(
                f"ask {next(self._ids)}",
                tenant,
                amounts,
                since,
                None,
                capability,
                priority,
                copies,
                False,
                capability,
                wanted,
                remaining_s=left_s,
                seconds=seconds,
            )
        )
        if not isinstance(found, Refusal):
            return found
        away = self._rooms.away(capability, amounts) if found.code in OF_NODES else []
        if away:
            text = f"{found.text}; {', '.join(away[:8])} could take it, and is away"
            return Refusal("cluster.node_away", text, self._cluster, "it is asked again until that is back")
        return self.told(found)

    def told(self, refusal: Refusal) -> Refusal:
        """As this cluster says it."""
        return Refusal(CODES[refusal.code], refusal.text, self._cluster, refusal.remedy)

    # Bids -------------------------------------------------------------------------------------------------------

    def _points(self, asked: Asked) -> list[SupplyPoint]:
        """What would start now. Groups that are one curve to who reads the bid would start in the same room."""
        curves: dict[Curve, tuple[int, int]] = {}
        for group, entry in asked.groups:
            if not isinstance(entry, Entry):
                continue
            times = self._arbiter.claims.quote_idle(entry) if group.idle else self._arbiter.claims.quote(entry)
            slots, its = times * entry.shape.copies, curve_of(group)
            if slots > curves.get(its, (0, 0))[0]:
                warm = slots if loads_nothing(group) else self._arbiter.claims.quote_warm(entry, slots)
                curves[its] = slots, warm
        return self._rising(curves, len(self.desk))

    def _rising(self, curves: dict[Curve, tuple[int, int]], queued: int) -> list[SupplyPoint]:
        """By curve, how many slots and how many of them warm, as points. `queued`: runs that wait for room besides."""
        load = self._rooms.load()
        return [
            SupplyPoint(capability, data_class, rung.slots, rung.price, rung.warm, resources, gang, idle, part)
            for (capability, data_class, resources, gang, idle, part), (slots, warm) in curves.items()
            for rung in curve(load, slots, warm, queued, max(1, gang))
        ]

    def _made(
        self,
        announce: Announce,
        points: Iterable[SupplyPoint],
        refusals: Iterable[Refusal],
        asked: Asked | None = None,
        expires_s: float = BID_S,
    ) -> Bid:
        never = tuple(
            Never(group, one)
            for group, one in (asked.groups if asked else ())
            if isinstance(one, Refusal) and one.code == "cluster.never"
        )
        told = (*(asked.refusals if asked else ()), *refusals)
        return Bid(
            self._cluster,
            self._domain,
            announce.run,
            announce.round,
            self._epoch,
            tuple(points),
            told,
            expires_s,
            never=never,
        )

    def nothing(self, announce: Announce) -> Bid:
        """The answer to one that waits no more, since its run has announced anew."""
        return self._made(announce, (), ())

    def _why_not(self, one: AskGroup | LeaseRequest, entry: Entry | Refusal) -> Refusal:
        copy = one.idle if isinstance(one, AskGroup) else bool(one.copy)
        scaling = self._rooms.scaling(one.capability, entry.request.amounts) if isinstance(entry, Entry) else None
        if not self._rooms.offered(one.capability):
            nobody = Refusal("cluster.not_offered", f"no node here offers {one.capability}", self._cluster)
            return scaling or nobody
        if isinstance(entry, Refusal):
            return entry
        refusal = self._arbiter.claims.why_not(entry)
        if scaling is not None and refusal.code == "fair.full" and not copy:
            return scaling
        if copy and refusal.code == "fair.not_its_turn":
            text = "what is free is wanted by others, and this is a copy of what runs already"
            return Refusal("cluster.not_its_turn", text, self._cluster, "nothing: the first copy goes on")
        if refusal.code == "fair.full" and not one.resources and entry.shape.copies == 1:
            return self._rooms.full(one.capability)
        return self.told(refusal)

    # Those that wait --------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """What was asked and offered some time ago counts no more. Ask before anything else."""
        for offered in self.desk.lapsed(now):
            self._give_up(offered)
        for asked in self.desk.over(now):
            if asked.waits:
                self._overdue.append(asked)
            else:
                self.forget(asked.announce.whose, now)

    def serve(self, now: float) -> list[tuple[Asked, Bid]]:
        """Answers to those that wait: for whom there is room now, and who has waited long enough."""
        started: dict[Whose, list[Entry]] = {}
        for entry in self._arbiter.start(now) if len(self.desk) else ():
            started.setdefault(self.desk.run_of[entry.request.id], []).append(entry)
        out = []
        for run, entries in started.items():
            asked = self.desk.asked[run]
            if asked.waits:
                out.append(self._served(asked, entries, now))
            else:
                self._keep(asked, entries, now)
        overdue, self._overdue = self._overdue, []
        out += [(asked, self._in_vain(asked, now)) for asked in overdue if self.desk.waits(asked)]
        return out

    def _keep(self, asked: Asked, entries: list[Entry], now: float) -> None:
        """Keep this for one that does not wait for an answer, with what is kept for it already. Nothing is to be said."""
        whose = asked.announce.whose
        untold = self.desk.take_untold(whose)
        of = {one.request.id: like(group) for group, one in asked.groups if isinstance(one, Entry)}
        kept = [(its, entry) for (its, _), rooms in untold.rooms.items() for entry in rooms] if untold else []
        for entry in entries:
            entry.preemptible = False
            kept.append((of[entry.request.id], entry))
        self.desk.offer(whose, kept, now + OFFER_S, told=False)

    def _served(self, asked: Asked, entries: list[Entry], now: float) -> tuple[Asked, Bid]:
        announce, kept = asked.announce, []
        given: dict[str, list[Entry]] = {}
        for entry in entries:
            entry.preemptible = False
            given.setdefault(entry.request.id, []).append(entry)
        curves: dict[Curve, tuple[int, int]] = {}
        refusals = []
        for group, one in asked.groups:
            its = given.get(one.request.id, []) if isinstance(one, Entry) else []
            if its:
                warm = sum(loads_nothing(group) or self._arbiter.is_warm(entry) for entry in its)
                slots, before = sum(entry.shape.copies for entry in its), curves.get(curve_of(group), (0, 0))
                curves[curve_of(group)] = before[0] + slots, before[1] + warm
                kept += [(like(group), entry) for entry in its]
            else:
                refusals.append(self._why_not(group, one))
        self._step_back(asked)
        self.desk.answered(asked, True, now)
        # What is kept counts as free in a price, as it does where nothing is kept.
        points = self._rising(curves, len(self.desk))
        earlier = self.desk.take(announce.whose)
        if earlier is not None:
            self._give_up(earlier)
        self.desk.offer(announce.whose, kept, now + OFFER_S)
        return asked, self._made(announce, points, refusals, asked, OFFER_S)

    def _in_vain(self, asked: Asked, now: float) -> Bid:
        self._step_back(asked)
        self.desk.answered(asked, False, now)
        refusals = [
            self._why_not(group, one)
            for group, one in asked.groups
            if isinstance(one, Refusal) or group.idle or self._arbiter.asks(one)
        ]
        return self._made(asked.announce, (), refusals, asked)

    def _step_back(self, asked: Asked) -> None:
        for entry in asked.entries():
            if entry.queued:
                self._arbiter.step_back(entry)

    def refused(self, refusals: Iterable[tuple[str, Refusal]]) -> None:
        """These can never be satisfied any more."""
        told = dict(refusals)
        for name in told:
            del self.desk.run_of[name]
        for asked in self.desk.asked.values() if told else ():
            asked.groups = [
                (group, self.told(told[one.id]) if isinstance(one, Entry) and one.id in told else one)
                for group, one in asked.groups
            ]

    # Offers and grants ------------------------------------------------------------------------------------------

    def _give_up(self, offered: Offered) -> None:
        for entry in offered.entries():
            self._arbiter.on_finished(entry.id)

    def evacuate(self, node: str) -> None:
        """What was kept at the node is so no more; it is due still."""
        for offered in self.desk.offers.values():
            for entries in offered.rooms.values():
                for entry in [entry for entry in entries if node in self._arbiter.node_of(entry)]:
                    entries.remove(entry)
                    self._arbiter.on_finished(entry.id)

    def offered_to(self, run: Whose, now: float) -> Offered | None:
        """What the run was offered, which is its own from here."""
        self._like.clear()
        self.freed()
        offered = self.desk.take(run)
        if offered is not None and offered.until <= now:
            self._give_up(offered)
            return None
        return offered

    def freed(self) -> None:
        """What was refused in this award may have room now."""
        self._refused.clear()

    def decline(self, offered: Offered | None) -> None:
        """What the run has not taken of that is anybody's."""
        if offered is not None:
            self._give_up(offered)

    def grant(
        self, run: Whose, requests: list[LeaseRequest], name: str, offered: Offered | None, now: float
    ) -> list[Entry] | Refusal:
        """Room for these of `run`, which start together: one, or a gang. By request, an entry that runs."""
        first = requests[0]
        its, copies = like(first), len(requests)
        promised = self._promised(offered, its, copies, first, now)
        if promised is None:
            kind = (its, copies)
            if kind in self._refused and not first.copy:
                return self._refused[kind]
            pattern = self._like.get(kind)
            if pattern is None:
                pattern = self._like[kind] = self._request(its, now, copies, 1)
            entry = pattern.twin(name) if isinstance(pattern, Entry) else pattern
            if (
                isinstance(entry, Refusal)
                or (first.copy and not self._arbiter.claims.quote_idle(entry))
                or self._arbiter.claims.claim(entry, now, first.prefer, first.avoid) is not None
            ):
                refusal = self._why_not(first, entry)
                if not first.avoid and not first.copy:
                    self._refused[kind] = refusal
                return refusal
        else:
            entry = promised
            self._arbiter.rename(entry, name)
            entry.started = now
        self._got(run, its, copies)
        return self._arbiter.split(entry)

    def _got(self, run: Whose, its: Like, copies: int) -> None:
        """One of what the run asked for is granted, so it asks for one less."""
        asked = self.desk.asked.get(run)
        for group, one in asked.groups if asked is not None else ():
            if like(group) == its and isinstance(one, Entry) and one.shape.copies == copies and self._arbiter.asks(one):
                self._arbiter.less(one, 1)
                if asked is not None and asked.waits and not any(map(self._arbiter.asks, asked.entries())):
                    self._overdue.append(asked)
                return

    def _promised(
        self, offered: Offered | None, its: Like, copies: int, request: LeaseRequest, now: float
    ) -> Entry | None:
        """What was kept for it, at a node that suits; or any room, since it was promised some."""
        kind = (its, copies)
        if offered is None or not offered.due.get(kind):
            return None
        offered.due[kind] -= 1
        rooms = offered.rooms.get(kind, [])
        for entry in rooms:
            if self._arbiter.is_lent(entry) and not request.preemptible:
                continue  # it could not be stopped when a gang needs the room
            if self._arbiter.keeps(entry) and (
                copies > 1 or self._arbiter.relocate(entry, request.prefer, request.avoid)
            ):
                rooms.remove(entry)
                return entry
        if rooms:
            self._arbiter.on_finished(rooms.pop().id)
        entry = self._request(its, now, copies, 1)
        if isinstance(entry, Refusal):
            return None
        # Where nodes have left, more may be promised than there is: who comes first has it.
        others = [rooms for other in (offered, *self.desk.offers.values()) for rooms in other.rooms.values()]
        for rooms in others:
            for one in list(rooms):
                if self._arbiter.claims.redeem(entry, now, request.prefer, request.avoid):
                    return entry
                if self._arbiter.in_the_way(one, entry):
                    rooms.remove(one)
                    self._arbiter.on_finished(one.id)
        return entry if self._arbiter.claims.redeem(entry, now, request.prefer, request.avoid) else None
