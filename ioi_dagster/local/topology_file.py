"""A topology from YAML: every error at once, each with file and line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ioi_dagster.errors import BadInputError
from ioi_dagster.local.autoscale_reader import read_autoscale
from ioi_dagster.local.data_reader import read_data
from ioi_dagster.local.links_reader import read_links
from ioi_dagster.local.quota_reader import read_amounts, read_quotas
from ioi_dagster.local.yaml_reader import YamlReader
from ioi_dagster.model.amounts import MEMORY
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_stores import DataSpec
from ioi_dagster.model.negotiation import SLOTS
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

MAX_BYTES = 1_000_000
MAX_NAME = 63
MAX_RESOURCES = 14
"""What a step takes of a node goes over the wire with its memory and its slot."""
MAX_DEPTH = 30
"""A topology needs some eight. What PyYAML takes to read a file grows with the square of its depth."""
_OPENS = (
    *(yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken),
    *(yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken),
)
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_TODO = "see deployments/local/topology.yaml for a file that works"


def load_topology(path: Path) -> Topology:
    """Read and check `path`. Raises `BadInputError` whose text lists all errors, one a line."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInputError(f"a topology of over {MAX_BYTES} bytes", where=str(path))
        text = path.read_text()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInputError(f"cannot be read: {why}", where=str(path), todo=_TODO) from error
    try:
        _refuse_odd(text, path)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        todo = 'write "*" in quotes' if getattr(error, "context", "") == "while scanning an alias" else _TODO
        raise BadInputError(f"not YAML: {getattr(error, 'problem', error)}", where=where, todo=todo) from error
    reader = _Reader(path)
    topology = reader.topology(root)
    if reader.errors or topology is None:
        raise BadInputError("\n".join(reader.errors) or f"{path}: nothing in it", todo=_TODO)
    return topology


def _refuse_odd(text: str, path: Path) -> None:
    depth = 0
    for token in yaml.scan(text):
        where = f"{path}:{token.start_mark.line + 1}"
        if isinstance(token, yaml.AliasToken):
            raise BadInputError("aliases (`*name`) are not allowed", where=where, todo="write it out")
        depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
        if depth > MAX_DEPTH:
            raise BadInputError("it is nested too deeply", where=where, todo=_TODO)


class _Reader(YamlReader):
    data: dict[str, DataSpec]
    """By domain that says something of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.data = {}

    def topology(self, root: Any) -> Topology | None:
        if root is None:
            self.errors.append(f"{self.path}:1: the file is empty")
            return None
        required = {"network", "home", "domains"}
        values = self.mapping(root, required | {"links"}, required, "the topology")
        domains = [self.domain(node) for node in self.sequence(values.get("domains"), "domains")]
        found = [domain for domain in domains if domain is not None]
        self.unique(values.get("domains"), "domain")
        self.cycles(values.get("domains"))
        self.unique_below(values.get("domains"), found)
        self.scopes(values.get("domains"), found)
        home = self.text(values.get("home"), "home")
        if home and found and home not in {domain.name for domain in found}:
            self.error(values["home"], f"home {home!r} is not one of the domains")
        links = read_links(self, values.get("links"), found)
        return Topology(self.name(values.get("network"), "network"), home, tuple(found), links, self.data)

    def domain(self, node: Any) -> DomainSpec | None:
        told = {"handles", "retains", "region", "blocks", "parent", "dask_tls", "data"}
        needed = {"name", "authority", "clusters"}
        values = self.mapping(node, needed | told, needed, "a domain")
        clusters = [self.cluster(item) for item in self.sequence(values.get("clusters"), "clusters")]
        name, retains = self.name(values.get("name")), self.scalar(values.get("retains"), "retains", bool, True)
        if "data" in values:
            self.data[name] = read_data(self, values["data"], retains)
        return DomainSpec(
            name=name,
            authority=self.text(values.get("authority"), "authority"),
            clusters=tuple(clusters),
            handles=self.data_class(values.get("handles")),
            retains=retains,
            blocks=tuple(self.text(item, "a block") for item in self.sequence(values.get("blocks"), "blocks", True)),
            region=self.scalar(values.get("region"), "region", str, ""),
            parent=self.scalar(values.get("parent"), "parent", str, ""),
            dask_tls=self.scalar(values.get("dask_tls"), "dask_tls", bool, False),
        )

    def cluster(self, node: Any) -> ClusterSpec:
        allowed = {"name", "price", "nodes", "tenants", "quotas"}
        values = self.mapping(node, allowed, {"name", "nodes"}, "a cluster")
        nodes = tuple(self.node(item) for item in self.sequence(values.get("nodes"), "nodes"))
        bare = ClusterSpec(self.name(values.get("name")), nodes, self.number(values, "price", float, 1.0))
        return replace(bare, quotas=read_quotas(self, values, bare.capacity))

    def node(self, node: Any) -> NodeSpec:
        known = {"name", "slots", "memory", "resources", "speed", "autoscale"}
        values = self.mapping(node, known, {"name"}, "a node")
        found = NodeSpec(
            self.name(values.get("name")),
            self.number(values, "slots", int, 1),
            self.size(values, "memory", 2 * 2**30),
            self.resources(values.get("resources")),
            self.number(values, "speed", float, 1.0),
            read_autoscale(self, values.get("autoscale")),
            limited="memory" in values,
        )
        if found.autoscale is not None and len(found.members[-1]) > MAX_NAME:
            self.error(
                node, f"its nodes would be called as {found.members[-1]!r}; a name has {MAX_NAME} letters at most"
            )
        return found

    def resources(self, node: Any) -> tuple[tuple[str, float], ...]:
        found = read_amounts(self, node, "resources")
        for name in (SLOTS, MEMORY):
            if name in found:
                self.error(node, f"{name} of a node stand beside its resources, not among them")
        if len(found) > MAX_RESOURCES:
            self.error(node, f"a node has {MAX_RESOURCES} resources at most")
        return tuple(sorted(found.items()))

    # Rules over the whole -----------------------------------------------------------------------------------------

    def unique(self, node: Any, what: str) -> None:
        seen: dict[str, int] = {}
        for name, mark in self.names(node):
            if name in seen:
                self.errors.append(f"{self.path}:{mark}: {what} {name!r} was named before, on line {seen[name]}")
            seen.setdefault(name, mark)

    def unique_members(self, nodes: list[Any], found: list[DomainSpec]) -> None:
        """Nor may a node be called as one of a group."""
        specs = [spec for domain in found for cluster in domain.clusters for spec in cluster.nodes]
        names = {spec.name for spec in specs}
        for item, spec in zip(nodes, specs, strict=False):
            taken = [name for name in spec.members if name in names] if spec.autoscale is not None else []
            if taken:
                self.error(item, f"node {taken[0]!r} of group {spec.name!r} would be called as another node")

    def unique_below(self, domains: Any, found: list[DomainSpec]) -> None:
        """Cluster and node names are unique in the network: leases and logs are read by them."""
        clusters = [c for d in self.items(domains) for c in self.items(self.value(d, "clusters"))]
        self.unique(yaml.SequenceNode("", clusters), "cluster")
        nodes = [node for cluster in clusters for node in self.items(self.value(cluster, "nodes"))]
        self.unique(yaml.SequenceNode("", nodes), "node")
        self.unique_members(nodes, found)

    def scopes(self, node: Any, domains: list[DomainSpec]) -> None:
        """The first part of a domain's name is its folder of policies, so siblings may not share it."""
        seen: dict[tuple[str, str], str] = {}
        for item, domain in zip(self.items(node), domains, strict=False):
            key = (domain.parent, domain.scope)
            if seen.setdefault(key, domain.name) != domain.name:
                self.error(item, f"{domain.name!r} and {seen[key]!r} would share the policies of {domain.scope!r}")

    def cycles(self, domains: Any) -> None:
        """`parent` chains must end."""
        parents: dict[str, tuple[str, int]] = {}
        for item in self.items(domains):
            name, parent = self.value(item, "name"), self.value(item, "parent")
            if isinstance(name, yaml.ScalarNode) and isinstance(parent, yaml.ScalarNode):
                parents[name.value] = (parent.value, parent.start_mark.line + 1)
        known = {name for name, _ in self.names(domains)}
        reported: set[str] = set()
        for start, (parent, line) in parents.items():
            if parent not in known:
                self.errors.append(f"{self.path}:{line}: parent {parent!r} is not one of the domains")
            trail = [start]
            while trail[-1] in parents and parents[trail[-1]][0] not in trail:
                trail.append(parents[trail[-1]][0])
            if trail[-1] in parents and not reported & set(trail):
                reported |= set(trail)
                chain = " → ".join([*trail, parents[trail[-1]][0]])
                self.errors.append(f"{self.path}:{line}: the domains' parents form a cycle: {chain}")

    def data_class(self, node: Any) -> DataClass:
        value = self.scalar(node, "handles", str, "internal")
        try:
            return DataClass(value)
        except ValueError:
            self.error(node, f"unknown data class {value!r}; known are {', '.join(DataClass)}")
            return DataClass.PUBLIC
