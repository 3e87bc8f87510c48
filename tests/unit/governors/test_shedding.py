"""A node whose machine has no memory left gives up what runs there, one start after the other, and takes it again later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ioi_dagster.governors.cluster import EVERYTHING
from ioi_dagster.governors.load import HOLD_S, SHED_S, Load, MachineSeen
from ioi_dagster.governors.node import Instruction, NodeGovernor, RunningSeen, RunningStart, Shed, Unload

FULL, ROOM = MachineSeen(0.1, 0.7, own=0.28), MachineSeen(0.1, 0.7, own=0.1)
OLD, READY, YOUNG, ONCE = (
    RunningStart("old"),
    RunningStart("ready", checkpointable=True),
    RunningStart("young"),
    RunningStart("once", preemptible=False),
)


class Node:
    """One that is looked at once a second."""

    def __init__(self) -> None:
        self.governor, self.now = NodeGovernor("n", "c", EVERYTHING, governed=False), 0.0

    def sees(self, machine: MachineSeen, *starts: RunningStart) -> list[Instruction]:
        self.now += 1.0
        self.governor.handle(machine, self.now)
        return self.governor.handle(RunningSeen(starts), self.now)

    def sheds(self, machine: MachineSeen, *starts: RunningStart, seconds: float = 60.0) -> str:
        """The first that is given up within that time; "" where none is."""
        until = self.now + seconds
        while self.now < until:
            for said in self.sees(machine, *starts):
                if isinstance(said, Shed):
                    return said.key
        return ""


@pytest.mark.parametrize(
    ("starts", "goes"),
    [
        ((), ""),
        ((OLD,), "old"),
        ((OLD, YOUNG), "young"),
        ((OLD, READY, YOUNG), "ready"),
        ((READY, OLD), "ready"),
        ((OLD, ONCE), "old"),
        ((ONCE,), ""),
    ],
)
def test_what_loses_least_goes_and_of_that_the_youngest_but_never_what_may_run_once_only(starts, goes):
    assert Node().sheds(FULL, *starts) == goes


@pytest.mark.parametrize(
    ("machine", "full"),
    [
        (MachineSeen(0.1, 0.98), True),
        (MachineSeen(0.1, 0.70, own=0.28), True),
        (MachineSeen(0.1, 0.70, own=0.26), False),
        (MachineSeen(0.1, 0.40, own=0.58), False),  # it is itself the reason
        (MachineSeen(0.1, 0.40, own=0.58, allotted=0.6), True),  # it has what it may have: the others are
        (MachineSeen(0.1, 0.40, own=0.58, allotted=0.5), False),
        (MachineSeen(99.0, 0.40, own=0.1), False),  # no processor is left, but memory: what runs goes on, slowly
    ],
)
def test_only_where_others_leave_no_memory_something_goes(machine, full):
    assert bool(Node().sheds(machine, OLD)) is full


def test_first_it_takes_nothing_then_lets_go_of_replicas_and_then_gives_up_a_start_and_says_why():
    node, said = Node(), []
    while not any(isinstance(one, Shed) for one in said):
        said = node.sees(FULL, OLD)
        assert bool(said) is node.governor.load.over
        if node.governor.load.over and len(said) == 1:
            assert said == [Unload()]
    assert HOLD_S + SHED_S <= node.now <= HOLD_S + 2 * SHED_S + 2
    why = "others have 0.1 tasks for each of the machine's processors, and 70% of its memory beside the node's 28%"
    assert said == [Unload(), Shed("old", f"its node gave it up, since its machine has no memory left: {why}")]


def test_one_that_has_its_grace_is_waited_for_and_then_what_it_has_freed():
    node = Node()
    assert node.sheds(FULL, OLD, READY) == "ready"
    assert node.sheds(FULL, OLD, READY, seconds=30) == ""  # it still runs
    assert node.sheds(ROOM, OLD, seconds=60) == ""
    assert node.sheds(FULL, OLD, seconds=HOLD_S + SHED_S - 1) == ""
    assert node.sheds(FULL, OLD) == "old"


def test_memory_that_comes_and_goes_costs_no_step():
    node = Node()
    for _ in range(20):
        assert node.sheds(FULL, OLD, seconds=SHED_S) == ""
        assert node.sheds(ROOM, OLD, seconds=1) == ""


@given(st.lists(st.text("abcdef-123", min_size=1, max_size=9), min_size=2, max_size=2, unique=True))
def test_nodes_of_one_machine_wait_for_different_times(names):
    def patience(name: str) -> float:
        load, now = Load(name), 0.0
        while not load.sheds(now):
            now += 0.01
            load.seen(FULL, now)
        return now

    first, second = map(patience, names)
    assert first >= HOLD_S + SHED_S
    assert second >= HOLD_S + SHED_S
    assert first <= HOLD_S + 2 * SHED_S + 0.1


class Shedding(RuleBasedStateMachine):
    """Whatever is seen: never what may run once only, one at a time, and nothing while there is room."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.running: list[RunningStart] = []
        self.number = 0
        self.gone: dict[str, float] = {}

    @rule(preemptible=st.booleans(), checkpointable=st.booleans())
    def begins(self, preemptible: bool, checkpointable: bool) -> None:
        self.number += 1
        self.running.append(RunningStart(str(self.number), preemptible, checkpointable))

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        if self.running:
            self.running.remove(data.draw(st.sampled_from(self.running)))

    @rule(others=st.floats(0, 1), own=st.floats(0, 1), seconds=st.integers(1, 30))
    def time_passes(self, others: float, own: float, seconds: int) -> None:
        machine = MachineSeen(0.0, others, own)
        for _ in range(seconds):
            shed = [one.key for one in self.node.sees(machine, *self.running) if isinstance(one, Shed)]
            if shed:
                (key,) = shed
                now = self.node.now
                assert machine.pressed >= 0.97
                assert next(one for one in self.running if one.key == key).preemptible
                assert not any(one.key in self.gone for one in self.running)
                assert all(now - at >= SHED_S for at in self.gone.values())
                self.gone[key] = now

    @invariant()
    def holds(self) -> None:
        self.node.governor.validate()


TestShedding = Shedding.TestCase
