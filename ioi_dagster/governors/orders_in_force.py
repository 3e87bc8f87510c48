"""What is ordered in a cluster for blocks and tenants, as its governor goes by it: what may start, what is to end, and which
announcements wait since nothing that they ask for may start now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ioi_dagster.governors.leases import Held
from ioi_dagster.model.negotiation import Announce, AskGroup, LeaseRequest, Whose
from ioi_dagster.model.order import Order, Orders, Target, Verb, said_by
from ioi_dagster.model.quota import ANY, QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal

PAUSED, CAPPED = "cluster.paused", "cluster.capped"
MAX_HELD = 1_000


@dataclass(frozen=True, slots=True)
class Waits:
    """An announcement of which nothing may start, until monotonic time `until`."""

    announce: Announce
    refusals: tuple[Refusal, ...]
    until: float


class OrdersInForce:
    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._orders = Orders()
        self._drained_at: dict[str, tuple[Order, float]] = {}
        self._waits: dict[Whose, Waits] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def given(self, orders: Orders, now: float) -> None:
        """From now on these are in force."""
        self._orders = orders
        drained = {name: one.stopped for name, one in orders.blocks.items() if one.stopped is not None}
        before = self._drained_at
        self._drained_at = {
            name: before[name] if name in before and before[name][0] == order else (order, now)
            for name, order in drained.items()
            if order.verb is Verb.DRAIN and order.within_s is not None
        }

    @property
    def any(self) -> bool:
        return bool(self._orders.blocks or self._orders.tenants)

    # What may start ---------------------------------------------------------------------------------------------

    def narrowed(self, announce: Announce, held: Iterable[Held]) -> tuple[Announce, tuple[Refusal, ...]]:
        """What of it may start, and why the rest may not."""
        if not self.any:
            return announce, ()
        count = _Counts(held)
        groups: list[AskGroup] = []
        refusals: list[Refusal] = []
        for group in announce.groups:
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
                refusals.append(self._capped(group))
        return replace(announce, groups=tuple(groups)), tuple(refusals)

    def refusal(self, requests: list[LeaseRequest], held: Iterable[Held]) -> Refusal | None:
        """Why these, which ask for the same, may not start together."""
        if not self.any:
            return None
        room = self._room(requests[0], _Counts(held))
        if isinstance(room, Refusal):
            return room
        return self._capped(requests[0]) if room is not None and room < len(requests) else None

    def _room(self, one: AskGroup | LeaseRequest, count: _Counts) -> int | Refusal | None:
        """How many more; None: any number."""
        rooms: list[int] = []
        for target, name, used in self._its(one, count):
            its = self._orders.of(target, name)
            if its.stopped is not None:
                text = f"{target} {name} is {said_by(its.stopped)}"
                return Refusal(PAUSED, text, self._cluster, f"it goes on after `ioi {target} resume {name}`")
            if its.capped is not None and its.capped.value is not None:
                rooms.append(max(0, its.capped.value - used))
        return min(rooms, default=None)

    def _capped(self, one: AskGroup | LeaseRequest) -> Refusal:
        caps = [
            (target, name, its.capped)
            for target, name, _ in self._its(one, _Counts(()))
            if (its := self._orders.of(target, name)).capped is not None
        ]
        told = ", ".join(
            f"{target} {name} may run {cap.value} at once, {said_by(cap)}" for target, name, cap in caps if cap
        )
        return Refusal(CAPPED, told, self._cluster, "it is asked again when one of them has ended")

    def _its(self, one: AskGroup | LeaseRequest, count: _Counts) -> tuple[tuple[Target, str, int], ...]:
        return (
            (Target.BLOCK, one.capability, count.capabilities[one.capability]),
            (Target.TENANT, one.tenant, count.tenants[one.tenant]),
        )

    # What is to end ---------------------------------------------------------------------------------------------

    def overdue(self, now: float) -> dict[str, str]:
        """Capabilities whose steps are to run elsewhere now, and why."""
        return {
            name: f"{name} is {said_by(order)}"
            for name, (order, since) in self._drained_at.items()
            if order.within_s is not None and now - since >= order.within_s
        }

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

    def capped(self) -> list[Waits]:
        """Those that wait for something to end, which wait no more."""
        some = [whose for whose, one in self._waits.items() if any(no.code == CAPPED for no in one.refusals)]
        return [self._waits.pop(whose) for whose in some]

    def all(self) -> list[Waits]:
        """All of them, which wait no more."""
        found, self._waits = list(self._waits.values()), {}
        return found


class _Counts:
    """What runs, by capability and by tenant."""

    def __init__(self, held: Iterable[Held]) -> None:
        self.capabilities: Counter[str] = Counter()
        self.tenants: Counter[str] = Counter()
        for one in held:
            self.capabilities[one.lease.capability] += 1
            self.tenants[one.tenant] += 1

    def add(self, group: AskGroup, many: int) -> None:
        self.capabilities[group.capability] += many
        self.tenants[group.tenant] += many


def _like(pattern: TenantQuota, name: str, weight: int) -> TenantQuota:
    return replace(pattern, name=name, weight=float(weight))
