"""A few rows of the failure matrix for real; `make chaos` has them all, for as long as one likes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos import loop
from tests.chaos.faults import ROWS
from tests.chaos.lab import Lab
from tests.chaos.loop import Tally

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(900)]

SHORT = (1, 2, 4, 7, 8, 10, 14, 15, 18)
"""A node that is killed, one that is stopped, one that is cut off (where this process may make network namespaces), a scheduler
that is killed and one that is stopped, a run's process that is killed, a cluster that lies, a clock that is set and a gateway
that is killed."""


def test_each_fault_bites_and_costs_nothing_that_was_done(tmp_path: Path) -> None:
    with Lab(tmp_path / "home") as lab:
        rows = [row for row in ROWS if row.number in SHORT and loop.able(lab, row)]
        tallies = {row.number: Tally() for row in rows}
        for row in rows:
            loop.turn(lab, row, random.Random(row.number), tallies[row.number])
    assert {number: tally.wrong for number, tally in tallies.items() if tally.wrong} == {}
    assert [number for number, tally in tallies.items() if not tally.bit] == []
