"""What an owner can drain: the nodes and clusters of his domains, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ioi_dagster.adapters.files.drains import ALL, Drain, DrainFile
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.names import near


@dataclass(frozen=True, slots=True)
class Target:
    """`node` is `ALL` where the whole cluster is meant."""

    domain: DomainHome
    cluster: str
    node: str

    @property
    def name(self) -> str:
        return f"{self.cluster} of {self.domain.name}" if self.node == ALL else f"{self.node} of {self.cluster}"

    @property
    def key(self) -> str:
        """Its name in the domain's orders."""
        return f"{self.cluster}/{self.node}"

    def drain(self, drain: Drain) -> bool:
        """False where it is so already: drained, or paused."""
        file = DrainFile(self.domain.root)
        before = file.read().get(self.cluster, {}).get(self.node)
        return file.drain(self.cluster, self.node, drain) or before is None or before.paused != drain.paused

    def rejoin(self) -> bool:
        """False where it was not drained. Raises `BadInputError` for a node of a cluster that is drained as a whole."""
        file = DrainFile(self.domain.root)
        if self.node != ALL and ALL in file.read().get(self.cluster, {}):
            raise BadInputError(
                f"{self.cluster} is drained as a whole", todo=f"`ioi rejoin {self.cluster}`, then drain its other nodes"
            )
        return file.rejoin(self.cluster, self.node)


def find(domains: Sequence[DomainHome], name: str) -> Target:
    """The node or cluster called `name`. Raises `BadInputError` where there is none, or several: `CLUSTER/NODE` names one."""
    known = [target for domain in domains for target in _targets(domain)]
    wanted = [target for target in known if name in _names(target)]
    if len(wanted) == 1:
        return wanted[0]
    names = sorted({_names(target)[0] for target in known})
    if not wanted:
        todo = f"{near(name, names)}; nodes and clusters are drained, a run is paused (`ioi pause`)"
        raise BadInputError(f"no node or cluster is called {name!r}", todo=todo)
    many = ", ".join(sorted(_names(target)[-1] for target in wanted))
    raise BadInputError(f"{name!r} may be {many}", todo="name one of these")


def _targets(domain: DomainHome) -> list[Target]:
    """By the domain's configuration; and what is drained already, whatever has become of it."""
    clusters = {cluster.name: {ALL, *cluster.members()} for cluster in domain.config().spec.clusters}
    for cluster, nodes in DrainFile(domain.root).read().items():
        clusters.setdefault(cluster, set()).update(nodes)
    return [Target(domain, cluster, node) for cluster, nodes in sorted(clusters.items()) for node in sorted(nodes)]


def _names(target: Target) -> tuple[str, ...]:
    its = target.cluster if target.node == ALL else target.node
    return (its, f"{target.domain.name}/{its}") if target.node == ALL else (its, f"{target.cluster}/{its}")
