"""`ioi simulate` as it is used before machines are bought: what if there were more of them, and how fair it would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.cli_simulate import with_nodes
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.model.placement import Edge, Link, Step
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.topology import NodeSpec, Topology
from ioi_dagster.simulate.fairness import Fairness, jain
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.knowledge import Known
from ioi_dagster.simulate.scenario import Scenario, Workflow, WorkflowStep, decode, grid
from ioi_dagster.simulate.world import Report, World, simulate
from tests.quotas import share
from tests.scenario.guide import GUIDE, Block, answered, blocks


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *arguments])


def sizes(topology: Topology) -> dict[str, int]:
    return {cluster.name: len(cluster.nodes) for domain in topology.domains for cluster in domain.clusters}


# What if --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["c0=+4"], {"c0": 6, "c1": 2}),
        (["c1=-1"], {"c0": 2, "c1": 1}),
        (["c0=7", "c0=+1", "c1=-1"], {"c0": 8, "c1": 1}),
        (["all=+1"], {"c0": 3, "c1": 3}),
    ],
)
def test_clusters_get_more_or_fewer_nodes(changes: list[str], expected: dict[str, int]) -> None:
    assert sizes(with_nodes(grid(2, 2), changes)) == expected


def test_new_nodes_are_as_the_last_one_and_those_that_were_there_stay() -> None:
    topology = grid(1, 1)
    (domain,) = topology.domains
    (cluster,) = domain.clusters
    nodes = (NodeSpec("small", 1), NodeSpec("large", 8, resources=(("gpu", 2.0),)))
    topology = replace(topology, domains=(replace(domain, clusters=(replace(cluster, nodes=nodes),)),))
    changed = with_nodes(topology, ["c0=+1"]).domains[0].clusters[0].nodes
    assert changed == (*nodes, replace(nodes[1], name="c0.added-1"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("c9=+1", "'c9=\\+1' is no change of a cluster's nodes"),
        ("c0", "'c0' is no change"),
        ("c0=+x", "is no change"),
        ("c0=-2", "c0 would have 0 nodes"),
        ("c0=0", "c0 would have 0 nodes"),
        ("all=9999999", "would have 9,999,999 nodes"),
    ],
)
def test_a_change_that_is_none_is_named(change: str, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        with_nodes(grid(2, 2), [change])


def test_two_federations_run_the_same_workflows_and_stand_side_by_side() -> None:
    result = invoke("2x2", "bag:2x40", "--nodes", "c0=+4", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told.keys() == {"2x2", "c0=+4"}
    assert [its["done"] for its in told.values()] == [80, 80]
    assert told["c0=+4"]["makespan_s"] < told["2x2"]["makespan_s"]
    # The first of them is what is simulated by itself.
    assert told["2x2"] == json.loads(invoke("2x2", "bag:2x40", "--json").stdout)
    table = invoke("2x2", "bag:2x40", "--against", "4x2")
    assert table.exit_code == 0
    assert table.stdout.split()[:4] == ["┃", "2x2", "┃", "4x2"]
    assert {f"{its['makespan_s']:,.1f}" for its in told.values()} & set(table.stdout.split())


@pytest.mark.parametrize("changes", [("--nodes", "all=+4"), ("--against", "2x3")])
def test_two_federations_run_the_same_workflows_with_the_same_durations(changes: tuple[str, str]) -> None:
    told = json.loads(invoke("3x2", "layers:3x20", *changes, "--json").stdout)
    (one, other) = ({name: its["slot_s"] for name, its in told[key]["tenants"].items()} for key in told)
    assert one == pytest.approx(other, abs=0.01)
    other_seed = json.loads(invoke("3x2", "layers:3x20", "--seed", "1", "--json").stdout)
    assert other_seed["tenants"]["default"]["slot_s"] != pytest.approx(one["default"], rel=0.001)


def test_a_step_takes_another_time_at_each_of_its_starts_within_the_noise() -> None:
    bag = Workflow("w", {"s": WorkflowStep(2.0)})
    world = World(Scenario(grid(1, 1), (bag,), noise=0.5), checked=True, tell=lambda *_: None)
    drawn = sorted(world.noise(run, "s", start) for run in ("w", "v") for start in range(1, 101))
    assert len(set(drawn)) == 200
    assert (drawn[0], drawn[-1]) == (pytest.approx(0.61, abs=0.03), pytest.approx(1.65, abs=0.1))


def test_a_comparison_is_not_saved(tmp_path: Path) -> None:
    result = invoke("2x2", "bag:1x4", "--nodes", "c0=+1", "--save", str(tmp_path / "s.json"))
    assert "neither saved nor replayed" in str(result.exception)


# How fair -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.01, 100))
def test_jain_lies_between_one_for_all_and_all_alike_and_knows_no_unit(shares: list[float], unit: float) -> None:
    index = jain(shares)
    assert 1 / len(shares) - 1e-9 <= index <= 1 + 1e-9
    assert jain([share * unit for share in shares]) == pytest.approx(index, abs=1e-6)
    assert jain([1.0] * len(shares)) == pytest.approx(1.0)
    assert jain([1.0] + [0.0] * (len(shares) - 1)) == pytest.approx(1 / len(shares))


def test_who_waits_twice_in_a_row_is_looked_at_by_weight() -> None:
    fairness = Fairness({"heavy": 3.0})
    fairness.look({"heavy": 1, "light": 1}, {"heavy": 3, "light": 1})
    assert fairness.index is None
    fairness.look({"heavy": 1, "light": 1}, {"heavy": 3, "light": 1})
    assert fairness.index == 1.0
    fairness.look({"heavy": 1, "light": 1, "new": 5}, {"heavy": 3, "light": 0, "new": 0})
    assert fairness.index == 0.75
    fairness.look({"heavy": 0, "light": 1}, {"heavy": 3})
    assert fairness.index == 0.75


def shared(weight: float) -> Report:
    """Two tenants with more than enough to do, one of which has `weight`."""
    flood = {f"s{number}": WorkflowStep(2.0) for number in range(120)}
    topology = grid(2, 6)
    domains = tuple(
        replace(
            domain, clusters=tuple(replace(c, quotas=QuotaTree.flat((share("b", weight),))) for c in domain.clusters)
        )
        for domain in topology.domains
    )
    flows = (Workflow("a", flood, tenant="a"), Workflow("b", flood, tenant="b", domain="d1"))
    return simulate(Scenario(replace(topology, domains=domains), flows, noise=0.3))


def test_two_tenants_that_want_everything_get_their_shares() -> None:
    for weight in (1.0, 3.0):
        report = shared(weight)
        assert report.fairness is not None
        # Alike whatever the weights, two tenants would have 0.8 at weights of 1 and 3.
        assert report.fairness > 0.9, weight


def test_nobody_is_unfair_to_somebody_alone() -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(2.0) for number in range(60)})
    assert simulate(Scenario(grid(2, 6), (bag,))).fairness is None


# Budgets and deadlines ------------------------------------------------------------------------------------------------


def test_a_workflow_that_ends_after_its_deadline_is_named_with_how_late_it_was(tmp_path: Path) -> None:
    """Each takes four seconds on one slot, and they come one after the other."""
    bag = {f"s{number}": WorkflowStep(2.0) for number in range(2)}
    runs = tuple(Workflow(f"w{n}", bag, 100.0 * n, deadline=due) for n, due in enumerate((3.0, 60.0, None)))
    report = simulate(Scenario(grid(1, 1), runs))
    assert (report.done, report.late.keys(), report.violations) == (6, {"w0"}, ())
    assert report.late["w0"] == pytest.approx(1.0, abs=0.3)
    assert report.late["w0"] == pytest.approx(report.workflows["w0"] - 3.0)
    file = tmp_path / "w.json"
    file.write_text(json.dumps([{"name": "monday", "deadline": 3, "steps": {"a": {"seconds": 5}}}]))
    assert "monday by 2." in invoke("1x1", str(file), "--noise", "0").stdout


def test_a_workflow_spends_no_more_than_its_budget_and_steps_that_find_nothing_within_it_fail() -> None:
    chain = {f"s{number}": WorkflowStep(2.0, (f"s{number - 1}",) if number else ()) for number in range(4)}
    poor, rich = Workflow("poor", chain, budget=4.0), Workflow("rich", chain, 100.0, budget=1_000.0)
    report = simulate(Scenario(grid(1, 1), (poor, rich, Workflow("any", chain, 200.0))))
    # Each start takes all that the cluster has, whose price is then half as much again as the credit that it asks when idle.
    assert (report.done, report.failures, report.violations) == (4 + 4 + 2, {"flow.budget": 2}, ())
    assert "the run may spend 4 credits and has spent 3; the least offer is 1.5" in report.reasons["flow.budget"]
    assert report.spent == {"poor": 3.0, "rich": 6.0}


def test_a_process_that_goes_on_with_a_run_knows_what_was_spent() -> None:
    chain = {f"s{number}": WorkflowStep(2.0, (f"s{number - 1}",) if number else ()) for number in range(4)}
    killed = Fault(3.0, FaultKind.RUN_KILLED, "poor", 1.0)
    report = simulate(Scenario(grid(1, 1), (Workflow("poor", chain, budget=4.0),), (killed,)))
    # The second step was under way: what it cost is gone, and what is left is not enough to begin it once more.
    assert (report.done, report.starts, report.failures) == (1, 2, {"flow.budget": 3})
    assert report.spent == {"poor": 3.0}


# What runs know ------------------------------------------------------------------------------------------------------


(HOME, AWAY) = with_nodes(grid(2, 2), ["all=@2"]).domains
LARGE = tuple(replace(node, resources=(("gpu", 1.0), ("memory", 8.0))) for node in HOME.clusters[0].nodes)
HOME = replace(HOME, clusters=(replace(HOME.clusters[0], nodes=LARGE),))
TWICE_AS_FAST = Topology("grid", "d0", (HOME, AWAY))


def graphs_known(
    monkeypatch: pytest.MonkeyPatch, *workflows: Workflow, known: Known, topology: Topology = TWICE_AS_FAST
) -> list[GraphKnown]:
    """What each process is told at its start."""
    told: list[GraphKnown] = []
    handle = FlowGovernor.handle

    def listening(its: FlowGovernor, event: Any, now: float, more: bool = False) -> Any:
        told.extend([event] if isinstance(event, GraphKnown) else [])
        return handle(its, event, now, more)

    monkeypatch.setattr(FlowGovernor, "handle", listening)
    report = simulate(Scenario(topology, workflows, bandwidth=1e8, known=known))
    assert (report.failed, report.violations) == (0, ())
    return told


MAPPED = {
    "read": WorkflowStep(2.0, resources={"gpu": 1.0, "memory": 3.0}),
    "scan[a]": WorkflowStep(4.0, ("read",), inputs={"read": 1e8}),
    "scan[b]": WorkflowStep(8.0, ("read",), reads=1e8),
}


def test_a_run_knows_its_graph_by_op_and_no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what a step reads from outside."""
    (told,) = graphs_known(monkeypatch, Workflow("w", MAPPED), known=Known.DECLARED)
    assert told == GraphKnown(
        (
            Step("read", 0.0, memory=3.0, gpus=1.0, kind="read", capability="work", through="d0", makes=1e8),
            Step("scan[a]", 0.0, kind="scan", capability="work", through="d0", brings=1e8),
            Step("scan[b]", 0.0, kind="scan", capability="work"),
        ),
        (Edge("read", "scan[a]"), Edge("read", "scan[b]")),
        kinds=(("read", 2.0), ("scan", 6.0)),
    )


def test_a_run_knows_the_links_that_the_topology_tells_of_its_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    its, others = (Link("d0", "d1", 0.1, 1e8), Link("d1", "d0", 0.1, 1e8)), (Link("d1", "d1", 0.0, 1e9),)
    topology = replace(TWICE_AS_FAST, links=(*its, *others))
    (told,) = graphs_known(monkeypatch, Workflow("w", MAPPED), known=Known.DECLARED, topology=topology)
    assert told.links == its


@pytest.mark.parametrize(("bandwidth", "moved"), [(1e9, 2e9), (5e6, 0.0)])
def test_steps_go_where_machines_are_faster_unless_the_topology_tells_of_a_slow_link(
    bandwidth: float, moved: float
) -> None:
    links = tuple(Link(one, other, 0.01, bandwidth) for one, other in (("d0", "d1"), ("d1", "d0")))
    topology = replace(with_nodes(grid(2, 1), ["c1=@4"]), links=links)
    read = {"s": WorkflowStep(60.0, reads=2e9)}
    report = simulate(Scenario(topology, (Workflow("w", read),)))
    assert (report.done, report.bytes_between, report.violations) == (1, moved, ())
    assert report.makespan_s == pytest.approx(60.0 if not moved else 15.0 + 2.0, abs=0.3)


def test_a_run_knows_what_earlier_runs_of_its_job_took_where_it_is_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"a": WorkflowStep(2.0, writes=2e9), "b": WorkflowStep(6.0, ("a",), inputs={"a": 1e9})}
    runs = tuple(Workflow(f"w{n}", one, 90.0 * n, job="nightly") for n in range(3))
    others = Workflow("other", one, 180.0), Workflow("elsewhere", one, 180.0, domain="d1", job="nightly")
    first, second, third, *rest = graphs_known(monkeypatch, *runs, *others, known=Known.LEARNT)
    assert (first.kinds, [its.kinds for its in rest]) == ((), [(), ()])
    for told in (second, third):
        # On nodes that are twice as fast as what is declared is meant for; the time in which values move is no work.
        assert dict(told.kinds) == pytest.approx({"a": 1.0, "b": 3.0}, abs=0.1)
        assert {step.id: (step.through, step.brings, step.makes) for step in told.steps} == {
            "a": ("d0", 0.0, 2e9),
            "b": ("d0", 2e9, 0.0),
        }
    assert {(step.through, step.brings, step.makes) for its in (first, *rest) for step in its.steps} == {("", 0, 0)}


@pytest.mark.parametrize(("bandwidth", "moved", "ends"), [(5e7, 0.0, 20.0), (1e9, 2e9, 5.0 + 2.0)])
def test_what_earlier_runs_made_keeps_a_step_from_where_that_would_take_too_long_to_come_from(
    bandwidth: float, moved: float, ends: float
) -> None:
    links = tuple(Link(one, other, 0.01, bandwidth) for one, other in (("d0", "d1"), ("d1", "d0")))
    topology = replace(with_nodes(grid(2, 1), ["c1=@4"]), links=links)
    report = simulate(Scenario(topology, (Workflow("w", {"s": WorkflowStep(20.0, writes=2e9)}),)))
    assert (report.done, report.bytes_between, report.violations) == (1, moved, ())
    assert report.makespan_s == pytest.approx(ends, abs=0.3)


def test_a_store_hides_how_much_steps_make_from_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[GraphKnown] = []
    handle = FlowGovernor.handle

    def listening(its: FlowGovernor, event: Any, now: float, more: bool = False) -> Any:
        told.extend([event] if isinstance(event, GraphKnown) else [])
        return handle(its, event, now, more)

    monkeypatch.setattr(FlowGovernor, "handle", listening)
    simulate(Scenario(TWICE_AS_FAST, (Workflow("w", MAPPED),), bandwidth=1e8, store="d1"))
    assert {(step.through, step.brings, step.makes) for its in told for step in its.steps} == {("", 0, 0)}


def test_what_is_known_of_steps_is_said_by_a_word(tmp_path: Path) -> None:
    saved = tmp_path / "s.json"
    told = invoke("2x2", "bag:2x4", "--known", "learnt", "--store", "d1", "--save", str(saved), "--json")
    assert told.exit_code == 0, told.output
    scenario = decode(saved, Scenario)
    assert (scenario.known, scenario.store) == (Known.LEARNT, "d1")
    assert "'guessed'" in str(invoke("2x2", "bag:2x4", "--known", "guessed").exception)


# Steps that may run once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "target"),
    [(FaultKind.NODE_KILLED, "n0.0"), (FaultKind.SCHEDULER_KILLED, "c0"), (FaultKind.RUN_KILLED, "w")],
)
def test_what_may_run_once_only_fails_where_nobody_knows_what_became_of_it(kind: FaultKind, target: str) -> None:
    workflow = Workflow("w", {"pay": WorkflowStep(5.0, effect=Effect.AT_MOST_ONCE)})
    report = simulate(Scenario(grid(1, 1), (workflow,), (Fault(2.0, kind, target, 1.0),)))
    assert (report.failures, report.starts, report.violations) == ({"flow.at_most_once": 1}, 1, ())


# Gangs, resources, copies --------------------------------------------------------------------------------------------


def training(**more: Any) -> Workflow:
    gang = {f"g{number}": WorkflowStep(5.0, ("prepare",), gang="train", **more) for number in range(4)}
    return Workflow("w", {"prepare": WorkflowStep(1.0), **gang, "end": WorkflowStep(1.0, tuple(gang))})


def test_a_gang_starts_together_and_is_stopped_and_started_again_together() -> None:
    calm = simulate(Scenario(grid(2, 4), (training(),)))
    assert (calm.done, calm.starts, calm.violations) == (6, 6, ())
    hit = tuple(Fault(3.0, FaultKind.NODE_KILLED, f"n{number}.0", 1.0) for number in range(2))
    report = simulate(Scenario(grid(2, 4), (training(),), hit))
    assert (report.done, report.starts, report.violations) == (6, 10, ())


def test_a_gang_of_which_a_part_was_committed_goes_on_after_its_run_process_died() -> None:
    quick = {key: replace(step, seconds=2.0 if key == "g0" else step.seconds) for key, step in training().steps.items()}
    fault = Fault(4.0, FaultKind.RUN_KILLED, "w", 1.0)
    report = simulate(Scenario(grid(2, 4), (Workflow("w", quick),), (fault,)))
    assert (report.done, report.failed, report.violations) == (6, 0, ())
    assert report.starts == 6 + 3


def test_what_nodes_have_of_a_resource_is_not_used_twice() -> None:
    (domain,) = grid(1, 1).domains
    cluster = replace(domain.clusters[0], nodes=(NodeSpec("a", 4, resources=(("gpu", 1.0),)), NodeSpec("b", 4)))
    topology = Topology("net", "d0", (replace(domain, clusters=(cluster,)),))
    bag = Workflow("bag", {f"s{number}": WorkflowStep(2.0, resources={"gpu": 1.0}) for number in range(3)})
    assert 6.0 < simulate(Scenario(topology, (bag,))).makespan_s < 6.5


def test_a_late_step_has_a_copy_where_it_may_and_one_of_the_two_counts() -> None:
    slow = (Fault(3.0, FaultKind.NODE_SLOW, "n0.0", 100.0, 20.0),)

    def ends(copies: int) -> Report:
        steps = {f"s[{number}]": WorkflowStep(2.0, copies=copies) for number in range(40)}
        return simulate(Scenario(grid(2, 4), (Workflow("w", steps),), slow))

    without, with_ = ends(0), ends(1)
    assert (without.done, with_.done, without.violations, with_.violations) == (40, 40, (), ())
    assert with_.makespan_s < 25 < without.makespan_s


# Anybody can repeat it ------------------------------------------------------------------------------------------------


def test_hash_seeds_decide_nothing() -> None:
    command = [sys.executable, "-m", "ioi_dagster.cli", "simulate", "12x3", "layers:6x30", "--faults", "40", "--json"]

    def told(hash_seed: str) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    assert told("1") == told("2")


@pytest.mark.parametrize("block", blocks(GUIDE.read_text()), ids=lambda block: block.command)
def test_simulations_end_as_the_guide_says(block: Block) -> None:
    # Where governors decide otherwise than they did, `python -m tests.scenario.guide` has the guide say what they decide now.
    assert [line.split() for line in block.answer] == [line.split() for line in answered(block.command)]


def test_the_guide_shows_a_comparison_with_fast_nodes_and_a_large_federation() -> None:
    assert [block.command.split()[2] for block in blocks(GUIDE.read_text())] == ["5x4", "5x4", "100x4"]
