"""A plan of a whole graph counts what it takes to load a block where no replica of it is warm."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from ioi_dagster.governors.bids import LOADS_NOTHING
from ioi_dagster.governors.cluster import EVERYTHING, ClusterGovernor, NodeJoined, NodeReported, Reply
from ioi_dagster.governors.flow_plan import LOOK_AGAIN_S
from ioi_dagster.governors.placement.ahead import GraphPlan
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Announce, AskGroup, Bid, NodeOutlook
from ioi_dagster.model.placement import Edge, Step
from tests.unit.governors.test_flow_plan import Fleet

LOAD_S = 60.0
ABOUT = ("ocr",)


def taught() -> Fleet:
    """Two clusters of one node each: the run has seen that a step takes 10 s of work, and loading its block a minute more."""
    fleet = Fleet({"fast": 1.3, "slow": 1.0})
    steps = ["cold", "warm", "s", "t"]
    fleet.know(dict.fromkeys(steps, 10.0))
    fleet.barred = {"slow"}
    fleet.cold = {"fast"}
    fleet.ready("cold")
    fleet.end("cold", LOAD_S + 10.0)
    fleet.cold = set()
    fleet.look(later=5.0)
    fleet.ready("warm")
    fleet.end("warm", 10.0)
    assert fleet.starts == [("cold", "fast"), ("warm", "fast")]
    fleet.barred = set()
    fleet.look(later=LOOK_AGAIN_S)
    return fleet


def test_a_planned_step_goes_to_a_warm_node_though_a_faster_one_would_have_to_load_its_block():
    fleet = taught()
    fleet.cold = {"fast"}
    fleet.ready("s")
    assert fleet.starts[2:] == [("s", "slow")]
    assert fleet.requests[-1].prefer == ("n",)
    assert fleet.requests[-1].seconds == pytest.approx(10.0)


def test_where_all_nodes_are_alike_in_that_the_faster_one_is_taken():
    fleet = taught()
    fleet.ready("s")
    assert fleet.starts[2:] == [("s", "fast")]
    assert fleet.requests[-1].seconds == pytest.approx(10.0 / 1.3)


def test_a_step_that_has_to_load_its_block_is_expected_to_take_so_long():
    fleet = taught()
    fleet.cold = {"fast", "slow"}
    fleet.ready("s")
    assert fleet.starts[2:] == [("s", "fast")]
    assert fleet.requests[-1].seconds == pytest.approx(LOAD_S + 10.0 / 1.3)


def plan(
    speeds: dict[str, float],
    warm: Collection[str],
    names: Collection[str],
    edges: Collection[Edge] = (),
    slots: int = 1,
) -> GraphPlan:
    """Of steps of 10 s over nodes of one cluster, of which some are warm."""
    made = GraphPlan(lambda capability, cluster: LOAD_S if capability == "ocr" else 0.0)
    made.know([Step(name, 10.0, kind="page", capability="ocr") for name in names], edges, (), 0.0)
    nodes = tuple(NodeOutlook(n, slots, s, (0,), warm=(0,) if n in warm else ()) for n, s in speeds.items())
    made.see(Bid("lab", "lab", "r", 1, 1, nodes=nodes), ABOUT, 0.0)
    assert made.plan([name for name in names if name not in {edge.consumer for edge in edges}], {}, 0.0)
    return made


def test_in_one_cluster_the_warm_node_is_planned_too():
    its = plan({"fast": 2.0, "slow": 1.0}, {"slow"}, ["s"]).planned("s", 0.0)
    assert its is not None
    assert (its.node, its.finish) == ("slow", 10.0)


def test_what_comes_after_on_a_node_finds_the_block_loaded():
    chain = ["a", "b", "c"]
    edges = [Edge("a", "b"), Edge("b", "c")]
    made = plan({"one": 2.0, "other": 1.0}, (), chain, edges)
    its = [made.planned(name, 0.0) for name in chain]
    assert [(one.node, one.start, one.finish) for one in its if one is not None] == [
        ("one", 0.0, 65.0),
        ("one", 65.0, 70.0),
        ("one", 70.0, 75.0),
    ]


def test_steps_that_begin_together_on_a_node_wait_for_one_block():
    made = plan({"only": 1.0}, (), ["a", "b", "c"], slots=2)
    ends = sorted(its.finish for name in "abc" if (its := made.planned(name, 0.0)) is not None)
    assert ends == [70.0, 70.0, 80.0]


def test_what_is_loading_already_is_there_for_the_next_when_it_has_loaded():
    made = plan({"one": 1.0}, (), ["a", "b"], slots=2)
    made.began("a", "lab", "one", 0.0)
    assert made.plan(["b"], {}, 20.0)
    its = made.planned("b", 20.0)
    assert its is not None
    assert (its.start, its.finish) == (20.0, 70.0)


def test_what_a_step_has_left_begins_to_count_when_its_block_has_loaded():
    made = plan({"one": 1.0, "two": 1.3}, (), ["a", "b"])
    made.began("a", "lab", "one", 0.0)
    assert made.plan(["b"], {}, 59.0)
    assert made.late == {}


def test_what_was_told_of_a_node_s_warmth_earlier_is_not_known_any_more():
    made = plan({"one": 1.0, "two": 2.0}, {"one"}, ["a"])
    assert [made.is_warm("ocr", "lab", node, 0.0) for node in ("one", "two", "three")] == [True, False, None]
    assert made.is_warm("trim", "lab", "one", 0.0) is None
    assert made.is_warm("ocr", "lab", "one", 0.5) is None


def test_a_cluster_tells_which_of_its_nodes_are_warm_for_what_and_a_run_s_own_code_loads_nothing():
    cluster = ClusterGovernor("lab", "lab-c", 1, 1.0)
    (own,) = LOADS_NOTHING
    for name in ("a", "b"):
        cluster.handle(NodeJoined(name, 1, frozenset({"ocr", "trim", own})), 0.0)
    cluster.handle(NodeJoined("c", 1, EVERYTHING), 0.0)
    cluster.handle(NodeReported("b", frozenset({"ocr", "else"}), 0.0), 0.0)
    about = ("trim", "ocr", own)
    ask = Announce("r", 1, "lab", (AskGroup("ocr", DataClass.INTERNAL, 1),), about=about)
    (reply,) = cluster.handle(ask, 0.0)
    assert isinstance(reply, Reply)
    assert isinstance(reply.answer, Bid)
    assert {node.node: node.warm for node in reply.answer.nodes} == {"a": (2,), "b": (1, 2), "c": (2,)}
