"""New quotas for tenants while clusters run: from the topology file into each domain's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import domains_in, topology_in
from ioi_dagster.local.member_book import change_config
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.quota import Quota, QuotaTree
from ioi_dagster.model.topology import DomainSpec, Topology

_TODO = "name the file that has them"


@dataclass(frozen=True, slots=True)
class Share:
    """What the tree says of one holder. `parent`: of a cohort, the one that it is part of."""

    weight: float
    quota: Quota
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A share of a cluster before and after; None: it is not named there. It is a cohort's, or, where they are given, that of a
    tenant in it, and of a class of this tenant."""

    cluster: str
    cohort: str
    tenant: str
    block_class: str
    before: Share | None
    after: Share | None


def quota_files(home: Path, given: Path | None) -> dict[Path, list[DomainHome]]:
    """The domains in `home`, by the file that has their quotas: `given`, else the one with which the federation was started, or a
    domain was made by hand; of domains that were made by hand, those that are in `given`. Raises `BadInputError` where nothing
    was started there, or nobody knows the file."""
    known = {spec.name for spec in load_topology(given).domains} if given is not None else set()
    domains = domains_in(home)
    if not domains:
        raise BadInputError("no federation was ever started here", where=str(home), todo="run `ioi up`")
    if given is not None:
        of_it = [one for one in domains if not one.by_hand.exists() or one.name in known]
        if not of_it:
            names = ", ".join(one.name for one in domains)
            raise BadInputError(f"it has none of the domains in {home} ({names})", where=str(given), todo=_TODO)
        return {given: of_it}
    found: dict[Path, list[DomainHome]] = {}
    for one in domains:
        if not one.by_hand.exists():
            found.setdefault(topology_in(home), []).append(one)
        elif one.topology is not None:
            found.setdefault(one.topology, []).append(one)
        else:
            todo = "write one, give its clusters `tenants` or `quotas`, and name it once: `ioi quota --topology topology.yaml`"
            text = f"{one.name} was made without a topology file; this is what it would say:\n\n{as_topology(one)}\n"
            raise BadInputError(text, where=str(one.root), todo=todo)
    return found


def as_topology(home: DomainHome) -> str:
    """YAML that a domain can be read from which was made of nodes alone, as it is."""
    config = home.config()
    lines = [f"network: {config.network}", f"home: {home.name}", "domains:", f"  - name: {home.name}"]
    lines += [f"    authority: {config.spec.authority}", "    clusters:"]
    for cluster in config.spec.clusters:
        lines += [f"      - name: {cluster.name}", "        nodes:"]
        lines += [f"          - {{name: {node.name}}}" for node in cluster.nodes]
    return "\n".join(lines)


def apply_quotas(topology: Topology, homes: Sequence[DomainHome], file: str = "") -> list[Change]:
    """Save the quotas of `topology`, which stands in `file`, for each of `homes`; their cluster governors take them over within
    about a second. A domain that was made by hand was given its authority then, whatever the file says.

    Raises `BadInputError`, and changes nothing, where the file differs in anything else from what runs.
    """
    running = {home.name: home.config() for home in homes}
    asked = {spec.name: spec for spec in topology.domains}
    for home in homes:
        if home.by_hand.exists() and home.name in asked:
            asked[home.name] = replace(asked[home.name], authority=running[home.name].spec.authority)
    for name, config in running.items():
        if name not in asked or _without_quotas(asked[name]) != _without_quotas(config.spec):
            raise BadInputError(
                f"{name} is not what was started: only `quotas` and `tenants` may change while it runs",
                where=file,
                todo="take the other changes back, or stop the federation and start it again",
            )
    changes = [change for name, config in running.items() for change in _changes(config.spec, asked[name])]
    for home in homes:
        if running[home.name].spec != asked[home.name]:
            # Of all else, such as its members, what stands there by now.
            change_config(home, partial(replace, spec=asked[home.name]))
    return changes


def _without_quotas(spec: DomainSpec) -> DomainSpec:
    return replace(spec, clusters=tuple(replace(cluster, quotas=QuotaTree(())) for cluster in spec.clusters))


def _changes(before: DomainSpec, after: DomainSpec) -> Iterator[Change]:
    for old, new in zip(before.clusters, after.clusters, strict=True):
        had, has = shares(old.quotas), shares(new.quotas)
        for key in dict.fromkeys((*had, *has)):
            if had.get(key) != has.get(key):
                yield Change(old.name, *key, had.get(key), has.get(key))


def shares(tree: QuotaTree) -> dict[tuple[str, str, str], Share]:
    """What each holder has, by cohort, tenant and class."""
    found: dict[tuple[str, str, str], Share] = {}
    for cohort in tree.cohorts:
        found[cohort.name, "", ""] = Share(cohort.weight, cohort.quota, cohort.parent)
        for tenant in cohort.tenants:
            found[cohort.name, tenant.name, ""] = Share(tenant.weight, tenant.quota)
            for one in tenant.classes:
                found[cohort.name, tenant.name, one.name] = Share(one.weight, one.quota)
    return found
