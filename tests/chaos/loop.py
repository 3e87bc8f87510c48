"""Faults one after another at one living federation, and the count of what came of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.chaos import judge
from tests.chaos.faults import Row
from tests.chaos.lab import DidNotBite

TRIES = 3
"""A fault that met nothing is made again."""


@dataclass(slots=True)
class Tally:
    """Of one row: how often it was tried and bit, how often a step that may be called once was hit, how long recoveries took, and
    what was wrong."""

    tried: int = 0
    bit: int = 0
    in_doubt: int = 0
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
    """One fault, and what is left of it. A run in which it did not bite is not counted, but what is wrong then is wrong too.
    Raises `TimeoutError` where `lab` does not become whole again, which is wrong."""
    try:
        found = row.strike(lab, rng)
    except DidNotBite as why:
        tally.missed.append(str(why))
    except TimeoutError as error:
        tally.wrong.append(f"lost: {error}")
    else:
        tally.bit, tally.happened = tally.bit + 1, found.happened
        tally.in_doubt += found.in_doubt
        tally.wrong += found.wrong
        tally.recovered_s += [found.recovered_s] if found.recovered_s is not None else []
    tally.tried += 1
    tally.wrong += judge.leases_are_back(lab)
    try:
        lab.whole()
    except TimeoutError as error:
        tally.wrong.append(f"lost: {error}")
        raise


def turn(lab: Place, row: Row, rng: random.Random, tally: Tally) -> None:
    """One fault; where none of the row has bitten yet up to `TRIES`, until one does."""
    for _ in range(TRIES):
        strike(lab, row, rng, tally)
        if tally.bit:
            return


def able(lab: Place, row: Row) -> bool:
    """Does the machine allow for this fault?"""
    return not row.needs or bool(getattr(lab, row.needs))


def tallies_of(lab: Place, rows: Sequence[Row]) -> dict[int, Tally]:
    """An empty one by the number of each row for which the machine allows."""
    return {row.number: Tally() for row in rows if able(lab, row)}


def run(
    lab: Place,
    rows: Sequence[Row],
    seed: int,
    tallies: Mapping[int, Tally],
    more: Callable[[int, int], bool],
    told: Callable[[Row, Tally], None] = lambda *_: None,
) -> None:
    """Strike at `lab` with each of `rows` that has one of `tallies` in turn, in an order drawn anew for each turn, while
    `more(bitten, tried)` so far. Of a row of which none has bitten yet a turn is up to `TRIES`. What was found stands in
    `tallies`, whatever ends it. Raises `TimeoutError` where `lab` does not become whole again."""
    rng, able_rows = random.Random(seed), [row for row in rows if row.number in tallies]
    while able_rows:
        for row in rng.sample(able_rows, len(able_rows)):
            if not more(sum(its.bit for its in tallies.values()), sum(its.tried for its in tallies.values())):
                return
            turn(lab, row, rng, tallies[row.number])
            told(row, tallies[row.number])
