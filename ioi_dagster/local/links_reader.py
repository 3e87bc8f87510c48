"""Reads what lies between domains from its YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ioi_dagster.local.yaml_reader import YamlReader
from ioi_dagster.model.names import near
from ioi_dagster.model.placement import Link, untold
from ioi_dagster.model.topology import DomainSpec

_KEYS = {"between", "source", "target", "latency", "bandwidth"}


def read_links(reader: YamlReader, node: Any, domains: list[DomainSpec]) -> tuple[Link, ...]:
    """`between: [one, other]` is the same in both directions, `source` and `target` one of them. What is wrong goes to `reader`'s
    errors."""
    clusters = {cluster.name: domain.name for domain in domains for cluster in domain.clusters}
    found: dict[tuple[str, str], Link] = {}
    for item in reader.sequence(node, "links"):
        for link in _read(reader, item, {domain.name for domain in domains}, clusters):
            if (link.source, link.target) in found:
                reader.error(item, f"a link from {link.source!r} to {link.target!r} was named before")
            found.setdefault((link.source, link.target), link)
    return tuple(found.values())


def _read(reader: YamlReader, node: Any, domains: set[str], clusters: Mapping[str, str]) -> list[Link]:
    before = len(reader.errors)
    values = reader.mapping(node, _KEYS, {"bandwidth"}, "a link")
    ends = _ends(reader, node, values)
    for name, where in ends if len(reader.errors) == before else ():
        if name in clusters and name not in domains:
            reader.error(where, f"a link is between domains, and {name!r} is a cluster of {clusters[name]!r}")
        elif name not in domains:
            reader.error(where, f"a link names {name[:80]!r}, which is no domain; {near(name, domains)}")
    if len(reader.errors) > before:
        return []
    (source, _), (target, _) = ends
    bandwidth = float(reader.size(values, "bandwidth", 1_000))
    latency = reader.number(values, "latency", float, untold(source, target).latency)
    if len(reader.errors) > before:
        return []
    one = Link(source, target, latency, bandwidth)
    return [one, Link(target, source, latency, bandwidth)] if "between" in values and source != target else [one]


def _ends(reader: YamlReader, node: Any, values: dict[str, Any]) -> list[tuple[str, Any]]:
    """The names of both, and where they stand."""
    if not isinstance(node, yaml.MappingNode):
        return []
    directed = [name for name in ("source", "target") if name in values]
    if len(directed) != (0 if "between" in values else 2):
        reader.error(node, "a link is between two domains (between: [one, other]), or has a source and a target")
        return []
    ends = [values[name] for name in directed] or reader.sequence(values["between"], "between")
    if len(ends) != 2:
        reader.error(values["between"], "between must name two domains, or one twice for what lies inside it")
        return []
    return [(reader.text(end, "an end of a link"), end) for end in ends]
