"""Reads the shares of a cluster's tenants from its YAML: the tree under `quotas`, or the short form `tenants`.

An amount without a resource is of slots: `guarantee: 2` is `guarantee: {slots: 2}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ioi_dagster.local.yaml_reader import YamlReader
from ioi_dagster.model.amounts import RESOURCE
from ioi_dagster.model.negotiation import SLOTS
from ioi_dagster.model.quota import ANY, Amounts, ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota, Where

_SHARE = {"name", "weight", "guarantee", "lends", "borrows"}


def read_quotas(reader: YamlReader, cluster: Mapping[str, Any], capacity: Amounts) -> QuotaTree:
    """Of the values of a cluster whose nodes have `capacity` together. What is wrong goes to `reader`'s errors."""
    quotas, tenants = cluster.get("quotas"), cluster.get("tenants")
    if quotas is not None and tenants is not None:
        reader.error(tenants, "a cluster has `quotas`, or their short form `tenants`, not both")
    before = len(reader.errors)
    if quotas is None:
        tree = QuotaTree.flat(_tenant(reader, one) for one in reader.sequence(tenants, "tenants", True))
    else:
        tree = QuotaTree(tuple(_cohort(reader, one) for one in reader.sequence(quotas, "quotas")))
    if len(reader.errors) > before:
        return tree  # what follows from a value that is wrong in itself says nothing
    for problem in tree.problems(capacity):
        where = problem.where[1:] if quotas is not None else problem.where[3:]
        reader.error(_found(tenants if quotas is None else quotas, where), problem.text)
    return tree


def read_amounts(reader: YamlReader, node: Any, what: str, alone: str = "") -> dict[str, float]:
    """Amounts by resource. `alone`: what an amount without a resource is of, where there may be such."""
    if node is None:
        return {}
    if alone and isinstance(node, yaml.ScalarNode):
        return {alone: _amount(reader, node, alone, what)}
    if not isinstance(node, yaml.MappingNode):
        reader.error(node, f"{what} must give amounts by resource, as in {{gpu: 1, memory: 4GiB}}")
        return {}
    found: dict[str, float] = {}
    for key, value in node.value:
        name = str(key.value)
        if not RESOURCE.fullmatch(name):
            reader.error(key, f"resource {name[:80]!r} must be letters, digits, '.', '_' and '-', 63 at most")
        elif name in found:
            reader.error(key, f"resource {name!r} is given twice in {what}")
        else:
            found[name] = _amount(reader, value, name, f"{what} of {name}")
    return found


def _amount(reader: YamlReader, node: Any, resource: str, what: str) -> float:
    found = reader.amount(node, what)
    if resource == SLOTS and not found.is_integer():
        reader.error(node, f"{what} must be a whole number of slots")
    return found


def _cohort(reader: YamlReader, node: Any) -> CohortQuota:
    values = reader.mapping(node, {*_SHARE, "parent", "tenants"}, {"name"}, "a cohort")
    return CohortQuota(
        reader.name(values.get("name")),
        tuple(_tenant(reader, one) for one in reader.sequence(values.get("tenants"), "tenants", True)),
        reader.number(values, "weight", float, 1.0),
        _quota(reader, values),
        reader.scalar(values.get("parent"), "parent", str, ""),
    )


def _tenant(reader: YamlReader, node: Any) -> TenantQuota:
    values = reader.mapping(node, {*_SHARE, "classes"}, {"name"}, "a tenant")
    name = values.get("name")
    anybody = isinstance(name, yaml.ScalarNode) and name.value == ANY
    return TenantQuota(
        ANY if anybody else reader.name(name),
        reader.number(values, "weight", float, 1.0),
        _quota(reader, values),
        tuple(_class(reader, one) for one in reader.sequence(values.get("classes"), "classes", True)),
    )


def _class(reader: YamlReader, node: Any) -> ClassQuota:
    values = reader.mapping(node, _SHARE, {"name"}, "a class")
    name = reader.text(values.get("name"), "name")
    return ClassQuota(name, reader.number(values, "weight", float, 1.0), _quota(reader, values))


def _quota(reader: YamlReader, values: Mapping[str, Any]) -> Quota:
    return Quota(*(read_amounts(reader, values.get(key), key, SLOTS) for key in ("guarantee", "lends", "borrows")))


def _found(node: Any, where: Where) -> Any:
    """What stands at `where` below `node`, as far as that goes."""
    for step in where:
        if isinstance(step, int) and isinstance(node, yaml.SequenceNode):
            node = node.value[step]
            continue
        below = [value for key, value in node.value if key.value == step] if isinstance(node, yaml.MappingNode) else []
        if not below:
            break
        node = below[0]
    return node
