"""The yardstick of placement, driven through the live path: one real flow governor for each graph, one real cluster governor for
each domain, and between them announcements, bids, awards and leases. Messages take no time; where a step goes is what the award
says, and nothing beside that."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.adapters.placement import offers, steps
from benchmarks.yardstick.placement.model import allowed, eligible_nodes
from ioi_dagster.governors import flow_messages as flow
from ioi_dagster.governors.cluster import (
    ClusterGovernor,
    Instruction,
    NodeJoined,
    NodeLeft,
    NodeReported,
    Reply,
    Withdrawn,
)
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.model.negotiation import Ask, Awarded, Bid, Lease, ReleaseRequest
from ioi_dagster.model.placement import Step

QUIET = 2
"""Rounds without an award after which nothing more happens at that moment."""
COPIES = 2
"""So often a step may run besides, as from one desk."""
FOR_EVER_S = 1e9
"""Leases are not renewed: whose node is gone is known at once."""


class _Able(frozenset[str]):
    """What a node offers. A capability stands for steps with the same needs: its name names the nodes that meet them."""

    def __contains__(self, capability: object) -> bool:
        return not self.isdisjoint(str(capability).split("|"))


@dataclass(slots=True)
class _Graph:
    """One graph and its run. `started`: the leases of what was awarded and is not over, the first and those of copies."""

    name: str
    governor: FlowGovernor
    tasks: Mapping[str, Mapping[str, Any]]
    before: dict[str, list[tuple[str, float]]]
    capability: dict[str, str]
    vended: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    started: dict[str, list[Lease]] = field(default_factory=dict)


class Bidding:
    """Graphs in progress on nodes that fail, slow down and come back: an `Online` system of the yardstick."""

    def __init__(self, graph: Mapping[str, Any], network: Mapping[str, Any]) -> None:
        self._network, self._first, self._now = network, graph, 0.0
        self._graphs: dict[str, _Graph] = {}
        self._graph_of: dict[str, _Graph] = {}
        self._clusters = {name: ClusterGovernor(name, name, 1, 1.0, ttl_s=FOR_EVER_S) for name in network["links"]}
        self._todo: deque[tuple[_Graph, flow.Event]] = deque()
        self._answer: dict[str, dict[str, Any]] = {}
        self._count = 0
        for node in network["nodes"]:
            self._join(node)

    def on_event(self, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        event, self._now, self._answer = state["event"], state["time"], {}
        tasks = state["tasks"]
        match event["type"]:
            case "start":
                self._begin(self._first)
            case "arrive":
                self._begin(event["graph"])
            case "finish":
                self._ended(event["task"], event["node"], event["job_done"], tasks)
            case "node_down":
                self._lost(event["node"], tasks)
            case "node_speed":
                node, speed = event["node"], state["nodes"][event["node"]]["speed"]
                domain = self._network["nodes"][node]["domain"]
                report = NodeReported(node, frozenset(), speed=speed)
                self._heard(domain, self._clusters[domain].handle(report, self._now))
            case "node_up":
                self._join(event["node"])
        self._vend(tasks)
        self._settle(tasks)
        quiet = 0
        while quiet < QUIET:
            # What one round leaves is looked at in the next, which a run process comes to at once.
            before = len(self._answer)
            self._todo += [(graph, flow.Tick()) for graph in self._graphs.values()]
            self._settle(tasks)
            quiet = 0 if len(self._answer) > before else quiet + 1
        return self._answer

    # What happened ----------------------------------------------------------------------------------------------

    def _begin(self, graph: Mapping[str, Any]) -> None:
        if not graph["tasks"]:
            return
        self._count += 1
        name = f"run-{self._count}"
        before: dict[str, list[tuple[str, float]]] = {task: [] for task in graph["tasks"]}
        for producer, consumer, size in graph["edges"]:
            before[consumer].append((producer, size))
        capability = {task: "|".join(eligible_nodes(its, self._network)) for task, its in graph["tasks"].items()}
        # Messages take no time, so a run that waits for a better place asks again whenever something has happened; who may take
        # a step never changes.
        made = _Graph(
            name,
            FlowGovernor(name, "home", "fastest", again_s=0.0, patience_s=FOR_EVER_S),
            graph["tasks"],
            before,
            capability,
        )
        self._graphs[name] = made
        self._graph_of |= dict.fromkeys(graph["tasks"], made)
        known, edges = steps(graph)
        known = [_told(one, capability[one.id]) for one in known]
        links = offers(self._network)[1]
        self._todo.append((made, flow.GraphKnown(tuple(known), tuple(edges), tuple(links))))

    def _vend(self, tasks: Mapping[str, Any]) -> None:
        """What all before it are done for is ready."""
        for graph in self._graphs.values():
            for task in graph.tasks:
                ready = tasks[task]["status"] == "pending" and all(
                    tasks[producer]["status"] == "done" for producer, _ in graph.before[task]
                )
                if ready and task not in graph.vended:
                    graph.vended.add(task)
                    ask = Ask(
                        graph.name, task, graph.capability[task], resources=_resources(graph.tasks[task]), copies=COPIES
                    )
                    self._todo.append((graph, flow.StepReady(ask)))
                elif not ready and task in graph.vended and tasks[task]["status"] == "pending":
                    # What was made for it is lost. One that has its place and has not begun gives that back, or it could keep
                    # from its node what makes its input again.
                    graph.vended.discard(task)
                    if graph.started.pop(task, None):
                        self._answer[task] = {"node": None}
                    self._todo.append((graph, flow.StepDropped(task, "an input of it is lost")))

    def _ended(self, task: str, node: str, last: bool, tasks: Mapping[str, Any]) -> None:
        graph = self._graph_of[task]
        lease = next(lease for lease in graph.started.pop(task) if lease.node == node)
        seconds = 0.0 if last else self._now - tasks[task]["started"]
        ended = flow.StepEnded(task, lease.fence, f"{node}/{self._now}", seconds, lease.copy)
        self._todo.append((graph, ended))
        graph.ended.add(task)
        if last:
            del self._graphs[graph.name]
            self._graph_of = {task: one for task, one in self._graph_of.items() if one is not graph}

    def _lost(self, node: str, tasks: Mapping[str, Any]) -> None:
        cluster = self._network["nodes"][node]["domain"]
        self._heard(cluster, self._clusters[cluster].handle(NodeLeft(node), self._now))
        for graph in self._graphs.values():
            for task, lease in [(task, one) for task, its in graph.started.items() for one in its if one.node == node]:
                graph.started[task].remove(lease)
                if not graph.started[task]:
                    del graph.started[task]
                # As its run learns it: the machine went with all its leases, so no step is taken for the cause.
                lost = flow.StepLost(task, lease.fence, node, "its machine is down", Cause.LEASE_LOST, lease.copy)
                self._todo.append((graph, lost))
            # What was made there, and is needed still, is made again.
            again = {task for task in graph.ended if tasks[task]["status"] == "pending"}
            graph.vended -= again
            graph.ended -= again

    def _join(self, node: str) -> None:
        its = self._network["nodes"][node]
        governor, offers = self._clusters[its["domain"]], _Able((node,))
        self._heard(its["domain"], governor.handle(NodeJoined(node, its["cores"], offers, _resources(its)), self._now))
        self._heard(its["domain"], governor.handle(NodeReported(node, frozenset(), speed=its["speed"]), self._now))

    # Messages ---------------------------------------------------------------------------------------------------

    def _settle(self, tasks: Mapping[str, Any]) -> None:
        """All that follows from it, at the same moment."""
        while self._todo:
            graph, event = self._todo.popleft()
            # As its run process does, which takes what has come together.
            more = bool(self._todo) and self._todo[0][0] is graph
            for instruction in graph.governor.handle(event, self._now, more):
                self._perform(graph, instruction, tasks)

    def _perform(self, graph: _Graph, instruction: flow.Instruction, tasks: Mapping[str, Any]) -> None:
        match instruction:
            case flow.FindPlaces(asks):
                for ask in asks:
                    found = flow.PlacesFound(ask.step, self._places(graph, ask.step, tasks), (), True)
                    self._todo.append((graph, found))
            case flow.SendAnnounce(cluster, announce):
                self._heard(cluster, self._clusters[cluster].handle(announce, self._now), graph)
            case flow.WithdrawAnnounce(cluster, round_):
                self._heard(cluster, self._clusters[cluster].handle(Withdrawn(graph.name, round_, "home"), self._now))
            case flow.SendAward(award):
                self._heard(award.cluster, self._clusters[award.cluster].handle(award, self._now), graph)
            case flow.ReleaseLeases(cluster, leases):
                release = ReleaseRequest(graph.name, leases)
                self._heard(cluster, self._clusters[cluster].handle(release, self._now))
            case flow.StartStep(ask, lease) if lease.copy and tasks[ask.step]["status"] == "pending":
                # The yardstick copies only what runs, and this has its inputs on the way still.
                why = "the first has not begun"
                self._todo.append((graph, flow.StepReturned(ask.step, lease.fence, why, lease.copy)))
            case flow.StartStep(ask, lease):
                self._count += 1
                graph.started.setdefault(ask.step, []).append(lease)
                self._answer[ask.step] = {"node": lease.node, "order": self._count, "copy": lease.copy > 0}
            case flow.StopStep(lease, _):
                # The yardstick stops what runs besides by itself.
                release = ReleaseRequest(graph.name, (lease.id,))
                self._heard(lease.cluster, self._clusters[lease.cluster].handle(release, self._now))
            case flow.RefuseStep(step, refusal) | flow.FailStep(step, refusal):
                raise AssertionError(f"{step}: {refusal}")
            case _:
                pass

    def _heard(self, cluster: str, said: Iterable[Instruction], graph: _Graph | None = None) -> None:
        for one in said:
            if isinstance(one, Reply):
                to = self._graphs.get(one.waited[0]) if one.waited is not None else graph
                if to is not None and isinstance(one.answer, Bid):
                    self._todo.append((to, flow.BidReceived(one.answer)))
                elif to is not None and isinstance(one.answer, Awarded):
                    self._todo.append((to, flow.AwardAnswered(one.answer)))

    def _places(self, graph: _Graph, task: str, tasks: Mapping[str, Any]) -> tuple[Place, ...]:
        """What a registry answers: the domains that may take it, and how long its inputs take there."""
        nodes, links = self._network["nodes"], self._network["links"]
        its = graph.tasks[task]
        lie = [
            (nodes[tasks[producer]["node"]]["domain"], size)
            for producer, size in graph.before[task]
            if tasks[producer]["node"]
        ]
        lie += list(its["inputs"].items())
        return tuple(
            Place(
                domain,
                domain,
                max((links[at][domain]["latency"] + x / links[at][domain]["bandwidth"] for at, x in lie), default=0.0),
            )
            for domain in links
            if any(node["domain"] == domain and allowed(its, node) for node in nodes.values())
        )


def _told(step: Step, capability: str) -> Step:
    """What policy and residency say stands in the capability."""
    return replace(step, min_trust=0, domains=None, capability=capability)


def _resources(its: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Of a step or a node; what is none is not named."""
    named = (("cpu", its["cores"]), ("gpu", its["gpus"]), ("memory", its["memory"]))
    return tuple((name, float(amount)) for name, amount in named if amount)
