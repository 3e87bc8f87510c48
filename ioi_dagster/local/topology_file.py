"""A topology from YAML: every error at once, each with file and line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, TenantShare, Topology

MAX_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Names become folders, URNs, process names and Dask resources."""
_RANGES: dict[str, tuple[float, float]] = {
    "slots": (1, 1_024),
    "memory": (64 * 2**20, 2**50),
    "price": (0, 1e9),
    "weight": (0.01, 1_000),
    "guarantee": (0, 1_000_000),
    "lends": (0, 1_000_000),
    "borrows": (0, 1_000_000),
}
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
        raise BadInputError(f"not YAML: {getattr(error, 'problem', error)}", where=where) from error
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


@dataclass
class _Reader:
    path: Path
    errors: list[str] = field(default_factory=list)

    def topology(self, root: Any) -> Topology | None:
        if root is None:
            self.errors.append(f"{self.path}:1: the file is empty")
            return None
        values = self.mapping(root, {"network", "home", "domains"}, {"network", "home", "domains"}, "the topology")
        domains = [self.domain(node) for node in self.sequence(values.get("domains"), "domains")]
        found = [domain for domain in domains if domain is not None]
        self.unique(values.get("domains"), "domain")
        self.cycles(values.get("domains"))
        self.unique_below(values.get("domains"))
        self.scopes(values.get("domains"), found)
        home = self.text(values.get("home"), "home")
        if home and found and home not in {domain.name for domain in found}:
            self.error(values["home"], f"home {home!r} is not one of the domains")
        return Topology(self.name(values.get("network"), "network"), home, tuple(found))

    def domain(self, node: Any) -> DomainSpec | None:
        allowed = {"name", "authority", "handles", "retains", "region", "blocks", "clusters", "parent"}
        values = self.mapping(node, allowed, {"name", "authority", "clusters"}, "a domain")
        clusters = [self.cluster(item) for item in self.sequence(values.get("clusters"), "clusters")]
        return DomainSpec(
            name=self.name(values.get("name")),
            authority=self.text(values.get("authority"), "authority"),
            clusters=tuple(clusters),
            handles=self.data_class(values.get("handles")),
            retains=self.scalar(values.get("retains"), "retains", bool, True),
            blocks=tuple(self.text(item, "a block") for item in self.sequence(values.get("blocks"), "blocks", True)),
            region=self.scalar(values.get("region"), "region", str, ""),
            parent=self.scalar(values.get("parent"), "parent", str, ""),
        )

    def cluster(self, node: Any) -> ClusterSpec:
        values = self.mapping(node, {"name", "price", "nodes", "tenants"}, {"name", "nodes"}, "a cluster")
        price = self.number(values, "price", float, 1.0)
        nodes = [self.node(item) for item in self.sequence(values.get("nodes"), "nodes")]
        self.unique(values.get("tenants"), "tenant")
        tenants = [self.tenant(item) for item in self.sequence(values.get("tenants"), "tenants", True)]
        slots, promised = sum(one.slots for one in nodes), sum(one.guarantee for one in tenants)
        if promised > slots:
            text = f"its tenants are guaranteed {promised} slots, and its nodes have {slots}"
            self.error(values["tenants"], text)
        return ClusterSpec(self.name(values.get("name")), tuple(nodes), price, tuple(tenants))

    def tenant(self, node: Any) -> TenantShare:
        values = self.mapping(node, {"name", "weight", "guarantee", "lends", "borrows"}, {"name"}, "a tenant")
        guarantee = self.number(values, "guarantee", int, 0)
        lends, borrows = (self.number(values, key, int, 0) if key in values else None for key in ("lends", "borrows"))
        if lends is not None and lends > guarantee:
            self.error(values["lends"], f"it lends {lends} slots, and is guaranteed {guarantee}")
        weight = self.number(values, "weight", float, 1.0)
        return TenantShare(self.name(values.get("name")), weight, guarantee, lends, borrows)

    def node(self, node: Any) -> NodeSpec:
        values = self.mapping(node, {"name", "slots", "memory"}, {"name"}, "a node")
        slots = self.number(values, "slots", int, 1)
        memory = self.number(values, "memory", int, 2 * 2**30)
        return NodeSpec(self.name(values.get("name")), slots, memory)

    # Rules over the whole -----------------------------------------------------------------------------------------

    def unique(self, node: Any, what: str) -> None:
        seen: dict[str, int] = {}
        for name, mark in self.names(node):
            if name in seen:
                self.errors.append(f"{self.path}:{mark}: {what} {name!r} was named before, on line {seen[name]}")
            seen.setdefault(name, mark)

    def unique_below(self, domains: Any) -> None:
        """Cluster and node names are unique in the network: leases and logs are read by them."""
        clusters = [c for d in self.items(domains) for c in self.items(self.value(d, "clusters"))]
        self.unique(yaml.SequenceNode("", clusters), "cluster")
        self.unique(yaml.SequenceNode("", [n for c in clusters for n in self.items(self.value(c, "nodes"))]), "node")

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

    # Nodes --------------------------------------------------------------------------------------------------------

    def error(self, node: Any, text: str) -> None:
        self.errors.append(f"{self.path}:{node.start_mark.line + 1}: {text}")

    def mapping(self, node: Any, allowed: set[str], required: set[str], what: str) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            self.error(node, f"{what} must be a mapping")
            return {}
        values: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in allowed:
                self.error(key, f"unknown key {name!r} in {what}; known are {', '.join(sorted(allowed))}")
            elif name in values:
                self.error(key, f"key {name!r} is given twice in {what}")
            values[name] = value
        for name in sorted(required - set(values)):
            self.error(node, f"{what} lacks {name!r}")
        return values

    def sequence(self, node: Any, what: str, empty: bool = False) -> list[Any]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.error(node, f"{what} must be a list")
            return []
        if not node.value and not empty:
            self.error(node, f"{what} may not be empty")
        return list(node.value)

    def text(self, node: Any, what: str) -> str:
        value = self.scalar(node, what, str, "")
        if node is not None and not value:
            self.error(node, f"{what} may not be empty")
        return value

    def name(self, node: Any, what: str = "name") -> str:
        value = self.text(node, what)
        if value and not _NAME.fullmatch(value):
            self.error(node, f"{what} {value[:80]!r} must be letters, digits, '.', '_' and '-', 63 at most")
        return value

    def number(self, values: dict[str, Any], what: str, kind: Callable[[Any], Any], default: Any) -> Any:
        value = self.scalar(values.get(what), what, kind, default)
        low, high = _RANGES[what]
        if not (math.isfinite(value) and low <= value <= high):
            self.error(values[what], f"{what} must be from {low:g} to {high:g}")
            return default
        return value

    def data_class(self, node: Any) -> DataClass:
        value = self.scalar(node, "handles", str, "internal")
        try:
            return DataClass(value)
        except ValueError:
            self.error(node, f"unknown data class {value!r}; known are {', '.join(DataClass)}")
            return DataClass.PUBLIC

    def scalar(self, node: Any, what: str, kind: Callable[[Any], Any], default: Any) -> Any:
        if node is None:
            return default
        if isinstance(node, yaml.ScalarNode):
            try:
                value = yaml.SafeLoader("").construct_object(node)
            except (yaml.YAMLError, ValueError, OverflowError):
                value = None
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is kind:
                return value
        self.error(node, f"{what} must be of type {getattr(kind, '__name__', kind)}")
        return default

    def items(self, node: Any) -> list[Any]:
        return list(node.value) if isinstance(node, yaml.SequenceNode) else []

    def value(self, node: Any, name: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return None
        return next((value for key, value in node.value if key.value == name), None)

    def names(self, node: Any) -> list[tuple[str, int]]:
        found = (self.value(item, "name") for item in self.items(node))
        return [(n.value, n.start_mark.line + 1) for n in found if isinstance(n, yaml.ScalarNode)]
