"""Reference online systems: class(graph, network) with on_event(state) -> assignments."""
import random

from benchmarks.yardstick.placement.baselines import Timeline, View, decode


class Base:
    """Keeps a View of the graphs in progress. `jobs` orders whole graphs: by `rank` (none), `fifo`
    or `srpt` (least estimated remaining work first)."""

    jobs = "rank"

    def __init__(self, graph, network):
        self.network, self.known, self.rng = network, [graph] if graph["tasks"] else [], random.Random(1)
        self.done = {}
        self.rebuild(None)

    def rebuild(self, tasks):
        """After an arrival or the end of a graph; `tasks` is the current state, None at first."""
        if tasks is not None:
            self.known = [g for g in self.known if next(iter(g["tasks"])) in tasks]
        merged = {"name": "all", "tasks": {}, "edges": []}
        for g in self.known:
            merged["tasks"].update(g["tasks"])
            merged["edges"] += g["edges"]
        self.view = View(merged, self.network)
        self.rank = self.view.upward()
        if self.jobs == "rank" or len(self.known) < 2:
            return
        left = lambda g: sum(v["work"] * v["cores"] for t, v in g["tasks"].items() if tasks[t]["status"] != "done")
        order = sorted(self.known, key=left) if self.jobs == "srpt" else self.known
        for i, g in enumerate(order):
            for t in g["tasks"]:
                self.rank[t] -= 1e9 * i

    def follow(self, state):
        """Call first on every event."""
        event = state["event"]
        if event["type"] == "arrive":
            self.known.append(event["graph"])
        if event["type"] == "arrive" or event.get("job_done"):
            self.rebuild(state["tasks"])


class Static(Base):
    """HEFT once on estimates; work stranded by a failure goes to the least loaded allowed node."""

    def __init__(self, graph, network):
        super().__init__(graph, network)
        self.plan = decode(self.view, self.rank)[0]

    def on_event(self, state):
        if state["event"]["type"] == "start":
            return self.plan
        if state["event"]["type"] not in ("node_down", "node_up"):
            return {}
        up = {n for n, v in state["nodes"].items() if v["up"]}
        load = dict.fromkeys(up, 0)
        for v in state["tasks"].values():
            if v["node"] in up and v["status"] != "done":
                load[v["node"]] += 1
        answer = {}
        for t in self.view.order:
            v = state["tasks"][t]
            options = [n for n in self.view.eligible[t] if n in up]
            if v["status"] == "pending" and v["node"] is None and options:
                n = min(options, key=lambda n: load[n] / self.view.nodes[n]["cores"])
                load[n] += 1
                answer[t] = {"node": n, "order": self.plan[t]["order"]}
        return answer


class Bind(Base):
    """Binds a task once, when its producers are done, to the node of least `cost`; a lost binding is
    made again. `load[n]` = [tasks, estimated seconds of work] bound to the node and not finished."""

    sample, jobs = None, "fifo"

    def on_event(self, state):
        self.follow(state)
        tasks, view, load = state["tasks"], self.view, None
        ready = [t for t in view.order if tasks[t]["status"] == "pending" and tasks[t]["node"] is None
                 and all(tasks[u]["status"] == "done" for u, _ in view.preds[t])]
        if not ready:
            return self.rebalance(state)
        load = self.load(state)
        answer = {}
        for t in sorted(ready, key=lambda t: -self.rank[t]):
            options = [n for n in view.eligible[t] if n in load]
            if not options:
                continue
            if self.sample:
                options = self.rng.sample(options, min(self.sample, len(options)))
            n = min(options, key=lambda n: self.cost(t, n, load, state))
            self.add(load, t, n, state)
            answer[t] = {"node": n, "order": self.place_in_line(t)}
        return answer

    def load(self, state):
        load = {n: [0, 0.0] for n, v in state["nodes"].items() if v["up"]}
        for t, v in state["tasks"].items():
            if v["status"] in ("pending", "running") and v["node"] in load:
                self.add(load, t, v["node"], state)
        return load

    def add(self, load, t, n, state, sign=1):
        load[n][0] += sign
        load[n][1] += sign * self.view.tasks[t]["work"] * self.view.tasks[t]["cores"] / state["nodes"][n]["speed"]

    def place_in_line(self, t):
        return int(-self.rank[t] * 1000)

    def rebalance(self, state):
        return {}

    def inbound(self, t, n, state):
        done = [(state["tasks"][u]["node"], x) for u, x in self.view.preds[t] if state["tasks"][u]["status"] == "done"]
        near = max((self.view.transfer(m, n, x) for m, x in done), default=0.0)
        return max(near, self.view.fetch(t, n))


class Random(Bind):
    def cost(self, t, n, load, state):
        return self.rng.random()


class RoundRobin(Bind):
    def __init__(self, graph, network):
        super().__init__(graph, network)
        self.last, self.turn = dict.fromkeys(network["nodes"], 0), 0

    def cost(self, t, n, load, state):
        return self.last[n]

    def add(self, load, t, n, state, sign=1):
        super().add(load, t, n, state, sign)
        if state["tasks"][t]["node"] is None:
            self.turn += 1
            self.last[n] = self.turn


class ShortestQueue(Bind):
    """JSQ: fewest tasks per core."""

    def cost(self, t, n, load, state):
        return load[n][0] / self.view.nodes[n]["cores"]


class PowerOfTwo(ShortestQueue):
    """Sparrow's probe: the shorter queue of two eligible nodes drawn at random."""

    sample = 2


class LeastLoaded(Bind):
    """Least estimated seconds of work per core."""

    def cost(self, t, n, load, state):
        return load[n][1] / self.view.nodes[n]["cores"]


class Dask(Bind):
    """As Dask does: candidates hold an input (any node for a root); least occupancy per core plus
    transfer; idle nodes then steal queued tasks from the busiest where that starts them earlier.
    Stealing is checked at every event; Dask does it each 0.1 s."""

    def cost(self, t, n, load, state):
        holders = {state["tasks"][u]["node"] for u, _ in self.view.preds[t]}
        away = bool(holders) and n not in holders and bool(holders & set(self.view.eligible[t]) & set(load))
        return (away, load[n][1] / self.view.nodes[n]["cores"] + self.inbound(t, n, state))

    def place_in_line(self, t):
        return self.view.order.index(t)

    def rebalance(self, state):
        tasks, nodes, view = state["tasks"], state["nodes"], self.view
        queued = {}
        for t, v in tasks.items():
            if v["status"] == "pending" and v["node"] is not None:
                queued.setdefault(v["node"], []).append(t)
        idle = [n for n, v in nodes.items() if v["up"] and v["free_cores"] > 0 and n not in queued]
        if not idle or not queued:
            return {}
        load, answer = self.load(state), {}
        for victim in sorted(queued, key=lambda n: -load[n][1] / view.nodes[n]["cores"]):
            for t in sorted(queued[victim], key=lambda t: -tasks[t]["order"]):
                ahead = load[victim][1] / view.nodes[victim]["cores"] - view.tasks[t]["work"] / nodes[victim]["speed"]
                for n in idle:
                    if n in view.eligible[t] and self.inbound(t, n, state) < ahead:
                        answer[t] = {"node": n, "order": tasks[t]["order"]}
                        self.add(load, t, victim, state, -1)
                        self.add(load, t, n, state)
                        idle.remove(n)
                        break
                if not idle:
                    return answer
        return answer


class EarliestFinish(Bind):
    """EFT at ready time: queue ahead + transfer + run time, bound once."""

    def cost(self, t, n, load, state):
        start = max(load[n][1] / self.view.nodes[n]["cores"], self.inbound(t, n, state))
        return start + self.view.tasks[t]["work"] / state["nodes"][n]["speed"]


class EarliestFinishSrpt(EarliestFinish):
    jobs = "srpt"


class JustInTime(Base):
    """Binds a task when its producers are done: ready tasks by upward rank, earliest finish over
    the observed speeds; tasks not yet started are re-bound at every event (at most `window`)."""

    window = 64

    def duration(self, t, n, state):
        return self.view.tasks[t]["work"] / state["nodes"][n]["speed"]

    def lines(self, state):
        """Timelines of the live nodes with running work reserved up to its estimated end."""
        now = state["time"]
        line = {n: Timeline(self.view.nodes[n]) for n, v in state["nodes"].items() if v["up"]}
        for t, v in state["tasks"].items():
            for n in v["running_on"]:
                length = self.duration(t, n, state)
                end = max(v["started"] + length, now + 0.1 * length)
                line[n].reserve(0.0, end, self.view.need[t])
        return line

    def on_event(self, state):
        self.follow(state)
        now, tasks, view = state["time"], state["tasks"], self.view
        ready = [t for t in view.order if tasks[t]["status"] == "pending"
                 and all(tasks[u]["status"] == "done" for u, _ in view.preds[t])]
        ready.sort(key=lambda t: -self.rank[t])
        line, answer = self.lines(state), {}
        for i, t in enumerate(ready[:self.window]):
            best = None
            for n in view.eligible[t]:
                if n not in line:
                    continue
                at = now
                if tasks[t]["node"] != n:
                    at += max((view.transfer(tasks[u]["node"], n, x) for u, x in view.preds[t]), default=0.0)
                    at = max(at, now + view.fetch(t, n))
                length = self.duration(t, n, state)
                start = line[n].earliest(at, length, view.need[t])
                if best is None or start + length < best[0]:
                    best = (start + length, n, start, length)
            if best:
                _, n, start, length = best
                line[n].reserve(start, length, view.need[t])
                if tasks[t]["node"] != n or tasks[t]["order"] != i:
                    answer[t] = {"node": n, "order": i}
        return answer


class Replan(JustInTime):
    """HEFT over everything not started, repeated at node events and at every tick."""

    def on_event(self, state):
        self.follow(state)
        if state["event"]["type"] == "finish":
            self.done[state["event"]["task"]] = state["time"]
            return {}
        line, fixed, now = self.lines(state), {}, state["time"]
        for t, v in state["tasks"].items():
            if v["status"] == "done":
                fixed[t] = (v["node"], 0.0, self.done[t])
            elif v["status"] == "running":
                n = v["running_on"][0]
                length = self.duration(t, n, state)
                fixed[t] = (n, v["started"], max(v["started"] + length, now + 0.1 * length))
        choices = {t: [n for n in self.view.eligible[t] if n in line] for t in self.view.order}
        plan, _ = decode(self.view, self.rank, choices=choices, fixed=fixed, lines=line, now=now,
                         duration=lambda t, n: self.duration(t, n, state))
        return plan


class Speculate(Replan):
    """Replan plus backup copies (at most two), on idle capacity, of tasks whose latest copy has run
    longer than 1.25 x its estimate; longest upward rank first."""

    patience, order = 1.25, -1

    def on_event(self, state):
        answer = dict(super().on_event(state))
        if state["event"]["type"] == "start":
            return answer
        free = {n: [v["free_cores"], v["free_memory"], v["free_gpus"]]
                for n, v in state["nodes"].items() if v["up"]}
        late = [t for t, v in state["tasks"].items() if v["status"] == "running"
                and len(v["running_on"]) < 3 and state["time"] - v["started"]
                > self.patience * self.duration(t, v["running_on"][-1], state)]
        for t in sorted(late, key=lambda t: -self.rank[t]):
            here, need = state["tasks"][t]["running_on"], self.view.need[t]
            options = [n for n in self.view.eligible[t] if n not in here and n in free
                       and all(f >= d for f, d in zip(free[n], need))]
            if options:
                n = max(options, key=lambda n: state["nodes"][n]["speed"])
                free[n] = [f - d for f, d in zip(free[n], need)]
                answer[t] = {"node": n, "order": self.order, "copy": True}
        return answer


class Clone(Speculate):
    """Copies of running tasks on any capacity that would otherwise stay idle, without waiting."""

    patience, order = 0.0, 10 ** 9


class JustInTimeFifo(JustInTime):
    jobs = "fifo"


class JustInTimeSrpt(JustInTime):
    jobs = "srpt"


class ReplanSrpt(Replan):
    jobs = "srpt"


class SpeculateSrpt(Speculate):
    jobs = "srpt"


class CloneSrpt(Clone):
    jobs = "srpt"


STREAM = {"random": Random, "round_robin": RoundRobin, "jsq": ShortestQueue, "power_of_2": PowerOfTwo,
          "least_loaded": LeastLoaded, "dask": Dask, "eft": EarliestFinish, "eft_srpt": EarliestFinishSrpt,
          "jit": JustInTime, "jit_fifo": JustInTimeFifo, "jit_srpt": JustInTimeSrpt, "replan": Replan,
          "replan_srpt": ReplanSrpt, "speculate_srpt": SpeculateSrpt, "clone_srpt": CloneSrpt}
ALL = {"static": Static, "random": Random, "round_robin": RoundRobin, "jsq": ShortestQueue,
       "power_of_2": PowerOfTwo, "least_loaded": LeastLoaded, "dask": Dask, "eft": EarliestFinish,
       "jit": JustInTime, "replan": Replan, "speculate": Speculate, "clone": Clone}
