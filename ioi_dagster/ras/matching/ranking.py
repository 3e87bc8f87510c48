"""Which entries answer a request best, read from any `Postings`: the same in memory and in a database.

A query walks the postings of its rarest words first, and no further than a budget. Of the next words it looks at the heaviest
postings only; what all that found is then looked up in the entries themselves, best first, as long as it can still be among the
best. So common words order what rare ones have found, and a query costs much the same however often they occur. (After "continue"
in Moffat, Zobel: Self-indexing inverted files, 1996, champion lists in Manning, Raghavan, Schütze: Introduction to information
retrieval, 2008, and MaxScore in Turtle, Flood: Query evaluation, 1995.)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ioi_dagster.ras.matching.postings import MAX_PLACES, STEPS, UNIT, Among, Postings, Spread, term_key, units_at
from ioi_dagster.ras.matching.query import Request, read_request

BUDGET = 6_000
"""Postings that one query walks through."""
MAX_OPEN = 2
"""Words too common to be walked through of which the heaviest postings are looked at, their champions; further ones only order
what was found."""
CHAMPIONS = 500
"""Of each of these, at least, however little of the budget is left."""
MAX_CANDIDATES = 200
"""Of which common words decide."""
FITS = 0.25
"""The least `fit` of a capability that may be meant."""


@dataclass(frozen=True, slots=True)
class Match:
    """`score` orders the matches of one request and means nothing beside that; `fit` in 0..1 is how much of it the capability
    covers, so that it can be compared between requests and catalogues: half where the score is as long as the request."""

    id: str
    score: float
    fit: float

    @property
    def fits(self) -> bool:
        """Not, where the capability is found by chance more likely than not. Of a list whose first does not fit, none does."""
        return self.fit >= FITS


@dataclass(frozen=True, slots=True)
class _Term:
    key: int
    word: str
    weight: float
    """Of one unit in its postings."""
    count: int
    most: int


def ranked(postings: Postings, query: str, k: int, among: Among | None = None) -> list[Match]:
    """The `k` best, best first; of equal ones, by id. Only those that share a word with the query, or have one that stands for
    one of its words, and are `among` those that may be given."""
    if k <= 0:
        return []
    request = read_request(query)
    keys = {word: term_key(word) for word in (*request.own, *request.others)}
    size, spreads = len(postings), postings.spreads(set(keys.values()))
    terms = _known(request, keys, spreads, size)
    scores = _scores(postings, terms, k, among)
    best = _best(postings, scores, k)
    length = _length(request, keys, spreads, size)
    return [Match(id, score, score / (score + length)) for id, score in best]


def _known(request: Request, keys: Mapping[str, int], spreads: Mapping[int, Spread], size: int) -> list[_Term]:
    """Rarest first."""
    found = []
    for word, weight in {**request.own, **request.others}.items():
        if (spread := spreads.get(keys[word])) is not None:
            worth = weight * _rarity(spread.count, size) * UNIT
            found.append(_Term(keys[word], word, worth, spread.count, spread.most))
    return sorted(found, key=lambda term: (term.count, term.word))


def _scores(postings: Postings, terms: list[_Term], k: int, among: Among | None) -> dict[int, float]:
    few = None if among is None else among.few(MAX_CANDIDATES)
    if few is not None:
        found = _looked_up(postings, dict.fromkeys(sorted(few), 0.0), terms, k)
        return {place: score for place, score in found.items() if score > 0}
    whole = _within(terms, BUDGET)
    opened = terms[whole : whole + MAX_OPEN]
    limits = {term.key: term.count for term in terms[:whole]}
    each = max((BUDGET - sum(limits.values())) // MAX_OPEN, CHAMPIONS)
    read = postings.heaviest(limits | {term.key: each for term in opened})
    scores: dict[int, float] = {}
    _add(scores, terms[:whole], read)
    if whole == len(terms):
        return scores if among is None else _permitted(scores, k, among)
    guessed = dict(scores)
    _add(guessed, opened, read)
    most = max(k, MAX_CANDIDATES)
    if among is not None:
        guessed = _permitted(guessed, most, among)
    candidates = {place: scores.get(place, 0.0) for place in _best_places(guessed, most)}
    return _looked_up(postings, candidates, terms[whole:], k)


def _within(terms: list[_Term], budget: int) -> int:
    """How many of them can be walked through."""
    for at, term in enumerate(terms):
        budget -= term.count
        if budget < 0:
            return at
    return len(terms)


def _add(scores: dict[int, float], terms: list[_Term], read: Mapping[int, Iterable[int]]) -> None:
    before = scores.get
    for term in terms:
        weight = term.weight
        for its in read[term.key]:
            # `place_of` and `units_of`, without a call for each of some thousands.
            place = its & _PLACE
            scores[place] = before(place, 0.0) + weight * (STEPS - (its >> 32))


def _permitted(scores: dict[int, float], count: int, among: Among) -> dict[int, float]:
    """Those that may be given, as far as the `count` best of them and all that equal the last of these are surely there."""
    order = sorted(scores, key=lambda place: -scores[place])
    found: dict[int, float] = {}
    at, step = 0, max(2 * count, MAX_CANDIDATES)
    while at < len(order):
        if len(found) >= count and heapq.nlargest(count, found.values())[-1] > scores[order[at]]:
            break
        found |= {place: scores[place] for place in among.left(order[at : at + step])}
        at, step = at + step, 2 * step
    return found


def _best_places(scores: dict[int, float], count: int) -> Iterable[int]:
    if len(scores) <= count:
        return scores
    least = heapq.nlargest(count, scores.values())[-1]
    ahead = [place for place, score in scores.items() if score > least]
    return ahead + heapq.nsmallest(count - len(ahead), (place for place, score in scores.items() if score == least))


def _looked_up(postings: Postings, scores: dict[int, float], terms: list[_Term], k: int) -> dict[int, float]:
    """With what `terms` add to them; without those that cannot be among the `k` best."""
    words = postings.words(scores)
    to_come = sum(term.weight * term.most for term in terms)
    for term in terms:
        if len(scores) > k:
            least = heapq.nlargest(k, scores.values())[-1] - to_come - _ROUNDING
            scores = {place: score for place, score in scores.items() if score >= least}
        weight, key = term.weight, term.key
        for place in scores:
            scores[place] += weight * units_at(words[place], key)
        to_come -= weight * term.most
    return scores


def _best(postings: Postings, scores: dict[int, float], k: int) -> list[tuple[str, float]]:
    if len(scores) > k:
        least = heapq.nlargest(k, scores.values())[-1]
        scores = {place: score for place, score in scores.items() if score >= least}
    ids = postings.ids(scores)
    return heapq.nsmallest(
        k, ((ids[place], score) for place, score in scores.items()), key=lambda its: (-its[1], its[0])
    )


def _rarity(count: int, size: int) -> float:
    """Of a word that `count` entries of `size` have: BM25's inverse document frequency."""
    return math.log(1 + (size - count + 0.5) / (count + 0.5))


def _length(request: Request, keys: Mapping[str, int], spreads: Mapping[int, Spread], size: int) -> float:
    """Of the request as a vector of what its words are worth; those that no entry has are worth most."""
    counts = ((weight, spreads.get(keys[word])) for word, weight in request.own.items())
    return math.hypot(*(weight * _rarity(its.count if its else 0, size) for weight, its in counts))


_ROUNDING = 1e-9
_PLACE = MAX_PLACES - 1
