"""Steps of a simulation that call blocks go through block governors: replicas load, are full, idle, and lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ioi_dagster.governors.block import BlockGovernor, ReplicaState
from ioi_dagster.model.capability import BlockSpec, Contract, Isolate
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.replicas import Replicas
from ioi_dagster.simulate.scenario import Scenario, Workflow, WorkflowStep, grid
from ioi_dagster.simulate.world import Report, simulate
from tests.scenario.swarm import WITH_BLOCKS, scenario


def scans(count: int, seconds: float = 2.0, chained: bool = False, **more: Any) -> Workflow:
    """Steps that call a block."""
    needs = [(f"s{number - 1}",) if chained and number else () for number in range(count)]
    steps = {f"s{n}": WorkflowStep(seconds, needs[n], capability="scan", **more) for n in range(count)}
    return Workflow("scans", steps)


def called(*workflows: Workflow, slots: int = 4, faults: tuple[Fault, ...] = (), **its: Any) -> Report:
    """One node with a block that lives as `its` says; where something strikes, two."""
    topology = grid(2 if faults else 1, 1, slots)
    offered = {"capabilities": ("work", "scan"), "blocks": {"scan": Replicas(**its)}}
    return simulate(Scenario(topology, workflows, faults, **offered))


def test_of_what_a_scenario_does_not_say_a_block_has_what_its_spec_would() -> None:
    limits = {"timeout_s": 0.0, "load_timeout_s": 0.0}
    assert Replicas().spec("scan") == BlockSpec(
        "scan", "1", "scan", "simulated:Block", Contract("scan", "scan"), **limits
    )


def test_the_first_call_of_a_block_waits_until_a_replica_has_loaded_and_the_next_find_it_there() -> None:
    assert 4.0 < called(scans(2, chained=True)).makespan_s < 4.5
    cold = called(scans(2, chained=True), loads_s=10.0)
    assert (cold.done, cold.starts, cold.violations) == (2, 2, ())
    assert 14.0 < cold.makespan_s < 14.5


def test_a_replica_that_was_idle_for_too_long_is_loaded_again() -> None:
    pause = {"p": WorkflowStep(5.0, ("s0",)), "s1": WorkflowStep(2.0, ("p",), capability="scan")}
    paused = Workflow("w", {"s0": WorkflowStep(2.0, capability="scan"), **pause})
    assert 19.0 < called(paused, loads_s=10.0, idle_s=6.0).makespan_s < 19.8
    assert 29.0 < called(paused, loads_s=10.0, idle_s=4.0).makespan_s < 29.8


@pytest.mark.parametrize(("replicas", "concurrency", "seconds"), [(1, 1, 8.0), (2, 1, 4.0), (1, 4, 2.0), (9, 1, 2.0)])
def test_a_node_calls_its_block_as_often_at_once_as_its_replicas_take(
    replicas: int, concurrency: int, seconds: float
) -> None:
    report = called(scans(4), replicas=replicas, concurrency=concurrency)
    assert (report.done, report.starts) == (4, 4)
    assert seconds < report.makespan_s < seconds + 0.5


def test_a_call_too_many_is_refused_and_placed_again_until_there_is_room_for_it() -> None:
    report = called(scans(4), max_queue=1)
    assert (report.done, report.failed, report.violations) == (4, 0, ())
    assert report.starts > 4
    assert 8.0 < report.makespan_s < 12.0


def test_a_block_is_cold_where_a_node_begins_anew() -> None:
    killed = Fault(13.0, FaultKind.NODE_KILLED, "n0.0", 1.0)
    report = called(scans(1, 5.0), faults=(killed, replace(killed, target="n1.0")), loads_s=10.0)
    assert (report.done, report.starts, report.violations) == (1, 2, ())
    assert 29.0 < report.makespan_s < 31.0, "13 s in vain, a second, 10 s of loading and 5 s"


def test_a_call_that_takes_down_its_replica_takes_nothing_else_with_it() -> None:
    poison = Fault(0.0, FaultKind.POISON, "scans|s0", 1_000.0)
    others = Workflow("others", {f"o{number}": WorkflowStep(30.0) for number in range(3)})
    report = called(scans(1), others, faults=(poison,), isolate=Isolate.PROCESS, max_failures=2, rest_s=1.0)
    assert (report.done, report.failures, report.violations) == (3, {"flow.poison_step": 1}, ())
    (reason,) = report.reasons.values()
    assert "the replica of scan was lost during the call" in reason
    thread = called(scans(1), others, faults=(poison,))
    assert thread.starts > report.starts, "a thread takes down its node, and what runs beside it"


def test_where_calls_failed_in_a_row_none_is_taken_until_the_block_has_rested() -> None:
    poison = Fault(0.0, FaultKind.POISON, "scans|s0", 1_000.0)
    later = replace(scans(1), name="later", arrives=5.0)
    report = called(scans(1), later, faults=(poison,), isolate=Isolate.PROCESS, max_failures=1, rest_s=20.0)
    assert (report.done, report.failures, report.violations) == (1, {"flow.poison_step": 1}, ())
    assert 15.0 < report.workflows["later"] < 25.0, "both nodes rest for 20 s, and it comes 5 s after the last failure"
    unmoved = called(scans(1), later, faults=(poison,), isolate=Isolate.PROCESS, max_failures=100)
    assert (unmoved.done, unmoved.failures) == (1, {"flow.poison_step": 1})
    assert unmoved.workflows["later"] < 3.0


def test_a_node_that_stands_still_loads_and_answers_when_it_goes_on() -> None:
    held = Fault(3.0, FaultKind.INTERPRETER_HELD, "n0.0", 12.0)
    still = replace(held, target="n1.0")
    report = called(scans(1, 5.0), faults=(held, still), loads_s=10.0)
    assert (report.done, report.starts, report.violations) == (1, 1, ())
    assert 20.0 < report.makespan_s < 20.5, "what should have loaded after 10 s has after 15 s"


def test_a_block_governor_that_is_broken_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy_too(self: BlockGovernor, version: Any) -> Any:
        return next(
            (one for one in version.replicas.values() if one.state in (ReplicaState.IDLE, ReplicaState.BUSY)), None
        )

    monkeypatch.setattr(BlockGovernor, "_free", busy_too)
    seeds = range(WITH_BLOCKS, WITH_BLOCKS + 5)
    assert any("BlockGovernor: scan@1/" in text for seed in seeds for text in simulate(scenario(seed)).violations)


def test_a_scenario_with_blocks_always_ends_the_same_way() -> None:
    assert simulate(scenario(WITH_BLOCKS + 1)) == simulate(scenario(WITH_BLOCKS + 1))
