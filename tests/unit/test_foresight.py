"""What the flow governor is told of a run's steps before they are ready."""

from __future__ import annotations

from dagster import JobDefinition, in_process_executor, job, op

from ioi_dagster.governors.placement.ahead import GraphPlan
from ioi_dagster.host import tags
from ioi_dagster.host.foresight import graph_of
from ioi_dagster.host.private import create_execution_plan
from ioi_dagster.model.negotiation import OWN_STEP, Bid, NodeOutlook
from ioi_dagster.model.placement import Edge


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
    graph = graph_of(create_execution_plan(chain), TOOK, ())
    assert {step.id: step.capability for step in graph.steps} == {"first": OWN_STEP, "second": OWN_STEP, "third": "ocr"}
    assert set(graph.edges) == {Edge("first", "second"), Edge("second", "third")}
    assert dict(graph.kinds) == TOOK


def test_no_room_is_kept_for_what_an_earlier_process_of_the_run_has_done() -> None:
    """Nobody asks for it any more: in the plan it would begin at once for ever, and what comes later would never do so."""
    graph = graph_of(create_execution_plan(chain), TOOK, ("first", "second"))
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
