"""What runs ask of a cluster: announcements that wait for room, those that were answered a moment ago, and what was offered.

Who asks for room that is not there is not turned away to ask again: the answer waits until there is room for it. What is asked
for counts for what its tenant is entitled to, while it waits and a little longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from ioi_dagster.governors.fairness.tree import Entry
from ioi_dagster.model.negotiation import Announce, AskGroup, LeaseRequest, Resources, Whose
from ioi_dagster.model.refusal import Refusal

MAX_PARKED = 10_000
"""Runs whose announcements wait; what comes beyond that is answered at once, and asks again."""
MAX_ASKED = 20_000
"""Runs whose asks are remembered."""
AGING_S = 60.0
"""A step of priority is worth so much waiting."""
OFFER_S = 1.5
"""So long nobody else is given what was offered to one that waited. Its round may wait a second for other bids."""
PLACE_KEPT_S = 5.0
"""Who was answered with nothing and asks again within this keeps its place."""
ASKS_S = 0.8
"""So long an ask counts after it was answered. Who still wants it asks again several times within it; who got what it wanted
elsewhere is forgotten after it, and holds back nobody any longer."""

Like = tuple[str, str, Resources]
"""What is asked for: tenant, capability, resources."""


def like(one: AskGroup | LeaseRequest) -> Like:
    return one.tenant, one.capability, one.resources


@dataclass(slots=True, eq=False)
class Asked:
    """What a run asked for last: all that it `wanted`, and of that what may start; why the rest may not stands in `refusals`.
    `groups`: where each stands in the books, or why nothing could ever satisfy it; `until`: when it
    `waits`, then it is answered, with nothing if need be; else it is forgotten then; `since`: when the run
    began to wait; `at`: when it asked so (monotonic s)."""

    announce: Announce
    groups: list[tuple[AskGroup, Entry | Refusal]]
    until: float
    wanted: Announce
    refusals: tuple[Refusal, ...] = ()
    waits: bool = False
    since: float = 0.0
    at: float = 0.0

    def due_s(self, now: float) -> float | None:
        """In so many seconds the run is to be over, which was told a while ago perhaps; None: nobody says."""
        told = self.announce.due_s
        return None if told is None else max(0.0, told - (now - self.at))

    def entries(self) -> list[Entry]:
        """Of what may wait: what is asked for on idle room only does not."""
        return [one for group, one in self.groups if isinstance(one, Entry) and not group.idle]


Kind = tuple[Like, int]
"""What is offered, and how many of it start together."""


@dataclass(slots=True, eq=False)
class Offered:
    """What a run was offered after it had waited. `due`: so often it may still be awarded; `rooms`: what is kept for that, which
    is less where a node is gone. `told`: the run has heard of it."""

    whose: Whose
    until: float
    due: dict[Kind, int]
    rooms: dict[Kind, list[Entry]]
    told: bool = True

    def entries(self) -> list[Entry]:
        return [entry for entries in self.rooms.values() for entry in entries]


class Desk:
    """By run, what it asked for and what it was offered. All times are monotonic seconds."""

    def __init__(self) -> None:
        self.asked: dict[Whose, Asked] = {}
        self.offers: dict[Whose, Offered] = {}
        self.run_of: dict[str, Whose] = {}
        """By entry that is asked for, whose it is."""
        self._places: dict[Whose, tuple[float, float]] = {}
        """Run → since when it waits, and until when its place is kept."""
        self._ends: list[tuple[float, int, Asked]] = []
        self._lapses: list[tuple[float, int, Offered]] = []
        self._places_end: list[tuple[float, int, Whose]] = []
        self._count = 0
        self._parked = 0
        self.now = 0.0
        """When it was last asked what is over."""

    def __len__(self) -> int:
        """How many wait."""
        return self._parked

    def _next(self) -> int:
        self._count += 1
        return self._count

    # What is asked ----------------------------------------------------------------------------------------------

    def since(self, run: Whose, now: float) -> float:
        """When the run began to wait: now, unless it has waited before and kept its place."""
        since, until = self._places.get(run, (now, now))
        return since if until > now else now

    def add(self, asked: Asked) -> None:
        run = asked.announce.whose
        assert run not in self.asked
        self.asked[run] = asked
        self.run_of.update((entry.request.id, run) for entry in asked.entries())
        heappush(self._ends, (asked.until, self._next(), asked))

    def full(self) -> bool:
        return len(self.asked) >= MAX_ASKED

    def oldest(self) -> Asked | None:
        """That does not wait."""
        return next((asked for asked in self.asked.values() if not asked.waits), None)

    def park(self, asked: Asked, since: float, until: float) -> None:
        """It waits from now on."""
        asked.waits, asked.since, asked.until = True, since, until
        self._parked += 1
        heappush(self._ends, (until, self._next(), asked))
        self._keep_place(asked.announce.whose, since, until + PLACE_KEPT_S)

    def answered(self, asked: Asked, served: bool, now: float) -> None:
        """It waits no longer. `served`: it was offered something, so it gives up its place."""
        run = asked.announce.whose
        self._parked -= 1
        asked.waits, asked.until = False, now + ASKS_S
        heappush(self._ends, (asked.until, self._next(), asked))
        if not served:
            self._keep_place(run, asked.since, now + PLACE_KEPT_S)
        else:
            self.lose_place(run)

    def _keep_place(self, run: Whose, since: float, until: float) -> None:
        self._places[run] = (since, until)
        heappush(self._places_end, (until, self._next(), run))

    def lose_place(self, run: Whose) -> None:
        self._places.pop(run, None)

    def waits(self, asked: Asked) -> bool:
        return asked.waits and self.asked.get(asked.announce.whose) is asked

    def remove(self, run: Whose) -> Asked | None:
        asked = self.asked.pop(run, None)
        if asked is not None:
            for entry in asked.entries():
                del self.run_of[entry.request.id]
        return asked

    def over(self, now: float) -> Iterator[Asked]:
        """Those whose time is over."""
        self.now = now
        while self._places_end and self._places_end[0][0] <= now:
            _, _, run = heappop(self._places_end)
            if run in self._places and self._places[run][1] <= now:
                del self._places[run]
        while self._ends and self._ends[0][0] <= now:
            _, _, asked = heappop(self._ends)
            if self.asked.get(asked.announce.whose) is asked and asked.until <= now:
                yield asked

    # What is offered --------------------------------------------------------------------------------------------

    def offer(self, run: Whose, entries: list[tuple[Like, Entry]], until: float, told: bool = True) -> None:
        rooms: dict[Kind, list[Entry]] = {}
        for its, entry in entries:
            rooms.setdefault((its, entry.shape.copies), []).append(entry)
        self.offers[run] = Offered(run, until, {kind: len(its) for kind, its in rooms.items()}, rooms, told)
        heappush(self._lapses, (until, self._next(), self.offers[run]))

    def take(self, run: Whose) -> Offered | None:
        return self.offers.pop(run, None)

    def take_untold(self, run: Whose) -> Offered | None:
        offered = self.offers.get(run)
        return None if offered is None or offered.told else self.offers.pop(run)

    def lapsed(self, now: float) -> Iterator[Offered]:
        while self._lapses and self._lapses[0][0] <= now:
            _, _, offered = heappop(self._lapses)
            if self.offers.get(offered.whose) is offered:
                del self.offers[offered.whose]
                yield offered

    def validate(self) -> None:
        assert self._parked == sum(asked.waits for asked in self.asked.values()) <= MAX_PARKED
        assert all(run == asked.announce.whose for run, asked in self.asked.items())
        entries = {entry.request.id: run for run, asked in self.asked.items() for entry in asked.entries()}
        assert entries == self.run_of
        assert {run for run, asked in self.asked.items() if asked.waits} <= self._places.keys()
