"""Where what is asked for may fit, kept with each node on which something comes free: no node is looked at twice for it."""

from __future__ import annotations

from ioi_dagster.governors.fairness.machines import Machines
from ioi_dagster.governors.fairness.shapes import EPSILON, Shape

IDLE = 32
"""Shapes of which nobody waits at the moment whose room is watched: to look for room through all nodes costs more."""


class Watch:
    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._shapes: dict[Shape, None] = {}
        """Those that some line has first."""
        self.open: dict[Shape, None] = {}
        """Of these, those that may fit somewhere."""
        self._idle: dict[Shape, None] = {}
        """Those that were first in some line and had no room then: they may be again soon."""

    def wakes(self, shape: Shape) -> None:
        """Some line has it first from now on."""
        self._idle.pop(shape, None)
        self._shapes[shape] = self.open[shape] = None
        shape.full = False

    def rests(self, shape: Shape) -> None:
        """No line has it first any longer."""
        del self._shapes[shape]
        self.open.pop(shape, None)
        _clear_shelves(shape)
        if shape.copies > 1:
            shape.forget()
        elif shape.known:
            self._idle[shape] = None
            if len(self._idle) > IDLE:
                oldest = next(iter(self._idle))
                del self._idle[oldest]
                oldest.forget()

    def clear(self) -> None:
        """Nobody waits."""
        for shape in (*self._shapes, *self._idle):
            shape.heads = 0
            shape.forget()
            _clear_shelves(shape)
        self._shapes.clear()
        self._idle.clear()
        self.open.clear()

    def freed(self, machine: int) -> None:
        """There may be room on it that there was not. Who was passed over for it is next in the same round."""
        room = self._machines.free[machine]
        for shape in (*self._shapes, *self._idle) if self._idle else self._shapes:
            if not shape.known or machine not in shape.pool.members:
                continue
            for resource, amount in shape.need:
                if room[resource] + EPSILON < amount:
                    break
            else:
                if not shape.open:
                    for shelf in shape.shelves:
                        if shelf.passed:
                            shelf.list_again()
                shape.open[machine] = None
                if shape.heads:
                    self.open[shape] = None

    def resized(self, machine: int) -> None:
        """The node has more or less than before, or is gone."""
        for shape in (*self._shapes, *self._idle):
            shape.size = self._machines.share(shape.total)  # of another whole
            if machine in shape.open and machine not in shape.pool.members:
                del shape.open[machine]  # its number may be another node's soon
                if shape.full and not shape.open:
                    self.open.pop(shape, None)

    def count(self, shape: Shape, most: int) -> int:
        """So many times it fits now, up to `most`. When that is less, where it fits is known from then on."""
        found, where = self._machines.count(shape, most)
        if found < most and shape.heads:
            shape.full, shape.known = True, True
            shape.open = dict.fromkeys(where if found else ())  # where a few of a gang fit, it does not
            if shape.open:
                self.open[shape] = None
            else:
                self.open.pop(shape, None)
        return found

    def validate(self, heads: dict[Shape, int]) -> None:
        """`heads`: in how many lines each is first."""
        assert heads == {shape: shape.heads for shape in self._shapes}
        assert set(self.open) <= set(self._shapes)
        for shape in self._shapes:
            # A claim may have found out that it fits nowhere: the next round puts it right.
            assert shape in self.open or (shape.full and not shape.open)
            assert all(machine in shape.pool.members for machine in shape.open)
        assert not any(shape.heads or not shape.known or shape.shelves for shape in self._idle)
        for shape in (*self._shapes, *self._idle):
            assert shape.known or not shape.full
            if shape.known and shape.copies == 1:
                machines = self._machines
                fits = {m for m in shape.pool.members if m not in machines.held and machines.fits(shape.need, m)}
                assert fits <= shape.open.keys(), "it fits where that is not known"


def _clear_shelves(shape: Shape) -> None:
    """Nobody has it first."""
    for shelf in shape.shelves:
        del shelf.unit.shelves[shape]
        shelf.unit.shelved -= len(shelf.heap)
        shelf.version, shelf.passed = 0, False
    shape.shelves.clear()
