"""Faults one after another at one living federation, and the count of what came of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.chaos import judge
from tests.chaos.faults import Row
from tests.chaos.lab import DidNotBite

TRIES = 3
"""A fault that met nothing is made again."""


@dataclass(slots=True)
class Tally:
    """Of one row: how often it was tried and bit, how long recoveries took, and what was wrong."""

    tried: int = 0
    bit: int = 0
    recovered_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    happened: str = ""
    """What was seen of the last one that bit."""


class Place(Protocol):
    """Where faults are made."""

    def whole(self) -> None:
        """Wait until everything is there again."""

    def leases(self) -> list[dict[str, Any]]:
        """All that are held."""
        ...


def strike(lab: Place, row: Row, rng: random.Random, tally: Tally) -> None:
    """One fault, and what is left of it. A run in which it did not bite is not counted, but what is wrong then is wrong too."""
    tally.tried += 1
    try:
        found = row.strike(lab, rng)
    except DidNotBite as why:
        tally.missed.append(str(why))
    except TimeoutError as error:
        tally.wrong.append(f"lost: {error}")
    else:
        tally.bit, tally.happened = tally.bit + 1, found.happened
        tally.wrong += found.wrong
        tally.recovered_s += [found.recovered_s] if found.recovered_s is not None else []
    tally.wrong += judge.leases_are_back(lab)
    lab.whole()


def turn(lab: Place, row: Row, rng: random.Random, tally: Tally) -> int:
    """One fault; where none of the row has bitten yet up to `TRIES`, until one does. How many."""
    for number in range(1, TRIES + 1):
        strike(lab, row, rng, tally)
        if tally.bit:
            return number
    return TRIES


def able(lab: Place, row: Row) -> bool:
    """Does the machine allow for this fault?"""
    return not row.needs or bool(getattr(lab, row.needs))


def run(
    lab: Place,
    rows: Sequence[Row],
    seed: int,
    more: Callable[[int, float], bool],
    told: Callable[[Row, Tally], None] = lambda *_: None,
) -> dict[int, Tally]:
    """Strike at `lab` with each of `rows` in turn, in an order drawn anew for each turn, while `more(faults, seconds)` so far.
    Of a row of which none has bitten yet a turn is up to `TRIES`. Rows for which the machine does not allow are left out."""
    rng, began, faults = random.Random(seed), time.monotonic(), 0
    tallies = {row.number: Tally() for row in rows if able(lab, row)}
    while True:
        for row in rng.sample([row for row in rows if row.number in tallies], len(tallies)):
            if not more(faults, time.monotonic() - began):
                return tallies
            faults += turn(lab, row, rng, tallies[row.number])
            told(row, tallies[row.number])
