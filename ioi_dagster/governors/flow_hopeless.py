"""What would keep a step from running for good, as things are: it is told at once, and believed once it has held for a while."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.governors.flow_steps import Group, Step

NEVER_S = 30.0
"""So long it must hold in each round. A node that is started anew is away for less, and a price that rose with a queue falls."""
OFTEN_S = 300.0
"""So long it may take where rounds come between that say nothing of it, as those of a cluster whose nodes come and go."""


class Hopeless:
    """Of one cause. A round that says otherwise of a step, or nothing, makes `NEVER_S` begin anew; `often_s` goes on through
    those that say nothing."""

    def __init__(self, often_s: float = math.inf) -> None:
        self._often_s = often_s
        self._since: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._told: set[str] = set()

    def look(self, waiting: Iterable[Step]) -> None:
        """A round begins, with those that wait."""
        self._before, self._since = self._since, {}
        if self._told or self._first:
            names = {step.ask.step for step in waiting}
            self._told &= names
            self._first = {step: at for step, at in self._first.items() if step in names}

    def is_over(self, step: str) -> None:
        """A round says otherwise."""
        self._first.pop(step, None)

    def holds(self, step: str, now: float) -> bool:
        """It does in this round; has it for long enough?"""
        since = self._since[step] = self._before.get(step, now)
        return now - since >= NEVER_S or now - self._first.setdefault(step, now) >= self._often_s

    def is_news(self, step: str) -> bool:
        """Was it not told yet, since the step began to wait?"""
        known = step in self._told
        self._told.add(step)
        return not known


class Everywhere:
    """Which places have said so to steps that ask for the same, over rounds: where places are many, a round asks a few."""

    def __init__(self) -> None:
        self._said: dict[tuple[Group, int], tuple[tuple[Place, ...], int, set[str]]] = {}
        """With the places, whose identity is theirs as long as they are kept here, and how many clusters they are."""

    def look(self, waiting: Iterable[Step]) -> None:
        """A round begins, with those that wait."""
        if self._said:
            wait = {_alike(step) for step in waiting}
            self._said = {key: said for key, said in self._said.items() if key in wait}

    def hears(self, step: Step, yes: Collection[str], no: Collection[str] = ()) -> bool:
        """Those clusters of its places say so in this round and those others do not; have all of them said so by now?"""
        key = _alike(step)
        if key not in self._said:
            if not yes:
                return False
            self._said[key] = step.places, len({place.cluster for place in step.places}), set()
        _, count, said = self._said[key]
        said.update(yes)
        said.difference_update(no)
        return len(said) == count

    def of(self, step: Step) -> Collection[str]:
        """Those that have said so."""
        return self._said[_alike(step)][2] if _alike(step) in self._said else ()


def _alike(step: Step) -> tuple[Group, int]:
    return step.group, id(step.places)


def unless(text: str) -> str:
    """As it is told at once."""
    return f"{text}; it is refused unless that changes within {NEVER_S:g} s"
