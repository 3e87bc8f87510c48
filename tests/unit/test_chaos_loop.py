"""How faults of the failure matrix are counted, with rows that do nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from benchmarks import chaos
from tests.chaos import loop
from tests.chaos.faults import ROWS, Row
from tests.chaos.lab import DidNotBite, Found


class Nowhere:
    """`broken`: it does not become whole again."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def whole(self) -> None:
        if self.broken:
            raise TimeoutError("all nodes did not come")

    def leases(self) -> list[dict[str, Any]]:
        return []


def bites(place: Nowhere, rng: Random) -> Found:
    return Found([], 1.0, "it bit", in_doubt=1)


def misses(place: Nowhere, rng: Random) -> Found:
    raise DidNotBite("all was over")


def row(number: int, strike: Callable[[Any, Random], Found]) -> Row:
    return Row(number, "a fault", "nothing", strike)


def test_faults_that_bite_count_and_tries_have_an_end() -> None:
    place, rows = Nowhere(), [row(1, bites), row(2, misses)]
    tallies = loop.tallies_of(place, rows)
    loop.run(place, rows, 1, tallies, lambda bitten, tried: bitten < 3 and tried < 100)
    assert (tallies[1].bit, tallies[1].in_doubt, tallies[1].recovered_s) == (3, 3, [1.0] * 3)
    assert (tallies[2].bit, tallies[2].tried) in {(0, 6), (0, 9)}, "three tries a turn where none has bitten"
    never = loop.tallies_of(place, [row(2, misses)])
    loop.run(place, [row(2, misses)], 1, never, lambda bitten, tried: bitten < 3 and tried < 7)
    assert (never[2].bit, never[2].tried) == (0, 9)


def test_what_was_found_before_the_place_broke_is_kept() -> None:
    place, rows = Nowhere(broken=True), [row(1, bites)]
    tallies = loop.tallies_of(place, rows)
    with pytest.raises(TimeoutError, match="all nodes"):
        loop.run(place, rows, 1, tallies, lambda bitten, tried: True)
    assert tallies == {1: loop.Tally(1, 1, 1, [1.0], ["lost: all nodes did not come"], [], "it bit")}


ALL = ",".join(str(one.number) for one in ROWS)


@pytest.mark.parametrize(
    ("rows", "faults", "seconds", "simulated", "judged"),
    [
        (ALL, 102, 0.0, 0, {"real"}),
        (ALL, 0, 0.0, 10_000, {"simulated", "simulated_rows"}),
        (ALL, 120, 0.0, 10_000, {"real", "simulated", "simulated_rows"}),
        (ALL, 20, 0.0, 100, set()),
        (ALL, 120, 60.0, 100, set()),
        ("1,7", 120, 0.0, 100, set()),
    ],
)
def test_so_many_are_needed_only_where_so_many_of_all_rows_were_asked_for(
    rows: str, faults: int, seconds: float, simulated: int, judged: set[str]
) -> None:
    given = argparse.Namespace(rows=rows, faults=faults, seconds=seconds, simulated=simulated)
    assert chaos.floors_of(given).keys() & {"real", "simulated", "simulated_rows"} == judged
