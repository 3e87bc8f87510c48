"""How much a node takes while others use its machine: fewer steps at once the more they do, and none when nothing is left.

Part of the node governor. What a node does itself is no reason: its slots bound that. Up and down have thresholds of their own,
and what is seen must last, so that a load that swings changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

HOLD_S = 5.0
"""So long a load must last before less is taken."""
CALM_S = 15.0
"""So long it must be gone before more is taken again, a level at a time."""


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """`crowd`: tasks of others that run or wait for a processor, for each processor; `memory`: the part of the machine's memory
    that others have in use (0..1)."""

    crowd: float
    memory: float


class Level(IntEnum):
    CALM = 0
    BUSY = 1
    CROWDED = 2
    OVERLOADED = 3


@dataclass(frozen=True, slots=True)
class _Bounds:
    """A level begins where one of the first two is reached, and ends below both of the last. `part` of the slots is offered."""

    crowd: float
    memory: float
    until_crowd: float
    until_memory: float
    part: float


BOUNDS = {
    Level.BUSY: _Bounds(8.0, 0.90, 6.0, 0.87, 0.5),
    Level.CROWDED: _Bounds(16.0, 0.94, 12.0, 0.91, 0.25),
    Level.OVERLOADED: _Bounds(64.0, 0.97, 32.0, 0.95, 0.25),
}
"""With eight tasks of others for each processor a step has a ninth of one: what is offered as a slot is none."""


class Load:
    """Times are monotonic seconds. `why` says what is in the way; empty where nothing is."""

    def __init__(self) -> None:
        self.level = Level.CALM
        self.why = ""
        self._above: float | None = None
        self._least = Level.OVERLOADED
        """The lowest level that was seen since then: no more than that has lasted."""
        self._below: float | None = None

    def seen(self, machine: MachineSeen, now: float) -> None:
        begun = max((level for level, its in BOUNDS.items() if _reached(machine, its)), default=Level.CALM)
        lasts = max((level for level, its in BOUNDS.items() if _lasts(machine, its)), default=Level.CALM)
        if begun <= self.level:
            self._above = None
        elif self._above is None:
            self._above, self._least = now, begun
        else:
            self._least = min(self._least, begun)
        self._below = (now if self._below is None else self._below) if lasts < self.level else None
        if self._above is not None and now - self._above >= HOLD_S:
            self.level, self._above = self._least, None
        elif self._below is not None and now - self._below >= CALM_S:
            self.level, self._below = Level(self.level - 1), None
        self.why = _why(machine) if self.level else ""

    def slots(self, whole: int) -> int:
        """So many of a node's slots are offered."""
        return max(1, int(whole * BOUNDS[self.level].part)) if self.level else whole

    @property
    def over(self) -> bool:
        """Nothing new begins."""
        return self.level is Level.OVERLOADED


def _reached(machine: MachineSeen, its: _Bounds) -> bool:
    return machine.crowd >= its.crowd or machine.memory >= its.memory


def _lasts(machine: MachineSeen, its: _Bounds) -> bool:
    return machine.crowd >= its.until_crowd or machine.memory >= its.until_memory


def _why(machine: MachineSeen) -> str:
    return f"others have {machine.crowd:.1f} tasks for each of the machine's processors, and {machine.memory:.0%} of its memory"
