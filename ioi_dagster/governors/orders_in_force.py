"""What is ordered in a cluster for blocks, tenants and nodes, as its governor goes by it: what may start, what is to end, and
which announcements wait since nothing that they ask for may start now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace

from ioi_dagster.governors.leases import Held, Leases
from ioi_dagster.model.intervention import PART
from ioi_dagster.model.negotiation import OWN_STEP, Announce, AskGroup, LeaseRequest, Whose
from ioi_dagster.model.order import Order, Orders, Target, Verb, said_by
from ioi_dagster.model.quota import ANY, QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal

PAUSED, CAPPED = "cluster.paused", "cluster.capped"
MAX_HELD = 1_000
MOST_PRIORITY = 2**31 - 1
EVERY = "*"
"""Of the nodes of a cluster, in the name of an order."""

Name = tuple[Target, str]
"""What an order may be for."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """An announcement as it was made, what of it may start, and why the rest may not."""

    wanted: Announce
    announce: Announce
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Waits:
    """An announcement of which nothing may start, until monotonic time `until`."""

    announce: Announce
    refusals: tuple[Refusal, ...]
    until: float


class OrdersInForce:
    """Goes by what runs under `leases`."""

    def __init__(self, cluster: str, leases: Leases) -> None:
        self._cluster, self._leases = cluster, leases
        self._orders = Orders()
        self._drained_at: dict[Name, tuple[Order, float]] = {}
        self._cancelled: dict[Name, str] = {}
        """What is to end now for good, and why."""
        self._waits: dict[Whose, Waits] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def given(self, orders: Orders, now: float) -> frozenset[Name]:
        """From now on these are in force. For what something else is ordered than before."""
        orders = orders.at(self._cluster)
        before, self._orders = self._orders, orders
        every = {(target, name): its for target, table in orders.tables() for name, its in table.items()}
        drained = {name: one.stopped for name, one in every.items() if one.stopped is not None}
        for name, its in every.items():
            if its.cancelled is not None and its.cancelled != before.of(*name).cancelled:
                self._cancelled[name] = said_by(its.cancelled)
        since = self._drained_at
        self._drained_at = {
            name: since[name] if name in since and since[name][0] == order else (order, now)
            for name, order in drained.items()
            if order.verb is Verb.REROUTE or (order.verb is Verb.DRAIN and order.within_s is not None)
        }
        return frozenset(
            (target, name)
            for target, its in (*orders.tables(), *before.tables())
            for name in its
            if orders.of(target, name) != before.of(target, name)
        )

    def names(self) -> tuple[str, ...]:
        """Of what something is ordered for."""
        return tuple(
            f"{target} {name}"
            for target, table in self._orders.tables()
            for name in sorted(table)
            if table[name].orders and (target is not Target.NODE or name.partition("/")[0] == self._cluster)
        )

    @property
    def any(self) -> bool:
        return any(table for _, table in self._orders.tables())

    # What may start ---------------------------------------------------------------------------------------------

    def narrowed(self, announce: Announce) -> Narrowed:
        """What of it may start, and why the rest may not."""
        return self._narrowed(announce, _Counts(self._leases)) if self.any else Narrowed(announce, announce)

    def _narrowed(self, announce: Announce, count: _Counts) -> Narrowed:
        groups: list[AskGroup] = []
        refusals: list[Refusal] = []
        for group in announce.groups:
            if self._goes_on(group, announce.whose):
                groups.append(group)
                continue
            group = self._urged(group)
            room = self._room(group, count)
            if isinstance(room, Refusal):
                refusals.append(room)
                continue
            many = group.count if room is None else min(group.count, room)
            many -= many % group.gang if group.gang else 0
            if many:
                groups.append(replace(group, count=many))
                count.add(group, many)
            else:
                refusals.append(self._capped(group, group.gang))
        return Narrowed(announce, replace(announce, groups=tuple(groups)), tuple(refusals))

    def _urged(self, group: AskGroup) -> AskGroup:
        """With the priority that its block is ordered to have besides its own."""
        order = self._orders.of(Target.BLOCK, group.capability).weighed
        more = order.value or 0 if order is not None else 0
        return replace(group, priority=min(MOST_PRIORITY, group.priority + more)) if more else group

    def refusal(self, whose: Whose, requests: list[LeaseRequest]) -> Refusal | None:
        """Why these, which ask for the same, may not start together."""
        if not self.any or all(self._is_awaited(request, whose) for request in requests):
            return None
        room = self._room(requests[0], _Counts(self._leases))
        if isinstance(room, Refusal):
            return room
        return self._capped(requests[0]) if room is not None and room < len(requests) else None

    def _goes_on(self, group: AskGroup, whose: Whose) -> bool:
        """They are parts of maps inside steps that run here: those have begun, and could not end without them."""
        return group.part and group.capability == OWN_STEP and self._leases.awaits(whose, group.tenant)

    def _is_awaited(self, request: LeaseRequest, whose: Whose) -> bool:
        parent, _, _ = request.step.rpartition(PART)
        mapped = bool(parent) and request.capability == OWN_STEP
        return mapped and self._leases.awaits(whose, request.tenant, parent)

    def _room(self, one: AskGroup | LeaseRequest, count: _Counts) -> int | Refusal | None:
        """How many more; None: any number."""
        rooms: list[int] = []
        for target, name in _names(one):
            its = self._orders.of(target, name)
            if its.stopped is not None:
                text = f"{target} {name} is {said_by(its.stopped)}"
                back = f"reroute {name} --back-to {its.stopped.away}" if its.stopped.away else f"resume {name}"
                return Refusal(PAUSED, text, self._cluster, f"it goes on after `ioi {target} {back}`")
            if its.capped is not None and its.capped.value is not None:
                rooms.append(max(0, its.capped.value - count.of(target, name)))
        return min(rooms, default=None)

    def _capped(self, one: AskGroup | LeaseRequest, gang: int = 0) -> Refusal:
        """Why so many that start together may not; 0: one of many. It may pass, so nothing is said to be for good."""
        caps = [(*name, its.capped) for name in _names(one) if (its := self._orders.of(*name)).capped is not None]
        told = ", ".join(
            f"{target} {name} may run {cap.value} at once, {said_by(cap)}" for target, name, cap in caps if cap
        )
        if any(cap is not None and (cap.value or 0) < gang for _, _, cap in caps):
            todo = "wait for a higher cap, or make the gang smaller"
            return Refusal(CAPPED, f"{told}; a gang of {gang} is more", self._cluster, todo)
        return Refusal(CAPPED, told, self._cluster, "it is asked again when one of them has ended")

    # What is to end ---------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> dict[Name, str]:
        """What of it is to run elsewhere now, and why."""
        return {
            name: f"{name[1]} is {said_by(order)}"
            for name, (order, since) in self._drained_at.items()
            if now - since >= (order.within_s or 0.0)
        }

    def cancelled(self, held: Iterable[Held]) -> list[tuple[Held, str]]:
        """Those that are to end for good, and why; asked again, there are none until something else is ordered."""
        names, self._cancelled = self._cancelled, {}
        if not names:
            return []
        return [(one, why) for one in held if (why := reason(names, one))]

    # Who counts for how much ------------------------------------------------------------------------------------

    def weighed(self, tree: QuotaTree) -> QuotaTree:
        """The quotas, with the weights that are ordered. Who has no place of his own there gets one like everybody's."""
        weights = {name: one.weighed.value for name, one in self._orders.tenants.items() if one.weighed is not None}
        named = {tenant.name for _, tenant in tree.tenants()}
        cohorts = []
        for cohort in tree.cohorts:
            tenants = [
                replace(one, weight=float(weights[one.name] or 1)) if one.name in weights else one
                for one in cohort.tenants
            ]
            pattern = next((one for one in cohort.tenants if one.name == ANY), None)
            if pattern is not None:
                tenants += [_like(pattern, name, weight or 1) for name, weight in weights.items() if name not in named]
                named |= weights.keys()
            cohorts.append(replace(cohort, tenants=tuple(tenants)))
        return QuotaTree(tuple(cohorts))

    # Who waits --------------------------------------------------------------------------------------------------

    def wait(self, announce: Announce, refusals: tuple[Refusal, ...], now: float) -> bool:
        """False where it is to be answered at once."""
        if not announce.wait_s or len(self._waits) >= MAX_HELD:
            return False
        self._waits[announce.whose] = Waits(announce, refusals, now + announce.wait_s)
        return True

    def end(self, whose: Whose, round_: int | None = None) -> Waits | None:
        """That of the run, of the round if it is given, waits no more."""
        its = self._waits.get(whose)
        if its is None or round_ not in (None, its.announce.round):
            return None
        return self._waits.pop(whose)

    def over(self, now: float) -> list[Waits]:
        """Those that have waited for as long as they wanted to."""
        return [self._waits.pop(whose) for whose, one in list(self._waits.items()) if one.until <= now]

    def freed(self, ended: Iterable[Held]) -> Iterator[tuple[Waits, Narrowed]]:
        """Those that may start something now that these run no more, which wait no more: as many as there is room for."""
        capped = {name for held in ended for name in _names(held) if self._orders.of(*name).capped is not None}
        return self._again(capped) if capped and self._waits else iter(())

    def untaken(self) -> Iterator[tuple[Waits, Narrowed]]:
        """The same of those for which there is room though nothing has ended, since who was bid it has not taken it."""
        capped = {
            (target, name)
            for target, table in self._orders.tables()
            for name, its in table.items()
            if its.capped is not None
        }
        return self._again(capped) if capped and self._waits else iter(())

    def awaited(self, whose: Whose, parked: Waits | None) -> Iterator[tuple[Waits, Narrowed]]:
        """The run's, here or `parked`, which waits no more: a step of it waits for others from now on, which may be what is asked
        for."""
        its = parked or self._waits.pop(whose, None)
        if its is not None:
            yield its, self.narrowed(its.announce)

    def _again(self, capped: Set[Name]) -> Iterator[tuple[Waits, Narrowed]]:
        count = _Counts(self._leases)
        for whose, its in list(self._waits.items()):
            if not any(self._left(name, count) for name in capped):
                return
            if not means(capped, its.announce):
                continue
            narrowed = self._narrowed(its.announce, count)
            if narrowed.announce.groups:
                del self._waits[whose]
                yield its, narrowed

    def _left(self, name: Name, count: _Counts) -> bool:
        cap = self._orders.of(*name).capped
        return cap is not None and cap.value is not None and cap.value > count.of(*name)

    def all(self, others: Iterable[Waits]) -> Iterator[tuple[Waits, Narrowed]]:
        """All of them, which wait no more, after `others`."""
        count = _Counts(self._leases)
        found, self._waits = self._waits, {}
        for its in (*others, *found.values()):
            yield its, self._narrowed(its.announce, count)

    def validate(self, parked: Iterable[Announce]) -> None:
        """`parked`: those that wait for room."""
        assert len(self._waits) <= MAX_HELD
        for announce in parked:
            assert announce.whose not in self._waits
            paused = [self._orders.of(*name).stopped for group in announce.groups for name in _names(group)]
            assert not any(paused) or any(group.part for group in announce.groups)


class _Counts:
    """What runs, by capability and by tenant, and what may start besides in the event at hand."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._more: Counter[Name] = Counter()

    def of(self, target: Target, name: str) -> int:
        running = self._leases.capabilities if target is Target.BLOCK else self._leases.tenants
        return running[name] + self._more[target, name]

    def add(self, group: AskGroup, many: int) -> None:
        self._more.update(dict.fromkeys(_names(group), many))


def means(names: Set[Name], announce: Announce) -> bool:
    """Is something of it one of `names`?"""
    return any(name in names for group in announce.groups for name in _names(group))


def _names(one: AskGroup | LeaseRequest | Held) -> tuple[Name, Name]:
    capability = one.lease.capability if isinstance(one, Held) else one.capability
    return (Target.BLOCK, capability), (Target.TENANT, one.tenant)


def reason(names: Mapping[Name, str], held: Held) -> str:
    """What stands at one of its names; empty where nothing does."""
    return next((names[name] for name in _all_names(held) if name in names), "") if names else ""


def _all_names(held: Held) -> tuple[Name, ...]:
    its = held.lease
    return (*_names(held), *((Target.NODE, f"{its.cluster}/{node}") for node in (its.node, EVERY)))


def _like(pattern: TenantQuota, name: str, weight: int) -> TenantQuota:
    return replace(pattern, name=name, weight=float(weight))
