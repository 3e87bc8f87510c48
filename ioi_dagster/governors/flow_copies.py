"""Late copies of a flow governor: a step that runs much longer than its like may run once more, on room that nobody else wants.

Whichever ends first is committed, and the other is stopped: both have the step's one fence. When a copy is worth its room is the
rule of whole graphs that share nodes (`placement.replan`): late for certain, and likely to save most of its own length (J. Dean,
L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013; G. Ananthanarayanan et al., "Effective Straggler Mitigation: Attack of the
Clones", NSDI 2013).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

from ioi_dagster.governors.flow_placing import Placing
from ioi_dagster.governors.flow_steps import Step, StepState
from ioi_dagster.governors.placement.lateness import gain
from ioi_dagster.governors.placement.replan import SHARED
from ioi_dagster.model.negotiation import Ask, Effect

LATE = 2.0
"""So many times the usual of its like a step runs before it is late."""
LATE_S = 1.0
"""And so many seconds longer at least: what is short is over sooner than a copy of it begins."""
KNOWN = 3
"""So many of its like must have ended before."""
REMEMBERED = 32
LOOK_S = 0.5
"""What runs is looked through so often."""


class Copies:
    """Which steps are late, by how long their like took."""

    def __init__(self, placing: Placing) -> None:
        self._placing = placing
        self.planned: Mapping[str, tuple[str, str]] | None = None
        """By the plan of the graph, if there is one: those that are late, and the cluster and the node for a copy."""
        self._running: dict[str, Step] = {}
        """Those that may be copied and have begun, with some that do not run any more."""
        self._took: dict[tuple[str, str], deque[float]] = {}
        self._longest: dict[tuple[str, str], float] = {}
        self._look_at = float("-inf")

    def began(self, step: Step) -> None:
        ask = step.ask
        if ask.copies and ask.effect is not Effect.AT_MOST_ONCE and not ask.gang and not ask.cluster:
            self._running[ask.step] = step

    def learn(self, ask: Ask, seconds: float) -> None:
        """One has ended."""
        self._running.pop(ask.step, None)
        took = self._took.setdefault(_like(ask), deque(maxlen=REMEMBERED))
        took.append(seconds)
        if len(took) >= KNOWN:
            self._longest[_like(ask)] = max(took)

    def at_most(self, ask: Ask) -> float:
        """Seconds in which it is over if it takes no longer than any of its like did lately; 0 where too few have ended."""
        return self._longest.get(_like(ask), 0.0)

    def usual(self, ask: Ask) -> float | None:
        """Seconds that its like took, None where too few have ended."""
        took = self._took.get(_like(ask), ())
        return median(took) if len(took) >= KNOWN else None

    def late(self, now: float) -> list[Step]:
        """Those that may have a copy now; none where that was asked a moment ago."""
        if now < self._look_at or not self._running:
            return []
        self._look_at = now + LOOK_S
        self._running = {key: step for key, step in self._running.items() if step.state is StepState.RUNNING}
        self.planned = self._placing.late(now)
        return [step for step in self._running.values() if self.may(step, now)]

    def is_worth(self, step: Step, seconds: float, now: float) -> bool:
        """Would a copy that ends in `seconds` save most of its length?"""
        if self.planned is not None:
            return step.ask.step in self.planned
        usual = max(self.usual(step.ask) or 0.0, 1e-3)
        return gain((now - step.started) / usual, 1.0 / usual, seconds) >= SHARED * usual

    def may(self, step: Step, now: float) -> bool:
        """Is it late, and may it run once more?"""
        ask = step.ask
        if step.state is not StepState.RUNNING or step.copy is not None or step.copying or step.copies >= ask.copies:
            return False
        if now < step.no_copy_before:
            return False
        if self.planned is not None:
            return ask.step in self.planned
        usual = self.usual(ask)
        if usual is None:
            return False
        # One of its like that took as long is no rarity.
        longest = max(self._took[_like(ask)])
        return now - step.started > max(LATE * usual, usual + LATE_S, longest)


def _like(ask: Ask) -> tuple[str, str]:
    """Steps of one op, mapped over something, are taken to be alike."""
    return ask.capability, ask.step.partition("[")[0]
