"""The static plan: several list schedules, both ways through the graph, then the best is taken apart and put together again.

Forward-backward improvement: Li and Willis 1992. Ruin and recreate: Schrimpf and others 2000. Late acceptance: Burke and
Bykov 2017. Effort is counted in nodes that were looked at, so a plan depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ioi_dagster.governors.placement.fleet import Fleet, Graph
from ioi_dagster.governors.placement.listing import Schedule, downward, fill, optimistic, upward
from ioi_dagster.governors.placement.timeline import Timeline

STARTS, FREE = 3, 0.15
MEMORY = 12
"""Late acceptance compares with the length so many tries ago."""


@dataclass(slots=True)
class _Best:
    schedule: Schedule
    priority: Sequence[float]
    weight: float
    length: float


class Search:
    """One search for a short schedule of `graph` on `lines`. `effort`: how many nodes may be looked at, over all steps."""

    def __init__(self, fleet: Fleet, graph: Graph, lines: Sequence[Timeline], rng: Random, effort: int) -> None:
        self._fleet, self._graph, self._lines, self._rng, self._left = fleet, graph, lines, rng, effort
        self._ahead = optimistic(fleet, graph)
        self._best: _Best | None = None
        self._least = shortest(fleet, graph)
        """No schedule is shorter."""

    def run(self) -> Schedule:
        graph, fleet = self._graph, self._fleet
        up, down = upward(fleet, graph), downward(fleet, graph)
        scarce = [len(fleet.offers) / max(1, len(nodes)) for nodes in graph.able]
        run = graph.mean_run
        look = [sum(row) / max(1, len(row)) + r for row, r in zip(self._ahead, run, strict=True)]
        self._bases = [
            up,
            look,
            [u + 0.5 * d for u, d in zip(up, down, strict=True)],
            [u + r * s for u, r, s in zip(up, run, scarce, strict=True)],
        ]
        starts = [self._try(up, 0.0), self._try(up, 1.0)]
        for base in self._bases[1:]:
            for weight in (0.0, 1.0):
                if self._left > 0:
                    starts.append(self._try(base, weight))
        if self._left > 0:
            back = self._backwards([d + r for d, r in zip(down, run, strict=True)], None)
            starts.append(min((self._try(back.finish, weight) for weight in (0.0, 1.0)), key=lambda s: s.length))
            starts.append(self._try(back.finish, 0.0, [[n] for n in back.node]))
        starts.sort(key=lambda made: made.length)
        for made in starts[:STARTS]:
            self._forth_and_back(made)
        self._take_apart()
        assert self._best is not None
        return self._best.schedule

    def _try(
        self, priority: Sequence[float], weight: float, choices: Sequence[Sequence[int]] | None = None
    ) -> Schedule:
        lines = [line.copy() for line in self._lines]
        ahead = self._ahead if weight else None
        made = fill(self._fleet, self._graph, priority, lines, ahead=ahead, weight=weight, choices=choices)
        self._left -= made.tried + 2 * len(self._graph)
        length = made.length
        if self._best is None or length < self._best.length:
            self._best = _Best(made, priority, weight, length)
        return made

    def _backwards(self, priority: Sequence[float], choices: Sequence[Sequence[int]] | None) -> Schedule:
        lines = [Timeline(capacity) for capacity in self._fleet.capacity]
        ahead = None if choices else optimistic(self._fleet, self._graph, mirrored=True)
        made = fill(self._fleet, self._graph, priority, lines, ahead=ahead, choices=choices, mirrored=True)
        self._left -= made.tried + 2 * len(self._graph)
        return made

    def _forth_and_back(self, made: Schedule) -> None:
        while self._left > 0:
            same = [[n] for n in made.node]
            back = self._backwards(made.finish, same)
            tries = (self._try(back.finish, 0.0, same), self._try(back.finish, 0.0), self._try(back.finish, 1.0))
            better = min(tries, key=lambda t: t.length)
            if better.length >= made.length * (1 - 1e-9):
                return
            made = better

    def _take_apart(self) -> None:
        graph, rng = self._graph, self._rng
        assert self._best is not None
        best = self._best
        size = len(graph)
        if size < 2:
            return
        now, priority, length = best.schedule, list(best.priority), best.length
        before = [length] * MEMORY
        count = 0
        while self._left > 0 and self._best.length > self._least * (1 + 1e-9):
            critical = critical_steps(self._fleet, graph, now)
            freed = self._freed(now, critical)
            changed = list(priority)
            kind = rng.random()
            width = rng.choice((0.02, 0.1, 0.3))
            if kind < 0.25:
                for i in critical:
                    changed[i] *= 1.0 + rng.random() * width
            elif kind < 0.6:
                for i in freed:
                    changed[i] *= rng.lognormvariate(0.0, width)
            elif kind < 0.7:
                changed = [p * rng.lognormvariate(0.0, width) for p in changed]
            elif kind < 0.8:
                changed = self._backwards(now.finish, [[n] for n in now.node]).finish
            choices: list[Sequence[int]] = [[n] for n in now.node]
            for i in freed:
                choices[i] = graph.able[i]
            if rng.random() < FREE:
                width = rng.choice((0.02, 0.05, 0.15, 0.4))
                base = priority if rng.random() < 0.6 else rng.choice(self._bases)
                changed = [p * rng.lognormvariate(0.0, width) for p in base]
                made = self._try(changed, rng.choice((0.0, 0.25, 0.5, 0.75, 1.0)))
            else:
                made = self._try(changed, rng.choice((0.0, 0.0, 0.5, 1.0)), choices)
            found = made.length
            count += 1
            if found <= length or found <= before[count % MEMORY]:
                now, priority, length = made, changed, found
            before[count % MEMORY] = length

    def _freed(self, now: Schedule, critical: Sequence[int]) -> list[int]:
        """Steps that may choose a node anew: those on the critical way and some others."""
        rng, size = self._rng, len(self._graph)
        kind = rng.random()
        if kind < 0.35:
            few = rng.sample(range(size), min(size, rng.choice((2, 5, 12))))
            return [*critical, *few]
        if kind < 0.6:
            share = rng.choice((0.05, 0.15, 0.4))
            return [i for i in range(size) if rng.random() < share]
        if kind < 0.8:
            middle, width = rng.random() * now.length, rng.choice((0.1, 0.25)) * now.length
            return [i for i in range(size) if abs(now.start[i] - middle) < width]
        pair = set(rng.sample(range(len(self._fleet.offers)), min(2, len(self._fleet.offers))))
        return [i for i in range(size) if now.node[i] in pair]


def shortest(fleet: Fleet, graph: Graph) -> float:
    """When the longest way through the graph would end, each step on its fastest node and nothing to transfer between them."""
    ends: list[float] = []
    for i, before in enumerate(graph.preds):
        begin = max((ends[u] for u, _ in before), default=0.0)
        fetch = graph.fetch[i]
        able = () if i in graph.doomed else graph.able[i]
        moves = graph.moves[i]
        runs = (
            max(begin, fetch[n] if fetch else 0.0) + graph.work[i] / fleet.speed[n] + (moves[n] if moves else 0.0)
            for n in able
        )
        ends.append(min(runs, default=begin))
    return max(ends, default=0.0)


def critical_steps(fleet: Fleet, graph: Graph, made: Schedule) -> list[int]:
    """One way back from the last step: each waits for the one before, either for its output or for its room."""
    finish, node = made.finish, made.node
    i = max(range(len(graph)), key=finish.__getitem__)
    ending: dict[tuple[int, float], int] = {(node[j], finish[j]): j for j in range(len(graph))}
    way, seen = [i], {i}
    while True:
        latest, cause = 0.0, -1
        for u, size in graph.preds[i]:
            arrival = finish[u]
            if node[u] != node[i]:
                a, b = fleet.domain[node[u]], fleet.domain[node[i]]
                arrival += fleet.latency[a][b] + size * fleet.per_byte[a][b]
            if arrival > latest:
                latest, cause = arrival, u
        if made.start[i] > latest + 1e-9 * latest:
            cause = ending.get((node[i], made.start[i]), cause)
        # Steps that take no time wait for each other's room at one moment.
        if cause < 0 or cause in seen:
            return way
        way.append(cause)
        seen.add(cause)
        i = cause
