"""List scheduling with insertion: the one routine under every plan, and the ranks it is fed with.

Ranks: HEFT's upward rank (Topcuoglu, Hariri, Wu 2002) and PEFT's optimistic cost table (Arabnejad, Barbosa 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf

from ioi_dagster.governors.placement.fleet import Fleet, Graph
from ioi_dagster.governors.placement.timeline import Timeline


@dataclass(slots=True)
class Schedule:
    """By index of the step: its node (-1: not placed), start and finish. `tried` counts the nodes that were looked at."""

    node: list[int]
    start: list[float]
    finish: list[float]
    tried: int = 0

    @classmethod
    def empty(cls, size: int) -> Schedule:
        return cls([-1] * size, [0.0] * size, [0.0] * size)

    def copy(self) -> Schedule:
        return Schedule(self.node.copy(), self.start.copy(), self.finish.copy(), self.tried)

    @property
    def length(self) -> float:
        return max(self.finish, default=0.0)


NOT_KEPT = (-1, 0.0)


@dataclass(slots=True)
class Loading:
    """What has to be loaded before steps can begin. `of`: by step that loads something, the number of what that is; of each of
    those, by node, how many `seconds` that takes, and when it is there: `inf` where nobody has begun to load it."""

    of: Mapping[int, int] = field(default_factory=dict)
    seconds: Sequence[Sequence[float]] = ()
    there: Sequence[list[float]] = ()

    def rest(self, i: int, n: int, at: float) -> float:
        """Of the step's time on the node, if it begins `at`, what goes by until it is loaded."""
        if i not in self.of:
            return 0.0
        number = self.of[i]
        return _rest(self.seconds[number][n], self.there[number][n], at)


def _rest(seconds: float, there: float, at: float) -> float:
    return min(seconds, max(0.0, there - at))


@dataclass(slots=True)
class Midway:
    """A graph of which part has run, at time `now`.

    `begun`: nodes of the steps that are over (finish: `now`) or run (finish: later). `waiting`: the others, in topological order;
    `missing`: by step, how many of its producers wait (-1: it does not itself). `kept`: where a waiting step is bound already
    and when all that is made for it has come there; on any other node it would come from `now` on. `slowness`: seconds a unit of
    work, by node.
    """

    now: float
    begun: Schedule
    waiting: Sequence[int]
    missing: list[int]
    kept: Mapping[int, tuple[int, float]]
    slowness: Sequence[float]
    loading: Loading = field(default_factory=Loading)


def upward(fleet: Fleet, graph: Graph) -> list[float]:
    """Mean time from a step's start to the end of the graph, by the longest way."""
    rank = [0.0] * len(graph)
    latency, per_byte = fleet.mean_latency, fleet.mean_per_byte
    for i in range(len(graph) - 1, -1, -1):
        after = max((rank[c] + latency + size * per_byte for c, size in graph.succs[i]), default=0.0)
        rank[i] = graph.mean_run[i] + after
    return rank


def downward(fleet: Fleet, graph: Graph) -> list[float]:
    """Mean time from the start of the graph to a step's start, by the longest way."""
    rank = [0.0] * len(graph)
    latency, per_byte = fleet.mean_latency, fleet.mean_per_byte
    for i, before in enumerate(graph.preds):
        rank[i] = max((rank[u] + graph.mean_run[u] + latency + x * per_byte for u, x in before), default=0.0)
    return rank


def optimistic(fleet: Fleet, graph: Graph, *, mirrored: bool = False) -> list[list[float]]:
    """By step and node: the least time from the step's end there to the end of the graph, if no one were in the way.

    `mirrored`: the least time from the start of the graph to the step's start there.
    """
    nodes, domains = range(len(fleet.offers)), range(len(fleet.domains))
    slowness = [1.0 / speed for speed in fleet.speed]
    table: list[list[float]] = [[]] * len(graph)
    nothing = [0.0] * len(fleet.offers)
    seen: dict[int, tuple[list[tuple[int, float]], list[float]]] = {}
    for i in range(len(graph)) if mirrored else range(len(graph) - 1, -1, -1):
        fetch = graph.fetch[i] if mirrored else None
        row = nothing if fetch is None else fetch
        for c, size in graph.preds[i] if mirrored else graph.succs[i]:
            if not graph.able[c]:
                continue
            if c not in seen:
                total = [(n, graph.work[c] * slowness[n] + table[c][n]) for n in graph.able[c]]
                carried = graph.moves[c]
                if carried is not None:
                    total = [(n, value + carried[n]) for n, value in total]
                best = [inf] * len(fleet.domains)
                for n, value in total:
                    if value < best[fleet.domain[n]]:
                        best[fleet.domain[n]] = value
                seen[c] = (total, best)
            total, best = seen[c]
            remote = [
                min(best[e] + fleet.latency[d][e] + size * fleet.per_byte[d][e] for e in domains) for d in domains
            ]
            after = [remote[fleet.domain[n]] for n in nodes]
            for n, value in total:
                if value < after[n]:
                    after[n] = value
            row = after if row is nothing else [a if a > b else b for a, b in zip(row, after, strict=True)]
        table[i] = row
    return table


def fill(
    fleet: Fleet,
    graph: Graph,
    priority: Sequence[float],
    lines: Sequence[Timeline],
    *,
    ahead: Sequence[Sequence[float]] | None = None,
    weight: float = 1.0,
    choices: Sequence[Sequence[int]] | None = None,
    mirrored: bool = False,
    midway: Midway | None = None,
    bias: Sequence[float] | None = None,
) -> Schedule:
    """Place every step that is not doomed, the highest priority first among those whose producers are placed.

    Each goes to the node of least finish, plus `weight` × what `ahead` says comes after. `choices` replaces the able nodes.
    `mirrored`: the graph runs backwards, from its last steps to its first, and inputs from outside are left out. `midway`: part
    of it has run. `bias`: by node, what is added to its finish where they are compared. A step without a choice is not placed,
    nor is what depends on it.
    """
    preds, succs = (graph.succs, graph.preds) if mirrored else (graph.preds, graph.succs)
    domain, latency, per_byte = fleet.domain, fleet.latency, fleet.per_byte
    if midway is None:
        made, since, kept, slowness = Schedule.empty(len(graph)), 0.0, {}, [1.0 / speed for speed in fleet.speed]
        loads, loads_s, there = {}, (), []
        missing = [len(p) for p in preds]
        ready = [(-priority[i], i) for i, count in enumerate(missing) if not count and i not in graph.doomed]
    else:
        made, since, kept, slowness = midway.begun.copy(), midway.now, midway.kept, midway.slowness
        loads, loads_s = midway.loading.of, midway.loading.seconds
        there = [its.copy() for its in midway.loading.there]
        missing = midway.missing.copy()
        ready = [(-priority[i], i) for i in midway.waiting if not missing[i]]
    node, starts, finishes = made.node, made.start, made.finish
    heapify(ready)
    options = choices or graph.able
    domains = range(len(fleet.domains))
    while ready:
        i = heappop(ready)[1]
        work, need, before = graph.work[i], graph.need[i], preds[i]
        fetch = None if mirrored else graph.fetch[i]
        able = options[i]
        # When inputs are in a domain: the latest, where it comes from, and the latest from any other node.
        first, origin, second = [0.0] * len(domains), -1, [0.0] * len(domains)
        at_home: dict[int, float] = {}
        if len(before) == 1:
            u, size = before[0]
            origin, end = node[u], finishes[u]
            lat, per = latency[domain[origin]], per_byte[domain[origin]]
            first = [end + lat[d] + size * per[d] for d in domains]
            at_home[origin] = end
            origins = [origin] * len(domains)
        else:
            origins = [-1] * len(domains)
            wanted = {domain[n] for n in able} if len(able) < 3 else domains
            for u, size in before:
                origin, end = node[u], finishes[u]
                if end > at_home.get(origin, -1.0):
                    at_home[origin] = end
                lat, per = latency[domain[origin]], per_byte[domain[origin]]
                for d in wanted:
                    arrival = end + lat[d] + size * per[d]
                    if arrival > first[d]:
                        if origins[d] != origin:
                            second[d] = first[d]
                            origins[d] = origin
                        first[d] = arrival
                    elif arrival > second[d] and origins[d] != origin:
                        second[d] = arrival
        kept_node, kept_at = kept.get(i, NOT_KEPT)
        if kept_node >= 0:
            d = domain[kept_node]
            for u, size in before:
                if finishes[u] > since:
                    arrival = finishes[u]
                    if node[u] != kept_node:
                        arrival += latency[domain[node[u]]][d] + size * per_byte[domain[node[u]]][d]
                    if arrival > kept_at:
                        kept_at = arrival
        least, best, best_start = inf, -1, 0.0
        row = ahead[i] if ahead is not None else None
        loaded, moves = loads.get(i, -1) if loads else -1, graph.moves[i]
        made.tried += len(able)
        for n in able:
            if n == kept_node:
                at = kept_at
            else:
                d = domain[n]
                at = first[d]
                if n in at_home:
                    if origins[d] == n:
                        at = second[d]
                    if at_home[n] > at:
                        at = at_home[n]
                if fetch is not None and since + fetch[n] > at:
                    at = since + fetch[n]
            length = work * slowness[n]
            if moves is not None:
                length += moves[n]
            if loaded >= 0:
                # What is loaded before it begins costs it nothing, so this is the most.
                length += _rest(loads_s[loaded][n], there[loaded][n], at)
            value = at + length
            if row is not None:
                value += weight * row[n]
            if bias is not None:
                value += bias[n]
            if value >= least:
                continue
            start = lines[n].earliest(at, length, need)
            value += start - at
            if value < least:
                least, best, best_start = value, n, start
        if best < 0:
            continue
        length = work * slowness[best]
        if moves is not None:
            length += moves[best]
        if loaded >= 0:
            rest = _rest(loads_s[loaded][best], there[loaded][best], best_start)
            length += rest
            there[loaded][best] = min(there[loaded][best], best_start + rest)
        lines[best].reserve(best_start, length, need)
        node[i], starts[i], finishes[i] = best, best_start, best_start + length
        for c, _ in succs[i]:
            missing[c] -= 1
            if not missing[c] and c not in graph.doomed:
                heappush(ready, (-priority[c], c))
    return made
