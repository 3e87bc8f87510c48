"""Plans whole graphs over the nodes that offered themselves. No clock, no I/O; the same arguments give the same plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from ioi_dagster.governors.placement.fleet import Fleet, compile_graph
from ioi_dagster.governors.placement.search import Search
from ioi_dagster.governors.placement.timeline import Timeline
from ioi_dagster.model.placement import Assignment, Edge, Link, Offer, Step

TRIES, EFFORT = 1_500, 1_500_000
"""A plan is tried so many times, and looks at so many nodes over all of them: that takes two seconds for a hundred steps or more
and some hundredths for a few."""


class Placer:
    """Nodes in `offers`, and between their domains `links`. `effort`: how many nodes a plan may look at; `seed` is of its random
    choices. Raises `BadInputError` for a node given twice or a link missing."""

    def __init__(self, offers: Iterable[Offer], links: Iterable[Link], *, effort: int = EFFORT, seed: int = 0) -> None:
        self._fleet, self._effort, self._seed = Fleet(offers, links), effort, seed

    def plan(self, steps: Sequence[Step], edges: Sequence[Edge], now: float) -> list[Assignment]:
        """Where each step is to run, from monotonic time `now` (s) on, and in which order its node starts it.

        A step that no node can ever take comes with a refusal, and what depends on it with none and no node. Raises
        `BadInputError` for a graph that is none."""
        fleet, graph = self._fleet, compile_graph(self._fleet, steps, edges)
        lines = [Timeline(capacity, now) for capacity in fleet.capacity]
        effort = min(self._effort, TRIES * sum(len(able) + 2 for able in graph.able))
        made = Search(fleet, graph, lines, Random(self._seed), effort).run()
        order = sorted(range(len(graph)), key=lambda i: (made.start[i], i))
        turn = {i: place for place, i in enumerate(order)}
        return [
            Assignment(step.id, None, refusal=graph.doomed[i])
            if i in graph.doomed
            else Assignment(step.id, fleet.offers[made.node[i]].node, turn[i])
            for i, step in enumerate(graph.steps)
        ]
