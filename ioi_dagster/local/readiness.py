"""Whether a federation that is being started will come to be: decided on what was seen, not on how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ioi_dagster.model.topology import Topology

Node = tuple[str, str, str]
"""(domain, cluster, node)"""


@dataclass(frozen=True, slots=True)
class Seen:
    """Domains whose gateway answers, clusters (domain, cluster) that report there, and nodes that have joined."""

    gateways: frozenset[str] = frozenset()
    clusters: frozenset[tuple[str, str]] = frozenset()
    nodes: frozenset[Node] = frozenset()


@dataclass(frozen=True, slots=True)
class Missing:
    """The first process that keeps a federation from being there. `process` is its name with its supervisor."""

    domain: str
    process: str
    what: str


@dataclass(slots=True)
class Readiness:
    """Sans-IO: `now` is monotonic seconds. `patience_s`: so long nothing new may appear; each new thing begins it anew, so
    that a slow machine is waited for and a standstill is not."""

    wanted: frozenset[Node]
    patience_s: float
    begun: float
    clusters: frozenset[tuple[str, str]] = frozenset()
    """Those that are waited for, whether they have nodes or not."""
    _ever: set[object] = field(default_factory=set)
    _changed: float | None = None

    def ready(self, seen: Seen) -> bool:
        return self.wanted <= seen.nodes and self.clusters <= seen.clusters

    def given_up(self, seen: Seen, now: float) -> bool:
        """Has nothing appeared for so long that was never there before?"""
        there = {*seen.gateways, *seen.clusters, *(seen.nodes & self.wanted)}
        if not there <= self._ever or self._changed is None:
            self._ever |= there
            self._changed = now if there else self.begun
        return now - self._changed > self.patience_s

    def missing(self, seen: Seen) -> Missing:
        """What to look at first: a gateway before its schedulers, and these before their nodes."""
        bare = {(domain, cluster, "") for domain, cluster in self.clusters - seen.clusters}
        for domain, cluster, node in sorted((self.wanted - seen.nodes) | bare, key=lambda item: _depth(item, seen)):
            if domain not in seen.gateways:
                return Missing(domain, "gateway", f"the gateway of {domain}")
            if (domain, cluster) not in seen.clusters:
                return Missing(domain, f"scheduler-{cluster}", f"the scheduler of {cluster} ({domain})")
            return Missing(domain, node, f"node {node} of {cluster} ({domain})")
        raise ValueError("nothing is missing")


def nodes_of(topology: Topology) -> frozenset[Node]:
    """Every node that the topology's domains are to have all the time."""
    return frozenset(
        (spec.name, cluster.name, node.name)
        for spec in topology.domains
        for cluster in spec.clusters
        for node in cluster.always
    )


def clusters_of(topology: Topology) -> frozenset[tuple[str, str]]:
    """Every cluster: one whose nodes come and go may have none to begin with."""
    return frozenset((spec.name, cluster.name) for spec in topology.domains for cluster in spec.clusters)


def _depth(item: Node, seen: Seen) -> tuple[int, Node]:
    domain, cluster, _ = item
    return ((domain in seen.gateways) + ((domain, cluster) in seen.clusters), item)
