"""Run processes are killed at moments drawn from a seed, and nothing is lost, repeated or told too early.

The whole loop is `make crash-loop`; these are its first kills.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.postgres import new_database, server
from tests.crash.loop import SQLITE, Plan, crash_loop, postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240), pytest.mark.usefixtures("clean_environment")]


def test_a_run_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    with crash_loop(tmp_path, SQLITE, seed=4) as loop:
        tally = loop.run(kills=4, each=1)
    assert tally.violations == []
    assert tally.kills == 4
    assert tally.by_job.keys() == {"chain", "fan_out", "assets", "odd"}


@pytest.mark.slow
def test_the_same_with_the_log_in_postgresql(tmp_path: Path) -> None:
    with server() as socket, crash_loop(tmp_path, postgres(new_database(socket, "crash")), seed=1) as loop:
        tally = loop.run(kills=4)
    assert tally.violations == []


OWED = ("publishing outputs", "writing the run's log", "telling the run's status", "giving back")


def test_what_a_commit_owes_is_done_by_the_next_process(tmp_path: Path) -> None:
    """Killed where outputs get their names, where the log is written, and where a run's end is told: twice each, and then
    while that is made up for."""
    with crash_loop(tmp_path, SQLITE, seed=0) as loop:
        for phase in OWED:
            plans = [Plan(tick=1, phase=phase), Plan(tick=3, phase=phase), Plan(tick=2, phase="resuming"), Plan()]
            loop.one("odd", lambda kills, _, its=plans: its[kills])
        loop.one("chain", lambda kills, _: Plan(tick=1, phase="publishing outputs") if kills < 2 else Plan())
    assert loop.tally.violations == []
    assert loop.tally.by_phase.keys() == {*OWED, "resuming"}
