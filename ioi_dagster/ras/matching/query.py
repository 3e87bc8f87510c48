"""A request as the index is asked: its terms and those that stand for them, each with what it counts."""

from __future__ import annotations

from dataclasses import dataclass

from ioi_dagster.ras.matching.thesaurus import related
from ioi_dagster.ras.matching.words import FAINT, terms

MAX_OWN = 64
"""Different words of a request that are looked at, the first ones."""
_FAINT = 0.4
"""What a word of `FAINT` counts."""
_STANDS_FOR = 0.2
"""What a word counts that stands for one of the request's."""
_AT_MOST = 2.0
"""How many words of the request one can stand for: a multiple of that."""


@dataclass(frozen=True, slots=True)
class Request:
    """`own`: its terms; `others`: terms that stand for them."""

    own: dict[str, float]
    others: dict[str, float]


def read_request(text: str) -> Request:
    words = terms(text)
    own: dict[str, float] = {}
    for at, word in enumerate(words):
        if word not in own:
            if len(own) == MAX_OWN:
                words = words[:at]
                break
            own[word] = _FAINT if word in FAINT else 1.0
    others: dict[str, float] = {}
    for phrase, term, share in related(words):
        if term not in own:
            others[term] = others.get(term, 0.0) + _STANDS_FOR * share * min(own[word] for word in phrase)
    others = {term: min(weight, _AT_MOST * _STANDS_FOR) for term, weight in others.items()}
    return Request(own, others)
