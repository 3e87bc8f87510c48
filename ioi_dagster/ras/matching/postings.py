"""Which entries a term is in, and what it counts there: the form in which it is kept, and the port that a ranking reads it by.

A term is kept as its hash, so that there is no dictionary to be kept, asked, or written to when an entry comes.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ioi_dagster.ras.matching.entry import MOST

STEPS = 65_535
UNIT = MOST / STEPS
"""Weights are kept in two bytes, as multiples of this."""
MAX_PLACES = 2**32
_PLACE = MAX_PLACES - 1


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a term: in how many entries it is, and its most units in one."""

    count: int
    most: int


class Postings(Protocol):
    """What a ranking reads. An entry has a place, a number that stays its own. Terms are given by `term_key`."""

    def __len__(self) -> int:
        """How many entries there are."""
        ...

    def spreads(self, terms: Collection[int]) -> Mapping[int, Spread]:
        """Of those that are in any entry."""
        ...

    def heaviest(self, limits: Mapping[int, int]) -> Mapping[int, Iterable[int]]:
        """`posting`s of each term in any order: all if they are no more than its limit, else at least its limit of them, for the
        most part the heaviest."""
        ...

    def words(self, places: Collection[int]) -> Mapping[int, Sequence[int]]:
        """What is at these places: `kept_words` of each."""
        ...

    def ids(self, places: Collection[int]) -> Mapping[int, str]: ...


class Among(Protocol):
    """Which entries may be given."""

    def few(self, limit: int) -> Collection[int] | None:
        """The places of all of them; None if there are more than `limit`."""
        ...

    def left(self, places: Collection[int]) -> Collection[int]:
        """Those of `places` that may be given."""
        ...


@lru_cache(maxsize=65_536)
def term_key(term: str) -> int:
    """48 bits of BLAKE2b. Among a million different words it is 1 in 500 that any two have the same; they then are one word."""
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big")


def posting(place: int, units: int) -> int:
    """In 48 bits: the heavier, the smaller; of equal weight, by place."""
    return (STEPS - units) << 32 | place


def place_of(posting: int) -> int:
    return posting & _PLACE


def units_of(posting: int) -> int:
    return STEPS - (posting >> 32)


def kept_words(weights: Mapping[str, float]) -> array[int]:
    """An entry's terms with their units, by term, eight bytes each."""
    found: dict[int, int] = {}
    for term, weight in weights.items():
        key = term_key(term)
        found[key] = max(found.get(key, 1), round(weight / UNIT))
    return array("Q", sorted(key << 16 | units for key, units in found.items()))


def units_at(words: Sequence[int], term: int) -> int:
    """In an entry of these; 0 where the term is not in it."""
    at = bisect_left(words, term << 16)
    return words[at] & STEPS if at < len(words) and words[at] >> 16 == term else 0


def packed(numbers: Iterable[int]) -> bytes:
    """Eight bytes each, the least first."""
    its = array("Q", numbers)
    if sys.byteorder == "big":
        its.byteswap()
    return its.tobytes()


def unpacked(data: bytes) -> array[int]:
    its = array("Q")
    its.frombytes(data)
    if sys.byteorder == "big":
        its.byteswap()
    return its
