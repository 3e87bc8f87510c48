"""What a yardstick of placement drives: its values in ours, and nothing else; no sorting, no choosing, no retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ioi_dagster.governors.fairness import Arbiter, Request
from ioi_dagster.governors.placement.placer import Placer
from ioi_dagster.model.placement import Assignment, Edge, Link, Offer, Step

RESOURCES = ("cpu", "memory", "gpu")


def place(graph: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A static plan of a whole graph."""
    return answer(Placer(*offers(network)).plan(*steps(graph), now=0.0))


def steps(graph: Mapping[str, Any]) -> tuple[list[Step], list[Edge]]:
    made = [
        Step(
            id=name,
            work=its["work"],
            cores=its["cores"],
            memory=its["memory"],
            gpus=its["gpus"],
            min_trust=its["min_trust"],
            domains=frozenset(its["domains"]) if its["domains"] is not None else None,
            inputs=dict(its["inputs"]),
            kind=its["type"],
        )
        for name, its in graph["tasks"].items()
    ]
    return made, [Edge(producer, consumer, size) for producer, consumer, size in graph["edges"]]


def offers(network: Mapping[str, Any]) -> tuple[list[Offer], list[Link]]:
    nodes = [
        Offer(name, its["domain"], its["cores"], its["memory"], its["gpus"], its["trust"], its["speed"])
        for name, its in network["nodes"].items()
    ]
    links = [
        Link(source, target, its["latency"], its["bandwidth"])
        for source, row in network["links"].items()
        for target, its in row.items()
    ]
    return nodes, links


def answer(assignments: list[Assignment]) -> dict[str, dict[str, Any]]:
    return {
        one.step: {"node": one.node, "order": one.order, "copy": one.copy, "restart": one.restart}
        for one in assignments
    }


class Online:
    """Graphs in progress on nodes that fail, slow down and come back."""

    def __init__(self, graph: Mapping[str, Any], network: Mapping[str, Any]) -> None:
        self._placer = Placer(*offers(network))
        self._first = graph
        self._running: set[tuple[str, str]] = set()

    def on_event(self, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        event, now, tasks, placer = state["event"], state["time"], state["tasks"], self._placer
        running = {(task, node) for task, its in tasks.items() for node in its["running_on"]}
        for task, node in sorted(running - self._running):
            placer.on_started(task, node, now)
        self._running = running
        match event["type"]:
            case "start":
                return answer(placer.on_graph(*steps(self._first), now=now)) if self._first["tasks"] else {}
            case "arrive":
                return answer(placer.on_graph(*steps(event["graph"]), now=now))
            case "finish":
                return answer(placer.on_finished(event["task"], event["node"], now=now))
            case "tick":
                return answer(placer.on_tick({t: its["running_on"] for t, its in tasks.items()}, now=now))
            case "node_down":
                lost = [t for t, its in tasks.items() if its["status"] == "pending" and its["node"] is None]
                return answer(placer.on_node_lost(event["node"], lost, now=now))
            case "node_up":
                return answer(placer.on_node_back(event["node"], now=now))
            case _:
                return answer(placer.on_node_speed(event["node"], state["nodes"][event["node"]]["speed"], now=now))


class Dispatcher:
    """Tenants on a cluster. `nodes`: node → its amounts; `tenants`: tenant → its weight."""

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]], tenants: Mapping[str, Mapping[str, Any]]) -> None:
        capacity = {node: {name: its[name] for name in RESOURCES} for node, its in nodes.items()}
        self._arbiter = Arbiter(capacity, {tenant: its["weight"] for tenant, its in tenants.items()})

    def on_event(self, state: Mapping[str, Any]) -> list[dict[str, str]]:
        for _, request in state["finished"]:
            self._arbiter.on_finished(request)
        for tenant, request in state["arrived"]:
            its = state["tenants"][tenant]
            asked = its["queue"][request]
            refusal = self._arbiter.on_request(
                Request(request, tenant, dict(asked["demand"]), asked["arrived"], its["allowed"])
            )
            if refusal is not None:
                raise AssertionError(f"the yardstick asks for nothing impossible: {refusal}")
        return [{"task": request, "node": node} for request, node in self._arbiter.arbitrate(state["time"])]
