"""What a yardstick of placement drives: its values in ours, and nothing else; no sorting, no choosing, no retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ioi_dagster.governors.fairness import Arbiter, Request

RESOURCES = ("cpu", "memory", "gpu")


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
