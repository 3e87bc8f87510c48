"""A few rows of the failure matrix for real; `make chaos` has them all, for as long as one likes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos import loop
from tests.chaos.faults import ROWS
from tests.chaos.lab import Lab

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(900)]

SHORT = (1, 2, 7, 10, 13, 17)
"""A node that is killed, one that is stopped, a scheduler that is killed, a run's process that is killed, a ledger that cannot be
written, and a disk that is full (where this process may mount one). The others take longer, or are held by tests of their own."""


def test_each_fault_bites_and_costs_nothing_that_was_done(tmp_path: Path) -> None:
    with Lab(tmp_path / "home") as lab:
        rows = [row for row in ROWS if row.number in SHORT and loop.able(lab, row)]
        tallies = loop.tallies_of(lab, rows)
        for row in rows:
            loop.turn(lab, row, random.Random(row.number), tallies[row.number])
    assert {number: tally.wrong for number, tally in tallies.items() if tally.wrong} == {}
    assert [number for number, tally in tallies.items() if not tally.bit] == []
