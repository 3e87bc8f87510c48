"""The story of a run: what each part decided about each step, in order, so that it can be told to a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Chapter(StrEnum):
    """In the order in which `ioi explain` tells them."""

    TRIGGER = "trigger"
    POLICY = "policy"
    CANDIDATES = "candidates"
    BID = "bid"
    AWARD = "award"
    WAIT = "wait"
    PROGRESS = "progress"
    START = "start"
    MAP = "map"
    COPY = "copy"
    LOSS = "loss"
    INTERVENTION = "intervention"
    COMMIT = "commit"
    REFUSED = "refused"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact. `at` is Unix seconds; `step` is empty for the run itself; `facts` is plain JSON."""

    run: str
    step: str
    chapter: Chapter
    text: str
    at: float
    facts: dict[str, Any] = field(default_factory=dict)
