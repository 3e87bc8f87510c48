"""What the flow governor is told of a run's steps before they are ready."""

from __future__ import annotations

import pytest
from dagster import JobDefinition, Out, Output, in_process_executor, job, op

from ioi_dagster.governors.placement.ahead import GraphPlan
from ioi_dagster.host import tags
from ioi_dagster.host.foresight import graph_of
from ioi_dagster.host.private import create_execution_plan
from ioi_dagster.model.negotiation import OWN_STEP, Bid, NodeOutlook
from ioi_dagster.model.placement import Edge, Link, Made, Step


@op
def first() -> int:
    return 1


@op
def second(value: int) -> int:
    return value


@op(tags={tags.CAPABILITY: "ocr"})
def third(value: int) -> int:
    return value


@job(executor_def=in_process_executor)
def chain():
    third(second(first()))


TOOK = {"first": 5.0, "second": 5.0, "third": 1.0}


def test_the_steps_of_a_plan_are_told_of() -> None:
    assert isinstance(chain, JobDefinition)
    graph = graph_of(create_execution_plan(chain), TOOK, {}, (), {}, tuple, "home")
    assert {step.id: step.capability for step in graph.steps} == {"first": OWN_STEP, "second": OWN_STEP, "third": "ocr"}
    assert set(graph.edges) == {Edge("first", "second"), Edge("second", "third")}
    assert dict(graph.kinds) == TOOK


def test_no_room_is_kept_for_what_an_earlier_process_of_the_run_has_done() -> None:
    """Nobody asks for it any more: in the plan it would begin at once for ever, and what comes later would never do so."""
    graph = graph_of(create_execution_plan(chain), TOOK, {}, ("first", "second"), {}, tuple, "home")
    assert [step.id for step in graph.steps] == ["third"]
    assert graph.edges == ()
    plan = GraphPlan()
    plan.know(graph.steps, graph.edges, (), 0.0)
    plan.learnt(dict(graph.kinds))
    nodes = (NodeOutlook("n", 1, 1.0, (0, 1)),)
    plan.see(Bid("c", "d", "r", 1, 1, (), (), nodes=nodes), (OWN_STEP, "ocr"), 0.0)
    assert plan.plan(["third"], {}, 0.0)
    planned = plan.planned("third", 0.0)
    assert planned is not None
    assert planned.now
    assert plan.remaining_s == 1.0


@op(out={"large": Out(), "small": Out()})
def several():
    yield Output(1, "large")
    yield Output(2, "small")


@op
def reader(one: int, again: int, other: int) -> int:
    return one


@op
def collector(all_of_them: list[int]) -> None: ...


@job(executor_def=in_process_executor)
def sized():
    large, small = several()
    collector([reader(large, large, small), small])


def test_what_steps_bring_and_make_is_what_earlier_runs_made() -> None:
    """Each value counts once for a step that reads it, as it is sent once."""
    made = {
        ("several", "large"): Made(1e9, 1e9),
        ("several", "small"): Made(1e7, 1e7),
        ("several", "not any more"): Made(5e6, 1e7),
        ("reader", "result"): Made(3e8, 3e8),
    }
    graph = graph_of(create_execution_plan(sized), {}, made, (), {}, tuple, "lab")
    assert {step.id: (step.through, step.brings, step.makes) for step in graph.steps} == {
        "several": ("lab", 0.0, 1.02e9),
        "reader": ("lab", 1.01e9, 3e8),
        "collector": ("lab", 3.1e8, 0.0),
    }
    graph = graph_of(create_execution_plan(sized), {}, {}, (), {}, tuple, "lab")
    assert {(step.through, step.brings, step.makes) for step in graph.steps} == {("", 0, 0)}


@op(tags={tags.RESOURCES: "gpu=0.5, memory=4GiB, licence=1", tags.PLACE_IN: "home, other"})
def large() -> None: ...


@op(tags={tags.RESOURCES: "gpu"})
def unreadable() -> None: ...


@job(executor_def=in_process_executor)
def apart():
    large()
    unreadable()


def test_what_steps_take_and_where_they_may_run_is_told_as_far_as_a_plan_can_tell() -> None:
    """What cannot be read is told of its step when it is ready."""
    graph = graph_of(
        create_execution_plan(apart),
        {},
        {},
        (),
        {},
        lambda text: tuple(text.replace(" ", "").split(",")) if text else (),
        "home",
    )
    assert {step.id: (step.gpus, step.memory, step.domains) for step in graph.steps} == {
        "large": (0.5, 4 * 2.0**30, frozenset({"home", "other"})),
        "unreadable": (0.0, 0.0, None),
    }


@pytest.mark.parametrize(
    ("step", "where"),
    [
        (Step("s", 100.0), "fast"),
        (Step("s", 100.0, gpus=0.5), "with-gpu"),
        (Step("s", 100.0, memory=8.0), "large"),
        (Step("s", 100.0, domains=frozenset({"of small"})), "small"),
    ],
    ids=["anything", "gpu", "memory", "domain"],
)
def test_a_plan_has_a_step_on_a_node_that_could_take_it(step: Step, where: str) -> None:
    """A node that names what it has has nothing else."""
    nodes = {
        "fast": (4.0, (("memory", 4.0),)),
        "with-gpu": (2.0, (("gpu", 1.0),)),
        "large": (1.5, (("memory", 8.0),)),
        "small": (1.0, (("memory", 2.0),)),
    }
    plan = GraphPlan()
    plan.know((step,), (), (), 0.0)
    for name, (speed, resources) in nodes.items():
        node = NodeOutlook(name, 1, speed, (), (), resources)
        plan.see(Bid(name, f"of {name}", "r", 1, 1, (), (), nodes=(node,)), (), 0.0)
    assert plan.plan(["s"], {}, 0.0)
    planned = plan.planned("s", 0.0)
    assert planned is not None
    assert planned.cluster == where


@pytest.mark.parametrize("known", [0.0, 1e9], ids=["nothing was expected", "less was expected"])
def test_a_plan_counts_what_a_step_brings_as_soon_as_that_is_known(known: float) -> None:
    plan = GraphPlan()
    other = Step("other", 1.0, through="home", makes=1e9)
    its = Step("s", 100.0, through="home" if known else "", brings=known)
    plan.know((other, its), (), (Link("home", "far", 1.0, 1e8),), 0.0)
    nodes = (NodeOutlook("one", 1, 1.0, (), ()), NodeOutlook("two", 1, 2.0, (), ()))
    plan.see(Bid("c", "far", "r", 1, 1, (), (), nodes=nodes), (), 0.0)

    def ends() -> float:
        assert plan.plan(["s"], {}, 0.0)
        planned = plan.planned("s", 0.0)
        assert planned is not None
        return planned.finish

    assert ends() == 50.0 + (1.0 + known / 1e8 if known else 0.0)
    plan.reads("s", "home", 6e9)
    assert ends() == 50.0 + 1.0 + 60.0
    plan.reads("s", "home", 6.1e9)
    assert ends() == 50.0 + 1.0 + 60.0
    plan.reads("s", "home", 1_000.0)
    assert ends() == 50.0
