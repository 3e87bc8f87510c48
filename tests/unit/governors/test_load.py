"""While others use its machine a node takes less, and nothing when nothing is left; and all again when they have gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.dask.machine import PAGE, Machine
from ioi_dagster.governors.cluster import EVERYTHING
from ioi_dagster.governors.load import BOUNDS, CALM_S, HOLD_S, Level, Load, MachineSeen
from ioi_dagster.governors.node import Admit, DrainAsked, NodeGovernor, Refuse, StartAsked
from ioi_dagster.model.negotiation import OWN_STEP, Lease
from ioi_dagster.model.start import StartRequest
from tests.conftest import eventually

CALM, BUSY, CROWDED, OVER = MachineSeen(0.5, 0.3), MachineSeen(9, 0.3), MachineSeen(20, 0.3), MachineSeen(80, 0.3)
LEASE = Lease("l", "r", "s", 1, 0, OWN_STEP, "c", "d", "n", 1)


class Seen:
    """A load that is looked at once a second."""

    def __init__(self) -> None:
        self.load, self.now = Load(), 0.0

    def lasts(self, machine: MachineSeen, seconds: float) -> Load:
        for _ in range(int(seconds)):
            self.now += 1.0
            self.load.seen(machine, self.now)
        return self.load


@pytest.mark.parametrize(
    ("machine", "slots"),
    [(CALM, (8, 1)), (BUSY, (4, 1)), (CROWDED, (2, 1)), (MachineSeen(0, 0.92), (4, 1)), (MachineSeen(0, 0.95), (2, 1))],
)
def test_the_more_others_do_the_fewer_slots_are_offered_but_one_always(machine, slots):
    load = Seen().lasts(machine, HOLD_S + 1)
    assert (load.slots(8), load.slots(1)) == slots


def test_a_short_peak_changes_nothing():
    seen = Seen()
    assert seen.lasts(OVER, HOLD_S - 1).level is Level.CALM
    seen.lasts(CALM, 1)
    assert seen.lasts(OVER, HOLD_S - 1).level is Level.CALM


def test_only_what_has_lasted_counts_and_not_what_was_seen_last():
    seen = Seen()
    seen.lasts(BUSY, HOLD_S)
    assert seen.lasts(OVER, 1).level is Level.BUSY
    assert seen.lasts(OVER, HOLD_S).level is Level.BUSY  # it has not been that for so long
    assert seen.lasts(OVER, 1).over


def test_it_takes_more_again_a_level_at_a_time_when_others_have_gone_for_a_while():
    seen = Seen()
    assert seen.lasts(OVER, HOLD_S + 1).over
    levels = [seen.lasts(CALM, CALM_S + 1).level for _ in range(3)]
    assert levels == [Level.CROWDED, Level.BUSY, Level.CALM]
    assert (seen.load.slots(8), seen.load.why) == (8, "")


def test_between_its_two_thresholds_a_level_stays():
    seen = Seen()
    seen.lasts(BUSY, HOLD_S + 1)
    between = MachineSeen((BOUNDS[Level.BUSY].crowd + BOUNDS[Level.BUSY].until_crowd) / 2, 0.3)
    assert seen.lasts(between, 100).level is Level.BUSY
    fresh = Seen()
    assert fresh.lasts(between, 100).level is Level.CALM


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=200))
def test_what_is_offered_changes_seldom_whatever_others_do(looks):
    seen, changes, before = Seen(), 0, Level.CALM
    for crowd, memory in looks:
        level = seen.lasts(MachineSeen(crowd, memory), 1).level
        changes += level is not before
        assert 1 <= seen.load.slots(8) <= 8
        assert bool(seen.load.why) == bool(level)
        before = level
    assert changes <= len(looks) / HOLD_S + 1


def start(governor: NodeGovernor, now: float) -> Admit | Refuse:
    (said,) = governor.handle(StartAsked(StartRequest("step", LEASE, None, OWN_STEP, b""), None), now)
    assert isinstance(said, Admit | Refuse)
    return said


def test_only_where_nothing_is_left_a_start_is_refused():
    governor = NodeGovernor("n", "c", EVERYTHING, governed=False)
    for second in range(10):
        governor.handle(CROWDED, second)
    assert isinstance(start(governor, 10), Admit)
    for second in range(10, 20):
        governor.handle(OVER, second)
    said = start(governor, 20)
    assert isinstance(said, Refuse)
    assert (said.refusal.code, said.refusal.by) == ("node.overloaded", "node n")
    assert "others have 80.0 tasks for each of the machine's processors" in said.refusal.text
    governor.handle(DrainAsked("a new disk"), 20)
    said = start(governor, 20)
    assert isinstance(said, Refuse)
    assert said.refusal.code == "node.draining"  # what its owner says comes first


# What is read ---------------------------------------------------------------------------------------------------------


def proc(root: Path, running: int) -> Path:
    (root / "loadavg").write_text(f"1.0 2.0 3.0 {running}/400 77\n")
    return root


def test_what_is_smoothed_follows_what_lasts(tmp_path):
    machine = Machine(proc(tmp_path, 40), processors=4, memory=lambda: (50, 100))
    crowds = [machine.look().crowd for _ in range(30)]
    assert crowds[0] == 2.0
    assert crowds == sorted(crowds)
    assert crowds[-1] == pytest.approx(10.0, abs=0.05)
    proc(tmp_path, 0)
    assert [machine.look() for _ in range(30)][-1] == MachineSeen(pytest.approx(0.0, abs=0.05), 0.5)
    assert Machine(tmp_path, memory=lambda: (50, 100), allotted=25).look().allotted == 0.25


def test_own_threads_and_those_of_processes_below_are_not_others(tmp_path):
    import os

    def task(pid: int, thread: int, state: str, *children: int) -> None:
        folder = tmp_path / str(pid) / "task" / str(thread)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{thread} (a ) R name) {state} 1 1")
        (folder / "children").write_text(" ".join(map(str, children)))

    own = os.getpid()
    task(own, own, "R", 901)
    task(own, 12, "S")
    task(901, 901, "S")
    task(901, 902, "R", 77)  # 77 has ended
    (tmp_path / str(own) / "statm").write_text("900 300 10 1 0 1 0")
    (tmp_path / "901" / "statm").write_text("900 100 10 1 0 1 0")
    machine = Machine(proc(tmp_path, 6), processors=1, memory=lambda: (700 * PAGE, 1000 * PAGE))
    assert machine.look() == MachineSeen(pytest.approx((6 - 2) * 0.2), 0.3, 0.4)  # 400 pages of the 700 are its own


@pytest.mark.parametrize("text", ["", "1.0", "a b c d", "1 2 3 x/y"])
def test_where_nothing_can_be_read_nothing_is_in_the_way(tmp_path, text):
    (tmp_path / "loadavg").write_text(text)
    assert Machine(tmp_path, memory=lambda: (0, 100)).look() == MachineSeen(0.0, 0.0)


def test_a_real_process_of_ones_own_is_not_a_crowd():
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        machine = Machine(processors=1)
        eventually(lambda: machine._own(hog.pid)[0] == 1, 30, "a process that runs")
        assert machine.look().memory > 0
    finally:
        hog.kill()
        hog.wait()
