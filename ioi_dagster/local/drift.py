"""How what runs differs from what the topology file says by now: nothing of a file that is edited counts before a start, or
`ioi quota`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ioi_dagster.domain import DomainHome
from ioi_dagster.local.home import domains_in, topology_in
from ioi_dagster.local.identity import is_locked
from ioi_dagster.local.quota import Share, shares
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.amounts import MEMORY, shown
from ioi_dagster.model.data_stores import DataSpec, doors_between
from ioi_dagster.model.placement import Link
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec

BY_QUOTA = "ioi quota"
BY_START = "stop it and start it again, or take that back"


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` says where, what runs and what the file says; `by_quota`: `ioi quota` gives it to what runs, without a start."""

    what: str
    by_quota: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """`file`: with which something was started that runs; `differences`: of that from the file."""

    file: Path
    differences: tuple[Difference, ...]


def drift(home: Path) -> list[Compared]:
    """Of all that runs in `home`; empty where nothing does, or what does was made without a file. Raises `BadInputError` where a
    file or a configuration cannot be read."""
    domains = domains_in(home)
    by_file: dict[Path, list[DomainHome]] = {}
    for one in domains:
        file = one.topology if one.by_hand.exists() else topology_in(home)
        if file is not None and _runs(one):
            by_file.setdefault(file, []).append(one)
    return [Compared(file, tuple(_of_file(file, its))) for file, its in by_file.items()]


def _runs(home: DomainHome) -> bool:
    return is_locked(home.root / "supervisor.lock")


def _of_file(file: Path, homes: list[DomainHome]) -> Iterator[Difference]:
    topology, by_hand = load_topology(file), homes[0].by_hand.exists()
    running = {home.name: home.config() for home in homes}
    stated = {spec.name: spec for spec in topology.domains}
    if by_hand:
        # The file may have others', and says nothing of the authority that this one was given.
        stated = {
            name: replace(stated[name], authority=running[name].spec.authority) for name in running if name in stated
        }
    else:
        network, owner = next((config.network, config.home) for config in running.values())
        yield from _changed("the topology", "network", network, topology.network)
        yield from _changed("the topology", "home", owner, topology.home)
    yield from differences({name: config.spec for name, config in running.items()}, stated)
    told = dict.fromkeys(link for config in running.values() for link in config.links)
    yield from _links(told, dict.fromkeys(link for name in running for link in topology.links_of(name)))
    folders = homes[0].root.parent
    keeps = {name: its.at(str(folders / name)) for name, its in topology.data.items()}
    for name in running:
        doors = keeps.get(name, DataSpec()).doors if by_hand else doors_between(keeps, name)
        if running[name].data != replace(keeps.get(name, DataSpec()), doors=doors):
            yield Difference(f"where domain {name} keeps data, or what it opens of others, is not as in the file")


def _links(running: Iterable[Link], stated: Iterable[Link]) -> Iterator[Difference]:
    old, new = ({f"{link.source} to {link.target}": link for link in links} for links in (running, stated))
    for name in dict.fromkeys((*old, *new)):
        if name not in old or name not in new:
            how = (
                "is in the file and counts for no run yet" if name in new else "counts for runs and is not in the file"
            )
            yield Difference(f"link from {name} {how}")
        else:
            yield from _fields(f"link from {name}", old[name], new[name], {"source", "target"})


def differences(running: Mapping[str, DomainSpec], stated: Mapping[str, DomainSpec]) -> Iterator[Difference]:
    """Of the domains that run from those of the file, by name."""
    yield from _presence("domain", "", running, stated)
    for name in (one for one in running if one in stated):
        old, new = running[name], stated[name]
        yield from _fields(f"domain {name}", old, new, {"name", "clusters"})
        clusters = ({one.name: one for one in spec.clusters} for spec in (old, new))
        yield from _clusters(name, *clusters)


def _clusters(
    domain: str, running: Mapping[str, ClusterSpec], stated: Mapping[str, ClusterSpec]
) -> Iterator[Difference]:
    yield from _presence("cluster", f" of {domain}", running, stated)
    for name in (one for one in running if one in stated):
        old, new = running[name], stated[name]
        yield from _fields(f"cluster {name}", old, new, {"name", "nodes", "quotas"})
        yield from _quotas(name, shares(old.quotas), shares(new.quotas))
        nodes = ({one.name: one for one in spec.nodes} for spec in (old, new))
        yield from _nodes(name, *nodes)


def _nodes(cluster: str, running: Mapping[str, NodeSpec], stated: Mapping[str, NodeSpec]) -> Iterator[Difference]:
    yield from _presence("node", f" of {cluster}", running, stated)
    for name in (one for one in running if one in stated):
        old, new = running[name], stated[name]
        yield from _fields(f"node {name}", old, new, {"name", "memory", "limited", "autoscale"})
        yield from _changed(f"node {name}", "memory", _memory(old), _memory(new))
        if old.autoscale is not None and new.autoscale is not None:
            yield from _fields(f"group {name}", old.autoscale, new.autoscale, set())
        else:
            yield from _changed(
                f"node {name}", "autoscale", *(str(one.autoscale is not None).lower() for one in (old, new))
            )


def _memory(node: NodeSpec) -> str:
    return shown(MEMORY, node.memory) + ("" if node.limited else " (no limit)")


def _quotas(
    cluster: str, running: Mapping[tuple[str, str, str], Share], stated: Mapping[tuple[str, str, str], Share]
) -> Iterator[Difference]:
    for key in dict.fromkeys((*running, *stated)):
        old, new = running.get(key), stated.get(key)
        if old != new:
            names = zip(("cohort", "tenant", "class"), key, strict=True)
            whose = ", ".join(f"{what} {name}" for what, name in names if name) or "whoever is not named"
            how = "are others" if old and new else "stand in the file only" if new else "are gone from the file"
            yield Difference(f"quotas of {cluster} for {whose} {how}", by_quota=True)


def _presence(kind: str, of: str, running: Mapping[str, Any], stated: Mapping[str, Any]) -> Iterator[Difference]:
    for name in stated:
        if name not in running:
            yield Difference(f"{kind} {name}{of} is in the file and does not run")
    for name in running:
        if name not in stated:
            yield Difference(f"{kind} {name}{of} runs and is not in the file")


def _fields(what: str, running: Any, stated: Any, besides: set[str]) -> Iterator[Difference]:
    for one in fields(running):
        if one.name not in besides:
            yield from _changed(what, one.name, getattr(running, one.name), getattr(stated, one.name))


def _changed(what: str, name: str, running: object, stated: object) -> Iterator[Difference]:
    if running != stated:
        yield Difference(f"{what} runs with {name} {_told(running)}, the file says {_told(stated)}")


def _told(value: object) -> str:
    match value:
        case (str() as name, float() as amount):
            return f"{name}={amount:g}"
        case tuple():
            return ", ".join(_told(one) for one in value) or "none"
        case None | "":
            return "none"
        case bool():
            return str(value).lower()
        case _:
            return str(value)
