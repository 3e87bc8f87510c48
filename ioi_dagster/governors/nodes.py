"""The nodes of a cluster as its governor knows them; how full they are stands in the arbiter's books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any

from ioi_dagster.governors.autoscale import Autoscaler, NodeSeen
from ioi_dagster.governors.cluster_messages import EVERYTHING, NodeJoined, NodeReported
from ioi_dagster.governors.fairness.arbiter import Arbiter
from ioi_dagster.governors.prices import Load
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.negotiation import MAX_PLANNED, SLOTS, Resources
from ioi_dagster.model.refusal import Refusal

EASY = 0.5
"""Memory that is less full is under no pressure."""
MAX_AWAY = 10_000
"""Nodes that left, or have not come yet, and are remembered."""


@dataclass(slots=True)
class ClusterNode:
    """`used`: leases of its slots, in the order in which they were granted; `waiting`: those of them whose steps wait for others,
    which run in their place."""

    slots: int
    capabilities: frozenset[str]
    resources: Resources = ()
    warm: frozenset[str] = frozenset()
    memory: float = 0.0
    blocks: tuple[dict[str, Any], ...] = ()
    closed: bool = False
    leaving: bool = False
    """It is to go, and takes nothing meanwhile but what its own steps wait for."""
    engaged: bool = False
    """Something is done or kept there that is under no lease."""
    speed: float = 1.0
    used: dict[str, None] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)

    @property
    def going(self) -> bool:
        """It takes nothing new for good. Not while a step of it waits for others, which it may have to run itself to end."""
        return (self.leaving or self.closed) and not self.waiting

    @property
    def free(self) -> int:
        return 0 if self.going else max(0, self.slots - len(self.used) + len(self.waiting))

    def shut(self, max_memory: float) -> bool:
        """It takes nothing new."""
        return self.memory >= max_memory or self.going

    @property
    def amounts(self) -> dict[str, float]:
        return {SLOTS: float(self.slots), **dict(self.resources)}


class Nodes:
    """`price`: of a slot where nothing runs; `max_memory`: the fullness above which a node takes nothing new."""

    def __init__(self, cluster: str, price: float, max_memory: float, arbiter: Arbiter, scaler: Autoscaler) -> None:
        self._cluster, self._price, self._max_memory, self._arbiter = cluster, price, max_memory, arbiter
        self._scaler = scaler
        self.by_name: dict[str, ClusterNode] = {}
        self._offering: dict[str, dict[str, None]] = {}
        """By capability that was asked for, the nodes that offer it."""
        self._slots = self._busy = 0
        self._pressed = 0.0
        """The sum of its nodes' memory pressure."""
        self._open: dict[str, None] = {}
        """Nodes with a free slot."""
        self._limited = 0
        """Nodes that offer only some capabilities."""
        self._away: dict[str, NodeJoined] = {}
        """As they were when they left, or are to be when they come."""

    def __getitem__(self, name: str) -> ClusterNode:
        return self.by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    # What comes and goes ----------------------------------------------------------------------------------------

    def expect(self, event: NodeJoined) -> None:
        """It is not there, and may come as this."""
        self._away[event.node] = event
        if len(self._away) > MAX_AWAY:
            del self._away[next(iter(self._away))]

    def join(self, event: NodeJoined) -> None:
        self._away.pop(event.node, None)
        node = ClusterNode(event.slots, event.capabilities, event.resources, closed=event.closed)
        self.by_name[event.node] = node
        self._slots += node.slots
        self._limited += node.capabilities is not EVERYTHING
        for capability, names in self._offering.items():
            if capability in node.capabilities:
                names[event.node] = None
        self._arbiter.on_node(event.node, node.amounts, node.capabilities)
        self._look(event.node)

    def resize(self, name: str, slots: int, resources: Resources | None) -> None:
        node = self.by_name.get(name)
        if node is None:
            return
        self._slots += slots - node.slots
        node.slots = slots
        node.resources = node.resources if resources is None else resources
        self._arbiter.on_node(name, node.amounts, node.capabilities)
        self._look(name)

    def reported(self, event: NodeReported) -> None:
        node = self.by_name.get(event.node)
        if node is None:
            return
        before = self._pressure(node)
        node.warm, node.memory, node.blocks, node.closed = event.warm, event.memory, event.blocks, event.closed
        self._pressed += self._pressure(node) - before
        node.speed, node.engaged = event.speed, event.engaged
        self._arbiter.on_warm(event.node, event.warm)
        self._look(event.node)

    def leave(self, name: str, leaves: bool) -> None:
        """It is to go, or stays after all."""
        node = self.by_name[name]
        if node.leaving != leaves:
            node.leaving = leaves
            self._look(name)

    def seen(self, names: Collection[str]) -> dict[str, NodeSeen]:
        """How those of `names`, and those with a free slot, look to who decides how many there should be."""
        found = {}
        for name in {**dict.fromkeys(names), **self._open}:
            node = self.by_name.get(name)
            if node is not None:
                free, idle = self._arbiter.room(name)
                busy = len(node.used) - len(node.waiting)
                found[name] = NodeSeen(node.capabilities, free, busy, idle and not node.used and not node.engaged)
        return found

    def drop(self, name: str) -> None:
        """Nothing runs there any more."""
        node = self.by_name.pop(name)
        self.expect(NodeJoined(name, node.slots, node.capabilities, node.resources))
        self._open.pop(name, None)
        self._slots -= node.slots
        self._pressed -= self._pressure(node)
        self._limited -= node.capabilities is not EVERYTHING
        for names in self._offering.values():
            names.pop(name, None)
        self._arbiter.on_node_left(name)

    def took(self, name: str, lease: str) -> None:
        node = self.by_name[name]
        node.used[lease] = None
        self._busy += 1
        if not node.free:
            self._open.pop(name, None)

    def left_by(self, name: str, lease: str) -> None:
        node = self.by_name[name]
        del node.used[lease]
        self._busy -= 1
        if lease in node.waiting:
            self.waits(name, lease, False)
        if node.free:
            self._open[name] = None

    def waits(self, name: str, lease: str, waits: bool) -> None:
        node = self.by_name[name]
        (node.waiting.add if waits else node.waiting.discard)(lease)
        self._look(name)

    def _look(self, name: str) -> None:
        """Whether it takes anything new."""
        node = self.by_name[name]
        if node.free:
            self._open[name] = None
        else:
            self._open.pop(name, None)
        self._arbiter.shut(name, self.shut(name))

    # What is asked of it ----------------------------------------------------------------------------------------

    def offering(self, capability: str) -> dict[str, None]:
        found = self._offering.get(capability)
        if found is None:
            found = {name: None for name, node in self.by_name.items() if capability in node.capabilities}
            self._offering[capability] = found
        return found

    def offered(self, capability: str) -> bool:
        return bool(self.offering(capability))

    def away(self, capability: str, amounts: Mapping[str, float]) -> list[str]:
        """Nodes that are not there and could take it."""
        return sorted(
            name
            for name, node in self._away.items()
            if capability in node.capabilities
            and all({SLOTS: float(node.slots), **dict(node.resources)}.get(one, 0.0) >= amounts[one] for one in amounts)
        )

    def counted(self, resource: str) -> bool:
        """Nodes that serve whatever is asked take account of what they say that they have, and of nothing else."""
        return bool(self._limited) or not self.by_name or self._arbiter.has(resource)

    def scaling(self, capability: str, amounts: Mapping[str, float]) -> Refusal | None:
        """What is done about nodes that could take it and are not there; None where there are none such."""
        return self._scaler.waits(capability, amounts, self._cluster) if self._scaler else None

    def full(self, capability: str) -> Refusal:
        able, free = self.offering(capability), False
        for name in self._open:
            if name in able:
                free = True
                if self.by_name[name].memory < self._max_memory:
                    text = "what is free was offered to others a moment ago"
                    return Refusal("cluster.full", text, self._cluster, "it is asked again")
        if free:
            text = f"what is free of {counted(len(able), 'node')} has no memory left"
            return Refusal("cluster.no_memory", text, self._cluster, "it is asked again")
        text = f"all {len(able)} nodes are busy" if len(able) > 1 else "its only node is busy"
        return Refusal("cluster.full", text, self._cluster, "it is asked again")

    def load(self) -> Load:
        """What its prices go by."""
        pressure = self._pressed / len(self.by_name) if self.by_name else 0.0
        return Load(self._price, self._slots, self._busy, min(1.0, max(0.0, pressure)))

    def _pressure(self, node: ClusterNode) -> float:
        """How far its memory is on the way to where it takes nothing new, 0 to 1."""
        if node.memory >= self._max_memory:
            return 1.0
        return max(0.0, (node.memory - EASY) / (self._max_memory - EASY))

    def shut(self, name: str) -> bool:
        return self.by_name[name].shut(self._max_memory)

    def roomiest(self, about: Collection[str], count: int) -> list[str]:
        """Of those that could take something of what is asked `about`, as many as `count` with most room by their slots. None
        where they are too many to plan with."""
        offer: dict[Collection[str], bool] = {}
        able = []
        for name, node in self.by_name.items():
            its = offer.get(node.capabilities)
            if its is None:
                its = offer[node.capabilities] = any(one in node.capabilities for one in about)
            if its and not node.shut(self._max_memory):
                able.append((len(node.used) - len(node.waiting) - node.slots, name))
                if len(able) > MAX_PLANNED:
                    return []
        return [name for _, name in nsmallest(count, able)]

    # What is told -----------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "slots": node.slots,
                "free": node.free,
                "memory": round(node.memory, 3),
                "resources": dict(node.resources),
                "warm": sorted(node.warm),
                "capabilities": sorted(node.capabilities),
                "blocks": list(node.blocks),
                "leaving": node.leaving,
            }
            for name, node in sorted(self.by_name.items())
        }

    def validate(self, used: Counter[str]) -> None:
        """`used`: leases by node."""
        assert self._slots == sum(node.slots for node in self.by_name.values())
        assert self._busy == sum(used.values())
        assert abs(self._pressed - sum(map(self._pressure, self.by_name.values()))) < 1e-6
        assert self._open.keys() == {name for name, node in self.by_name.items() if node.free}
        for name, node in self.by_name.items():
            assert node.waiting <= node.used.keys()
            assert len(node.used) == used[name]
        assert not self._away.keys() & self.by_name.keys()
        for capability, names in self._offering.items():
            assert names.keys() == {name for name, node in self.by_name.items() if capability in node.capabilities}
