"""A network of domains as values. Reading it from YAML is `local/topology_file.py`'s work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ioi_dagster.model.amounts import MEMORY
from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_stores import DataSpec
from ioi_dagster.model.negotiation import SLOTS
from ioi_dagster.model.placement import Link
from ioi_dagster.model.quota import QuotaTree, total

MIN_SPEED, MAX_SPEED = 0.001, 1_000.0


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One Dask worker: `slots` steps at once, `memory` in bytes, and other `resources` by name, in their own units. A step takes
    1 / `speed` of its usual time there. With `autoscale` it is a group of such, which come and go: `members` are their names.
    `limited`: its owner has said what memory it has, so a step that takes more is stopped."""

    name: str
    slots: int = 1
    memory: int = 2 * 2**30
    resources: tuple[tuple[str, float], ...] = ()
    speed: float = 1.0
    autoscale: Autoscale | None = None
    limited: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        if self.autoscale is None:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(1, self.autoscale.max + 1))

    @property
    def besides_slots(self) -> tuple[tuple[str, float], ...]:
        """All that it has but those, by resource, in the order of the names."""
        return tuple(sorted(((MEMORY, float(self.memory)), *self.resources)))

    @property
    def amounts(self) -> dict[str, float]:
        """All that it has, by resource."""
        return {SLOTS: float(self.slots), MEMORY: float(self.memory), **dict(self.resources)}


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One Dask cluster. `price`: what each start of a step in one of its slots costs where nothing else runs, however long it
    runs, in the network's credits; `quotas` are who may use how much of it: without any all tenants are equal."""

    name: str
    nodes: tuple[NodeSpec, ...]
    price: float = 1.0
    quotas: QuotaTree = field(default_factory=QuotaTree.flat)

    @property
    def always(self) -> tuple[NodeSpec, ...]:
        """Nodes that are there all the time."""
        return tuple(node for node in self.nodes if node.autoscale is None)

    @property
    def groups(self) -> tuple[NodeSpec, ...]:
        """Those of which there are more or less."""
        return tuple(node for node in self.nodes if node.autoscale is not None)

    def members(self) -> dict[str, NodeSpec]:
        """By name, every node that may ever be there."""
        return {name: replace(node, name=name, autoscale=None) for node in self.nodes for name in node.members}

    @property
    def capacity(self) -> dict[str, float]:
        """What all its nodes have together, by resource, when all are there."""
        return total(node.amounts for node in self.nodes for _ in node.members)


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """An owner's realm. `authority` names its certificate authority: domains that share one take each other's
    steps over Dask; others only `invoke` blocks. `handles` is the highest data class it may see, `retains` whether
    it may keep anything after a run, `blocks` the block names that it offers, `parent` the domain whose policies bind it too.
    `dask_tls`: the Dask connections of its clusters use TLS on loopback, too."""

    name: str
    authority: str
    clusters: tuple[ClusterSpec, ...]
    handles: DataClass = DataClass.INTERNAL
    retains: bool = True
    blocks: tuple[str, ...] = ()
    region: str = ""
    parent: str = ""
    dask_tls: bool = False

    @property
    def scope(self) -> str:
        """The name of its policy scope below its parent's."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Topology:
    """The network; `home` is the domain that owns the runs started on this machine. `links`: what is told of what lies between
    domains (bytes a second, seconds); of others nobody knows it. `data`: by domain, where it keeps data; what members
    read, `DomainSpec`, does not have it."""

    network: str
    home: str
    domains: tuple[DomainSpec, ...]
    links: tuple[Link, ...] = ()
    data: Mapping[str, DataSpec] = field(default_factory=dict)

    def domain(self, name: str) -> DomainSpec:
        return next(domain for domain in self.domains if domain.name == name)

    def links_of(self, name: str) -> tuple[Link, ...]:
        """Those of which a domain is an end: all that matter to its runs, since what steps read and make passes through it."""
        return tuple(link for link in self.links if name in (link.source, link.target))

    def scopes(self, name: str) -> tuple[str, ...]:
        """Policy scopes that bind a domain, from the network down: each parent's, then its own."""
        chain = [self.domain(name)]
        while chain[0].parent:
            chain.insert(0, self.domain(chain[0].parent))
        found = [self.network]
        for domain in chain:
            found.append(f"{found[-1]}/{domain.scope}")
        return tuple(found)
