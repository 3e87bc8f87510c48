"""What is not begun is planned anew after an event; what runs late is copied onto room that nothing takes soon."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log

from ioi_dagster.governors.placement.board import GONE, RUNNING, WAITING, Board, Job
from ioi_dagster.governors.placement.lateness import gain
from ioi_dagster.governors.placement.listing import Midway, Schedule, fill
from ioi_dagster.governors.placement.timeline import Timeline

BETTER = 0.002
"""A plan replaces the one that is held if it ends the graphs sooner by this part."""
MOST_RUNS = 3
"""So often a step runs at once at most."""
WORTH, SHARED = 0.4, 0.9
"""A copy must be expected to save its graph the part `SHARED` of its own length where there are other graphs, which may need its
room soon. A graph that is alone counts `WORTH` times the part of all cores that is in use: what is idle costs nobody anything."""
SOON = 0.1
"""Room is taken if a step is planned to begin there within this part of its own length."""
WASTE, LATE = 0.35, 1.5
"""Where there are other graphs, or once copies have cost the part `WASTE` of all core seconds without use, only what is late for
certain is copied: it has taken `LATE` times as long as was expected, or will take `LATE` times as long still as its copy, since
its node is slow now."""
LAST = 10**9
"""The order of a copy: after all that is planned."""


@dataclass(slots=True)
class Plan:
    schedule: Schedule
    score: float
    lines: Sequence[Timeline]
    """What each node had free before."""


def replan(
    board: Board, now: float, *, sent: bool = True, bias: Sequence[float] | None = None
) -> tuple[Plan, dict[int, tuple[int, int]]]:
    """The plan, and what changes with it: step → node, order. `sent`: see `Board.midway`; `bias`: by node, seconds that it is
    worse for other reasons than time."""
    midway, lines = board.midway(now, sent=sent)
    plan = _best(board, midway, lines, bias)
    return plan, _changes(board, midway.waiting, plan.schedule)


def _best(board: Board, midway: Midway, lines: Sequence[Timeline], bias: Sequence[float] | None) -> Plan:
    now, waiting = midway.now, midway.waiting
    nodes = {able: tuple(n for n in able if board.up[n]) for able in {board.graph.able[i] for i in waiting}}
    free: list[Sequence[int]] = [()] * len(board.graph)
    held: list[Sequence[int]] = [()] * len(board.graph)
    for i in waiting:
        free[i] = nodes[board.graph.able[i]]
        held[i] = (board.node[i],) if board.node[i] >= 0 else free[i]

    def attempt(priority: Sequence[float], weight: float, choices: Sequence[Sequence[int]]) -> Plan:
        room = [line.copy() for line in lines]
        ahead = board.ahead if weight else None
        made = fill(
            board.fleet,
            board.graph,
            priority,
            room,
            ahead=ahead,
            weight=weight,
            choices=choices,
            midway=midway,
            bias=bias,
        )
        return Plan(made, _score(board, made, now), lines)

    kept = attempt([-float(order) for order in board.order], 0.0, held)
    others = [attempt(ranked, weight, free) for ranked in _priorities(board) for weight in (0.0, 1.0)]
    best = min(others, key=lambda plan: plan.score)
    return best if best.score < kept.score - BETTER else kept


def _priorities(board: Board) -> list[list[float]]:
    """Upward ranks; with several graphs, whole graphs in the order of their arrival or of the work left, too."""
    jobs = board.jobs
    orders: list[list[Job]] = [jobs]
    if len(jobs) > 1:
        work = {id(job): _work_left(board, job) for job in jobs}
        orders = [jobs, sorted(jobs, key=lambda job: work[id(job)])]
    span = max(board.rank, default=0.0) + 1.0
    made = []
    for order in orders:
        priority = list(board.rank)
        for place, job in enumerate(order):
            for i in range(job.first, job.last):
                priority[i] += (len(order) - place) * span
        made.append(priority)
    return made


def _work_left(board: Board, job: Job) -> float:
    graph = board.graph
    return sum(
        graph.work[i] * graph.need[i][0] for i in range(job.first, job.last) if board.status[i] in (WAITING, RUNNING)
    )


def _score(board: Board, made: Schedule, now: float) -> float:
    """The sum over the graphs of the logarithm of how long they take from arrival to end: what makes none wait for long beside
    what it needs itself."""
    finish, tail = made.finish, board.tail
    if tail:
        finish = [end + tail.get(i, 0.0) for i, end in enumerate(finish)]
    # A graph of which nothing can be placed, as nodes are now, ends nowhere.
    ends = (max(job.arrived, max(finish[job.first : job.last], default=now)) for job in board.jobs)
    return sum(log(end - job.arrived + 1e-9) for end, job in zip(ends, board.jobs, strict=True))


def _changes(board: Board, waiting: Sequence[int], made: Schedule) -> dict[int, tuple[int, int]]:
    """Only the nodes whose line changes."""
    queues: dict[int, list[int]] = {}
    for i in sorted((i for i in waiting if made.node[i] >= 0), key=lambda i: (made.start[i], made.finish[i], i)):
        queues.setdefault(made.node[i], []).append(i)
    changes: dict[int, tuple[int, int]] = {}
    for node, queue in queues.items():
        before = [board.order[i] if board.node[i] == node else -1 for i in queue]
        if before[0] < 0 or any(a >= b for a, b in pairwise(before)):
            changes |= {i: (node, place) for place, i in enumerate(queue)}
    return changes


def _slack(board: Board, made: Schedule) -> list[float]:
    """How much later each step may end without its graph ending later, as things are planned."""
    graph, fleet = board.graph, board.fleet
    node, start, finish = made.node, made.start, made.finish
    queues: dict[int, list[tuple[float, int]]] = {}
    for job in board.jobs:
        for i in range(job.first, job.last):
            if board.status[i] == WAITING and node[i] >= 0:
                queues.setdefault(node[i], []).append((start[i], i))
    for queue in queues.values():
        queue.sort()
    slack = [inf] * len(graph)
    for job in board.jobs:
        last = max(finish[job.first : job.last])
        its = [i for i in range(job.first, job.last) if board.status[i] in (WAITING, RUNNING) and node[i] >= 0]
        for i in sorted(its, key=lambda i: -finish[i]):
            least = last - finish[i]
            for c, size in graph.succs[i]:
                if board.status[c] == WAITING and node[c] >= 0:
                    a, b = fleet.domain[node[i]], fleet.domain[node[c]]
                    moves = 0.0 if node[c] == node[i] else fleet.latency[a][b] + size * fleet.per_byte[a][b]
                    least = min(least, start[c] - finish[i] - moves + slack[c])
            queue = queues.get(node[i], [])
            after = bisect_left(queue, (finish[i] - 1e-9, -1))
            if after < len(queue):
                least = min(least, queue[after][0] - finish[i] + slack[queue[after][1]])
            slack[i] = max(0.0, least)
    return slack


def _room(board: Board, plan: Plan, now: float) -> list[Timeline]:
    """What each node has free beside what runs and what is about to begin."""
    graph, made = board.graph, plan.schedule
    lines = [line.copy() for line in plan.lines]
    for job in board.jobs:
        for i in range(job.first, job.last):
            if board.status[i] == WAITING and made.node[i] >= 0:
                length = made.finish[i] - made.start[i]
                if made.start[i] - now < SOON * length:
                    lines[made.node[i]].reserve(made.start[i], length, graph.need[i])
    return lines


def _busy(board: Board) -> float:
    """The part of all cores that work."""
    fleet, graph = board.fleet, board.graph
    cores = sum(fleet.capacity[n][0] for n in range(len(fleet.offers)) if board.up[n])
    return min(1.0, sum(graph.need[i][0] * len(runs) for i, runs in board.runs.items()) / max(1, cores))


def copies(board: Board, plan: Plan, now: float, asked: dict[int, int]) -> list[tuple[int, int]]:
    """(step, node): what runs and may be late, once more, where there is room; those with most behind them first."""
    graph = board.graph
    made: list[tuple[int, int]] = []
    alone = len(board.jobs) == 1 and not any(board.others.values())
    strict = not alone or board.wasted > WASTE * board.used
    slack, lines = _slack(board, plan.schedule), _room(board, plan, now)
    worth = WORTH * _busy(board) if alone else SHARED
    for i in sorted(board.runs, key=lambda i: (-board.rank[i], i)):
        runs = board.runs[i]
        if len(runs) >= MOST_RUNS or i in asked or any(board.node[u] == GONE for u, _ in graph.preds[i]):
            continue
        first = min(runs, key=lambda n: (board.end(i, n, now), n))
        done, rate = board.progress(i, first, now), board.speed[first] / max(graph.work[i], 1e-9)
        rest = board.end(i, first, now) - now
        needed = rest + (slack[i] if slack[i] < inf else 0.0)
        best, node, length = 0.0, -1, 0.0
        for n in graph.able[i]:
            if n in runs or not board.up[n]:
                continue
            at = board.arrival(i, n, now)
            run = graph.work[i] / board.speed[n] + board.moves_s(i, n) + board.loading.rest(i, n, at)
            start = lines[n].earliest(at, run, graph.need[i])
            if start > at + 0.02 * run or (strict and done < LATE and rest < LATE * (start + run - now)):
                continue
            saved = gain(done, rate, max(start + run - now, needed)) - worth * run
            if saved > best:
                best, node, length = saved, n, start + run - now
        if node >= 0:
            start = lines[node].earliest(now, length, graph.need[i])
            lines[node].reserve(start, length, graph.need[i])
            made.append((i, node))
    return made
