"""What an autoscaler hears and what it wants done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.topology import ClusterSpec

Amounts = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that are alike: what each has, what it offers, and the names that they have in turn."""

    name: str
    amounts: Amounts
    offers: frozenset[str]
    members: tuple[str, ...]
    rules: Autoscale


def groups_of(spec: ClusterSpec, offers: frozenset[str]) -> tuple[Group, ...]:
    """The groups of a cluster whose nodes all offer the same."""
    return tuple(
        Group(node.name, node.amounts, offers, node.members, node.autoscale)
        for node in spec.groups
        if node.autoscale is not None
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """So many steps of one kind wait, or more if they are of gangs of `copies`, which start together."""

    capability: str
    amounts: tuple[tuple[str, float], ...]
    count: int
    copies: int = 1


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node that is there. `free`: what of it could be given to steps now (nothing where it takes none); `busy`: slots in use;
    `idle`: nothing runs there, is offered there or waits to."""

    offers: frozenset[str]
    free: Amounts
    busy: float = 0.0
    idle: bool = True


@dataclass(frozen=True, slots=True)
class Pressure:
    """What waits, the most urgent first, and the nodes that have room or are of a group."""

    demands: tuple[Demand, ...]
    nodes: Mapping[str, NodeSeen]


@dataclass(frozen=True, slots=True)
class WantNodes:
    """From now on just these nodes of the group are to be there. `spent`: what it has cost in the last day, each with how many
    seconds ago it was, for who keeps that over a restart."""

    group: str
    nodes: tuple[str, ...]
    why: str
    spent: tuple[tuple[float, float], ...] = ()
