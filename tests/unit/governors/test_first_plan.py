"""The plan that a run begins with, where nothing has begun yet."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from ioi_dagster.governors.placement import ahead
from ioi_dagster.governors.placement.ahead import GraphPlan
from ioi_dagster.model.negotiation import Bid, NodeOutlook
from ioi_dagster.model.placement import Edge, Step

SPEEDS = {"slow": 1.0, "middle": 1.5, "fast": 2.5}


def graph(seed: int, layers: int = 4, width: int = 5) -> tuple[list[Step], list[Edge]]:
    rng = Random(seed)
    steps = [[Step(f"s{layer}.{n}", work=rng.uniform(5.0, 60.0)) for n in range(width)] for layer in range(layers)]
    edges = [
        Edge(before.id, step.id, 0.0)
        for earlier, later in pairwise(steps)
        for step in later
        for before in rng.sample(earlier, 2)
    ]
    return [step for layer in steps for step in layer], edges


def planned(seed: int, bias: dict[str, float]) -> tuple[float, set[str]]:
    """When the whole is to end, and the clusters that take part."""
    steps, edges = graph(seed)
    plan = GraphPlan()
    plan.know(steps, edges, (), 0.0)
    for cluster, speed in SPEEDS.items():
        node = NodeOutlook("n", 1, speed, (0,))
        plan.see(Bid(cluster, "d", "r", 1, 1, nodes=(node,)), ("",), 0.0)
    ready = [step.id for step in steps if step.id.startswith("s0")]
    assert plan.plan(ready, bias, 0.0)
    its = [found for step in steps if (found := plan.planned(step.id, 0.0))]
    return max(one.finish for one in its), {one.cluster for one in its}


def test_it_is_searched_for_and_ends_sooner_than_what_is_planned_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = [planned(seed, {})[0] for seed in range(8)]
    monkeypatch.setattr(ahead, "SEARCHED", 0.0)
    listed = [planned(seed, {})[0] for seed in range(8)]
    assert all(one <= other + 1e-9 for one, other in zip(searched, listed, strict=True))
    assert sum(searched) < 0.98 * sum(listed)


def test_a_cluster_that_is_worse_for_other_reasons_than_time_is_left_out_all_the_same() -> None:
    assert planned(1, {"fast": 1e6})[1] == {"slow", "middle"}
