"""How much a node takes while others use its machine: fewer steps at once the more they do, and none when nothing is left. And
when it must give up something of what runs, since there is no memory left.

Part of the node governor. What a node does itself is no reason: its slots bound that, and its limit of memory. Up and down have
thresholds of their own, and what is seen must last, so that a load that swings changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

HOLD_S = 5.0
"""So long a load must last before less is taken."""
CALM_S = 15.0
"""So long it must be gone before more is taken again, a level at a time."""
SHED_S = 5.0
"""So long, and up to twice as long, a node that takes nothing for want of memory waits for more before it gives up a step."""


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """`crowd`: tasks of others that run or wait for a processor, for each processor. Parts of the machine's memory (0..1):
    `memory` is what others have in use, `own` what the node has, and `allotted` what its owner has said that it has (0: nothing
    was said)."""

    crowd: float
    memory: float
    own: float = 0.0
    allotted: float = 0.0

    @property
    def pressed(self) -> float:
        """The part of the memory that is in use, with the node's own where that is no more than it may be: what was allotted, or
        where nothing was, what others hold. Who holds more is himself the reason."""
        return self.memory + (self.own if self.own <= max(self.allotted, self.memory) else 0.0)


class Level(IntEnum):
    CALM = 0
    BUSY = 1
    CROWDED = 2
    OVERLOADED = 3


@dataclass(frozen=True, slots=True)
class _Bounds:
    """A level begins where one of the first two is reached, and ends below both of the last. `part` of the slots is offered.
    `whole`: of the memory the node's own counts too."""

    crowd: float
    memory: float
    until_crowd: float
    until_memory: float
    part: float
    whole: bool = False

    def reached(self, machine: MachineSeen) -> bool:
        return machine.crowd >= self.crowd or self._memory(machine) >= self.memory

    def lasts(self, machine: MachineSeen) -> bool:
        return machine.crowd >= self.until_crowd or self._memory(machine) >= self.until_memory

    def _memory(self, machine: MachineSeen) -> float:
        return machine.pressed if self.whole else machine.memory


BOUNDS = {
    Level.BUSY: _Bounds(8.0, 0.90, 6.0, 0.87, 0.5),
    Level.CROWDED: _Bounds(16.0, 0.94, 12.0, 0.91, 0.25),
    Level.OVERLOADED: _Bounds(64.0, 0.97, 32.0, 0.95, 0.25, whole=True),
}
"""With eight tasks of others for each processor a step has a ninth of one: what is offered as a slot is none."""


class Load:
    """Times are monotonic seconds. `why` says what is in the way; empty where nothing is."""

    def __init__(self, node: str = "") -> None:
        """`node`: by its name those that share a machine do not give up something at the same moment, where one is enough."""
        self.level = Level.CALM
        self.why = ""
        self._above: float | None = None
        self._least = Level.OVERLOADED
        """The lowest level that was seen since then: no more than that has lasted."""
        self._below: float | None = None
        self._patience_s = SHED_S * (1 + crc32(node.encode()) / 2**32)
        self._full: float | None = None
        """Since when it is overloaded by memory, or has given up something for that."""

    def seen(self, machine: MachineSeen, now: float) -> None:
        begun = max((level for level, its in BOUNDS.items() if its.reached(machine)), default=Level.CALM)
        lasts = max((level for level, its in BOUNDS.items() if its.lasts(machine)), default=Level.CALM)
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
        full = self.over and machine.pressed >= BOUNDS[Level.OVERLOADED].memory
        self._full = (now if self._full is None else self._full) if full else None

    def slots(self, whole: int) -> int:
        """So many of a node's slots are offered."""
        return max(1, int(whole * BOUNDS[self.level].part)) if self.level else whole

    @property
    def over(self) -> bool:
        """Nothing new begins."""
        return self.level is Level.OVERLOADED

    @property
    def full(self) -> bool:
        """It is so for want of memory."""
        return self._full is not None

    def sheds(self, now: float) -> bool:
        """It has been full for so long that something which runs must go."""
        return self._full is not None and now - self._full >= self._patience_s

    def shed(self, now: float) -> None:
        """Something goes: what that frees is waited for."""
        self._full = now


def _why(machine: MachineSeen) -> str:
    own = f" beside the node's {machine.own:.0%}" if machine.own else ""
    tasks = f"{machine.crowd:.1f} tasks for each of the machine's processors"
    return f"others have {tasks}, and {machine.memory:.0%} of its memory{own}"
