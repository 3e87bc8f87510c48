"""What the story of a run tells of steps that wait for a place: why, when that changes, and how many rounds gave none."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ioi_dagster.governors.flow_messages import Tell
from ioi_dagster.governors.flow_rounds import Rounds
from ioi_dagster.governors.flow_steps import Step, Steps
from ioi_dagster.governors.flow_texts import LOOKED_UP, asked_to_tell
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.story import Chapter

TOLD_WAIT_S = 1.0
"""A wait for room that was shorter is no part of a step's story."""
TOLD_CHANGES = 20
"""Of one wait so many reasons are told; those after them are counted."""
LOOK_S = 0.1
"""Rounds may follow each other faster than anything that people want to read changes."""
_DURATION = re.compile(r"\d+(?:\.\d+)? s\b")
"""Not a reason of its own: what is left of a time is less each time."""


@dataclass(slots=True)
class _Wait:
    since: float
    """The first round that had nothing for the step. Those that many others are before wait for longer, and nothing is told of
    that."""
    first: int = 0
    """So many rounds were over before that one."""
    last: tuple[str, frozenset[str]] = ("", frozenset())
    """What it was looked at with last, and whether anything is new depends on."""
    reason: str = ""
    parked: frozenset[str] = frozenset()
    told: int = 0
    more: int = 0


class Waits:
    """Of those that places are negotiated for."""

    def __init__(self, steps: Steps, rounds: Rounds) -> None:
        self._steps, self._rounds = steps, rounds
        self._of: dict[str, _Wait] = {}
        self._over, self._looked_at = 0, float("-inf")

    def look(self, why: Callable[[Step], str], now: float, *, over: bool) -> list[Tell]:
        """After a round that is `over`, or where there was nobody to ask: what is new of those that have no place still."""
        self._over += over
        if now < self._looked_at + LOOK_S:
            return []
        self._looked_at = now
        before, self._of = self._of, {}
        out: list[Tell] = []
        holding = frozenset(self._rounds.holding())
        for step in self._steps.waiting():
            key = step.ask.step
            wait = before.get(key)
            if wait is None:
                wait = _Wait(now, self._over - over)
            self._of[key] = wait
            if now - wait.since < TOLD_WAIT_S:
                continue
            its = why(step), holding
            if its != wait.last:
                wait.last = its
                out += self._changed(step, wait, its[0], now)
        return out

    def _changed(self, step: Step, wait: _Wait, why: str, now: float) -> list[Tell]:
        reason, parked = _DURATION.sub("", why), self._rounds.parked_for(step.group)
        # Where an announcement waits is no news of what could never be done there.
        known = reason == wait.reason and (parked <= wait.parked or not wait.told)
        if known or why in ("", LOOKED_UP):
            return []
        wait.reason, wait.parked = reason, wait.parked | parked
        if wait.told >= TOLD_CHANGES:
            wait.more += 1
            return []
        wait.told += 1
        waited, number = now - step.since, self._rounds.number
        text = f"no place by round {number}, after {waited:.1f} s: {why}{asked_to_tell(sorted(parked))}"
        text += "; what changes from here on is only counted" if wait.told == TOLD_CHANGES else ""
        return [Tell(step.ask.step, Chapter.WAIT, text, facts_of(why, waited) | _where(number, parked))]

    def said(self, step: Step, why: str, now: float) -> None:
        """It was told already."""
        wait = self._of.setdefault(step.ask.step, _Wait(now, self._over))
        wait.reason = _DURATION.sub("", why)

    def over(self, step: Step, why: str, now: float) -> list[Tell]:
        """It has a place; `why` it had none before."""
        wait, waited = self._of.pop(step.ask.step, None) or _Wait(now, self._over), now - step.since
        if waited < TOLD_WAIT_S:
            return []
        count = self._over - wait.first
        rounds = f", {counted(count, 'round')} without one" if count else ""
        more = f"; why changed {wait.more} more times" if wait.more else ""
        text = f"waited {waited:.1f} s for a place{rounds}: {why}{more}"
        facts = {"seconds": round(waited, 3), "why": why, "rounds": count}
        return [Tell(step.ask.step, Chapter.WAIT, text, facts)]


def facts_of(why: str, waited: float) -> dict[str, Any]:
    """Of a step that waits still."""
    return {"why": why, "waited": round(waited, 3)}


def _where(number: int, parked: frozenset[str]) -> dict[str, Any]:
    return {"round": number} | ({"parked": sorted(parked)} if parked else {})
