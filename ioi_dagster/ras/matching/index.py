"""An index of capabilities in memory that is kept up to date entry by entry."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.matching.entry import Entry, word_weights
from ioi_dagster.ras.matching.postings import STEPS, Spread, kept_words, posting, units_of
from ioi_dagster.ras.matching.ranking import Match, ranked


class CapabilityIndex:
    """The same for the same entries, whatever the order in which they came and what went meanwhile, as far as a query's budget
    reaches. Not thread-safe."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._lists: dict[int, array[int]] = {}
        self._places: dict[str, int] = {}
        self._ids: list[str] = []
        self._words: list[array[int]] = []
        self._free: list[int] = []
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id: object) -> bool:
        return id in self._places

    @property
    def different_words(self) -> int:
        return len(self._lists)

    def add(self, entry: Entry) -> None:
        """In place of one of the same id, if there is one."""
        if entry.id in self._places:
            self.remove(entry.id)
        words = kept_words(word_weights(entry))
        if self._free:
            place = self._free.pop()
            self._ids[place], self._words[place] = entry.id, words
        else:
            place = len(self._ids)
            self._ids.append(entry.id)
            self._words.append(words)
        self._places[entry.id] = place
        for its in words:
            insort(self._lists.setdefault(its >> 16, array("Q")), posting(place, its & STEPS))

    def remove(self, id: str) -> None:
        """Raises `BadInputError` where it is not there."""
        place = self._places.pop(id, None)
        if place is None:
            raise BadInputError(f"{id!r} is not in the index", where="matching of capabilities", todo="add it first")
        for its in self._words[place]:
            found = self._lists[its >> 16]
            del found[bisect_left(found, posting(place, its & STEPS))]
            if not found:
                del self._lists[its >> 16]
        self._ids[place], self._words[place] = "", array("Q")
        self._free.append(place)

    def rank(self, query: str, k: int, among: Collection[str] | None = None) -> list[Match]:
        """As `ranked`. `among`: ids that may be given, as filters have left them (None: all)."""
        return ranked(self, query, k, None if among is None else _Among(self._places, among))

    def spreads(self, terms: Collection[int]) -> Mapping[int, Spread]:
        lists = {term: self._lists[term] for term in terms if term in self._lists}
        return {term: Spread(len(its), units_of(its[0])) for term, its in lists.items()}

    def heaviest(self, limits: Mapping[int, int]) -> Mapping[int, Sequence[int]]:
        return {term: self._lists[term][:limit] for term, limit in limits.items()}

    def words(self, places: Collection[int]) -> Mapping[int, Sequence[int]]:
        return {place: self._words[place] for place in places}

    def ids(self, places: Collection[int]) -> Mapping[int, str]:
        return {place: self._ids[place] for place in places}


class _Among:
    def __init__(self, places: Mapping[str, int], ids: Collection[str]) -> None:
        self._its = {places[id] for id in ids if id in places}

    def few(self, limit: int) -> set[int] | None:
        return self._its if len(self._its) <= limit else None

    def left(self, places: Collection[int]) -> list[int]:
        return [place for place in places if place in self._its]
