"""Announcements that wait at a cluster for room: whose comes next, and what of the room was offered to whom a moment ago.

Who asks for room that is not there is not turned away to ask again: the answer waits until there is room for it. Those that wait
come in the order of their tenants' turns; within a tenant by how long they have waited, where a step of priority is worth
`AGING_S` of waiting. That key never changes, so nothing is aged by scanning and nobody waits for ever behind higher priorities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from ioi_dagster.model.negotiation import Announce

MAX_PARKED = 10_000
"""Runs whose announcements wait; what comes beyond that is answered at once, and asks again."""
AGING_S = 60.0
OFFER_S = 1.5
"""So long nobody else is given what was offered to one that waited. Its round may wait a second for other bids."""
PLACE_KEPT_S = 5.0
"""Who was answered with nothing and asks again within this keeps its place."""


Kinds = tuple[tuple[str, str], ...]
"""What is asked for: by group, its tenant and capability. Where there is nothing for one there is nothing for its like."""


@dataclass(frozen=True, slots=True)
class Parked:
    """`since`: when it came, earlier by what its priority is worth (monotonic s). `until`: then it is answered, with nothing if
    need be."""

    announce: Announce
    since: float
    until: float

    @property
    def kinds(self) -> Kinds:
        return tuple((group.tenant, group.capability) for group in self.announce.groups)


@dataclass(frozen=True, slots=True)
class Offer:
    """So many slots that were offered and may be awarded still."""

    run: str
    tenant: str
    capability: str
    slots: int
    until: float


class ParkedAsks:
    """All times are monotonic seconds."""

    def __init__(self) -> None:
        self._parked: dict[str, Parked] = {}
        self._queues: dict[Kinds, list[tuple[float, int, Parked]]] = {}
        """Heaps. One that waits no more stands here until it comes up."""
        self._places: dict[str, tuple[float, float]] = {}
        """Run → since when it waits, and until when its place is kept."""
        self._offers: dict[str, tuple[Offer, ...]] = {}
        self._next_end = inf
        """Before this nobody has waited long enough, and no place is given up."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, announce: Announce, now: float) -> bool:
        """Whether it waits from now on. A run has one announcement here: the older one was taken out by `take`."""
        if len(self._parked) >= MAX_PARKED:
            return False
        came = self._places.get(announce.run, (now, 0.0))[0]
        priority = max((group.priority for group in announce.groups), default=0)
        one = self._parked[announce.run] = Parked(announce, came - AGING_S * priority, now + announce.wait_s)
        queue = self._queues.setdefault(one.kinds, [])
        self._count += 1
        heappush(queue, (one.since, self._count, one))
        if len(queue) > 2 * len(self._parked) + 64:
            self._queues[one.kinds] = queue = [item for item in queue if self._waits(item[2])]
            heapify(queue)
        self._places[announce.run] = (came, one.until + PLACE_KEPT_S)
        self._next_end = min(self._next_end, one.until)
        return True

    def take(self, run: str, served: bool, now: float) -> Parked | None:
        """The run's announcement waits no longer. `served`: it was offered something, so it gives up its place."""
        if served:
            self._places.pop(run, None)
        elif run in self._places:
            self._places[run] = (self._places[run][0], now + PLACE_KEPT_S)
            self._next_end = min(self._next_end, now + PLACE_KEPT_S)
        return self._parked.pop(run, None)

    def of(self, run: str) -> Parked | None:
        return self._parked.get(run)

    def first(self, turn: Callable[[str], float], not_of: Container[Kinds]) -> Parked | None:
        """Whose turn it is, of those whose kinds are not in `not_of`. `turn`: the less, the sooner a tenant comes."""
        best: tuple[float, float, int] | None = None
        found = None
        for kinds, queue in list(self._queues.items()):
            while queue and not self._waits(queue[0][2]):
                heappop(queue)
            if not queue:
                del self._queues[kinds]
            elif kinds not in not_of:
                since, number, one = queue[0]
                key = (min(turn(tenant) for tenant, _ in kinds), since, number)
                if best is None or key < best:
                    best, found = key, one
        return found

    def _waits(self, one: Parked) -> bool:
        return self._parked.get(one.announce.run) is one

    def overdue(self, now: float) -> list[Parked]:
        """Who has waited long enough: to be taken out by `take`."""
        if now < self._next_end:
            return []
        for run in [run for run, (_, until) in self._places.items() if until <= now]:
            del self._places[run]
        over = [one for one in self._parked.values() if one.until <= now]
        ends = [one.until for one in self._parked.values() if one.until > now]
        self._next_end = min(*ends, *(until for _, until in self._places.values()), inf, inf)
        return over

    # Offers -----------------------------------------------------------------------------------------------------

    def offer(self, run: str, offers: tuple[Offer, ...]) -> None:
        self._offers[run] = offers

    def awarded(self, run: str, now: float) -> Counter[str]:
        """What it was offered, by capability, which is due to it whoever has come meanwhile. What it does not take of that is
        anybody's."""
        offers = self._offers.pop(run, ())
        return Counter({offer.capability: offer.slots for offer in offers if offer.until > now})

    def offered(self, now: float, run: str = "", capabilities: Container[str] | None = None) -> list[Offer]:
        """What is offered now to others than `run`; of `capabilities`, where they are given."""
        for one in [one for one, offers in self._offers.items() if offers[0].until <= now]:
            del self._offers[one]
        return [
            offer
            for one, offers in self._offers.items()
            if one != run
            for offer in offers
            if capabilities is None or offer.capability in capabilities
        ]

    def validate(self) -> None:
        assert len(self._parked) <= MAX_PARKED
        assert self._parked.keys() <= self._places.keys()
        assert all(offers for offers in self._offers.values())
        assert all(run == one.announce.run for run, one in self._parked.items())
        waiting = {one.announce.run for queue in self._queues.values() for _, _, one in queue if self._waits(one)}
        assert waiting == self._parked.keys()
