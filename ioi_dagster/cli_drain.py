"""`ioi drain` and `ioi rejoin`: a node, or a whole cluster, of the domains in a home."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ioi_dagster.adapters.files.drains import ALL, Drain, DrainFile
from ioi_dagster.cli_status import collect
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import domains_in

LOOK_S = 0.5


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
    def file(self) -> DrainFile:
        return DrainFile(self.domain.root)


def find(home: Path, name: str) -> Target:
    """The node or cluster called `name`. Raises `BadInputError` where there is none, or several: `CLUSTER/NODE` names one."""
    known = [target for domain in _domains(home) for target in _targets(domain)]
    wanted = [target for target in known if name in _names(target)]
    if len(wanted) == 1:
        return wanted[0]
    names = sorted({_names(target)[0] for target in known})
    if not wanted:
        raise BadInputError(f"no node or cluster is called {name!r}", todo=f"known: {', '.join(names)}")
    many = ", ".join(sorted(_names(target)[-1] for target in wanted))
    raise BadInputError(f"{name!r} may be {many}", todo="name one of these")


def drain(home: Path, name: str, why: str, within_s: float | None) -> tuple[Target, bool]:
    """From now on nothing new is started there. False where that was so already."""
    target = find(home, name)
    return target, target.file.drain(target.cluster, target.node, Drain(why, time.time(), within_s))


def rejoin(home: Path, name: str) -> tuple[Target, bool]:
    """It takes steps again. False where it did already."""
    target = find(home, name)
    if target.node != ALL and ALL in target.file.read().get(target.cluster, {}):
        raise BadInputError(
            f"{target.cluster} is drained as a whole", todo=f"`ioi rejoin {target.cluster}`, then drain its other nodes"
        )
    return target, target.file.rejoin(target.cluster, target.node)


def wait(home: Path, target: Target, told: Callable[[list[str]], None]) -> None:
    """Until nothing runs there, whether the node is there or gone. `told` is called with what still runs, when that changes."""
    before: list[str] | None = None
    while (running := _running(collect(home).get(target.domain.name, {}), target)) is None or running:
        if running is not None and running != before:
            told(running)
        before = running
        time.sleep(LOOK_S)


def _running(status: dict[str, Any], target: Target) -> list[str] | None:
    """Steps there; None where the cluster does not answer, or has not heard of the drain yet."""
    snapshot = status.get("clusters", {}).get(target.cluster, {})
    if "leases" not in snapshot:
        return None
    mine = {name: node for name, node in snapshot["nodes"].items() if target.node in (ALL, name)}
    if not all(node.get("draining") for node in mine.values()):
        return None
    return [f"{lease['step']} of run {lease['run'][:8]}" for lease in snapshot["leases"] if lease["node"] in mine]


def _domains(home: Path) -> list[DomainHome]:
    domains = domains_in(home)
    if not domains:
        raise BadInputError("no federation was ever started here", where=str(home), todo="run `ioi up`")
    return domains


def _targets(domain: DomainHome) -> list[Target]:
    """By the domain's configuration; and what is drained already, whatever has become of it."""
    clusters = {cluster.name: {ALL, *cluster.members()} for cluster in domain.config().spec.clusters}
    for cluster, nodes in DrainFile(domain.root).read().items():
        clusters.setdefault(cluster, set()).update(nodes)
    return [Target(domain, cluster, node) for cluster, nodes in sorted(clusters.items()) for node in sorted(nodes)]


def _names(target: Target) -> tuple[str, ...]:
    its = target.cluster if target.node == ALL else target.node
    return (its, f"{target.domain.name}/{its}") if target.node == ALL else (its, f"{target.cluster}/{its}")
