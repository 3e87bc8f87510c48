"""New shares for tenants while the federation runs: from the topology file into each domain's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.topology import DomainSpec, TenantShare, Topology


@dataclass(frozen=True, slots=True)
class Change:
    """A tenant's share of a cluster before and after; None: it is not named there."""

    cluster: str
    tenant: str
    before: TenantShare | None
    after: TenantShare | None


def apply_shares(topology: Topology, homes: Sequence[DomainHome]) -> list[Change]:
    """Save the shares of `topology` for each of `homes`; their cluster governors take them over within about a second.

    Raises `BadInputError`, and changes nothing, where the file differs in anything else from what runs.
    """
    running = {home.name: home.config() for home in homes}
    asked = {spec.name: spec for spec in topology.domains}
    for name, config in running.items():
        if name not in asked or _without_shares(asked[name]) != _without_shares(config.spec):
            raise BadInputError(
                f"{name} is not what was started: only `tenants` may change while it runs",
                todo="take the other changes back, or stop the federation and start it again",
            )
    changes = [change for name, config in running.items() for change in _changes(config.spec, asked[name])]
    for home in homes:
        if running[home.name].spec != asked[home.name]:
            home.save_config(replace(running[home.name], spec=asked[home.name]))
    return changes


def _without_shares(spec: DomainSpec) -> DomainSpec:
    return replace(spec, clusters=tuple(replace(cluster, tenants=()) for cluster in spec.clusters))


def _changes(before: DomainSpec, after: DomainSpec) -> Iterator[Change]:
    for old, new in zip(before.clusters, after.clusters, strict=True):
        had, has = ({share.name: share for share in cluster.tenants} for cluster in (old, new))
        for name in dict.fromkeys((*had, *has)):
            if had.get(name) != has.get(name):
                yield Change(old.name, name, had.get(name), has.get(name))
