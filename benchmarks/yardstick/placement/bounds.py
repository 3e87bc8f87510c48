"""Makespan lower bounds that hold for every feasible schedule of an instance."""
import numpy as np

from benchmarks.yardstick.placement.model import eligible_nodes, exec_time, fetch_time, topological_order


class _Network:
    def __init__(self, network):
        self.names = sorted(network["nodes"])
        self.domains = sorted(network["links"])
        index = {d: i for i, d in enumerate(self.domains)}
        self.dom = np.array([index[network["nodes"][n]["domain"]] for n in self.names])
        link = network["links"]
        self.lat = np.array([[link[a][b]["latency"] for b in self.domains] for a in self.domains])
        self.inv = np.array([[1.0 / link[a][b]["bandwidth"] for b in self.domains] for a in self.domains])
        self.members = [np.flatnonzero(self.dom == i) for i in range(len(self.domains))]

    def arrive(self, cost, size, back=False):
        """min over nodes q of cost[q] + transfer(q, p, size), or transfer(p, q, size), for every p."""
        per_domain = np.array([cost[m].min() if len(m) else np.inf for m in self.members])
        link = self.lat + size * self.inv
        remote = (per_domain[:, None] + (link.T if back else link)).min(axis=0)
        return np.minimum(cost, remote[self.dom])


def lower_bound(graph, network):
    net = _Network(network)
    tasks, nodes = graph["tasks"], network["nodes"]
    order = topological_order(graph)
    pred, succ = {t: [] for t in order}, {t: [] for t in order}
    for a, b, x in graph["edges"]:
        pred[b].append((a, x))
        succ[a].append((b, x))

    run, start, tail = {}, {}, {}
    allowed = {}
    fetched = {}
    for t in order:
        ok = set(eligible_nodes(tasks[t], network))
        allowed[t] = frozenset(ok)
        run[t] = np.array([exec_time(tasks[t], nodes[n]) if n in ok else np.inf for n in net.names])
    for t in order:                                   # earliest start on each node
        key = tuple(sorted(tasks[t]["inputs"].items()))
        if key not in fetched:
            fetched[key] = np.array([fetch_time(network, tasks[t]["inputs"], n) for n in net.names])
        s = fetched[key]
        for u, x in pred[t]:
            s = np.maximum(s, net.arrive(start[u] + run[u], x))
        start[t] = s
    for t in reversed(order):                         # least time needed after t finishes
        q = np.zeros(len(net.names))
        for c, x in succ[t]:
            q = np.maximum(q, net.arrive(run[c] + tail[c], x, back=True))
        tail[t] = q
    path = max(float((start[t] + run[t] + tail[t]).min()) for t in order)
    return max(path, _area_bound(tasks, nodes, order, allowed, run, start, tail))


def _area_bound(tasks, nodes, order, allowed, run, start, tail):
    """Resource-time needed between a head and a tail, over the capacity that may serve it."""
    head = np.array([start[t][np.isfinite(run[t])].min() for t in order])
    after = np.array([tail[t][np.isfinite(run[t])].min() for t in order])
    work = np.array([tasks[t]["work"] for t in order])
    distinct = list(dict.fromkeys(allowed[t] for t in order))
    sets = dict.fromkeys(distinct + [frozenset(nodes)])
    for i, a in enumerate(distinct[:25]):
        for b in distinct[i + 1:25]:
            sets[a | b] = None
    heads = np.unique(np.quantile(head, np.linspace(0, 1, 12), method="lower"))
    tails = np.unique(np.quantile(after, np.linspace(0, 1, 12), method="lower"))
    class_of = np.array([distinct.index(allowed[t]) for t in order])
    best = 0.0
    for field in ("cores", "memory", "gpus"):
        demand = work * np.array([tasks[t][field] for t in order], dtype=float)
        if not demand.any():
            continue
        for subset in sets:
            capacity = sum(nodes[n][field] * nodes[n]["speed"] for n in subset)
            if capacity <= 0:
                continue
            inside = np.array([c <= subset for c in distinct])[class_of]
            amount = np.where(inside, demand, 0.0) / capacity
            if amount.sum() == 0:
                continue
            for h in heads:
                late = np.where(head >= h - 1e-12, amount, 0.0)
                for q in tails:
                    need = late[after >= q - 1e-12].sum()
                    if need:
                        best = max(best, float(h + need + q))
    return best
