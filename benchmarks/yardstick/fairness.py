"""Multi-tenant contention: how close a dispatcher comes to weighted Dominant Resource Fairness.

Tasks are independent and never preempted. At every moment the entitlement of a tenant is its
dominant share under weighted DRF water-filling on the aggregate capacity, given what it wants now
(queued + running) and which nodes its policy allows; the dispatcher is compared with that.

jain: of min(1, share / entitlement) over active tenants. shortfall: of the worst-off tenant.
below own %: of active tenant-time with less than 0.9 x min(want, weight / all weights), i.e. worse
than a private partition (sharing incentive). envy %: of active tenant-time in which another tenant's
allocation, scaled by the weights and counted only on nodes one may use, would give over 1.1 x more.
"""
import hashlib
import heapq
import math
import random
import time
from types import MappingProxyType as ReadOnly


def stable_random(*key):
    """A random.Random that depends only on `key` (not on the process or on PYTHONHASHSEED)."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


RES = ("cpu", "memory", "gpu")
CASES = ("steady", "bursty", "restricted")


def make_case(kind, seed, horizon):
    """(cluster, tenants, arrivals): arrivals = sorted [(time, tenant, demand, seconds)]."""
    rng = stable_random("fairness", kind, seed)
    cluster = {}
    for d in range(4):
        for i in range(4):
            gpu = 4 if i == 0 else 0
            cpu = rng.choice((16, 32, 64))
            cluster[f"d{d}n{i}"] = {"domain": f"d{d}", "cpu": cpu, "memory": cpu * rng.choice((2, 4, 8)), "gpu": gpu}
    shapes = {"cpu": (4, 8, 0), "memory": (2, 32, 0), "gpu": (2, 8, 1), "even": (4, 16, 0), "tiny": (1, 2, 0)}
    kinds = ["cpu", "cpu", "memory", "memory", "gpu", "gpu", "even", "tiny"]
    total = {r: sum(v[r] for v in cluster.values()) for r in RES}
    tenants, arrivals = {}, []
    for i, shape in enumerate(kinds):
        name = f"t{i}"
        domains = None
        if kind == "restricted" and i % 2:
            domains = sorted(rng.sample(["d0", "d1", "d2", "d3"], 2))
        tenants[name] = {"weight": rng.choice((1, 1, 2, 4)), "domains": domains}
        # Offered load on the dominant resource, as a share of the whole cluster: most want more
        # than they can have, one floods, the interactive one stays far below its entitlement.
        load = {0: 3.0, 7: 0.02}.get(i, rng.uniform(0.2, 0.8))
        mean = 5.0 if shape == "tiny" else rng.uniform(20.0, 90.0)
        base = shapes[shape]
        dominant = max(b / total[r] for b, r in zip(base, RES))
        rate = load / (dominant * mean)
        at, on = 0.0, True
        while at < horizon:
            at += rng.expovariate(rate)
            if kind == "bursty" and i in (1, 3, 5):
                on = (at // (horizon / 8.0) + i) % 2 == 0
            if on and at < horizon:
                scale = rng.choice((1, 1, 2))
                demand = tuple(b * (scale if r != "gpu" else 1) for b, r in zip(base, RES))
                arrivals.append((at, name, demand, rng.lognormvariate(math.log(mean) - 0.32, 0.8)))
    return cluster, tenants, sorted(arrivals)


def water_fill(want, weights, total, reach):
    """Weighted DRF in the fluid limit: {tenant: share vector}.

    want[t] = resource amounts wanted in total; reach[t] = fraction of each resource on allowed
    nodes (caps a restricted tenant). Dominant shares divided by weight rise together; a tenant
    stops when satisfied, at its cap, or when one of its resources is exhausted."""
    unit, cap = {}, {}
    for t, w in want.items():
        share = [x / c for x, c in zip(w, total)]
        top = max(share)
        if top <= 0:
            continue
        unit[t] = [s / top for s in share]                    # per unit of dominant share
        cap[t] = min([top] + [reach[t][r] / unit[t][r] for r in range(3) if unit[t][r] > 0])
    level, active, got = 0.0, set(unit), dict.fromkeys(want, 0.0)
    left = [1.0] * 3
    while active:
        speed = [sum(weights[t] * unit[t][r] for t in active) for r in range(3)]
        step = min([left[r] / speed[r] for r in range(3) if speed[r] > 1e-12]
                   + [(cap[t] - got[t]) / weights[t] for t in active])
        level += step
        for t in active:
            got[t] += step * weights[t]
        left = [max(0.0, l - step * s) for l, s in zip(left, speed)]
        full = {r for r in range(3) if left[r] <= 1e-9}
        active = {t for t in active if got[t] < cap[t] - 1e-9
                  and not any(unit[t][r] > 1e-12 for r in full)}
    return {t: [got[t] * u for u in unit[t]] if t in unit else [0.0] * 3 for t in want}


def jain(values):
    values = list(values)
    square = sum(v * v for v in values)
    return sum(values) ** 2 / (len(values) * square) if square else 1.0


class Cluster:
    def __init__(self, cluster, tenants, arrivals, horizon):
        self.cluster, self.tenants, self.horizon = cluster, tenants, horizon
        self.arrivals = arrivals
        self.total = [sum(v[r] for v in cluster.values()) for r in RES]
        ok = {t: [n for n, v in cluster.items() if d["domains"] is None or v["domain"] in d["domains"]]
              for t, d in tenants.items()}
        self.reach = {t: [sum(cluster[n][r] for n in nodes) / c for r, c in zip(RES, self.total)]
                      for t, nodes in ok.items()}
        self.ok = {t: set(nodes) for t, nodes in ok.items()}
        self.public = {
            "time": 0.0,
            "nodes": {n: {"domain": v["domain"], "free": {r: v[r] for r in RES}} for n, v in cluster.items()},
            "tenants": {t: {"weight": d["weight"], "domains": d["domains"], "queue": {},
                            "used": dict.fromkeys(RES, 0), "allowed": tuple(ok[t])}
                        for t, d in tenants.items()}}
        self.shown = {k: ReadOnly({i: ReadOnly({f: ReadOnly(x) if isinstance(x, dict) else x
                                                 for f, x in v.items()}) for i, v in self.public[k].items()})
                      for k in ("nodes", "tenants")}

    def run(self, dispatcher):
        state, now, heap = self.public, 0.0, []
        want = {t: [0.0] * 3 for t in self.tenants}
        seconds, waits, running = {}, {t: [] for t in self.tenants}, {}
        born, index, serial = {}, 0, 0
        last_service = dict.fromkeys(self.tenants, 0.0)
        m = {"time": 0.0, "jain": 0.0, "short": dict.fromkeys(self.tenants, 0.0),
             "active": dict.fromkeys(self.tenants, 0.0), "util": 0.0, "fluid": 0.0,
             "gap": dict.fromkeys(self.tenants, 0.0), "thinking": 0.0, "launched": 0,
             "own": 0.0, "envy": 0.0}
        self.held = {t: {v["domain"]: [0.0] * 3 for v in self.cluster.values()} for t in self.tenants}
        while True:
            upcoming = [x for x in (self.arrivals[index][0] if index < len(self.arrivals) else None,
                                    heap[0][0] if heap else None) if x is not None]
            then = min(upcoming + [self.horizon])
            self._account(m, want, then - now)
            now = state["time"] = then
            if now >= self.horizon:
                break
            arrived, finished = [], []
            while index < len(self.arrivals) and self.arrivals[index][0] <= now:
                _, t, demand, length = self.arrivals[index]
                tid = f"{t}-{index}"
                index += 1
                if not any(all(self.cluster[n][r] >= x for r, x in zip(RES, demand)) for n in self.ok[t]):
                    continue
                if not state["tenants"][t]["queue"]:
                    last_service[t] = max(last_service[t], now)
                state["tenants"][t]["queue"][tid] = {"demand": dict(zip(RES, demand)), "arrived": now}
                seconds[tid], born[tid] = length, now
                arrived.append((t, tid))
                want[t] = [a + b for a, b in zip(want[t], demand)]
            while heap and heap[0][0] <= now:
                _, _, tid = heapq.heappop(heap)
                t, n, demand = running.pop(tid)
                finished.append((t, tid))
                for r in RES:
                    state["nodes"][n]["free"][r] += demand[r]
                    state["tenants"][t]["used"][r] -= demand[r]
                self._hold(t, n, demand, -1)
                want[t] = [a - demand[r] for a, r in zip(want[t], RES)]
            begin = time.process_time()
            launches = dispatcher.on_event({"time": now, "arrived": tuple(arrived),
                                              "finished": tuple(finished), **self.shown})
            m["thinking"] += time.process_time() - begin
            for launch in launches or []:
                tid, n = launch["task"], launch["node"]
                t = tid.partition("-")[0]
                task = state["tenants"][t]["queue"].pop(tid)
                free = state["nodes"][n]["free"]
                if n not in self.ok[t] or any(free[r] < task["demand"][r] for r in RES):
                    raise ValueError(f"{tid} on {n}: forbidden or overcommitted")
                for r in RES:
                    free[r] -= task["demand"][r]
                    state["tenants"][t]["used"][r] += task["demand"][r]
                self._hold(t, n, task["demand"], 1)
                running[tid] = (t, n, task["demand"])
                serial += 1
                heapq.heappush(heap, (now + seconds[tid], serial, tid))
                waits[t].append(now - born[tid])
                m["gap"][t] = max(m["gap"][t], now - last_service[t])
                last_service[t] = now
                m["launched"] += 1
        for t, v in state["tenants"].items():           # what still waits has waited at least this long
            waits[t] += [now - x["arrived"] for x in v["queue"].values()]
            if v["queue"]:
                m["gap"][t] = max(m["gap"][t], now - last_service[t])
        return self._summary(m, waits)

    def _hold(self, t, n, demand, sign):
        held = self.held[t][self.cluster[n]["domain"]]
        for i, r in enumerate(RES):
            held[i] += sign * demand[r] / self.total[i]

    def _envies(self, t, own, unit, weights):
        mine = self.tenants[t]["domains"]
        for s, per_domain in self.held.items():
            if s != t:
                usable = [sum(v[i] for d, v in per_domain.items() if mine is None or d in mine) for i in range(3)]
                swap = min(usable[i] / unit[i] for i in range(3) if unit[i] > 0) * weights[t] / weights[s]
                if swap > 1.1 * own + 0.01:
                    return True
        return False

    def _account(self, m, want, dt):
        if dt <= 0 or self.public["time"] < 0.1 * self.horizon:
            return
        weights = {t: d["weight"] for t, d in self.tenants.items()}
        fair = water_fill(want, weights, self.total, self.reach)
        ratio, used = {}, [0.0] * 3
        for t, v in self.public["tenants"].items():
            share = [v["used"][r] / c for r, c in zip(RES, self.total)]
            used = [a + b for a, b in zip(used, share)]
            if max(fair[t]) > 0:
                ratio[t] = max(share) / max(fair[t])
                m["active"][t] += dt
                m["short"][t] += dt * max(0.0, 1.0 - ratio[t])
                wish = [x / c for x, c in zip(want[t], self.total)]
                top = max(wish)
                unit = [x / top for x in wish]
                reach = min(self.reach[t][r] / unit[r] for r in range(3) if unit[r] > 0)
                own = min(top, reach, weights[t] / sum(weights.values()))
                m["own"] += dt * (max(share) < 0.9 * own)
                if max(share) < min(top, reach) - 1e-9:
                    m["envy"] += dt * self._envies(t, max(share), unit, weights)
        m["time"] += dt
        m["jain"] += dt * (jain(min(v, 1.0) for v in ratio.values()) if ratio else 1.0)
        m["util"] += dt * max(used)
        m["fluid"] += dt * max(sum(fair[t][r] for t in fair) for r in range(3))

    def _summary(self, m, waits):
        def p99(values):
            values = sorted(values)
            return values[min(len(values) - 1, int(0.99 * len(values)))] if values else 0.0
        active = sum(m["active"].values())
        return {"jain": m["jain"] / m["time"],
                "below own %": 100.0 * m["own"] / active, "envy %": 100.0 * m["envy"] / active,
                "shortfall": max(m["short"][t] / m["active"][t] for t in waits if m["active"][t] > 0),
                "utilisation": m["util"] / m["time"], "vs fluid": m["util"] / m["fluid"],
                "light p99 s": p99(waits["t7"]), "starved s": max(m["gap"].values()),
                "launches/s": m["launched"] / max(1e-9, m["thinking"])}


# ---------------------------------------------------------------- reference dispatchers

class Greedy:
    """Repeat: take the first tenant by `key` whose oldest task fits somewhere; launch it there."""

    best_fit = False

    def __init__(self, nodes, tenants):
        self.total = {r: sum(v[r] for v in nodes.values()) for r in RES}
        self.turn = dict.fromkeys(tenants, 0)

    def key(self, name, tenant, used):
        raise NotImplementedError

    def node_for(self, tenant, demand, free):
        fits = [n for n in tenant["allowed"] if n in free and all(free[n][r] >= demand[r] for r in RES)]
        if not fits:
            return None
        if not self.best_fit:
            return fits[0]
        # Keep GPU nodes for GPU work, then leave the least slack (normalised).
        return min(fits, key=lambda n: (bool(free[n]["gpu"]) and not demand["gpu"],
                                        sum((free[n][r] - demand[r]) / self.total[r] for r in RES)))

    def on_event(self, state):
        free = {n: dict(v["free"]) for n, v in state["nodes"].items()}
        used = {t: dict(v["used"]) for t, v in state["tenants"].items()}
        queues = {t: iter(v["queue"].items()) for t, v in state["tenants"].items() if v["queue"]}
        heads = {t: next(q) for t, q in queues.items()}
        launches = []
        while heads:
            t = min(heads, key=lambda t: (self.key(t, state["tenants"][t], used[t], heads[t][1]), t))
            tid, task = heads[t]
            n = self.node_for(state["tenants"][t], task["demand"], free)
            if n is None:
                if self.blocks():
                    break
                self.hold(t, state["tenants"][t], task["demand"], free, used)
                del heads[t]
                continue
            for r in RES:
                free[n][r] -= task["demand"][r]
                used[t][r] += task["demand"][r]
            self.turn[t] += 1
            launches.append({"task": tid, "node": n})
            following = next(queues[t], None)
            if following:
                heads[t] = following
            else:
                del heads[t]
        return launches

    def blocks(self):
        return False

    def hold(self, name, tenant, demand, free, used):
        pass


class Fifo(Greedy):
    def key(self, name, tenant, used, task):
        return task["arrived"]

    def blocks(self):
        return True


class FifoSkip(Fifo):
    def blocks(self):
        return False


class RoundRobin(Greedy):
    def key(self, name, tenant, used, task):
        return self.turn[name] / tenant["weight"]


class CpuFair(Greedy):
    def key(self, name, tenant, used, task):
        return used["cpu"] / tenant["weight"]


class Drf(Greedy):
    def key(self, name, tenant, used, task):
        return max(used[r] / self.total[r] for r in RES) / tenant["weight"]


class DrfPack(Drf):
    best_fit = True


class DrfHold(DrfPack):
    """A tenant below half of the largest weighted share keeps the node closest to fitting its task
    free of others, so that small tasks cannot starve large ones."""

    def hold(self, name, tenant, demand, free, used):
        shares = {t: max(u[r] / self.total[r] for r in RES) / self.weight[t] for t, u in used.items()}
        options = [n for n in tenant["allowed"] if n in free
                   and all(self.size[n][r] >= demand[r] for r in RES)]
        if options and shares[name] < 0.5 * max(shares.values()):
            missing = lambda n: sum(max(0, demand[r] - free[n][r]) / self.total[r] for r in RES)
            del free[min(options, key=missing)]

    def __init__(self, nodes, tenants):
        super().__init__(nodes, tenants)
        self.size, self.weight = nodes, {t: v["weight"] for t, v in tenants.items()}


ALL = {"fifo": Fifo, "fifo_skip": FifoSkip, "round_robin": RoundRobin, "cpu_fair": CpuFair,
       "drf": Drf, "drf_pack": DrfPack, "drf_hold": DrfHold}
