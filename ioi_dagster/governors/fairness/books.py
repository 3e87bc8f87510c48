"""Who has what: the tree of units over the nodes, booked by every start and end, and what each is entitled to."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ioi_dagster.governors.fairness.entitlement import Claim, water_fill
from ioi_dagster.governors.fairness.machines import EPSILON, Machines, Need, Shape
from ioi_dagster.governors.fairness.tree import Entry, Leaf, Limits, Line, Unit
from ioi_dagster.model.quota import ANY, CohortQuota, Quota, QuotaTree, TenantQuota, guarantees

LEAST = 1e-9
ALWAYS = 32
"""Up to so many queues, what each is entitled to is worked out before every round; beyond, every few changes of each."""


class Books:
    """`elastic`: nodes come and go while quotas stay, so that a tree may promise more than the nodes that are there have; then
    guarantees shrink in proportion. Raises `BadInputError` when the tree does not fit the machines."""

    def __init__(self, machines: Machines, tree: QuotaTree, elastic: bool = False) -> None:
        self.machines, self.elastic = machines, elastic
        self.entries: dict[str, Entry] = {}
        self.changes = 1 << 30
        self.plant(tree)

    def check(self, tree: QuotaTree) -> None:
        """Raises `BadInputError` when it cannot be used."""
        tree.check(None if self.elastic else dict(zip(self.machines.resources, self.machines.total, strict=True)))

    def plant(self, tree: QuotaTree) -> None:
        """Grow the tree anew with nothing in it."""
        self.check(tree)
        for name in sorted(tree.resources() - self.machines.number.keys()):
            self.machines.add_resource(name)
        self.tree = tree
        self.width = len(self.machines.resources)
        self.limits = False
        self.keeps = False
        self.promises = False
        promised = guarantees(tree)
        for _, tenant in tree.tenants():
            quotas = [tenant.quota, *(one.quota for one in tenant.classes)]
            self.limits |= any(quota.borrows or quota.lends for quota in quotas)
        self.limits |= any(cohort.quota.borrows or cohort.quota.lends for cohort in tree.cohorts)
        self.root = Unit("", None, 1.0, self.width, None)
        self.leaves: dict[tuple[str, str], Leaf] = {}
        self.touched: dict[Leaf, None] = {}
        """Those that want more or less since it was worked out what everybody is entitled to."""
        self.asking: dict[Leaf, None] = {}
        """Those that ask for something, waiting for it or not."""
        self.tenants: dict[str, Unit] = {}
        self.cohorts: dict[str, Unit] = {}
        self._templates: dict[str, tuple[Unit, TenantQuota]] = {}
        waiting = list(tree.cohorts)
        while waiting:
            cohort = waiting.pop(0)
            if cohort.parent and cohort.parent not in self.cohorts:
                waiting.append(cohort)
                continue
            self._grow_cohort(cohort, promised[cohort.name])
        self.trunk = self.root
        """The lowest unit that all are part of: above it there is no order, since there is only one each time."""
        while len(self.trunk.children) == 1 and ANY not in self._templates and self.trunk.children[0].children:
            self.trunk = self.trunk.children[0]
        self.resized()

    def _grow_cohort(self, cohort: CohortQuota, guarantee: Mapping[str, float]) -> None:
        parent = self.cohorts[cohort.parent] if cohort.parent else self.root
        quota = Quota(guarantee, cohort.quota.lends, cohort.quota.borrows)
        unit = Unit(cohort.name, parent, cohort.weight, self.width, self._limits(quota))
        self.cohorts[cohort.name] = unit
        for tenant in cohort.tenants:
            if tenant.name == ANY:
                self._templates[ANY] = (unit, tenant)
            else:
                self._grow_tenant(unit, tenant, tenant.name)

    def _grow_tenant(self, cohort: Unit, tenant: TenantQuota, name: str) -> None:
        limits = self._limits(tenant.quota)
        if not tenant.classes:
            leaf = Leaf(name, name, cohort, tenant.weight, self.width, limits)
            self.tenants[name] = self.leaves[name, ""] = leaf
            return
        unit = self.tenants[name] = Unit(name, cohort, tenant.weight, self.width, limits)
        for one in tenant.classes:
            limits = self._limits(one.quota)
            self.leaves[name, one.name] = Leaf(one.name, name, unit, one.weight, self.width, limits)
        if (name, "") not in self.leaves:
            self.leaves[name, ""] = Leaf("", name, unit, 1.0, self.width, None)

    def _limits(self, quota: Quota) -> Limits | None:
        """Amounts by resource number. None when nothing is guaranteed or limited."""
        if not (quota.guarantee or quota.borrows):
            return None
        names = self.machines.resources
        guarantee = [float(quota.guarantee.get(name, 0.0)) for name in names]
        cap = [have + quota.borrows.get(name, math.inf) for name, have in zip(names, guarantee, strict=True)]
        lends = [quota.lends.get(name, have) for name, have in zip(names, guarantee, strict=True)]
        own = [max(0.0, have - part) for have, part in zip(guarantee, lends, strict=True)]
        self.keeps |= any(own)
        self.promises |= any(guarantee)
        return Limits(guarantee, cap, own, list(guarantee), list(own))

    def resized(self) -> None:
        """The machines have changed, or the tree: what follows from both."""
        total, nothing = list(self.machines.total), [0.0] * self.width
        self.root.limits = Limits(total, total, nothing, total, nothing) if self.limits else None
        if self.promises:
            self._scale(self.root, total)
        self._parts(self.root)
        if self.keeps:
            self._most()
            self._keep(self.root)
        for unit in self.units():
            self.measure(unit)
        self.changes = 1 << 30

    def _scale(self, unit: Unit, there: list[float]) -> None:
        """What is guaranteed below `unit`, when it has so much itself."""
        limited = [child.limits for child in unit.children if child.limits is not None]
        promised = [sum(column) for column in zip(*(limits.promised for limits in limited), strict=True)]
        parts = [
            min(1.0, have / asked) if asked > 0 else 1.0 for have, asked in zip(there, promised, strict=bool(limited))
        ]
        for child in unit.children:
            if child.limits is not None:
                child.limits.scale(parts)
                self._scale(child, child.limits.guarantee)

    def _most(self) -> None:
        for unit in reversed(self.units()):
            below = [sum(column) for column in zip(*(child.most for child in unit.children), strict=True)]
            own = unit.limits.own if unit.limits is not None else [0.0] * self.width
            unit.most = [max(pair) for pair in zip(own, below or own, strict=True)]

    def _parts(self, unit: Unit) -> None:
        weights = sum(child.weight for child in unit.children)
        for child in unit.children:
            child.part = unit.part * child.weight / weights
            self._parts(child)

    def _keep(self, unit: Unit) -> list[float]:
        below = [self._keep(child) for child in unit.children]
        unit.kept = [sum(column, 0.0) for column in zip(*below, strict=True)] if below else [0.0] * self.width
        return [self.reserve(unit, number) for number in range(self.width)]

    def reserve(self, unit: Unit, number: int) -> float:
        """Idle room that nobody outside `unit` may have."""
        own = unit.limits.own[number] - unit.used[number] if unit.limits is not None else 0.0
        return max(own, unit.kept[number], 0.0)

    def units(self) -> list[Unit]:
        found = [self.root]
        for unit in found:
            found += unit.children
        return found

    def leaf(self, tenant: str, block_class: str) -> Leaf | None:
        """The queue of a tenant's class; a tenant that the tree does not name grows where it has `*`."""
        found = self.leaves.get((tenant, block_class)) or self.leaves.get((tenant, ""))
        if found is None and ANY in self._templates:
            cohort, template = self._templates[ANY]
            self._grow_tenant(cohort, template, tenant)
            self._parts(cohort)
            self.changes = 1 << 30
            return self.leaf(tenant, block_class)
        return found

    # Booking ----------------------------------------------------------------------------------------------------

    def measure(self, unit: Unit) -> None:
        share = 0.0
        for amount, inverse in zip(unit.used, self.machines.inverse, strict=True):
            if amount * inverse > share:
                share = amount * inverse
        unit.share = share

    def book(self, leaf: Leaf, need: Need, sign: int) -> None:
        """`need` more (`sign` 1) or less (-1) is used by the leaf and all above it."""
        if self.keeps:
            self._book_kept(leaf, need, sign)
        inverse = self.machines.inverse
        unit: Unit | None = leaf
        while unit is not None:
            used = unit.used
            for number, amount in need:
                used[number] += sign * amount
            share = 0.0
            for amount, part in zip(used, inverse):  # noqa: B905 - the hottest loop, of equal lengths
                if amount * part > share:
                    share = amount * part
            unit.share = share
            unit = unit.parent

    def _book_kept(self, leaf: Leaf, need: Need, sign: int) -> None:
        """Before `used` is: what units keep for themselves changes with what they use."""
        for number, amount in need:
            change = 0.0
            for unit in leaf.path():
                own = (unit.limits.own[number] if unit.limits is not None else 0.0) - unit.used[number]
                before = max(own, unit.kept[number], 0.0)
                unit.kept[number] += change
                change = max(own - sign * amount, unit.kept[number], 0.0) - before

    def limiter(self, leaf: Leaf, need: Need) -> tuple[Unit, int] | None:
        """The lowest unit whose limit `need` more would exceed, and the resource; None when it may have it."""
        if not self.limits:
            return None
        for number, amount in need:
            change = 0.0
            for unit in leaf.path():
                kept = unit.kept[number]
                if unit.limits is not None:
                    own = unit.limits.own[number] - unit.used[number]
                    if unit.used[number] + amount + kept + change > unit.limits.cap[number] + EPSILON:
                        return unit, number
                else:
                    own = 0.0
                change = max(own - amount, kept + change, 0.0) - max(own, kept, 0.0)
        return None

    # Entitlement ------------------------------------------------------------------------------------------------

    def over(self, leaf: Leaf, total: Need) -> tuple[Unit, int, float] | None:
        """The lowest unit that could not have `total` in an idle cluster, of which resource, and how much of that it may have."""
        below: Unit | None = None
        for unit in leaf.path():
            if unit.limits is not None:
                for number, amount in total:
                    may = unit.limits.cap[number] - sum(
                        child.most[number] for child in unit.children if child is not below
                    )
                    if amount > may + EPSILON:
                        return unit, number, may
            below = unit
        return None

    def lacks_room_only(self, leaf: Leaf, shape: Shape) -> bool:
        """No limit is in its way but what is used of the whole cluster now, and its nodes could hold it."""
        limiter = self.limiter(leaf, shape.total)
        if limiter is not None and (limiter[0] is not self.root or self.over(leaf, shape.total) is not None):
            return False
        return self.machines.could_hold(shape) == shape.copies

    def most(self, leaf: Leaf, total: Need, count: int) -> int:
        """So many times `total` it may have more, up to `count`."""
        low, high = 0, count
        while self.limits and low < high:
            middle = (low + high + 1) // 2
            if self.limiter(leaf, tuple((number, amount * middle) for number, amount in total)) is None:
                low = middle
            else:
                high = middle - 1
        return high

    def whole(self, leaf: Leaf, shape: Shape) -> int:
        """So many more it is entitled to on every level; a part of one does not count."""
        if not shape.size:
            return 1 << 30
        slack = min(unit.entitled - unit.share for unit in leaf.path() if unit.parent is not None)
        return max(0, int((slack + EPSILON) / shape.size))

    def refresh(self) -> bool:
        """Work out anew what everybody is entitled to, when enough has changed; whether it was. How much more a leaf wants than
        it is entitled to is nothing to anybody."""
        for leaf in self.touched:
            self.changes += leaf.enough <= 0.0 or self._wanted(leaf) <= leaf.enough
        self.touched.clear()
        if self.changes <= 4 * max(0, len(self.leaves) - ALWAYS):
            return False
        self.work_out()
        return True

    def _wanted(self, leaf: Leaf) -> float:
        used, most = leaf.used, 0.0
        for number, amount in enumerate(leaf.waiting_amounts):
            part = (used[number] + amount) * self.machines.inverse[number]
            if part > most:
                most = part
        return most

    def work_out(self) -> None:
        """What everybody is entitled to now."""
        self.changes = 0
        self._wants(self.root)
        self._share_out(self.root, [1.0 if amount > 0 else 0.0 for amount in self.machines.total])

    def _wants(self, unit: Unit) -> list[float]:
        if isinstance(unit, Leaf):
            rows = zip(unit.used, unit.waiting_amounts, self.machines.inverse, strict=True)
            unit.want = [max(0.0, (used + waiting) * inverse) for used, waiting, inverse in rows]
            unit.reach = self._reach(unit)
        else:
            unit.want = [sum(column) for column in zip(*map(self._wants, unit.children), strict=True)]
            unit.want = unit.want or [0.0] * self.width
        return unit.want

    def _share_out(self, unit: Unit, limit: list[float]) -> None:
        active = [child for child in unit.children if max(child.want) > LEAST]
        claims = [self._claim(child) for child in active]
        for child in unit.children:
            child.entitled = max(child.part, LEAST)
        unit.contending = 0.0
        fair = []
        for child, claim, got in zip(active, claims, water_fill(claims, limit), strict=True):
            child.entitled = max(got, LEAST)
            unit.contending += child.entitled
            if isinstance(child, Leaf):
                child.enough = got if got < max(child.want) - LEAST else 0.0
            fair.append([got * part for part in claim.mix])
        unit.contending = unit.contending or 1.0
        # A unit of several has no one mix: who in it needs what the others leave idle may have that.
        idle = [part - sum(column) for part, column in zip(limit, zip(*fair, strict=True), strict=True)] if fair else []
        for child, its in zip(active, fair, strict=True):
            if child.children:
                self._share_out(child, [part + max(0.0, spare) for part, spare in zip(its, idle, strict=True)])

    def _reach(self, leaf: Leaf) -> list[float] | None:
        """The part of the cluster that what it asks for could use at all; None: all of it."""
        pools = [line.pool for line in leaf.lines.values() if line.head is not None or line.wishes]
        if not pools or any(pool.scope == ("", None) for pool in pools):
            return None
        if len(pools) == 1:
            return self.machines.reach(pools[0])
        rows = [self.machines.size[number] for number in {number for pool in pools for number in pool.members}]
        sums = [sum(column) for column in zip(*rows, strict=True)] or [0.0] * self.width
        return [amount * part for amount, part in zip(sums, self.machines.inverse, strict=True)]

    def _claim(self, unit: Unit) -> Claim:
        top = max(unit.want)
        mix = [part / top for part in unit.want]
        cap = top
        reach = unit.reach if isinstance(unit, Leaf) else None
        floor = 0.0
        for number, part in enumerate(mix):
            if part > 0:
                if reach:
                    cap = min(cap, reach[number] / part)
                if unit.limits is not None:
                    cap = min(cap, unit.limits.cap[number] * self.machines.inverse[number] / part)
        if unit.limits is not None:
            rows = zip(unit.limits.guarantee, self.machines.inverse, mix, strict=True)
            floor = min(have * inverse / part for have, inverse, part in rows if part > 0)
        return Claim(unit.weight, mix, min(floor, cap), cap)

    # Checks -----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Assert that everything adds up."""
        self.machines.validate()
        free = [list(size) for size in self.machines.size]
        live: set[str] = set()
        for leaf in self.leaves.values():
            used = [0.0] * self.width
            for name, entry in leaf.running.items():
                assert self.entries[name] is entry and entry.id == name and entry.leaf is leaf and entry.machines
                assert not entry.aside
                for machine in entry.machines:
                    for number, amount in entry.shape.need:
                        used[number] += amount
                        free[machine][number] -= amount
            assert _same(used, leaf.used), f"{leaf.name} uses {leaf.used}, not {used}"
            asked = [entry for line in leaf.lines.values() for entry in self._validate_line(line)]
            assert leaf.waiting == sum(entry.left for entry in asked)
            sums = [sum(dict(e.shape.total).get(n, 0.0) * e.left for e in asked) for n in range(self.width)]
            assert _same(sums, leaf.waiting_amounts), leaf.name
            assert (leaf in self.asking) == bool(asked)
            live |= {entry.id for entry in asked} | leaf.running.keys()
        live |= {name for name, entry in self.entries.items() if entry.aside}
        assert live == self.entries.keys()
        for unit in self.units():
            lines = [line for leaf in unit.leaves() for line in leaf.lines.values()]
            assert unit.heads == sum(line.head is not None for line in lines), unit.name
            if unit.children:
                sums = [sum(column, 0.0) for column in zip(*(child.used for child in unit.children), strict=True)]
                assert _same(sums, unit.used), unit.name
        assert all(_same(have, books) for have, books in zip(free, self.machines.free, strict=True))
        for unit in self.units() if self.keeps else ():
            below = [[self.reserve(child, number) for number in range(self.width)] for child in unit.children]
            assert _same(unit.kept, [sum(column) for column in zip(*below, strict=True)] or unit.kept), unit.name
        held = sum(len(line.holds) for leaf in self.leaves.values() for line in leaf.lines.values())
        assert held == sum(isinstance(holder, Line) for holder in self.machines.held.values())

    def _validate_line(self, line: Line) -> list[Entry]:
        waiting = [entry for _, _, entry in (*line.queue, *line.unable) if self.is_waiting(entry)]
        assert line.waiting == len(waiting)
        able, unable = ([item for item in its if self.is_waiting(item[2])] for its in (line.queue, line.unable))
        assert line.head is (min(able or unable)[2] if able or unable else None)
        assert all(self.machines.could_hold(entry.shape) < entry.shape.copies for _, _, entry in line.unable)
        assert all(self.machines.held[machine] is line for machine in line.holds)
        assert line.head is not None or not line.holds
        assert all(self.entries[name] is entry and entry.machines is None for name, entry in line.wishes.items())
        return [*waiting, *line.wishes.values()]

    def is_waiting(self, entry: Entry) -> bool:
        return entry.queued and self.entries.get(entry.id) is entry


def _same(left: list[float], right: list[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6) for a, b in zip(left, right, strict=True))
