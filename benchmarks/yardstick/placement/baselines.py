"""Reference placement systems. Every public function is a plug-in: place(graph, network) -> plan."""
import bisect
import copy
import functools
import heapq
import random
import time

from benchmarks.yardstick.placement.model import eligible_nodes, exec_time, fetch_time, topological_order, transfer_time
from benchmarks.yardstick.placement.simulate import makespan, simulate


class Timeline:
    """Free (cores, memory, gpus) of one node over time, as a step function."""

    def __init__(self, node):
        self.times, self.free = [0.0], [(node["cores"], node["memory"], node["gpus"])]
        self.last_start = 0.0

    def earliest(self, ready, length, need):
        c, m, g = need
        times, free = self.times, self.free
        i = bisect.bisect_right(times, ready) - 1
        start, last = ready, len(times) - 1
        while True:
            f = free[i]
            if f[0] < c or f[1] < m or f[2] < g:
                i += 1
                start = times[i]
            elif i == last or start + length <= times[i + 1]:
                return start
            else:
                i += 1

    def _cut(self, t):
        i = bisect.bisect_left(self.times, t)
        if i == len(self.times) or self.times[i] != t:
            self.times.insert(i, t)
            self.free.insert(i, self.free[i - 1])
        return i

    def reserve(self, start, length, need):
        a, b = self._cut(start), self._cut(start + length)
        for i in range(a, b):
            f = self.free[i]
            self.free[i] = (f[0] - need[0], f[1] - need[1], f[2] - need[2])
        self.last_start = max(self.last_start, start)


class View:
    """Derived data shared by the list schedulers: predecessors, eligibility, average costs, ranks."""

    def __init__(self, graph, network):
        self.graph, self.network = graph, network
        self.tasks, self.nodes = graph["tasks"], network["nodes"]
        self.order = topological_order(graph)
        self.preds, self.succs = {t: [] for t in self.order}, {t: [] for t in self.order}
        for a, b, x in graph["edges"]:
            self.preds[b].append((a, x))
            self.succs[a].append((b, x))
        memo = {}
        self.eligible, self.need = {}, {}
        for t, v in self.tasks.items():
            self.need[t] = (v["cores"], v["memory"], v["gpus"])
            key = (self.need[t], v["min_trust"], v["domains"] and tuple(v["domains"]))
            if key not in memo:
                memo[key] = eligible_nodes(v, network)
            self.eligible[t] = memo[key]
        pairs = [(a, b) for a in self.nodes for b in self.nodes] if len(self.nodes) <= 64 else [
            (a, b) for a in list(self.nodes)[::8] for b in list(self.nodes)[::8]]
        self.latency = sum(transfer_time(network, a, b, 0.0) for a, b in pairs) / len(pairs)
        self.per_byte = sum(transfer_time(network, a, b, 1e9) for a, b in pairs) / len(pairs) / 1e9
        self.per_byte -= self.latency / 1e9
        self.mean_run = {t: sum(exec_time(self.tasks[t], self.nodes[n]) for n in self.eligible[t])
                         / len(self.eligible[t]) for t in self.order}

    def comm(self, size):
        return self.latency + size * self.per_byte

    def transfer(self, src, dst, size):
        return transfer_time(self.network, src, dst, size)

    def fetch(self, t, n):
        return fetch_time(self.network, self.tasks[t]["inputs"], n)

    def upward(self):
        rank = {}
        for t in reversed(self.order):
            rank[t] = self.mean_run[t] + max((rank[c] + self.comm(x) for c, x in self.succs[t]), default=0.0)
        return rank

    def downward(self):
        rank = {}
        for t in self.order:
            rank[t] = max((rank[u] + self.mean_run[u] + self.comm(x) for u, x in self.preds[t]), default=0.0)
        return rank

    def optimistic(self):
        """PEFT's optimistic cost table: {task: {node: least remaining time after it}}."""
        table, dom = {}, {n: v["domain"] for n, v in self.nodes.items()}
        links = self.network["links"]
        domains = sorted(links)
        for t in reversed(self.order):
            row = dict.fromkeys(self.nodes, 0.0)
            for c, x in self.succs[t]:
                total = {n: exec_time(self.tasks[c], self.nodes[n]) + table[c][n] for n in self.eligible[c]}
                best = {}
                for n, v in total.items():
                    best[dom[n]] = min(v, best.get(dom[n], v))
                remote = {d: min(v + links[d][e]["latency"] + x / links[d][e]["bandwidth"]
                                 for e, v in best.items()) for d in domains}
                for n in row:
                    row[n] = max(row[n], min(total.get(n, remote[dom[n]]), remote[dom[n]]))
            table[t] = row
        return table


def decode(view, priority, score=None, insertion=True, choices=None, duration=None,
           fixed=None, lines=None, now=0.0):
    """List scheduling: highest priority first among tasks whose producers are placed.

    score(task, node, start, finish) is minimised over the eligible nodes (default: finish);
    duration(task, node) replaces work / speed; `fixed` holds tasks already placed and `lines` the
    matching timelines, for re-planning from `now` on. A task with no allowed node among `choices`
    is left out, and so is everything after it. Returns (plan, schedule).
    """
    line = lines or {n: Timeline(v) for n, v in view.nodes.items()}
    placed = dict(fixed or {})
    missing = {t: sum(u not in placed for u, _ in p) for t, p in view.preds.items()}
    ready = [(-priority[t], i, t) for i, t in enumerate(view.order) if not missing[t] and t not in placed]
    index = {t: i for i, t in enumerate(view.order)}
    heapq.heapify(ready)
    while ready:
        t = heapq.heappop(ready)[2]
        task, best = view.tasks[t], None
        inputs, arrivals = task["inputs"], {}
        for n in (choices[t] if choices and t in choices else view.eligible[t]):
            node = view.nodes[n]
            d = node["domain"]
            if d not in arrivals:                       # latest arrival from each producer node
                at = now + (fetch_time(view.network, inputs, n) if inputs else 0.0)
                far = []
                for u, x in view.preds[t]:
                    m, _, f = placed[u]
                    link = view.network["links"][view.nodes[m]["domain"]][d]
                    far.append((f + link["latency"] + x / link["bandwidth"], m, f))
                far.sort(reverse=True)
                arrivals[d] = (at, far)
            at, far = arrivals[d]
            for arrive, m, f in far:
                if m != n:
                    at = max(at, arrive)
                    break
                at = max(at, f)
            if not insertion:
                at = max(at, line[n].last_start)
            length = duration(t, n) if duration else task["work"] / node["speed"]
            start = line[n].earliest(at, length, view.need[t])
            value = score(t, n, start, start + length) if score else start + length
            if best is None or value < best[0]:
                best = (value, n, start, length)
        if best is None:
            continue
        _, n, start, length = best
        line[n].reserve(start, length, view.need[t])
        placed[t] = (n, start, start + length)
        for c, _ in view.succs[t]:
            missing[c] -= 1
            if not missing[c] and c not in placed:
                heapq.heappush(ready, (-priority[c], index[c], c))
    sequence = sorted((t for t in placed if not fixed or t not in fixed),
                      key=lambda t: (placed[t][1], index[t]))
    return {t: {"node": placed[t][0], "order": i} for i, t in enumerate(sequence)}, placed


# ---------------------------------------------------------------- systems

def random_place(graph, network):
    view, rng = View(graph, network), random.Random(1)
    return {t: {"node": rng.choice(view.eligible[t]), "order": i} for i, t in enumerate(view.order)}


def round_robin(graph, network):
    view = View(graph, network)
    return {t: {"node": view.eligible[t][i % len(view.eligible[t])], "order": i}
            for i, t in enumerate(view.order)}


def met(graph, network):
    """Fastest eligible node, whatever its load."""
    view = View(graph, network)
    return {t: {"node": max(view.eligible[t], key=lambda n: view.nodes[n]["speed"]), "order": i}
            for i, t in enumerate(view.order)}


def mct(graph, network):
    """Arrival order, earliest completion, no insertion: what a greedy online placer does."""
    view = View(graph, network)
    return decode(view, {t: -i for i, t in enumerate(view.order)}, insertion=False)[0]


def data_local(graph, network):
    """Dask-like: a node already holding an input, else any; least start time among those."""
    view = View(graph, network)
    placed_on, load, plan = {}, dict.fromkeys(view.nodes, 0.0), {}
    for i, t in enumerate(view.order):
        holders = [placed_on[u] for u, _ in view.preds[t]]
        options = [n for n in view.eligible[t] if n in holders] or view.eligible[t]
        inbound = lambda n: sum(transfer_time(network, placed_on[u], n, x) for u, x in view.preds[t])
        n = min(options, key=lambda n: load[n] / view.nodes[n]["cores"] + inbound(n))
        load[n] += exec_time(view.tasks[t], view.nodes[n]) * view.tasks[t]["cores"]
        placed_on[t] = n
        plan[t] = {"node": n, "order": i}
    return plan


def heft(graph, network):
    view = View(graph, network)
    return decode(view, view.upward())[0]


def heft_append(graph, network):
    view = View(graph, network)
    return decode(view, view.upward(), insertion=False)[0]


def cpop(graph, network):
    view = View(graph, network)
    up, down = view.upward(), view.downward()
    priority = {t: up[t] + down[t] for t in up}
    top = max(priority.values())
    path = [t for t in view.order if priority[t] >= top * (1 - 1e-9)]
    common = set(view.nodes).intersection(*(view.eligible[t] for t in path))
    choices = {}
    if common:
        node = max(common, key=lambda n: view.nodes[n]["speed"])
        choices = {t: [node] for t in path}
    return decode(view, priority, choices=choices)[0]


def peft(graph, network):
    view = View(graph, network)
    table = view.optimistic()
    priority = {t: sum(row.values()) / len(row) for t, row in table.items()}
    return decode(view, priority, lambda t, n, start, finish: finish + table[t][n])[0]


def heft_oct(graph, network):
    """HEFT's upward rank with PEFT's look-ahead node choice."""
    view = View(graph, network)
    table = view.optimistic()
    return decode(view, view.upward(), lambda t, n, start, finish: finish + table[t][n])[0]


PORTFOLIO = (heft, peft, heft_oct, cpop, mct)


def portfolio(graph, network):
    """Best of the list schedulers above, judged by the simulator."""
    plans = [f(graph, network) for f in PORTFOLIO]
    return min(plans, key=lambda p: makespan(simulate(graph, network, p)))


def refined(graph, network, rounds=5):
    """Four list schedules, then forward-backward improvement of the best one: schedule the reversed
    graph on the same nodes, use the result as ranks of a new forward pass, stop when it stalls."""
    view = View(graph, network)
    table, up = view.optimistic(), view.upward()
    look = {t: sum(row.values()) / len(row) + view.mean_run[t] for t, row in table.items()}
    ahead = lambda t, n, start, finish: finish + table[t][n]
    length = lambda result: max(f for _, _, f in result[1].values())
    best = min((decode(view, rank, score) for rank in (up, look) for score in (None, ahead)), key=length)
    mirror = copy.copy(view)
    mirror.preds, mirror.succs, mirror.order = view.succs, view.preds, view.order[::-1]
    mirror.tasks = {t: {**v, "inputs": {}} for t, v in view.tasks.items()}
    for _ in range(rounds):
        same = {t: [n] for t, (n, _, _) in best[1].items()}
        _, back = decode(mirror, {t: f for t, (_, _, f) in best[1].items()}, choices=same)
        rank = {t: f for t, (_, _, f) in back.items()}
        new = min((decode(view, rank), decode(view, rank, ahead), decode(view, rank, choices=same)), key=length)
        if length(new) >= length(best) * (1 - 1e-9):
            break
        best = new
    return best[0]


def search(graph, network, seconds=5.0, seed=1):
    """Strong, slow anchor: list schedules, then random-restart perturbation of ranks under a time limit."""
    end = time.process_time() + seconds
    view, rng = View(graph, network), random.Random(seed)
    table, up, down = view.optimistic(), view.upward(), view.downward()
    oct_mean = {t: sum(r.values()) / len(r) for t, r in table.items()}
    bases = [up, {t: oct_mean[t] + view.mean_run[t] for t in up}, {t: up[t] + 0.5 * down[t] for t in up}]
    best, best_plan, best_priority, best_weight = float("inf"), None, up, 0.0

    def attempt(priority, weight, insertion=True):
        nonlocal best, best_plan, best_priority, best_weight
        score = (lambda t, n, s, f: f + weight * table[t][n]) if weight else None
        plan, placed = decode(view, priority, score, insertion)
        length = max(f for _, _, f in placed.values())
        if length < best:
            best, best_plan, best_priority, best_weight = length, plan, priority, weight

    for base in bases:
        for weight in (0.0, 0.5, 1.0):
            if time.process_time() < end or best_plan is None:
                attempt(base, weight)
    while time.process_time() < end:
        width = rng.choice((0.02, 0.05, 0.15, 0.4))
        base = best_priority if rng.random() < 0.7 else rng.choice(bases)
        weight = best_weight if rng.random() < 0.6 else rng.choice((0.0, 0.25, 0.5, 0.75, 1.0))
        attempt({t: v * rng.lognormvariate(0.0, width) for t, v in base.items()}, weight)
    return best_plan


search_1s = functools.partial(search, seconds=1.0)
search_4s = functools.partial(search, seconds=4.0)

FAST = {"random": random_place, "round_robin": round_robin, "met": met, "mct": mct,
        "data_local": data_local, "heft_append": heft_append, "heft": heft, "cpop": cpop,
        "peft": peft, "heft_oct": heft_oct, "portfolio": portfolio, "refined": refined}
