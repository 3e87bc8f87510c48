"""Nodes that are emptied for a gang are lent meanwhile to what is over before it can start.

EASY backfilling: D. Lifka, "The ANL/IBM SP scheduling system" (JSSPP 1995); of what waits only the first, the gang, has a
reservation (compared with conservative backfilling in A. Mu'alem, D. Feitelson, "Utilization, predictability, workloads, and user
runtime estimates in scheduling the IBM SP2 with backfilling", IEEE TPDS 12(6), 2001). There who runs longer than it said is
killed then; here when the gang is due, for it is only then in its way. What says nothing, and what may not be stopped, is lent
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.eviction import Ledger
from ioi_dagster.governors.fairness.holds import Holds, urgency
from ioi_dagster.governors.fairness.tree import Entry, Line
from ioi_dagster.governors.fairness.values import Evict

TRIED = 64
"""Lines that are looked at in one round, the most urgent first."""


class Backfill:
    """All times are of the arbiter's clock (s)."""

    def __init__(self, books: Books, holds: Holds, evictions: Ledger) -> None:
        self._books, self._machines, self._holds, self._evictions = books, books.machines, holds, evictions
        self._able: dict[Line, None] = {}
        """Lines whose first says how long it runs."""
        self._nodes: tuple[int, ...] = ()
        self._there: dict[Entry, None] = {}
        """What runs at the gang's nodes, which are `_nodes`, and some that does so no longer."""
        self.lent: dict[Entry, float] = {}
        """What runs on lent room, and when the gang is due there."""
        self._due = 0.0

    def head(self, line: Line) -> None:
        """Another one is first in the line."""
        if line.head is not None and _says(line.head):
            self._able[line] = None
        else:
            self._able.pop(line, None)

    def clear(self) -> None:
        """Nobody waits."""
        self._able.clear()

    def is_due(self) -> bool:
        """Nodes are held for a gang, and there is somebody to lend them to."""
        return self._holds.gang is not None and bool(self._able)

    def offers(self, now: float) -> Iterator[tuple[Entry, int]]:
        """Whom to start on which of the gang's nodes, one after the other: each is to have begun when the next is asked for."""
        gang = self._holds.gang
        if gang is None or not self._able or not any(map(self._has_room, gang.holds)):
            return
        self._due = self._due_at(gang, now)
        for line in sorted(self._able, key=urgency)[:TRIED]:
            while self._holds.gang is gang and line is not gang and (entry := line.head) is not None and _says(entry):
                machine = self._place(gang, entry) if now + entry.seconds <= self._due else None
                if machine is None:
                    break
                yield entry, machine

    def began(self, entry: Entry) -> None:
        """It has started where `offers` said."""
        self.lent[entry] = self._due
        self._there[entry] = None

    def overdue(self, now: float) -> Iterator[Evict]:
        """What is in the gang's way since it runs longer than it said."""
        gang = self._holds.gang
        for entry, until in list(self.lent.items()):
            if not self._runs(entry):
                del self.lent[entry]
            elif (
                gang is not None
                and until <= now
                and any(machine in gang.holds for machine in entry.machines or ())
                and entry.preemptible
                and entry.id not in self._evictions.leaving
            ):
                self._evictions.order([entry], None, [], now)
                tenant = gang.leaf.tenant
                why = f"it runs longer than the {entry.seconds:g} s it said, on a node reserved for a gang of {tenant}"
                yield Evict(entry.id, tenant, why)

    def _has_room(self, machine: int) -> bool:
        return any(amount > 0 for amount in self._machines.free[machine])

    def _place(self, gang: Line, entry: Entry) -> int | None:
        machines, shape = self._machines, entry.shape
        if shape.copies > 1 or self._books.limiter(entry.leaf, shape.total) is not None:
            return None
        return next((m for m in gang.holds if m in shape.pool.members and machines.fits(shape.need, m)), None)

    def _due_at(self, gang: Line, now: float) -> float:
        """When the gang has room on its nodes, if all that runs there ends when it said. What said nothing, or is over its time,
        may end at any moment."""
        assert gang.head is not None
        shape, machines = gang.head.shape, self._machines
        room = {machine: list(machines.free[machine]) for machine in gang.holds}
        due = now
        ends = sorted((self._end(one, now), number, one) for number, one in enumerate(self._running(gang)))
        for at, _, entry in ends:
            if sum(machines.copies_on(free, shape.need) for free in room.values()) >= shape.copies:
                return due
            due = at
            for machine in entry.machines or ():
                for number, amount in entry.shape.need if machine in room else ():
                    room[machine][number] += amount
        enough = sum(machines.copies_on(free, shape.need) for free in room.values()) >= shape.copies
        return due if enough else now

    def _running(self, gang: Line) -> list[Entry]:
        nodes = tuple(gang.holds)
        if nodes != self._nodes:
            self._nodes = nodes
            running = (e for leaf in self._books.leaves.values() for e in leaf.running.values())
            self._there = {e: None for e in running if any(m in gang.holds for m in e.machines or ())}
        self._there = {entry: None for entry in self._there if self._runs(entry)}
        return list(self._there)

    def _runs(self, entry: Entry) -> bool:
        return entry.leaf.running.get(entry.id) is entry

    def _end(self, entry: Entry, now: float) -> float:
        return max(now, entry.started + entry.seconds) if entry.seconds else now


def _says(entry: Entry) -> bool:
    return entry.seconds > 0 and entry.request.preemptible
