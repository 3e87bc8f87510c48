"""Who may use how much of a cluster: a tree of cohorts (organisations), tenants and block classes, as values.

Amounts are per resource and in the resource's own unit (`cpu` in cores, `memory` in bytes, `gpu` in devices, or any
name that the nodes offer). The decisions over such a tree are `governors.fairness`'s work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.errors import BadInputError

Amounts = Mapping[str, float]

TODO = "correct the quota tree"


@dataclass(frozen=True, slots=True)
class Quota:
    """`guarantee`: what is always given back to the holder (missing: 0). `lends`: how much of that others may use while
    it is idle (missing: all). `borrows`: how much the holder may use beyond its guarantee (missing: without limit)."""

    guarantee: Amounts = field(default_factory=dict)
    lends: Amounts = field(default_factory=dict)
    borrows: Amounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClassQuota:
    """A tenant's part for one block class."""

    name: str
    weight: float = 1.0
    quota: Quota = Quota()


@dataclass(frozen=True, slots=True)
class TenantQuota:
    """Who pays. Asks for a class that `classes` does not name share one child of weight 1 without guarantee."""

    name: str
    weight: float = 1.0
    quota: Quota = Quota()
    classes: tuple[ClassQuota, ...] = ()


@dataclass(frozen=True, slots=True)
class CohortQuota:
    """An organisation: its tenants lend to each other first. A guarantee that is not given is the sum of its members'.
    `parent` names the cohort that it is part of; without one it stands directly below the network."""

    name: str
    tenants: tuple[TenantQuota, ...] = ()
    weight: float = 1.0
    quota: Quota = Quota()
    parent: str = ""


@dataclass(frozen=True, slots=True)
class QuotaTree:
    cohorts: tuple[CohortQuota, ...]

    @staticmethod
    def of_weights(weights: Mapping[str, float]) -> QuotaTree:
        """One cohort, no guarantees, no limits: plain weighted sharing."""
        return QuotaTree((CohortQuota("all", tuple(TenantQuota(name, weight) for name, weight in weights.items())),))

    def tenants(self) -> Iterator[tuple[CohortQuota, TenantQuota]]:
        for cohort in self.cohorts:
            for tenant in cohort.tenants:
                yield cohort, tenant

    def errors(self, capacity: Amounts) -> tuple[str, ...]:
        """All that is wrong with the tree on a cluster of `capacity` in total; nothing when it can be used."""
        found = [*_names(self), *_parents(self)]
        for what, weight, quota in _entries(self):
            found += _entry(what, weight, quota, capacity)
        return tuple(found or _sums(self, capacity))

    def check(self, capacity: Amounts) -> None:
        """Raises `BadInputError` whose text lists every error, one a line."""
        errors = self.errors(capacity)
        if errors:
            raise BadInputError("\n".join(errors), todo=TODO)


def guarantees(tree: QuotaTree) -> dict[str, dict[str, float]]:
    """What each cohort is guaranteed: as given, else the sum of its tenants' and of the cohorts in it."""
    children: dict[str, list[CohortQuota]] = {}
    for cohort in tree.cohorts:
        children.setdefault(cohort.parent, []).append(cohort)
    found: dict[str, dict[str, float]] = {}

    def of(cohort: CohortQuota) -> dict[str, float]:
        below = [of(child) for child in children.get(cohort.name, ())]
        summed = total([*(tenant.quota.guarantee for tenant in cohort.tenants), *below])
        found[cohort.name] = dict(cohort.quota.guarantee) or summed
        return found[cohort.name]

    for cohort in children.get("", ()):
        of(cohort)
    return found


def total(amounts: Iterable[Amounts]) -> dict[str, float]:
    summed: dict[str, float] = {}
    for one in amounts:
        for name, amount in one.items():
            summed[name] = summed.get(name, 0.0) + amount
    return summed


# Reading ------------------------------------------------------------------------------------------------------------

_TREE = {"cohorts"}
_COHORT = {"name", "weight", "guarantee", "lends", "borrows", "parent", "tenants"}
_TENANT = {"name", "weight", "guarantee", "lends", "borrows", "classes"}
_CLASS = {"name", "weight", "guarantee", "lends", "borrows"}


def quota_tree(values: Any) -> QuotaTree:
    """A tree from plain mappings and lists, as JSON or YAML give them.

    Raises `BadInputError` that lists every unknown key, missing name and value of a wrong type. What the tree means on a
    cluster is checked by `QuotaTree.check`."""
    errors: list[str] = []

    def mapping(value: Any, known: set[str], what: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            errors.append(f"{what} must be a mapping")
            return {}
        for key in value:
            if key not in known:
                errors.append(f"unknown key {str(key)!r} in {what}; known are {', '.join(sorted(known))}")
        if "name" in known and not (isinstance(value.get("name"), str) and value.get("name")):
            errors.append(f"{what} lacks a name")
        return {str(key): item for key, item in value.items()}

    def sequence(value: Any, what: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            errors.append(f"{what} must be a list")
            return []
        return list(value)

    def number(value: Any, what: str) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        errors.append(f"{what} must be a number")
        return 0.0

    def amounts(found: dict[str, Any], key: str, what: str) -> dict[str, float]:
        value = found.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            errors.append(f"{key} of {what} must map resources to amounts")
            return {}
        return {str(name): number(amount, f"{key}.{name} of {what}") for name, amount in value.items()}

    def common(found: dict[str, Any], what: str) -> dict[str, Any]:
        return {
            "name": str(found.get("name", "")),
            "weight": number(found.get("weight", 1.0), f"weight of {what}"),
            "quota": Quota(*(amounts(found, key, what) for key in ("guarantee", "lends", "borrows"))),
        }

    def called(kind: str, value: Any) -> str:
        return f"{kind} {value['name']!r}" if isinstance(value, Mapping) and value.get("name") else f"a {kind}"

    def block_class(value: Any) -> ClassQuota:
        what = called("class", value)
        return ClassQuota(**common(mapping(value, _CLASS, what), what))

    def tenant(value: Any) -> TenantQuota:
        what = called("tenant", value)
        found = mapping(value, _TENANT, what)
        classes = sequence(found.get("classes"), f"classes of {what}")
        return TenantQuota(**common(found, what), classes=tuple(map(block_class, classes)))

    def cohort(value: Any) -> CohortQuota:
        what = called("cohort", value)
        found = mapping(value, _COHORT, what)
        tenants = sequence(found.get("tenants"), f"tenants of {what}")
        parent = found.get("parent", "")
        if not isinstance(parent, str):
            errors.append(f"parent of {what} must be a name")
        return CohortQuota(**common(found, what), tenants=tuple(map(tenant, tenants)), parent=str(parent))

    found = mapping(values, _TREE, "the quota tree")
    tree = QuotaTree(tuple(map(cohort, sequence(found.get("cohorts"), "cohorts"))))
    if errors:
        raise BadInputError("\n".join(errors), todo=TODO)
    return tree


# Checks -------------------------------------------------------------------------------------------------------------


def _entries(tree: QuotaTree) -> Iterator[tuple[str, float, Quota]]:
    for cohort in tree.cohorts:
        yield f"cohort {cohort.name!r}", cohort.weight, cohort.quota
    for _, tenant in tree.tenants():
        yield f"tenant {tenant.name!r}", tenant.weight, tenant.quota
        for one in tenant.classes:
            yield f"class {one.name!r} of tenant {tenant.name!r}", one.weight, one.quota


def _names(tree: QuotaTree) -> Iterator[str]:
    seen: set[str] = set()
    for cohort in tree.cohorts:
        if cohort.name in seen:
            yield f"cohort {cohort.name!r} is given twice"
        seen.add(cohort.name)
    home: dict[str, str] = {}
    for cohort, tenant in tree.tenants():
        first = home.setdefault(tenant.name, cohort.name)
        if first != cohort.name:
            yield f"tenant {tenant.name!r} is in two cohorts, {first!r} and {cohort.name!r}; it must be in one"
        elif sum(other.name == tenant.name for other in cohort.tenants) > 1:
            yield f"tenant {tenant.name!r} is given twice in cohort {cohort.name!r}"
        names = [one.name for one in tenant.classes]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"class {name!r} is given twice for tenant {tenant.name!r}"


def _parents(tree: QuotaTree) -> Iterator[str]:
    parents = {cohort.name: cohort.parent for cohort in tree.cohorts}
    told: set[str] = set()
    for name, parent in parents.items():
        if parent and parent not in parents:
            yield f"parent {parent!r} of cohort {name!r} is not one of the cohorts"
        trail = [name]
        while parents.get(trail[-1]) and parents[trail[-1]] not in trail:
            trail.append(parents[trail[-1]])
        if parents.get(trail[-1]) and not told & set(trail):
            told |= set(trail)
            yield f"the cohorts' parents form a cycle: {' → '.join([*trail, parents[trail[-1]]])}"


def _entry(what: str, weight: float, quota: Quota, capacity: Amounts) -> Iterator[str]:
    if not (math.isfinite(weight) and weight > 0):
        yield f"weight of {what} is {weight:g}; it must be above 0"
    for kind, amounts in (("guarantee", quota.guarantee), ("lends", quota.lends), ("borrows", quota.borrows)):
        for resource, amount in amounts.items():
            if resource not in capacity:
                yield f"{kind} of {what} names {resource!r}, which no node offers; known are {', '.join(sorted(capacity))}"
            elif math.isnan(amount) or amount < 0:
                yield f"{kind} of {what} is {amount:g} {resource}; it may not be negative"
    for resource, amount in quota.lends.items():
        if resource in capacity and amount > quota.guarantee.get(resource, 0.0) and quota.guarantee:
            guarantee = quota.guarantee.get(resource, 0.0)
            yield f"{what} lends {amount:g} {resource}, more than its guarantee of {guarantee:g}"


def _sums(tree: QuotaTree, capacity: Amounts) -> Iterator[str]:
    """Of a tree whose parts are right: no level promises more than the one above has."""
    children: dict[str, list[CohortQuota]] = {}
    for cohort in tree.cohorts:
        children.setdefault(cohort.parent, []).append(cohort)
    promised = guarantees(tree)
    for resource, amount in total(promised[cohort.name] for cohort in children.get("", ())).items():
        if amount > capacity[resource] * (1 + 1e-9):
            yield f"the cohorts are guaranteed {amount:g} {resource}, but the cluster has {capacity[resource]:g}"
    for cohort in tree.cohorts:
        below = [tenant.quota.guarantee for tenant in cohort.tenants]
        below += [promised[child.name] for child in children.get(cohort.name, ())]
        yield from _exceeds(f"the members of cohort {cohort.name!r}", total(below), promised[cohort.name])
    for _, tenant in tree.tenants():
        below = total(one.quota.guarantee for one in tenant.classes)
        yield from _exceeds(f"the classes of tenant {tenant.name!r}", below, tenant.quota.guarantee)


def _exceeds(who: str, below: Amounts, above: Amounts) -> Iterator[str]:
    for resource, amount in below.items():
        if amount > above.get(resource, 0.0) * (1 + 1e-9):
            yield f"{who} are guaranteed {amount:g} {resource}, more than the {above.get(resource, 0.0):g} above them"
