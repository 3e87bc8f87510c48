"""Entries of a registry as a seeded generator draws them: words as frequent as those of a language (Zipf)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.words import lines

KINDS = {"model": 40, "tool": 25, "asset": 15, "service": 8, "agent": 5, "block": 4, "graph": 2, "policy": 1}
"""Of a hundred records."""
CLASSES = {"public": 70, "internal": 25, "restricted": 5}
VOCABULARY = 60_000
SEED = 7


class Drawn:
    """The same for the same seed."""

    def __init__(self, seed: int = SEED) -> None:
        self._random = random.Random(seed)
        known = sorted({word for line in lines("thesaurus.txt") for word in line.replace(",", " ").split()})
        self._random.shuffle(known)
        made = (self._made() for _ in range(VOCABULARY))
        # Everyday words, which others stand for, are every third of the frequent ones.
        self._words = [word for one in known for word in (one, next(made), next(made))] + list(made)
        self._frequent = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(self._words))))

    def entries(self, count: int) -> Iterator[tuple[int, str, str, Entry]]:
        """Numbers from 1, each with a kind, a data class and the entry."""
        for number in range(1, count + 1):
            (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
            (its_class,) = self._random.choices(list(CLASSES), list(CLASSES.values()))
            examples = tuple(self._text(8) for _ in range(2)) if self._random.random() < 0.3 else ()
            yield (
                number,
                kind,
                its_class,
                Entry(
                    id=f"{kind}-{number}",
                    name=self._text(3),
                    description=f"{self._text(self._random.randint(5, 14))}. {self._text(self._random.randint(3, 18))}",
                    tags=(self._text(1), self._text(1)),
                    inputs={self._text(1): {"description": self._text(5)}},
                    examples=examples,
                ),
            )

    def requests(self, count: int) -> list[str]:
        return [self._text(self._random.randint(3, 20)) for _ in range(count)]

    def _text(self, length: int) -> str:
        return " ".join(self._random.choices(self._words, cum_weights=self._frequent, k=length))

    def _made(self) -> str:
        draw = self._random
        return "".join(draw.choice("bcdfglmnprst") + draw.choice("aeiou") for _ in range(draw.randint(2, 4)))
