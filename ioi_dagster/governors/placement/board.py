"""What is known of the graphs in progress: what waits and where it is bound, what runs, what is over and where
its output lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ioi_dagster.governors.placement.fleet import Fleet, Graph, Need, moves_of
from ioi_dagster.governors.placement.lateness import left
from ioi_dagster.governors.placement.listing import Loading, Midway, Schedule, optimistic, upward
from ioi_dagster.governors.placement.timeline import Timeline
from ioi_dagster.model.placement import Step

WAITING, RUNNING, OVER, DOOMED = range(4)
GONE = -2
"""In place of the node of an output that was lost."""


@dataclass(slots=True)
class Run:
    """One step on one node: when it began, how much of its estimated work was done at `at`."""

    began: float
    done: float
    at: float


@dataclass(slots=True)
class Job:
    """One graph: its steps are `first` to `last - 1`."""

    first: int
    last: int
    tenant: str
    arrived: float
    unfinished: int


@dataclass(slots=True)
class Board:
    """Every change of it is one of its methods; steps are numbers, in topological order within their graph."""

    fleet: Fleet
    graph: Graph = field(default_factory=lambda: Graph([], [], [], [], [], [], [], [], {}))
    jobs: list[Job] = field(default_factory=list)
    job: list[Job] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    """Where a waiting step is bound (-1: nowhere), or where the output of one that is over lies."""
    since: list[float] = field(default_factory=list)
    """Bound since, or over since."""
    order: list[int] = field(default_factory=list)
    runs: dict[int, dict[int, Run]] = field(default_factory=dict)
    rank: list[float] = field(default_factory=list)
    """See `upward`."""
    ahead: list[list[float]] = field(default_factory=list)
    """See `optimistic`."""
    used: float = 0.0
    """Core seconds of all runs that have ended."""
    wasted: float = 0.0
    """Those of copies that came too late."""
    up: list[bool] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    others: dict[int, Sequence[tuple[float, Need]]] = field(default_factory=dict)
    """By node, what those whose graphs are not known here hold of it, and until when."""
    loading: Loading = field(default_factory=Loading)
    tail: dict[int, float] = field(default_factory=dict)
    """Time from a step's end to the end of its graph by what is not on the board, where that is only a part of the graph."""

    def __post_init__(self) -> None:
        self.up, self.speed = [True] * len(self.fleet.offers), list(self.fleet.speed)

    def add(self, made: Graph, tenant: str, now: float) -> range:
        """The numbers of the graph's steps."""
        graph, base, size = self.graph, len(self.graph), len(made)
        unfinished = size - len(made.doomed)
        job = Job(base, base + size, tenant, now, unfinished)
        graph.steps += made.steps
        graph.preds += [[(u + base, x) for u, x in before] for before in made.preds]
        graph.succs += [[(c + base, x) for c, x in after] for after in made.succs]
        graph.able += made.able
        graph.need += made.need
        graph.work += made.work
        graph.fetch += made.fetch
        graph.mean_run += made.mean_run
        graph.moves += made.moves
        graph.doomed |= {i + base: why for i, why in made.doomed.items()}
        graph.index |= {name: i + base for name, i in made.index.items()}
        self.rank += upward(self.fleet, made)
        self.ahead += optimistic(self.fleet, made)
        self.status += [DOOMED if i in made.doomed else WAITING for i in range(size)]
        self.node += [-1] * size
        self.since += [now] * size
        self.order += [0] * size
        self.job += [job] * size
        if unfinished:
            self.jobs.append(job)
        return range(base, base + size)

    def start(self, i: int, node: int, now: float) -> None:
        if self.status[i] in (WAITING, RUNNING):
            self.status[i] = RUNNING
            self.runs.setdefault(i, {}).setdefault(node, Run(now, 0.0, now))

    def finish(self, i: int, node: int, now: float) -> bool:
        """Whether its whole graph is over now, and forgotten."""
        if self.status[i] not in (WAITING, RUNNING):
            return False
        for n, run in self.runs.pop(i, {}).items():
            self._account(i, run, now, wasted=n != node)
        self.status[i], self.node[i], self.since[i] = OVER, node, now
        job = self.job[i]
        job.unfinished -= 1
        if job.unfinished:
            return False
        self.jobs.remove(job)
        self._forget()
        return True

    def lose(self, node: int, lost: Iterable[int], now: float) -> None:
        """The node is down. `lost` must run again: what waited or ran there, and what was made there and is needed."""
        self.up[node] = False
        for i, runs in list(self.runs.items()):
            if node in runs:
                self._account(i, runs.pop(node), now, wasted=False)
                if not runs:
                    self.again(i)
        for i in range(len(self.graph)):
            if self.node[i] == node:
                if self.status[i] == WAITING:
                    self.node[i] = -1
                elif self.status[i] == OVER:
                    self.node[i] = GONE
        for i in lost:
            if self.status[i] == OVER:
                self.job[i].unfinished += 1
            if self.status[i] in (OVER, RUNNING):
                self.again(i)

    def change_speed(self, node: int, speed: float, now: float) -> None:
        for i, runs in self.runs.items():
            if node in runs:
                run = runs[node]
                run.done, run.at = self._done(i, node, run, now), now
        self.speed[node] = speed

    def bind(self, i: int, node: int, order: int, now: float) -> None:
        if self.node[i] != node:
            self.node[i], self.since[i] = node, now
        self.order[i] = order

    def unbind(self, node: int) -> None:
        """What waits is not bound there any more."""
        for i, status in enumerate(self.status):
            if status == WAITING and self.node[i] == node:
                self.node[i] = -1

    def again(self, i: int) -> None:
        """It waits, whatever it did."""
        self.status[i], self.node[i] = WAITING, -1
        self.runs.pop(i, None)

    def arrival(self, i: int, n: int, now: float) -> float:
        """When all that the step needs can be on the node, if it is sent there now."""
        graph, fleet = self.graph, self.fleet
        fetch = graph.fetch[i]
        at = now + fetch[n] if fetch is not None else now
        for u, size in graph.preds[i]:
            there = self.node[u]
            if there not in (n, GONE) and self.status[u] == OVER:
                a, b = fleet.domain[there], fleet.domain[n]
                at = max(at, now + fleet.latency[a][b] + size * fleet.per_byte[a][b])
        return at

    def carries(self, i: int, step: Step) -> None:
        """It brings or makes something else than was thought. Ranks stay as they are."""
        self.graph.steps[i], self.graph.moves[i] = step, moves_of(self.fleet, step)

    def moves_s(self, i: int, n: int) -> float:
        """Of the step's time on the node, what goes by with moving what it brings and makes."""
        its = self.graph.moves[i]
        return its[n] if its is not None else 0.0

    def end(self, i: int, node: int, now: float) -> float:
        """When what runs there is expected to end: the middle of what is likely, given how long it has run."""
        work, speed = self.graph.work[i], self.speed[node]
        done = self._done(i, node, self.runs[i][node], now)
        return now + max(left(done / work) * work if work else 0.0, 1e-6) / speed

    def progress(self, i: int, node: int, now: float) -> float:
        """How often its estimated work it has taken already."""
        work = self.graph.work[i]
        return self._done(i, node, self.runs[i][node], now) / work if work else 1.0

    def _account(self, i: int, run: Run, now: float, *, wasted: bool) -> None:
        took = (now - run.began) * self.graph.need[i][0]
        self.used += took
        self.wasted += took if wasted else 0.0

    def _done(self, i: int, node: int, run: Run, now: float) -> float:
        return run.done + (now - run.at) * self.speed[node]

    def midway(self, now: float, *, sent: bool = True) -> tuple[Midway, list[Timeline]]:
        """What is left to plan, and the room of each node (a node that is down has none: no choice leads there). `sent`: what a
        bound step needs is on its way to its node; else it stays where it is until the step has its slot."""
        graph, fleet, status = self.graph, self.fleet, self.status
        begun = Schedule.empty(len(graph))
        lines = [Timeline(capacity, now) for capacity in fleet.capacity]
        for n, held in self.others.items():
            for until, need in held:
                if until > now:
                    lines[n].reserve(now, until - now, need)
        for i, runs in self.runs.items():
            ends = {n: self.end(i, n, now) for n in runs}
            begun.node[i] = min(ends, key=lambda n: (ends[n], n))
            begun.start[i], begun.finish[i] = min(run.began for run in runs.values()), ends[begun.node[i]]
            for n in runs:
                # The first to end ends the others.
                lines[n].reserve(now, begun.finish[i] - now, graph.need[i])
        waiting: list[int] = []
        missing = [-1] * len(graph)
        kept: dict[int, tuple[int, float]] = {}
        for job in self.jobs:
            for i in range(job.first, job.last):
                if status[i] == OVER:
                    begun.node[i], begun.start[i], begun.finish[i] = self.node[i], now, now
                elif status[i] == WAITING:
                    waiting.append(i)
                    missing[i] = sum(status[u] == WAITING for u, _ in graph.preds[i])
                    if sent and self.node[i] >= 0:
                        kept[i] = self.node[i], self._kept_arrival(i)
        slowness = [1.0 / speed for speed in self.speed]
        return Midway(now, begun, waiting, missing, kept, slowness, self.loading), lines

    def _kept_arrival(self, i: int) -> float:
        """When all that is made already for a bound step is there."""
        graph, fleet = self.graph, self.fleet
        n, since, fetch = self.node[i], self.since[i], self.graph.fetch[i]
        d = fleet.domain[n]
        at = since + fetch[n] if fetch is not None else since
        for u, size in graph.preds[i]:
            if self.status[u] == OVER:
                there, moves = self.node[u], 0.0
                if there != n:
                    source = fleet.domain[there]
                    moves = fleet.latency[source][d] + size * fleet.per_byte[source][d]
                at = max(at, max(since, self.since[u]) + moves)
        return at

    def _forget(self) -> None:
        """Graphs that are over leave, once they are the larger part."""
        alive = sum(job.last - job.first for job in self.jobs)
        if len(self.graph) <= 2 * alive + 200:
            return
        kept = [i for job in self.jobs for i in range(job.first, job.last)]
        new = {old: position for position, old in enumerate(kept)}
        graph = self.graph
        self.graph = Graph(
            steps=[graph.steps[i] for i in kept],
            preds=[[(new[u], x) for u, x in graph.preds[i]] for i in kept],
            succs=[[(new[c], x) for c, x in graph.succs[i]] for i in kept],
            able=[graph.able[i] for i in kept],
            need=[graph.need[i] for i in kept],
            work=[graph.work[i] for i in kept],
            fetch=[graph.fetch[i] for i in kept],
            mean_run=[graph.mean_run[i] for i in kept],
            doomed={new[i]: why for i, why in graph.doomed.items() if i in new},
            index={graph.steps[i].id: new[i] for i in kept},
            moves=[graph.moves[i] for i in kept],
        )
        self.runs = {new[i]: runs for i, runs in self.runs.items() if i in new}
        self.tail = {new[i]: its for i, its in self.tail.items() if i in new}
        for name in ("job", "status", "node", "since", "order", "rank", "ahead"):
            values = getattr(self, name)
            setattr(self, name, [values[i] for i in kept])
        for job in self.jobs:
            size = job.last - job.first
            job.first = new[job.first]
            job.last = job.first + size
