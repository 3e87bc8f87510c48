"""Late copies in the simulator, which is where many seeds and faults are cheap: what a slow or frozen node costs a run."""

from __future__ import annotations

import pytest

from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.scenario import Scenario, Workflow, WorkflowStep, grid
from ioi_dagster.simulate.world import Report, simulate

STEPS, SECONDS = 12, 2.0


def run(copies: int, *faults: Fault, seed: int = 0, noise: float = 0.1) -> Report:
    """Steps of one op on eight nodes, and one that needs all of them."""
    steps = {f"read[{number}]": WorkflowStep(SECONDS, copies=copies) for number in range(STEPS)}
    whole = Workflow("w", {**steps, "total": WorkflowStep(0.1, tuple(steps))})
    return simulate(Scenario(grid(1, 8), (whole,), faults, seed, noise))


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_of_a_step_on_a_slow_node_saves_the_run_most_of_what_that_costs(seed: int) -> None:
    slow = Fault(0.0, FaultKind.NODE_SLOW, "n0.0", 1e6, 20.0)
    alone, copied = run(0, slow, seed=seed), run(1, slow, seed=seed)
    assert (alone.violations, copied.violations) == ((), ())
    assert (alone.done, copied.done) == (STEPS + 1, STEPS + 1)
    assert alone.makespan_s > 30.0
    assert copied.makespan_s < 12.0
    assert (alone.starts, copied.starts) == (STEPS + 1, STEPS + 2)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_befalls_nodes_meanwhile_each_step_counts_once(seed: int) -> None:
    """The world checks every governor after each event, and that no step is committed twice or under an old fence."""
    faults = (
        Fault(0.0, FaultKind.NODE_SLOW, f"n0.{seed % 8}", 1e6, 10.0),
        Fault(1.0 + seed % 5, FaultKind.NODE_KILLED, f"n0.{(seed + 3) % 8}", 2.0),
        Fault(5.0 + seed % 7, FaultKind.NODE_KILLED, f"n0.{(seed + 1) % 8}", 2.0),
        Fault(6.0 + seed % 3, FaultKind.NODE_FROZEN, f"n0.{(seed + 5) % 8}", 3.0),
        Fault(7.0 + seed % 4, FaultKind.RUN_KILLED, "w", 1.0),
    )
    report = run(1, *faults, seed=seed, noise=0.6)
    assert (report.done, report.failed, report.violations) == (STEPS + 1, 0, ())


def test_steps_that_take_their_usual_time_are_not_copied() -> None:
    for seed in range(10):
        report = run(1, seed=seed, noise=0.3)
        assert (report.starts, report.done) == (STEPS + 1, STEPS + 1)
