"""Plans graphs over the nodes that offered themselves, as a whole and while they run. No clock, no I/O; the same calls give the
same plans."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from random import Random

from ioi_dagster.governors.placement.board import DOOMED, WAITING, Board
from ioi_dagster.governors.placement.fleet import Fleet, Graph, compile_graph
from ioi_dagster.governors.placement.replan import LAST, copies, replan
from ioi_dagster.governors.placement.search import Search
from ioi_dagster.governors.placement.timeline import Timeline
from ioi_dagster.model.placement import Assignment, Edge, Link, Offer, Step

TRIES, EFFORT = 1_500, 1_500_000
"""A plan is tried so many times, and looks at so many nodes over all of them: that takes two seconds for a hundred steps or more
and some hundredths for a few."""


class Placer:
    """Nodes in `offers`, and between their domains `links`. `effort`: how many nodes a plan may look at; `seed` is of its random
    choices. Raises `BadInputError` for a node given twice or a link missing.

    `plan` is for a graph on idle nodes. The methods `on_…` are for graphs that come and go: each is told one event at monotonic
    time `now` (s) and answers what changes: where steps are bound that were not, or elsewhere, or in another order; what is
    copied. What is not named stays as it is."""

    def __init__(self, offers: Iterable[Offer], links: Iterable[Link], *, effort: int = EFFORT, seed: int = 0) -> None:
        self._fleet, self._effort, self._seed = Fleet(offers, links), effort, seed
        self._board = Board(self._fleet)
        self._asked: dict[str, int] = {}
        """Copies that have not begun: step → node."""

    def plan(self, steps: Sequence[Step], edges: Sequence[Edge], now: float) -> list[Assignment]:
        """Where each step is to run, from `now` on, and in which order its node starts it.

        A step that no node can ever take comes with a refusal, and what depends on it with none and no node. Raises
        `BadInputError` for a graph that is none."""
        graph = compile_graph(self._fleet, steps, edges)
        planned = self._planned(graph)
        return [
            Assignment(step.id, None, refusal=graph.doomed[i])
            if i in graph.doomed
            else Assignment(step.id, self._fleet.offers[planned[i][0]].node, planned[i][1])
            for i, step in enumerate(graph.steps)
        ]

    def on_graph(self, steps: Sequence[Step], edges: Sequence[Edge], now: float) -> list[Assignment]:
        """A graph has arrived. Its steps' ids are new. Raises `BadInputError` for a graph that is none, or ids known already."""
        board, graph = self._board, compile_graph(self._fleet, steps, edges)
        idle = not board.jobs and all(board.up)
        numbers = board.add(graph, steps[0].tenant if steps else "", now)
        if idle:
            for i, (node, order) in self._planned(graph).items():
                board.bind(numbers[i], node, order, now)
        told = {one.step: one for one in self._replanned(now)}
        for i in numbers:
            name = board.graph.steps[i].id
            if board.status[i] == DOOMED:
                told[name] = Assignment(name, None, refusal=board.graph.doomed[i])
            elif board.status[i] == WAITING and board.node[i] >= 0 and name not in told:
                told[name] = Assignment(name, self._fleet.offers[board.node[i]].node, board.order[i])
        return list(told.values())

    def on_started(self, step: str, node: str, now: float) -> None:
        """It, or a copy of it, runs there since `now`."""
        i = self._board.graph.index.get(step)
        if i is not None:
            self._board.start(i, self._fleet.index[node], now)
            if self._asked.get(step) == self._fleet.index[node]:
                del self._asked[step]

    def on_finished(self, step: str, node: str, now: float) -> list[Assignment]:
        """It has ended well there; other copies are stopped."""
        i = self._board.graph.index.get(step)
        if i is None:
            return []
        self._asked.pop(step, None)
        board = self._board
        freed = set(board.runs.get(i, ())) - {self._fleet.index[node]}
        board.finish(i, self._fleet.index[node], now)
        told = self._replanned(now)
        # Where a copy was stopped there is room of which nobody else tells the node.
        named = {one.step for one in told}
        return told + [one for one in self._bound(freed) if one.step not in named]

    def on_tick(self, running: Mapping[str, Iterable[str]], now: float) -> list[Assignment]:
        """Time has passed. `running`: step → the nodes on which it runs."""
        for step, nodes in running.items():
            i = self._board.graph.index.get(step)
            known = self._board.runs.get(i, {}) if i is not None else {}
            for node in nodes:
                if self._fleet.index[node] not in known:
                    self.on_started(step, node, now)
        return self._replanned(now)

    def on_node_lost(self, node: str, lost: Iterable[str], now: float) -> list[Assignment]:
        """The node is down. `lost`: what must run again, waiting, begun or ended there."""
        index = self._board.graph.index
        self._board.lose(self._fleet.index[node], [index[step] for step in lost if step in index], now)
        self._asked = {step: n for step, n in self._asked.items() if n != self._fleet.index[node]}
        return self._replanned(now)

    def on_node_back(self, node: str, now: float) -> list[Assignment]:
        """The node is there again, with nothing on it."""
        self._board.up[self._fleet.index[node]] = True
        return self._replanned(now)

    def on_node_speed(self, node: str, speed: float, now: float) -> list[Assignment]:
        """A unit of work takes `1 / speed` seconds there from now on."""
        self._board.change_speed(self._fleet.index[node], speed, now)
        return self._replanned(now)

    def _bound(self, nodes: Container[int]) -> list[Assignment]:
        board, offers = self._board, self._fleet.offers
        return [
            Assignment(board.graph.steps[i].id, offers[board.node[i]].node, board.order[i])
            for job in board.jobs
            for i in range(job.first, job.last)
            if board.status[i] == WAITING and board.node[i] in nodes
        ]

    def _planned(self, graph: Graph) -> dict[int, tuple[int, int]]:
        """By step that is not doomed: its node and its turn, on idle nodes."""
        lines = [Timeline(capacity) for capacity in self._fleet.capacity]
        effort = min(self._effort, TRIES * sum(len(able) + 2 for able in graph.able))
        made = Search(self._fleet, graph, lines, Random(self._seed), effort).run()
        placed = (i for i in range(len(graph)) if i not in graph.doomed)
        # What takes no time goes before what begins at the same moment.
        order = sorted(placed, key=lambda i: (made.start[i], made.finish[i], i))
        return {i: (made.node[i], place) for place, i in enumerate(order)}

    def _replanned(self, now: float) -> list[Assignment]:
        board = self._board
        if not board.jobs:
            return []
        plan, changes = replan(board, now)
        for i, (node, order) in changes.items():
            board.bind(i, node, order, now)
        name, offers = board.graph.steps, self._fleet.offers
        told = [Assignment(name[i].id, offers[node].node, order) for i, (node, order) in changes.items()]
        asked = {board.graph.index[step]: node for step, node in self._asked.items() if step in board.graph.index}
        for i, node in copies(board, plan, now, asked):
            self._asked[name[i].id] = node
            told.append(Assignment(name[i].id, offers[node].node, LAST, copy=True))
        return told
