"""Which capabilities answer a request best: an index that is kept up to date entry by entry.

A query walks the lists of its rarest words first, and no further than a budget; what it found there by then is looked up in the
lists that are left, best first, as long as it can still be among the best. So common words order what rare ones have found, and a
query costs much the same however often they occur. (After "continue" in Moffat, Zobel: Self-indexing inverted files, 1996, and
MaxScore in Turtle, Flood: Query evaluation, 1995.)
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.matching.entry import Entry, word_weights
from ioi_dagster.ras.matching.postings import UNIT, Postings
from ioi_dagster.ras.matching.query import Request, read_request

BUDGET = 6_000
"""Postings that one query walks through; the list that it is in is walked to its end where it is the first."""
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
    word: str
    weight: float
    """Of one unit in its postings."""
    postings: Postings


class CapabilityIndex:
    """The same for the same entries, whatever the order in which they came and what went meanwhile. Not thread-safe."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._numbers: dict[str, int] = {}
        self._lists: list[Postings] = []
        self._words: list[str] = []
        self._free_numbers: list[int] = []
        self._places: dict[str, int] = {}
        self._ids: list[str] = []
        self._terms: list[array[int]] = []
        self._free_places: list[int] = []
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id: object) -> bool:
        return id in self._places

    @property
    def words(self) -> int:
        """How many different ones its entries have."""
        return len(self._numbers)

    def add(self, entry: Entry) -> None:
        """In place of one of the same id, if there is one."""
        if entry.id in self._places:
            self.remove(entry.id)
        weights = word_weights(entry)
        numbers = array("I", (self._number(word) for word in weights))
        if self._free_places:
            place = self._free_places.pop()
            self._ids[place], self._terms[place] = entry.id, numbers
        else:
            place = len(self._ids)
            self._ids.append(entry.id)
            self._terms.append(numbers)
        self._places[entry.id] = place
        for number, weight in zip(numbers, weights.values(), strict=True):
            self._lists[number].put(place, weight)

    def remove(self, id: str) -> None:
        """Raises `BadInputError` where it is not there."""
        place = self._places.pop(id, None)
        if place is None:
            raise BadInputError(f"{id!r} is not in the index", where="matching of capabilities", todo="add it first")
        for number in self._terms[place]:
            its = self._lists[number]
            its.drop(place)
            if not its:
                del self._numbers[self._words[number]]
                self._free_numbers.append(number)
        self._ids[place], self._terms[place] = "", array("I")
        self._free_places.append(place)

    def rank(self, query: str, k: int, among: Collection[str] | None = None) -> list[Match]:
        """The `k` best, best first; of equal ones, by id. Only those that share a word with the query, or have one that stands
        for one of its words. `among`: ids that may be given, as filters have left them (None: all)."""
        if k <= 0:
            return []
        request = read_request(query)
        scores = self._scores(request, k, among)
        best = heapq.nsmallest(k, scores, key=lambda place: (-scores[place], self._ids[place]))
        length = self._length(request)
        return [Match(self._ids[place], scores[place], scores[place] / (scores[place] + length)) for place in best]

    def _scores(self, request: Request, k: int, among: Collection[str] | None) -> dict[int, float]:
        terms = sorted(self._known(request), key=lambda term: (len(term.postings), term.word))
        allowed = None if among is None else {self._places[id] for id in among if id in self._places}
        if allowed is not None and len(allowed) <= MAX_CANDIDATES:
            found = self._looked_up(dict.fromkeys(allowed, 0.0), terms, k)
            return {place: score for place, score in found.items() if score > 0}
        scores: dict[int, float] = {}
        walked, budget = 0, BUDGET
        for term in terms:
            budget -= len(term.postings)
            if budget < 0 and walked:
                break
            walked += 1
            weight, before = term.weight, scores.get
            for place, units in zip(term.postings.places, term.postings.weights, strict=True):
                scores[place] = before(place, 0.0) + weight * units
        if allowed is not None:
            scores = {place: score for place, score in scores.items() if place in allowed}
        if walked == len(terms):
            return scores
        return self._looked_up(self._best(scores, max(k, MAX_CANDIDATES)), terms[walked:], k)

    def _best(self, scores: dict[int, float], count: int) -> dict[int, float]:
        if len(scores) <= count:
            return scores
        least = heapq.nlargest(count, scores.values())[-1]
        ahead = {place: score for place, score in scores.items() if score > least}
        equal = (place for place, score in scores.items() if score == least)
        ahead |= dict.fromkeys(heapq.nsmallest(count - len(ahead), equal, key=self._ids.__getitem__), least)
        return ahead

    def _looked_up(self, scores: dict[int, float], terms: list[_Term], k: int) -> dict[int, float]:
        """With what `terms` add to them; without those that cannot be among the `k` best."""
        to_come = sum(term.weight * term.postings.most for term in terms)
        for term in terms:
            if len(scores) > k:
                least = heapq.nlargest(k, scores.values())[-1] - to_come - _ROUNDING
                scores = {place: score for place, score in scores.items() if score >= least}
            weight, at = term.weight, term.postings.at
            for place in scores:
                scores[place] += weight * at(place)
            to_come -= weight * term.postings.most
        return scores

    def _known(self, request: Request) -> Iterable[_Term]:
        for word, weight in {**request.own, **request.others}.items():
            if (number := self._numbers.get(word)) is not None:
                its = self._lists[number]
                yield _Term(word, weight * self._rarity(len(its.places)) * UNIT, its)

    def _rarity(self, count: int) -> float:
        """Of a word that `count` entries have: BM25's inverse document frequency."""
        return math.log(1 + (len(self) - count + 0.5) / (count + 0.5))

    def _length(self, request: Request) -> float:
        """Of the request as a vector of what its words are worth; those that no entry has are worth most."""
        counts = ((weight, self._numbers.get(word)) for word, weight in request.own.items())
        worth = (weight * self._rarity(0 if number is None else len(self._lists[number])) for weight, number in counts)
        return math.hypot(*worth)

    def _number(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            if self._free_numbers:
                number = self._free_numbers.pop()
                self._words[number], self._lists[number] = word, Postings()
            else:
                number = len(self._lists)
                self._words.append(word)
                self._lists.append(Postings())
            self._numbers[word] = number
        return number


_ROUNDING = 1e-9
