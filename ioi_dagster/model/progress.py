"""How far a run is: counts of its steps, and why those wait that wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

REASONS = 5
"""The commonest reasons are told; the others are counted."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps by what they do now. `reasons`: (why steps wait, how many of them), the commonest first."""

    done: int = 0
    running: int = 0
    waiting: int = 0
    failed: int = 0
    reasons: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        told = [f"{self.done} done", f"{self.running} running", f"{self.waiting} waiting"]
        told += [f"{self.failed} failed"] if self.failed else []
        why = f" ({self.why()})" if self.reasons and self.waiting else ""
        return ", ".join(told) + why

    def why(self, most: int = 2) -> str:
        """The commonest reasons in one line."""
        told = [f"{count} × {reason}" for reason, count in self.reasons[:most]]
        more = self.waiting - sum(count for _, count in self.reasons[:most])
        return "; ".join([*told, *([f"{more} for other reasons"] if more > 0 else [])])

    def facts(self) -> dict[str, Any]:
        """As plain JSON; `of_facts` is the way back."""
        counts = {"done": self.done, "running": self.running, "waiting": self.waiting, "failed": self.failed}
        return {**counts, "reasons": [list(reason) for reason in self.reasons]}


def of_facts(facts: Mapping[str, Any]) -> Progress:
    return Progress(
        int(facts.get("done", 0)),
        int(facts.get("running", 0)),
        int(facts.get("waiting", 0)),
        int(facts.get("failed", 0)),
        tuple((str(reason), int(count)) for reason, count in facts.get("reasons", ())),
    )


def commonest(why: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Reasons with their counts; of equally common ones the first by name."""
    counted = Counter(reason or "its places are being looked up" for reason in why)
    return tuple(sorted(counted.items(), key=lambda row: (-row[1], row[0]))[:REASONS])
