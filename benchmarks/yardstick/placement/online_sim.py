"""Event-driven execution with run-time noise, node failures and slowdowns.

The scored system is an object with on_event(state) -> assignments; README.md documents both.
What it is handed is a live, read-only view.
"""
import copy
import heapq
import time
from types import MappingProxyType as ReadOnly

from benchmarks.yardstick.placement.model import allowed, fetch_time, transfer_time


class BadAssignment(Exception):
    pass


class Engine:
    def __init__(self, graph, network, actual_work, disturbances, tick, arrivals=()):
        """actual_work(task, node) -> true work; disturbances: [(time, "down"|"up"|"speed", node, factor)];
        arrivals: [(time, graph)], each with task ids of its own, unknown to the system until then."""
        self.network, self.nodes = network, network["nodes"]
        self.tasks, self.preds, self.succs = {}, {}, {}
        self.job_of, self.jobs, self.expected = {}, [], len(arrivals)
        self.unfinished, self.occupied, self.useful = 0, 0.0, 0.0
        self.work = actual_work
        self.now, self.serial, self.heap = 0.0, 0, []
        self.up = dict.fromkeys(self.nodes, True)
        self.factor = dict.fromkeys(self.nodes, 1.0)
        self.free = {n: [v["cores"], v["memory"], v["gpus"]] for n, v in self.nodes.items()}
        self.queue = {n: {} for n in self.nodes}            # node -> {task: order}, not started
        self.assigned = {}                                  # (task, node) -> time of assignment
        self.running = {}                                   # (task, node) -> [remaining, since, version]
        self.wakes = set()
        self.done_at, self.data = {}, {}                    # finish time; node holding the output
        self.placements, self.events, self.thinking = 0, 0, 0.0
        self.public = {
            "tasks": {},
            "nodes": {n: {"up": True, "speed": v["speed"], "free_cores": v["cores"],
                          "free_memory": v["memory"], "free_gpus": v["gpus"]}
                      for n, v in self.nodes.items()}}
        self.views = {k: {i: ReadOnly(v) for i, v in rows.items()} for k, rows in self.public.items()}
        self.shown = {k: ReadOnly(rows) for k, rows in self.views.items()}
        if graph["tasks"]:
            self._admit(graph)
        for when, kind, node, factor in disturbances:
            self._push(when, kind, node, factor)
        for when, job in arrivals:
            self._push(when, "arrive", job, None)
        self.tick = tick
        self._push(tick, "tick", None, None)

    def _push(self, when, kind, a, b):
        self.serial += 1
        heapq.heappush(self.heap, (when, self.serial, kind, a, b))

    # ------------------------------------------------------------ state changes

    def _admit(self, graph):
        self.jobs.append({"arrived": self.now, "left": len(graph["tasks"]), "done": None, "ids": list(graph["tasks"])})
        for t, v in graph["tasks"].items():
            self.tasks[t], self.preds[t], self.succs[t] = v, [], []
            self.job_of[t] = self.jobs[-1]
            self.public["tasks"][t] = {"status": "pending", "node": None, "order": None,
                                       "started": None, "running_on": ()}
            self.views["tasks"][t] = ReadOnly(self.public["tasks"][t])
        for a, b, x in graph["edges"]:
            self.preds[b].append((a, x))
            self.succs[a].append((b, x))
        self.unfinished += len(graph["tasks"])

    def _retire(self, job):
        """A complete job leaves the state (its outputs are no longer needed)."""
        job["done"] = self.now
        for t in job["ids"]:
            del self.public["tasks"][t], self.views["tasks"][t], self.data[t]

    def _ready_at(self, t, n):
        """When all inputs of t can be on n, or None while a producer's output does not exist."""
        since = self.assigned[t, n]
        at = since + fetch_time(self.network, self.tasks[t]["inputs"], n)
        for u, x in self.preds[t]:
            if self.data.get(u) is None:
                return None
            at = max(at, max(self.done_at[u], since) + transfer_time(self.network, self.data[u], n, x))
        return at

    def _dispatch(self, n):
        """Start every queued task of n that has its inputs and fits, lowest order first."""
        if not self.up[n]:
            return
        free = self.free[n]
        for t, _ in sorted(self.queue[n].items(), key=lambda kv: (kv[1], kv[0])):
            if free[0] <= 0:
                break
            v = self.tasks[t]
            need = (v["cores"], v["memory"], v["gpus"])
            if any(f < d for f, d in zip(free, need)):
                continue
            at = self._ready_at(t, n)
            if at is None:
                continue
            if at > self.now + 1e-12:
                if (n, at) not in self.wakes:
                    self.wakes.add((n, at))
                    self._push(at, "wake", n, None)
                continue
            del self.queue[n][t]
            for i in range(3):
                free[i] -= need[i]
            self.running[t, n] = [self.work(t, n), self.now, 0, self.now]
            self._plan_finish(t, n)
            p = self.public["tasks"][t]
            p.update(status="running", node=n, started=self.now, running_on=p["running_on"] + (n,))
        self._publish_node(n)

    def _plan_finish(self, t, n):
        run = self.running[t, n]
        run[2] = self.serial + 1
        rate = self.nodes[n]["speed"] * self.factor[n]
        self._push(self.now + run[0] / rate, "finish", (t, n), run[2])

    def _stop(self, t, n):
        """Remove a running copy and free its resources."""
        self.occupied += (self.now - self.running.pop((t, n))[3]) * self.tasks[t]["cores"]
        p = self.public["tasks"][t]
        p["running_on"] = tuple(m for m in p["running_on"] if m != n)
        v = self.tasks[t]
        for i, d in enumerate((v["cores"], v["memory"], v["gpus"])):
            self.free[n][i] += d

    def _copies(self, t):
        return self.public["tasks"][t]["running_on"]

    def _to_pending(self, t):
        self.public["tasks"][t].update(status="pending", node=None, order=None, started=None)

    def _publish_node(self, n):
        self.public["nodes"][n].update(
            up=self.up[n], speed=self.nodes[n]["speed"] * self.factor[n],
            free_cores=self.free[n][0], free_memory=self.free[n][1], free_gpus=self.free[n][2])

    def _node_down(self, n):
        self.up[n] = False
        for t in [t for (t, m) in self.running if m == n]:
            self._stop(t, n)
            if not self._copies(t):
                self._to_pending(t)
        for t in list(self.queue[n]):
            self._unqueue(t, n)
        for t in [t for t, m in self.data.items() if m == n]:
            self.data[t] = None
        self._recover()
        self._publish_node(n)

    def _recover(self):
        """Finished tasks whose lost output is still needed by unstarted work must run again."""
        waiting = [t for t, v in self.public["tasks"].items() if v["status"] == "pending"]
        while waiting:
            for u, _ in self.preds[waiting.pop()]:
                if u in self.data and self.data[u] is None:
                    del self.data[u]
                    del self.done_at[u]
                    self.unfinished += 1
                    self.job_of[u]["left"] += 1
                    self._to_pending(u)
                    waiting.append(u)

    def _unqueue(self, t, n):
        self.queue[n].pop(t, None)
        self.assigned.pop((t, n), None)
        p = self.public["tasks"][t]
        if p["status"] == "pending" and p["node"] == n:
            p.update(node=None, order=None)

    def _finish(self, t, n):
        self.useful += (self.now - self.running[t, n][3]) * self.tasks[t]["cores"]
        self._stop(t, n)
        for m in self._copies(t):
            self._stop(t, m)
            self._publish_node(m)
        for m in self.nodes:
            if t in self.queue[m]:
                self._unqueue(t, m)
        self.done_at[t], self.data[t] = self.now, n
        self.unfinished -= 1
        self.job_of[t]["left"] -= 1
        self.public["tasks"][t].update(status="done", node=n)
        touched = {n} | {m for c, _ in self.succs[t] for m in self.nodes if c in self.queue[m]}
        return touched

    # ------------------------------------------------------------ the system's answer

    def _apply(self, answer):
        touched = set()
        for t, a in (answer or {}).items():
            if t not in self.tasks:
                raise BadAssignment(f"unknown task {t!r}")
            if self.job_of[t]["done"] is not None:
                continue
            state = self.public["tasks"][t]
            n = a.get("node")
            if n is not None and (n not in self.nodes or not allowed(self.tasks[t], self.nodes[n])):
                raise BadAssignment(f"task {t}: node {n} is forbidden or too small")
            if state["status"] == "done":
                continue
            if state["status"] == "running":
                if a.get("restart"):
                    for m in self._copies(t):
                        self._stop(t, m)
                        touched.add(m)
                    self._to_pending(t)
                    self._recover()
                elif not a.get("copy") or n in self._copies(t):
                    continue
            for m in self.nodes:
                if t in self.queue[m] and m != n:
                    self._unqueue(t, m)
            if n is None or not self.up[n]:
                continue
            if t not in self.queue[n]:
                self.assigned[t, n] = self.now
            self.queue[n][t] = int(a.get("order", 0))
            if state["status"] == "pending":
                state.update(node=n, order=self.queue[n][t])
            self.placements += 1
            touched.add(n)
        return touched

    def _ask(self, system, event):
        self.events += 1
        begin = time.process_time()
        answer = system.on_event({"time": self.now, "event": event, **self.shown})
        self.thinking += time.process_time() - begin
        for n in self._apply(answer):
            self._dispatch(n)

    def run(self, system, limit):
        """Makespan; raises BadAssignment on a forbidden placement or when nothing can finish."""
        self._ask(system, {"type": "start"})
        while self.unfinished or self.expected:
            when, _, kind, a, b = heapq.heappop(self.heap)
            self.now = max(self.now, when)
            if self.now > limit:
                raise BadAssignment(f"not finished after {limit:.0f} s of simulated time")
            if kind == "finish":
                run = self.running.get(a)
                if run is None or run[2] != b:
                    continue
                for n in sorted(self._finish(*a)):
                    self._dispatch(n)
                complete = not self.job_of[a[0]]["left"]
                if complete:
                    self._retire(self.job_of[a[0]])
                if self.unfinished or self.expected:
                    self._ask(system, {"type": "finish", "task": a[0], "node": a[1], "job_done": complete})
            elif kind == "arrive":
                self.expected -= 1
                self._admit(a)
                self._ask(system, {"type": "arrive", "graph": copy.deepcopy(a)})
            elif kind == "wake":
                self.wakes.discard((a, when))
                self._dispatch(a)
            elif kind == "tick":
                self._push(self.now + self.tick, "tick", None, None)
                self._ask(system, {"type": "tick"})
            elif kind == "down" and self.up[a]:
                self._node_down(a)
                self._ask(system, {"type": "node_down", "node": a})
            elif kind == "up" and not self.up[a]:
                self.up[a] = True
                self._publish_node(a)
                self._ask(system, {"type": "node_up", "node": a})
            elif kind == "speed":
                for (t, n), run in self.running.items():
                    if n == a:
                        rate = self.nodes[n]["speed"] * self.factor[n]
                        run[0] = max(0.0, run[0] - (self.now - run[1]) * rate)
                        run[1] = self.now
                self.factor[a] = b
                for (t, n) in [k for k in self.running if k[1] == a]:
                    self._plan_finish(t, n)
                self._publish_node(a)
                self._ask(system, {"type": "node_speed", "node": a})
        return self.now
