"""What would keep a step from running for good, as things are: it is told at once, and believed once it has held for a while."""

from __future__ import annotations

from collections.abc import Iterable

from ioi_dagster.governors.flow_steps import Step

NEVER_S = 30.0
"""So long it must hold in each round. A node that is started anew is away for less, and a price that rose with a queue falls."""


class Hopeless:
    """Of one cause. A round that says otherwise of a step, or nothing, makes it begin anew."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._told: set[str] = set()

    def look(self, waiting: Iterable[Step]) -> None:
        """A round begins, with those that wait."""
        self._before, self._since = self._since, {}
        if self._told:
            self._told.intersection_update(step.ask.step for step in waiting)

    def holds(self, step: str, now: float) -> bool:
        """It does in this round; has it for long enough?"""
        since = self._since[step] = self._before.get(step, now)
        return now - since >= NEVER_S

    def is_news(self, step: str) -> bool:
        """Was it not told yet, since the step began to wait?"""
        known = step in self._told
        self._told.add(step)
        return not known


def unless(text: str) -> str:
    """As it is told at once."""
    return f"{text}; it is refused unless that changes within {NEVER_S:g} s"
