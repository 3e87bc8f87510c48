"""Which entries a term is in, and what it counts there."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from ioi_dagster.ras.matching.entry import MOST

STEPS = 65_535
UNIT = MOST / STEPS
"""Weights are kept in two bytes, as multiples of this."""


class Postings:
    """Places in ascending order, each with its weight in units: six bytes each."""

    __slots__ = ("most", "places", "weights")

    def __init__(self) -> None:
        self.places = array("I")
        self.weights = array("H")
        self.most = 0
        """No weight is more; that of an entry which is gone may still be in it."""

    def __len__(self) -> int:
        return len(self.places)

    def put(self, place: int, weight: float) -> None:
        """`place` must not be there yet."""
        at = bisect_left(self.places, place)
        self.places.insert(at, place)
        units = max(1, round(weight / UNIT))
        self.weights.insert(at, units)
        self.most = max(self.most, units)

    def drop(self, place: int) -> None:
        """`place` must be there."""
        at = bisect_left(self.places, place)
        del self.places[at], self.weights[at]

    def at(self, place: int) -> int:
        """Units; 0 where the term is not in the entry."""
        at = bisect_left(self.places, place)
        return self.weights[at] if at < len(self.places) and self.places[at] == place else 0
