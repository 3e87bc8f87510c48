"""Who may use how much of a cluster: a tree of cohorts (organisations), tenants and block classes, as values.

Amounts are per resource and in the resource's own unit (`cpu` in cores, `memory` in bytes, `gpu` in devices, or any
name that the nodes offer). The decisions over such a tree are `governors.fairness`'s work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.amounts import shown, told

Amounts = Mapping[str, float]
Where = tuple[str | int, ...]
"""A place in a tree: keys, and positions in lists, as in `("cohorts", 0, "tenants", 1, "guarantee", "gpu")`."""

TODO = "correct the quota tree"
ANY = "*"
"""The tenant that stands for each one that is not named."""


@dataclass(frozen=True, slots=True)
class Problem:
    where: Where
    text: str


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
    """Who pays. Asks for a class that `classes` does not name share one child of weight 1 without guarantee. One whose name is
    `ANY` is the pattern of each tenant that is not named."""

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

    @staticmethod
    def flat(tenants: Iterable[TenantQuota] = ()) -> QuotaTree:
        """One cohort of `tenants`, in which also everybody else has a place, of weight 1."""
        named = tuple(tenants)
        others = () if any(one.name == ANY for one in named) else (TenantQuota(ANY),)
        return QuotaTree((CohortQuota("all", (*named, *others)),))

    def tenants(self) -> Iterator[tuple[CohortQuota, TenantQuota]]:
        for cohort in self.cohorts:
            for tenant in cohort.tenants:
                yield cohort, tenant

    def resources(self) -> set[str]:
        """All that some quota is of."""
        quotas = (entry.quota for entry in _entries(self))
        return {name for quota in quotas for name in (*quota.guarantee, *quota.lends, *quota.borrows)}

    def problems(self, capacity: Amounts | None = None) -> tuple[Problem, ...]:
        """All that is wrong with the tree on a cluster of `capacity` in total; nothing when it can be used. Without a capacity:
        what is wrong with it on any."""
        known = dict.fromkeys(self.resources(), math.inf) if capacity is None else capacity
        found, promised = [*_names(self), *_parents(self)], guarantees(self)
        for entry in _entries(self):
            found += _entry(entry, known, promised)
        return tuple(found or _sums(self, known))

    def errors(self, capacity: Amounts | None = None) -> tuple[str, ...]:
        """The texts of `problems`."""
        return tuple(problem.text for problem in self.problems(capacity))

    def check(self, capacity: Amounts | None = None) -> None:
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


# Checks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    where: Where
    what: str
    weight: float
    quota: Quota
    cohort: str = ""
    """Its name, where it is one: what its members are guaranteed is its own."""


def _at(cohort: int, tenant: int | None = None, block_class: int | None = None) -> Where:
    below = () if tenant is None else ("tenants", tenant)
    return ("cohorts", cohort, *below, *(() if block_class is None else ("classes", block_class)))


def _entries(tree: QuotaTree) -> Iterator[_Entry]:
    for c, cohort in enumerate(tree.cohorts):
        yield _Entry(_at(c), f"cohort {cohort.name!r}", cohort.weight, cohort.quota, cohort.name)
        for t, tenant in enumerate(cohort.tenants):
            yield _Entry(_at(c, t), f"tenant {tenant.name!r}", tenant.weight, tenant.quota)
            for k, one in enumerate(tenant.classes):
                what = f"class {one.name!r} of tenant {tenant.name!r}"
                yield _Entry(_at(c, t, k), what, one.weight, one.quota)


def _names(tree: QuotaTree) -> Iterator[Problem]:
    cohorts: set[str] = set()
    home: dict[str, str] = {}
    for c, cohort in enumerate(tree.cohorts):
        if cohort.name in cohorts:
            yield Problem(_at(c), f"cohort {cohort.name!r} is given twice")
        cohorts.add(cohort.name)
        here: set[str] = set()
        for t, tenant in enumerate(cohort.tenants):
            first = home.setdefault(tenant.name, cohort.name)
            if tenant.name in here:
                yield Problem(_at(c, t), f"tenant {tenant.name!r} is given twice in cohort {cohort.name!r}")
            elif first != cohort.name:
                text = f"tenant {tenant.name!r} is in two cohorts, {first!r} and {cohort.name!r}; it must be in one"
                yield Problem(_at(c, t), text)
            here.add(tenant.name)
            classes: set[str] = set()
            for k, one in enumerate(tenant.classes):
                if one.name in classes:
                    yield Problem(_at(c, t, k), f"class {one.name!r} is given twice for tenant {tenant.name!r}")
                classes.add(one.name)


def _parents(tree: QuotaTree) -> Iterator[Problem]:
    parents = {cohort.name: cohort.parent for cohort in tree.cohorts}
    told: set[str] = set()
    for c, cohort in enumerate(tree.cohorts):
        where, parent = (*_at(c), "parent"), cohort.parent
        if parent and parent not in parents:
            yield Problem(where, f"parent {parent!r} of cohort {cohort.name!r} is not one of the cohorts")
        trail = [cohort.name]
        while parents.get(trail[-1]) and parents[trail[-1]] not in trail:
            trail.append(parents[trail[-1]])
        if parents.get(trail[-1]) and not told & set(trail):
            told |= set(trail)
            chain = " → ".join([*trail, parents[trail[-1]]])
            yield Problem(where, f"the cohorts' parents form a cycle: {chain}")


def _entry(entry: _Entry, capacity: Amounts, promised: Mapping[str, Amounts]) -> Iterator[Problem]:
    where, what, quota = entry.where, entry.what, entry.quota
    if not (math.isfinite(entry.weight) and entry.weight > 0):
        yield Problem((*where, "weight"), f"weight of {what} is {entry.weight:g}; it must be above 0")
    for kind, amounts in (("guarantee", quota.guarantee), ("lends", quota.lends), ("borrows", quota.borrows)):
        for resource, amount in amounts.items():
            at = (*where, kind, resource)
            if resource not in capacity:
                known = ", ".join(sorted(capacity))
                yield Problem(at, f"{kind} of {what} names {resource!r}, which no node offers; known are {known}")
            elif math.isnan(amount) or amount < 0:
                yield Problem(at, f"{kind} of {what} is {told(resource, amount)}; it may not be negative")
    has = promised.get(entry.cohort, {}) if entry.cohort else quota.guarantee
    for resource, amount in quota.lends.items():
        guarantee = has.get(resource, 0.0)
        if resource in capacity and amount > guarantee:
            text = f"{what} lends {told(resource, amount)}, more than its guarantee of {shown(resource, guarantee)}"
            text += "" if guarantee else ": give it one, or take `lends` away"
            yield Problem((*where, "lends", resource), text)
    if what == f"tenant {ANY!r}" and any(quota.guarantee.values()):
        text = f"tenant {ANY!r} is any number of tenants, so that it can be guaranteed nothing; guarantee it to their cohort"
        yield Problem((*where, "guarantee"), text)


def _sums(tree: QuotaTree, capacity: Amounts) -> Iterator[Problem]:
    """Of a tree whose parts are right: no level promises more than the one above has."""
    children: dict[str, list[CohortQuota]] = {}
    for cohort in tree.cohorts:
        children.setdefault(cohort.parent, []).append(cohort)
    promised = guarantees(tree)
    for resource, amount in total(promised[cohort.name] for cohort in children.get("", ())).items():
        if amount > capacity[resource] * (1 + 1e-9):
            has = shown(resource, capacity[resource])
            yield Problem(
                ("cohorts",), f"the cohorts are guaranteed {told(resource, amount)}, but the cluster has {has}"
            )
    for c, cohort in enumerate(tree.cohorts):
        below = [tenant.quota.guarantee for tenant in cohort.tenants]
        below += [promised[child.name] for child in children.get(cohort.name, ())]
        who = f"the members of cohort {cohort.name!r}"
        yield from _exceeds((*_at(c), "guarantee"), who, total(below), promised[cohort.name])
        for t, tenant in enumerate(cohort.tenants):
            below = total(one.quota.guarantee for one in tenant.classes)
            who = f"the classes of tenant {tenant.name!r}"
            yield from _exceeds((*_at(c, t), "guarantee"), who, below, tenant.quota.guarantee)


def _exceeds(where: Where, who: str, below: Amounts, above: Amounts) -> Iterator[Problem]:
    for resource, amount in below.items():
        most = above.get(resource, 0.0)
        if amount > most * (1 + 1e-9):
            text = f"{who} are guaranteed {told(resource, amount)}, more than the {shown(resource, most)} above them"
            yield Problem(where, text)
