"""How many of a cluster's slots each tenant may have while others ask too: weighted max-min fair shares.

D. Bertsekas, R. Gallager, "Data Networks" (2nd ed. 1992), 6.5.2. All shares by weight rise together; one stops when it has
what it wants. What nobody else wants is anybody's, so a tenant that is alone is not limited.

A slot that is due in part to several is theirs in turn: next is who has had the fewest by weight (C. Waldspurger, W. Weihl,
"Stride Scheduling", MIT/LCS/TM-528, 1995).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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

    @property
    def more(self) -> int:
        """So many it may have now."""
        return max(0, self.whole - self.used)


class Turns:
    """`weights`: by tenant; those that are not named have 1."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)
        self._asked: dict[str, tuple[float, tuple[Wanted, ...]]] = {}
        self._asking: Counter[str] = Counter()
        """By tenant, how many asks stand here; some may be over."""
        self._passes: dict[str, float] = {}
        """By tenant, slots that it had, by weight; who comes anew starts where the others are."""
        self._pass = 0.0

    def weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def asks(self, run: str, wanted: Iterable[Wanted], now: float) -> None:
        """All that `run` asks for at monotonic time `now` (s), instead of what it asked for before."""
        self._forget(run)
        self._asked[run] = (now + ASKS_S, tuple(wanted))
        self._asking.update(one.tenant for one in self._asked[run][1])
        # The oldest come first, and the newest is not over.
        while len(self._asked) > MAX_RUNS or next(iter(self._asked.values()))[0] <= now:
            self._forget(next(iter(self._asked)))

    def _forget(self, run: str) -> None:
        _, wanted = self._asked.pop(run, (0.0, ()))
        for one in wanted:
            self._asking[one.tenant] -= 1
            if not self._asking[one.tenant]:
                del self._asking[one.tenant]

    def alone(self, tenant: str) -> bool:
        """Nobody else has asked for anything of late."""
        return not self._asking.keys() - {tenant}

    def got(self, run: str, tenant: str, capability: str) -> None:
        """One of what `run` asked for is granted, so it waits for one less."""
        self._pass = self._turn(tenant)
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
        wants = {name: used.get(name, 0) + waiting.get(name, 0) for name in (*used, *waiting)}
        left, weights, level = float(slots), sum(map(self.weight, wants)), 0.0
        for name in sorted(wants, key=lambda name: wants[name] / self.weight(name)):
            its = wants[name] / self.weight(name)
            if (its - level) * weights >= left:
                level += left / weights
                break
            left -= (its - level) * weights
            level = its
            weights -= self.weight(name)
        entitled = {name: min(float(want), level * self.weight(name)) for name, want in wants.items()}
        whole = {name: math.floor(its + EPSILON) for name, its in entitled.items()}
        shared = round(sum(entitled.values())) - sum(whole.values())
        parted = [name for name, its in entitled.items() if its > whole[name] + EPSILON]
        for name in sorted(parted, key=lambda name: (self._turn(name), name))[:shared]:
            whole[name] += 1
        return {name: Part(used.get(name, 0), waiting.get(name, 0), its, whole[name]) for name, its in entitled.items()}

    def _turn(self, tenant: str) -> float:
        return max(self._passes.get(tenant, 0.0), self._pass)
