"""Nodes that are emptied for who has less than it is entitled to and fits nowhere: a reservation, which others fill in around."""

from __future__ import annotations

from collections.abc import Callable

from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.eviction import Ledger
from ioi_dagster.governors.fairness.machines import EPSILON, Shape
from ioi_dagster.governors.fairness.tree import Line

HOLD_BELOW = 0.85
"""Of what it is entitled to: a queue that has more waits for its turn, and no node is emptied for it. Emptied nodes stand idle
meanwhile, so there is one a queue: more of them cost more room than they bring those who wait."""


class Holds:
    """`freed` is told of each node that is held for nobody any longer."""

    def __init__(self, books: Books, evictions: Ledger, freed: Callable[[int], None]) -> None:
        self._books, self._machines, self._evictions, self._freed = books, books.machines, evictions, freed
        self.due: dict[Line, None] = {}
        """Lines that may have a right to hold nodes, or hold too many."""
        self.gang: Line | None = None
        """Whose gang holds nodes. One at a time, or each might hold what the other needs."""

    def settle(self) -> None:
        """Who holds what, of those that are due, the most urgent first."""
        due = [line for line in self.due if line.holds or self._may_hold(line)]
        self.due.clear()
        for line in sorted(due, key=urgency) if len(due) > 1 else due:
            self.reserve(line)

    def _may_hold(self, line: Line) -> bool:
        shape = line.head.shape if line.head is not None else None
        return shape is not None and shape.full and not shape.least and self.wanted(line, shape) > 0

    def reserve(self, line: Line) -> None:
        """Hold as many nodes as it lacks of what it is entitled to, where it lacks least; give back what is more."""
        entry = line.head
        if entry is None:
            return
        shape = entry.shape
        if (shape.least and not line.holds) or line in self._evictions.awaited:
            return
        wanted = self.wanted(line, shape) if shape.full and not shape.least else 0
        if wanted and not self._books.lacks_room_only(line.leaf, shape):
            wanted = 0
        gang = shape.copies > 1
        if gang and wanted:
            if self.gang not in (None, line):
                return
            self.gang = line
        if wanted > len(line.holds):
            near = [one for one in self._machines.nearest(shape, wanted, gang) if one not in line.holds]
            for machine in near[: wanted - len(line.holds)]:
                self.hold(line, machine)
                if gang:
                    self._freed(machine)  # it may have room for a copy already, for which it was not emptied
        elif not wanted:
            self.release(line)
        for machine in list(line.holds)[wanted:]:
            self._unhold(line, machine)

    def wanted(self, line: Line, shape: Shape) -> int:
        """So many nodes it may hold."""
        leaf = line.leaf
        if leaf.share + shape.size / 2 > HOLD_BELOW * leaf.entitled and leaf.share > EPSILON:
            return 0
        return shape.copies

    def hold(self, line: Line, machine: int) -> None:
        holder = self._machines.held.get(machine)
        if isinstance(holder, Line):
            del holder.holds[machine]
        self._machines.held[machine] = line
        line.holds[machine] = None

    def release(self, line: Line) -> None:
        for machine in list(line.holds):
            self._unhold(line, machine)
        if self.gang is line:
            self.gang = None

    def _unhold(self, line: Line, machine: int) -> None:
        del self._machines.held[machine], line.holds[machine]
        self._freed(machine)

    def drop(self, machine: int) -> None:
        """It is emptied for nobody any longer, and is told to nobody."""
        holder = self._machines.held.get(machine)
        if isinstance(holder, Line):
            del self._machines.held[machine], holder.holds[machine]
            self.due[holder] = None

    def clear(self) -> None:
        """Nobody holds anything."""
        self.due.clear()
        self.gang = None
        for machine, holder in list(self._machines.held.items()):
            if isinstance(holder, Line):
                del self._machines.held[machine]


def urgency(line: Line) -> tuple[int, float, float, str, str]:
    """Whose turn is first, of lines that have somebody."""
    head = line.head
    assert head is not None
    return (*line.leaf.key(head)[:3], line.leaf.tenant, line.leaf.name)
