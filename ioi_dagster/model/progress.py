"""How far a run is: counts of its steps, and why those wait that wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

REASONS = 5
"""The commonest reasons are told; the others are counted."""


_IN_SHORT = (
    # A reason that holds the words on the left is told in those on the right; the first that fits counts.
    ("was lost", "to be placed again"),
    ("to be placed again", "to be placed again"),
    ("refused by", "to be tried elsewhere"),
    ("of its kind are before it", "others are before them"),
    ("an award is being answered", "being placed"),
    ("being looked up", "being placed"),
    (" is away", "a cluster is away"),
    ("went away", "a cluster is away"),
    ("does not report", "a cluster is away"),
    ("no living node", "a cluster is away"),
    ("unreachable", "a domain does not answer"),
    ("no memory left", "no node has memory left"),
    ("are busy", "all nodes are busy"),
    ("only node is busy", "all nodes are busy"),
    ("no free slot", "all nodes are busy"),
    ("went to steps before", "all nodes are busy"),
    ("made no bid", "no cluster has answered yet"),
)
LINE = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps by what they do now. `reasons`: (why steps wait, how many of them), the commonest first.

    `of`: how many there are in all, 0 where that is not said; `more`: it is not known yet, since a step that makes others
    has not ended.
    """

    done: int = 0
    running: int = 0
    waiting: int = 0
    failed: int = 0
    reasons: tuple[tuple[str, int], ...] = ()
    of: int = 0
    more: bool = False

    def __str__(self) -> str:
        return self._line(f" ({self.why()})" if self.reasons and self.waiting else "")

    def brief(self, most: int = LINE) -> str:
        """One line of at most `most` characters, with why steps wait in a few words."""
        counted: dict[str, int] = {}
        for reason, count in self.reasons if self.waiting else ():
            words = in_short(reason)
            counted[words] = counted.get(words, 0) + count
        told = sorted(counted.items(), key=lambda row: (-row[1], row[0]))
        for shown in range(min(len(told), 2), 0, -1):
            parts = [f"{count} × {words}" for words, count in told[:shown]]
            line = self._line(f" ({told[0][0] if len(told) == 1 else ', '.join(parts)})")
            if len(line) <= most:
                return line
        return self._line("")[:most]

    def count(self) -> str:
        """What is done, of how many where that is known."""
        return f"{self.done} of {self.of}" if self.of else str(self.done)

    def _line(self, why: str) -> str:
        told = [f"{self.count()} done"]
        told += [f"{self.running} running", f"{self.waiting} waiting{why}"]
        told += [f"{self.failed} failed"] if self.failed else []
        told += ["more to come"] if self.more else []
        return ", ".join(told)

    def why(self, most: int = 2) -> str:
        """The commonest reasons in one line."""
        told = [f"{count} × {reason}" for reason, count in self.reasons[:most]]
        more = self.waiting - sum(count for _, count in self.reasons[:most])
        return "; ".join([*told, *([f"{more} for other reasons"] if more > 0 else [])])

    def facts(self) -> dict[str, Any]:
        """As plain JSON; `of_facts` is the way back."""
        counts = {"done": self.done, "running": self.running, "waiting": self.waiting, "failed": self.failed}
        return {**counts, "reasons": [list(reason) for reason in self.reasons], "of": self.of, "more": self.more}


def of_facts(facts: Mapping[str, Any]) -> Progress:
    return Progress(
        int(facts.get("done", 0)),
        int(facts.get("running", 0)),
        int(facts.get("waiting", 0)),
        int(facts.get("failed", 0)),
        tuple((str(reason), int(count)) for reason, count in facts.get("reasons", ())),
        int(facts.get("of", 0)),
        bool(facts.get("more", False)),
    )


def in_short(reason: str) -> str:
    """A reason in a few words, without names and numbers."""
    return next((words for sign, words in _IN_SHORT if sign in reason), reason[:40])


def commonest(why: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Reasons with their counts; of equally common ones the first by name."""
    counted = Counter(reason or "its places are being looked up" for reason in why)
    return tuple(sorted(counted.items(), key=lambda row: (-row[1], row[0]))[:REASONS])
