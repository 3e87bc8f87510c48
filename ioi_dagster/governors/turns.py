"""How many of a cluster's slots each tenant may have while others ask too: weighted max-min fair shares.

D. Bertsekas, R. Gallager, "Data Networks" (2nd ed. 1992), 6.5.2. All shares by weight rise together from what each is
guaranteed; one stops when it has what it wants or may have. What nobody else wants is anybody's, except for what a tenant
lends to nobody.

A slot that is due in part to several is theirs in turn: next is who has had the fewest by weight (C. Waldspurger, W. Weihl,
"Stride Scheduling", MIT/LCS/TM-528, 1995).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ioi_dagster.model.negotiation import SLOTS
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.topology import TenantShare

ASKS_S = 0.8
"""So long an ask counts as waiting. Who still waits asks again several times within it; who got what it wanted elsewhere is
forgotten after it, and holds back nobody any longer."""
MAX_RUNS, MAX_TENANTS = 10_000, 10_000
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run asks for: so many slots for a capability, charged to a tenant."""

    tenant: str
    capability: str
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """A tenant's part of some slots: how many it uses, asks for besides, and is entitled to now; `whole`: with the slot that is
    shared with others, where it is its turn."""

    used: int
    waiting: int
    entitled: float
    whole: int
    kept: int = 0
    """Slots that are idle and lent to nobody by other tenants."""

    def more(self, free: int) -> int:
        """So many of `free` slots it may have now."""
        return max(0, min(self.whole - self.used, free - self.kept))


def shares_of(tree: QuotaTree) -> tuple[TenantShare, ...]:
    """What turns know of a tree: tenants and slots."""
    found = []
    for _, tenant in tree.tenants():
        guarantee, lends, borrows = (
            amounts.get(SLOTS) for amounts in (tenant.quota.guarantee, tenant.quota.lends, tenant.quota.borrows)
        )
        lends, borrows = (None if amount is None else int(amount) for amount in (lends, borrows))
        found.append(TenantShare(tenant.name, tenant.weight, int(guarantee or 0), lends, borrows))
    return tuple(found)


class Turns:
    """`shares`: tenants that are not among them have weight 1, no guarantee and no limit."""

    def __init__(self, shares: Iterable[TenantShare] = ()) -> None:
        self._shares = {share.name: share for share in shares}
        self._asked: dict[str, tuple[float, tuple[Wanted, ...]]] = {}
        self._since_swept = 0
        self._asking: Counter[str] = Counter()
        """By tenant, how many asks stand here; some may be over."""
        self._passes: dict[str, float] = {}
        """By tenant, slots that it had, by weight; who comes anew starts where the others are."""
        self._pass = 0.0

    def change(self, shares: Iterable[TenantShare]) -> None:
        """From now on these are the shares."""
        self._shares = {share.name: share for share in shares}

    def share(self, tenant: str) -> TenantShare:
        return self._shares.get(tenant) or TenantShare(tenant)

    def weight(self, tenant: str) -> float:
        return self.share(tenant).weight

    def asks(self, run: str, wanted: Iterable[Wanted], now: float, wait_s: float = 0.0) -> None:
        """All that `run` asks for at monotonic time `now` (s), instead of what it asked for before. It counts while it waits for
        the answer, `wait_s` at most, and a little longer."""
        self._forget(run)
        self._asked[run] = (now + wait_s + ASKS_S, tuple(wanted))
        self._asking.update(one.tenant for one in self._asked[run][1])
        self._since_swept += 1
        if self._since_swept > len(self._asked):
            self._since_swept = 0
            for over in [name for name, (until, _) in self._asked.items() if until <= now]:
                self._forget(over)
        # Mostly the oldest are over first; the newest is not.
        while len(self._asked) > MAX_RUNS or next(iter(self._asked.values()))[0] <= now:
            self._forget(next(iter(self._asked)))

    def _forget(self, run: str) -> None:
        _, wanted = self._asked.pop(run, (0.0, ()))
        for one in wanted:
            self._asking[one.tenant] -= 1
            if not self._asking[one.tenant]:
                del self._asking[one.tenant]

    def unlimited(self, tenant: str) -> bool:
        """Nobody else has asked for anything of late, and nobody keeps or limits anything."""
        return not self._asking.keys() - {tenant} and not self.keeps

    @property
    def keeps(self) -> bool:
        """Is there a tenant that may not use all that is idle, or does not lend all that it has?"""
        return any(share.own or share.borrows is not None for share in self._shares.values())

    def got(self, run: str, tenant: str, capability: str) -> None:
        """One of what `run` asked for is granted, so it waits for one less."""
        self._pass = self.turn(tenant)
        self._passes[tenant] = self._pass + 1.0 / self.weight(tenant)
        if len(self._passes) > MAX_TENANTS:
            self._passes = {name: at for name, at in self._passes.items() if at > self._pass}
        until, wanted = self._asked.get(run, (0.0, ()))
        for number, one in enumerate(wanted):
            if one.tenant == tenant and one.capability == capability and one.count > 0:
                less = Wanted(tenant, capability, one.count - 1)
                self._asked[run] = (until, (*wanted[:number], less, *wanted[number + 1 :]))
                return

    def capabilities(self, now: float) -> set[str]:
        """All that is asked for."""
        return {one.capability for until, wanted in self._asked.values() if until > now for one in wanted}

    def waiting(self, capabilities: Iterable[str] | None, now: float) -> dict[str, int]:
        """By tenant, how many slots are asked for: for `capabilities`, or for any."""
        found: dict[str, int] = {}
        known = None if capabilities is None else set(capabilities)
        for until, wanted in self._asked.values():
            for one in wanted if until > now else ():
                if one.count > 0 and (known is None or one.capability in known):
                    found[one.tenant] = found.get(one.tenant, 0) + one.count
        return found

    def parts(self, slots: int, used: Mapping[str, int], waiting: Mapping[str, int]) -> dict[str, Part]:
        """Everybody's part of `slots`."""
        guaranteed = (name for name, share in self._shares.items() if share.guarantee)
        wants: dict[str, float] = {}
        for name in dict.fromkeys((*used, *waiting, *guaranteed)):
            wants[name] = min(used.get(name, 0) + waiting.get(name, 0), self.share(name).limit)
        room = max(0.0, slots - sum(max(0.0, self.share(name).own - want) for name, want in wants.items()))
        floors = {name: min(float(self.share(name).guarantee), want) for name, want in wants.items()}
        promised = sum(floors.values())
        if promised > room:
            # Nodes are missing, so that not all guarantees can be kept.
            floors = {name: floor * room / promised for name, floor in floors.items()}
        level = self._level(wants, floors, room)
        entitled = {
            name: min(float(want), max(floors[name], level * self.weight(name))) for name, want in wants.items()
        }
        whole = {name: math.floor(its + EPSILON) for name, its in entitled.items()}
        shared = round(sum(entitled.values())) - sum(whole.values())
        parted = [name for name, its in entitled.items() if its > whole[name] + EPSILON]
        for name in sorted(parted, key=lambda name: (self.turn(name), name))[:shared]:
            whole[name] += 1
        idle = {name: max(0, self.share(name).own - used.get(name, 0)) for name in wants}
        kept = sum(idle.values())
        return {
            name: Part(used.get(name, 0), waiting.get(name, 0), its, whole[name], kept - idle[name])
            for name, its in entitled.items()
        }

    def _level(self, wants: Mapping[str, float], floors: Mapping[str, float], room: float) -> float:
        """What each would have by weight, were it not for floors and wants, so that all have `room` together."""
        bends = [(floors[name] / self.weight(name), self.weight(name)) for name in wants]
        bends += [(wants[name] / self.weight(name), -self.weight(name)) for name in wants]
        given, slope, level = sum(floors.values()), 0.0, 0.0
        for at, change in sorted(bends):
            if slope > EPSILON and given + slope * (at - level) >= room:
                return level + (room - given) / slope
            given += slope * (at - level)
            level, slope = at, slope + change
        return level

    def turn(self, tenant: str) -> float:
        """The less it is, the sooner the tenant comes."""
        return max(self._passes.get(tenant, 0.0), self._pass)
