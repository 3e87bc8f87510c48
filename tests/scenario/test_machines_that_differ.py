"""Nodes of other speeds, data that has to be moved, workflows of other shapes and from traces: what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.cli_simulate import with_nodes
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import StepEnded
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.placement import Link
from ioi_dagster.model.topology import NodeSpec, Topology
from ioi_dagster.simulate import families, traces
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.scenario import Scenario, Workflow, WorkflowStep, grid
from ioi_dagster.simulate.traces import read_traces
from ioi_dagster.simulate.transfers import Transfers
from ioi_dagster.simulate.world import Report, simulate

MB = 1e6


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *arguments])


def faster(topology: Topology, **speeds: float) -> Topology:
    """With these speeds of all nodes of these clusters."""
    return with_nodes(topology, [f"{cluster}=@{speed:g}" for cluster, speed in speeds.items()])


# Speeds ---------------------------------------------------------------------------------------------------------------


def test_a_step_takes_its_part_of_the_time_on_a_faster_node() -> None:
    (step,) = (Workflow("w", {"a": WorkflowStep(10.0)}),)
    ends = [simulate(Scenario(faster(grid(1, 1), c0=speed), (step,))).makespan_s for speed in (1.0, 4.0, 0.5)]
    assert [round(end) for end in ends] == [10, 3, 20]


def test_fast_nodes_get_the_long_steps_of_a_graph() -> None:
    """On the fast node the long chain takes 10 s, on the other 40."""
    chain = {f"long-{n}": WorkflowStep(10.0, (f"long-{n - 1}",) if n else ()) for n in range(4)}
    brief = {f"brief-{n}": WorkflowStep(2.0) for n in range(4)}
    report = simulate(Scenario(faster(grid(2, 1), c1=4.0), (Workflow("w", {**brief, **chain}),)))
    assert (report.done, report.violations) == (8, ())
    assert report.makespan_s < 15.0


def test_who_may_not_take_a_step_is_not_waited_for_where_no_other_could() -> None:
    """One domain has no such machine, the other may not see the data: neither is away, so nothing will change."""
    topology = grid(2, 1)
    public = replace(topology.domains[1], handles=DataClass.PUBLIC)
    step = WorkflowStep(1.0, resources={"tpu": 1.0}, data_class=DataClass.INTERNAL)
    its = Scenario(replace(topology, domains=(topology.domains[0], public)), (Workflow("w", {"s": step}),))
    report = simulate(its)
    assert [str(code) for code in report.reasons] == ["flow.never"]
    assert report.makespan_s < 60.0


def test_a_simulation_on_slow_nodes_is_given_its_time() -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(100.0) for number in range(4)})
    report = simulate(Scenario(faster(grid(1, 1), c0=0.1), (bag,)), checked=False)
    assert (report.done, report.violations) == (4, ())


@pytest.mark.parametrize(
    ("change", "expected"),
    [("c0=+2@2", [1.0, 1.0, 2.0, 2.0]), ("c0=@0.5", [0.5, 0.5]), ("c0=3@4", [1.0, 1.0, 4.0]), ("c0=1@4", [1.0])],
)
def test_nodes_are_added_or_changed_with_their_speed(change: str, expected: list[float]) -> None:
    changed = with_nodes(grid(2, 2), [change])
    assert [node.speed for node in changed.domains[0].clusters[0].nodes] == expected
    assert changed.domains[1] == grid(2, 2).domains[1]


def test_nodes_that_are_added_twice_have_names_of_their_own() -> None:
    (cluster,) = with_nodes(grid(1, 1), ["c0=+1@2", "c0=+2"]).domains[0].clusters
    assert len({node.name for node in cluster.nodes}) == 4


@pytest.mark.parametrize("change", ["c0=", "c0=@", "c0=@0", "c0=+1@5000", "c0=+1@x"])
def test_a_speed_that_is_none_is_named(change: str) -> None:
    with pytest.raises(BadInputError, match=r"is no (change|speed)"):
        with_nodes(grid(1, 1), [change])


# Transfers ------------------------------------------------------------------------------------------------------------


def two_domains(step: WorkflowStep, **more: Any) -> Report:
    """A step of data that only the second domain may see, of a run of the first."""
    first, second = grid(2, 1).domains
    domains = (replace(first, handles=DataClass.PUBLIC), second)
    workflow = Workflow("w", {"a": replace(step, data_class=DataClass.INTERNAL)}, domain="d0")
    return simulate(Scenario(Topology("net", "d0", domains), (workflow,), **more))


def test_what_lies_in_another_domain_is_moved_at_its_bandwidth() -> None:
    step = WorkflowStep(1.0, reads=100 * MB)
    slow = two_domains(step, bandwidth=10 * MB)
    assert (round(slow.makespan_s), slow.bytes_between, slow.bytes_inside) == (11, 100 * MB, 0)
    link = Link("d0", "d1", 3.0, 100 * MB)
    assert round(two_domains(step, bandwidth=10 * MB, links=(link,)).makespan_s) == 5
    free = two_domains(step)
    assert (round(free.makespan_s), free.bytes_between) == (1, 100 * MB)


def test_a_chain_whose_values_are_heavy_stays_in_the_domain_of_its_run() -> None:
    chain = {f"s{n}": WorkflowStep(1.0, (f"s{n - 1}",) if n else ()) for n in range(6)}
    heavy = {key: replace(step, inputs=dict.fromkeys(step.needs, 1_000 * MB)) for key, step in chain.items()}
    report = simulate(Scenario(grid(4, 1), (Workflow("w", heavy, domain="d2"),), bandwidth=10 * MB))
    # The first step reads nothing, and may run anywhere.
    assert report.bytes_between <= 1_000 * MB <= 9_000 * MB <= report.bytes_inside
    assert report.makespan_s < 6.0 + 100.0 + 2.0


def there_and_back(**more: Any) -> Report:
    """Two steps that only the second domain may take, of a run of the first; the second reads what the first makes."""
    first, second = grid(2, 1).domains
    topology = Topology("net", "d0", (replace(first, handles=DataClass.PUBLIC), second))
    made = WorkflowStep(1.0, data_class=DataClass.INTERNAL)
    steps = {"a": made, "b": replace(made, needs=("a",), inputs={"a": 100 * MB})}
    return simulate(Scenario(topology, (Workflow("w", steps, domain="d0"),), bandwidth=10 * MB, **more))


def test_values_go_to_the_process_of_their_run_and_from_there_to_who_reads_them() -> None:
    report = there_and_back()
    assert (report.bytes_between, report.bytes_inside, report.violations) == (200 * MB, 0, ())
    assert round(report.makespan_s) == 1 + 10 + 10 + 1
    assert report.utilisation == pytest.approx(0.5, abs=0.01), "a slot is taken until what it made is with the run"


def test_values_in_a_store_are_moved_from_and_to_where_that_is() -> None:
    beside = there_and_back(store="d1", inside=100 * MB)
    assert (beside.bytes_between, beside.bytes_inside, beside.violations) == (0, 200 * MB, ())
    assert round(beside.makespan_s) == 1 + 1 + 1 + 1
    assert there_and_back(store="d0").bytes_between == 200 * MB


def test_a_process_that_begins_many_steps_sends_each_all_that_it_reads_and_takes_back_what_it_makes() -> None:
    made = {key: WorkflowStep(2.0) for key in ("a", "b")}
    total = WorkflowStep(1.0, ("a", "b"), inputs={"a": 50 * MB, "b": 20 * MB}, reads=10 * MB, writes=30 * MB)
    report = simulate(Scenario(grid(1, 2), (Workflow("w", {**made, "total": total}),), inside=10 * MB))
    assert (report.bytes_between, report.bytes_inside) == (0, (50 + 20 + 80 + 30) * MB)
    assert round(report.makespan_s) == 2 + 5 + 8 + 1 + 3


def test_what_a_step_learns_its_run_is_how_long_it_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node tells how long the code took; how long its values took is between it and the run."""
    told: list[float] = []
    handle = FlowGovernor.handle

    def listening(its: FlowGovernor, event: Any, now: float, more: bool = False) -> Any:
        told.extend([event.seconds] if isinstance(event, StepEnded) else [])
        return handle(its, event, now, more)

    monkeypatch.setattr(FlowGovernor, "handle", listening)
    there_and_back()
    assert told == pytest.approx([1.0, 1.0])


SIZES = st.lists(
    st.tuples(st.sampled_from(["d0", "d1"]), st.sampled_from(["", "x", "y"]), st.floats(0, 1e9)), max_size=6
)


@given(SIZES, st.sampled_from([0.0, 1e6, 1e9]), st.sampled_from([0.0, 1e7]))
def test_every_byte_is_moved_or_was_there_and_more_takes_no_less(
    inputs: list[tuple[str, str, float]], bandwidth: float, inside: float
) -> None:
    transfers = Transfers(Scenario(grid(2, 1), (), bandwidth=bandwidth, inside=inside))
    read = [((domain, node), size) for domain, node, size in inputs]
    took = transfers.move(read, ("d0", "x"))
    there = sum(size for spot, size in read if spot == ("d0", "x"))
    whole = sum(size for _, size in read)
    assert transfers.between + transfers.inside + there == pytest.approx(whole)
    assert took <= transfers.seconds([*read, (("d1", "z"), 1e9)], ("d0", "x"))
    assert took <= transfers.longest(max((size for _, size in read), default=0.0)) + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_whatever_befalls_runs_that_move_data_no_invariant_breaks(seed: int) -> None:
    topology = faster(grid(3, 2), c1=2.0, c2=0.5)
    flows = tuple(families.draw("lanes", 40, n, name=f"w{n}", domain=f"d{n}") for n in range(2))
    kinds = [FaultKind.NODE_KILLED, FaultKind.RUN_KILLED, FaultKind.SCHEDULER_KILLED]
    targets = ["n1.0", "w0", "c1"]
    faults = tuple(Fault(20.0 + seed * 3 + n, kinds[n], targets[n], 5.0) for n in range(3))
    report = simulate(Scenario(topology, flows, faults, seed, 0.3, bandwidth=20 * MB, inside=100 * MB))
    assert (report.violations, report.failed) == ((), 0)
    assert report.done == sum(len(flow.steps) for flow in flows)
    assert report.bytes_between > 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"links": (Link("d0", "mars", 0.0, 1.0),)}, "a link names 'mars', which is no domain"),
        ({"store": "mars"}, "the store is in 'mars', which is no domain"),
        ({"workflows": (Workflow("w", {"a": WorkflowStep(1.0, inputs={"b": 1.0})}),)}, "step 'a' reads 'b'"),
    ],
)
def test_transfers_that_cannot_be_are_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        simulate(replace(Scenario(grid(1, 1), (Workflow("w", {"a": WorkflowStep(1.0)}),)), **change))


def test_a_scenario_with_speeds_and_bandwidths_is_played_again(tmp_path: Path) -> None:
    saved = tmp_path / "scenario.json"
    told = invoke("2x2", "mosaic:1x30", "--bandwidth", "5MB", "--inside", "1GB", "--save", str(saved), "--json")
    report = json.loads(told.stdout)
    assert report["bytes_between"] + report["bytes_inside"] > 0
    assert json.loads(invoke("--replay", str(saved), "--json").stdout) == report
    assert "moved" in invoke("--replay", str(saved)).stdout


# Families -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("size", [1, 30, 200])
def test_a_family_is_drawn_by_its_seed_and_reads_of_what_it_needs(family: str, size: int) -> None:
    workflow = families.draw(family, size, 1)
    assert families.draw(family, size, 1) == workflow != families.draw(family, size, 2)
    order = {key: number for number, key in enumerate(workflow.steps)}
    for key, step in workflow.steps.items():
        assert step.inputs.keys() == set(step.needs)
        assert all(order[need] < order[key] for need in step.needs)
    assert 0.3 * size <= len(workflow.steps) <= 3 * size + 40
    assert sum(step.reads for step in workflow.steps.values()) > 0 or family in ("archives",)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(families.FAMILIES)), st.integers(0, 10**6))
def test_each_family_runs_to_its_end(family: str, seed: int) -> None:
    workflow = families.draw(family, 12, seed, name="w")
    report = simulate(Scenario(grid(2, 2), (workflow,), seed=seed), checked=False)
    assert (report.done, report.violations) == (len(workflow.steps), ())


# Traces ---------------------------------------------------------------------------------------------------------------


def trace(**change: Any) -> dict[str, Any]:
    specification = {
        "tasks": [
            {
                "name": "a",
                "id": "a_1",
                "parents": [],
                "children": ["b_1"],
                "inputFiles": ["in"],
                "outputFiles": ["x", "y"],
            },
            {"name": "b", "id": "b_1", "parents": ["a_1"], "inputFiles": ["x", "y", "z", "in"], "outputFiles": []},
        ],
        "files": [{"id": "in", "sizeInBytes": 7}, {"id": "x", "sizeInBytes": 10}, {"id": "y", "sizeInBytes": 5}],
    }
    execution = {
        "makespanInSeconds": 9,
        "tasks": [{"id": "a_1", "runtimeInSeconds": 3.5}, {"id": "b_1", "runtimeInSeconds": 4}],
    }
    body = {"specification": specification | change.pop("specification", {}), "execution": execution | change}
    return {"name": "t", "schemaVersion": "1.5", "workflow": body}


def test_a_trace_says_what_ran_how_long_and_what_it_read(tmp_path: Path) -> None:
    below = tmp_path / "family" / "one.json"
    below.parent.mkdir()
    for path in (below, tmp_path / "two.json"):
        path.write_text(json.dumps(trace()))
    steps = {
        "a_1": WorkflowStep(3.5, reads=7.0, writes=15.0),
        "b_1": WorkflowStep(4.0, ("a_1",), inputs={"a_1": 15.0}, reads=7.0, writes=0.0),
    }
    assert read_traces(tmp_path, 2.5, ("red", "blue")) == (
        Workflow("family/one", steps, 0.0, "red"),
        Workflow("two", steps, 2.5, "blue"),
    )
    result = invoke("1x2", "--traces", str(tmp_path), "--every", "100", "--noise", "0", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["workflows"].keys() == {"family/one", "two"}


ONE = {"id": "a_1", "runtimeInSeconds": 1}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not what is asked for: Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        (json.dumps({"workflow": {"tasks": []}}), "missing required field `specification`"),
        (json.dumps(trace(tasks=[ONE])), "how long task 'b_1' ran is not said"),
        (json.dumps(trace(tasks=[ONE | {"runtimeInSeconds": -1}])), "Expected `float` >= 0"),
        (json.dumps(trace(tasks=[ONE | {"runtimeInSeconds": 1e99}])), "Expected `float` <= "),
        (json.dumps(trace(specification={"tasks": []})), "it has no tasks"),
        (json.dumps(trace(specification={"tasks": [{"id": "a_1"}, {"id": "a_1"}]})), "two tasks have one id"),
        (
            json.dumps(trace(specification={"tasks": [{"id": "a_1", "parents": ["q"]}]})),
            "task 'q', which 'a_1' follows, is not there",
        ),
        (json.dumps(trace(specification={"files": [{"id": "x", "sizeInBytes": -1}]})), "Expected `float` >= 0"),
        ("[" * 100_000, "not what is asked for"),
    ],
)
def test_a_file_that_is_no_trace_is_named_with_what_is_wrong(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "good.json").write_text(json.dumps(trace()))
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(BadInputError) as raised:
        read_traces(tmp_path)
    told = str(raised.value)
    assert f"{tmp_path / 'bad.json'}: " in told
    assert what in told
    assert "good.json" not in told


def test_all_bad_traces_are_named_at_once_and_folders_and_files_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInputError, match="no trace in it"):
        read_traces(tmp_path)
    for number in range(25):
        (tmp_path / f"{number:02}.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"(?s)00.json.*19.json.*\nand 5 more"):
        read_traces(tmp_path)
    monkeypatch.setattr(traces, "MAX_FILES", 24)
    with pytest.raises(BadInputError, match="25 traces in it"):
        read_traces(tmp_path)
    monkeypatch.setattr(traces, "MAX_FILES", 25)
    monkeypatch.setattr(traces, "MAX_TRACE_BYTES", 1)
    with pytest.raises(BadInputError, match="a file of over 1 bytes"):
        read_traces(tmp_path)


def test_a_trace_whose_tasks_wait_for_each_other_is_named(tmp_path: Path) -> None:
    tasks = [{"id": "a_1", "parents": ["b_1"]}, {"id": "b_1", "parents": ["a_1"]}]
    (tmp_path / "round.json").write_text(json.dumps(trace(specification={"tasks": tasks})))
    result = invoke("1x1", "--traces", str(tmp_path))
    assert "round: these steps wait for each other: a_1, b_1" in str(result.exception)


def test_graphs_and_traces_are_not_given_both(tmp_path: Path) -> None:
    assert "given twice" in str(invoke("1x1", "bag:1x1", "--traces", str(tmp_path)).exception)


def test_a_scenario_of_before_there_were_speeds_is_read(tmp_path: Path) -> None:
    plain = from_json(msgspec.json.encode(Scenario(grid(1, 1), (Workflow("w", {"a": WorkflowStep(1.0)}),))))
    for name in ("bandwidth", "inside", "links", "store"):
        del plain[name]
    assert from_json(json.dumps(plain), Scenario).topology == grid(1, 1)


def test_clusters_that_never_could_are_not_asked_without_end_while_the_only_one_that_can_is_full() -> None:
    """What they answer at once was taken for news, and the next round began with it: 250 a second, and the step never ran."""
    *others, last = grid(3, 1).domains
    fit = replace(last.clusters[0], nodes=(NodeSpec("large", resources=(("gpu", 1.0),)),))
    topology = Topology("grid", "d0", (*others, replace(last, clusters=(fit,))))
    bag = {f"s{number}": WorkflowStep(20.0, resources={"gpu": 1.0}) for number in range(2)}
    report = simulate(Scenario(topology, (Workflow("w", bag),)))
    assert (report.done, report.starts, report.violations) == (2, 2, ())
    assert report.makespan_s == pytest.approx(40.0, abs=0.5)
    # Five rounds in a second, of which the wait is twenty, ask each of two that answer at once at most.
    assert report.messages["announce"] < 20 * 5 * 2 * 1.2
