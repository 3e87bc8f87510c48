"""Everyday words for the same thing: a request says "photo" where a capability says "image".

`thesaurus.txt` is the project's own: a line holds words and phrases that stand for each other, whatever the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ioi_dagster.ras.matching.words import lines, terms

Phrase = tuple[str, ...]
Related = dict[Phrase, tuple[tuple[str, float], ...]]


def related(words: Sequence[str]) -> list[tuple[Phrase, str, float]]:
    """(phrase of the words, a term that stands for it, how well: a word out of a phrase of n stands for it by 1 / n)."""
    table, longest = _table()
    return [
        (phrase, term, share)
        for size in range(longest, 0, -1)
        for start in range(len(words) - size + 1)
        for phrase in (tuple(words[start : start + size]),)
        for term, share in table.get(phrase, ())
    ]


@cache
def _table() -> tuple[Related, int]:
    found: dict[Phrase, dict[Phrase, None]] = {}
    for line in lines("thesaurus.txt"):
        phrases = [phrase for part in line.split(",") if (phrase := tuple(terms(part)))]
        for phrase in phrases:
            found.setdefault(phrase, {}).update(dict.fromkeys(other for other in phrases if other != phrase))
    table = {
        phrase: tuple((term, 1 / len(other)) for other in others for term in other) for phrase, others in found.items()
    }
    return table, max(map(len, table))
