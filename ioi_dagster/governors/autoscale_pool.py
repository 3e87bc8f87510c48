"""A group of nodes that come and go, what has become of each, and what they cost.

Part of the cluster governor. All times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ioi_dagster.governors.autoscale_messages import Group
from ioi_dagster.governors.fairness.shapes import EPSILON

DAY_S, BUCKET_S = 86_400.0, 3_600.0
"""What was spent counts for a day, by the hour: until the last of an hour's is a day ago."""
COUNTS_S = DAY_S + BUCKET_S
MAX_TOLD = 20


class Phase(StrEnum):
    COMING = "coming"
    THERE = "there"
    LEAVING = "leaving"


@dataclass(slots=True)
class Member:
    phase: Phase
    since: float
    asked: float
    """When it began to cost anything."""
    joined: float = 0.0
    idle_since: float | None = None

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.since = phase, now


@dataclass(slots=True, eq=False)
class Pool:
    """A group and what has become of it. `members`: those that are wanted; `short_since`: since when something waits for more."""

    group: Group
    members: dict[str, Member] = field(default_factory=dict)
    short_since: float | None = None
    changed: float | None = None
    raised: float = -math.inf
    lowered: float = -math.inf
    retry_at: float = -math.inf
    failures: int = 0
    counted: float | None = None
    spent: deque[list[float]] = field(default_factory=deque)
    """Pairs of when an hour began and how much was spent in it."""
    why: str = ""
    held: str = ""
    """Why no more nodes are asked for, though something waits; empty where that is not so."""
    told: frozenset[str] | None = None
    told_at: float = -math.inf
    history: deque[tuple[float, int, str]] = field(default_factory=lambda: deque(maxlen=MAX_TOLD))

    def there(self) -> list[str]:
        return [name for name, member in self.members.items() if member.phase is Phase.THERE]

    def count(self, *phases: Phase) -> int:
        return sum(member.phase in phases for member in self.members.values())

    @property
    def wanted(self) -> int:
        """So many are to stay."""
        return self.count(Phase.COMING, Phase.THERE)

    @property
    def day(self) -> float:
        return sum(amount for _, amount in self.spent)

    def coming(self, name: str, now: float) -> Member:
        """It is asked for, or there unasked."""
        member = self.members[name] = Member(Phase.COMING, now, now)
        return member

    # What it costs ----------------------------------------------------------------------------------------------

    def account(self, now: float) -> None:
        """A node costs from when it is asked for until it is given back."""
        before, self.counted = self.counted, now
        cost = self._costs(len(self.members) * max(0.0, now - (now if before is None else before)))
        if cost:
            if not self.spent or now - self.spent[-1][0] >= BUCKET_S:
                self.spent.append([now, 0.0])
            self.spent[-1][1] += cost
        while self.spent and now - self.spent[0][0] >= COUNTS_S:
            self.spent.popleft()

    def resume(self, spent: Iterable[tuple[float, float]], nodes: int, untold_s: float, now: float) -> None:
        """`spent`: pairs of how long ago (s) and how much. Since the last `untold_s` nobody has counted, and `nodes` cost."""
        known = [[now - age_s, amount] for age_s, amount in sorted(spent, reverse=True) if 0 <= age_s < COUNTS_S]
        left_s = min(untold_s, DAY_S) if nodes and self.group.rules.node_hour else 0.0
        while left_s > 0:
            part_s = min(left_s, BUCKET_S)
            known.append([now - left_s, self._costs(nodes * part_s)])
            left_s -= part_s
        self.spent, self.counted = deque(known), now

    def over_budget(self) -> bool:
        """It has cost what it may in a day: what is there takes nothing new, and goes."""
        cap = self.group.rules.per_day
        return cap is not None and self.day >= cap - EPSILON

    def pays_for(self, now: float) -> float:
        """So many nodes more may be asked for by what is left for the day: each stays for a while at least, and so do those that
        have just been asked for."""
        rules = self.group.rules
        if rules.per_day is None or not rules.node_hour:
            return math.inf
        left = rules.per_day - self.day - self._owed(now)
        if self.over_budget() or left <= 0:
            return 0
        return int(left / rules.least + EPSILON) if rules.least else math.inf

    def _owed(self, now: float) -> float:
        """What those that are there or come will cost yet, since they stay for a while at least."""
        least_s = self.group.rules.least_s
        return self._costs(sum(max(0.0, least_s - (now - member.asked)) for member in self.members.values()))

    def binds(self, now: float) -> str:
        """Why not one more node may be asked for now, however much waits; empty where one may."""
        rules = self.group.rules
        if self.pays_for(now) < 1:
            spent, owed = f"{self.day:.4g} of its {rules.per_day:g} credits a day are spent", self._owed(now)
            if self.over_budget():
                return spent
            asked = f", {owed:.4g} are owed for those it has asked for" if owed else ""
            return f"{spent}{asked}, and one more costs {rules.least:.4g} at least"
        if now < self.retry_at:
            return f"the last one did not come; more are asked for in {self.retry_at - now:.0f} s"
        return ""

    def _costs(self, node_s: float) -> float:
        return self.group.rules.node_hour * node_s / 3600

    # What is told of it -----------------------------------------------------------------------------------------

    def changes(self, now: float, why: str) -> None:
        self.why, self.changed = why, now
        self.history.append((now, self.wanted, why))

    def view(self, now: float) -> dict[str, Any]:
        rules = self.group.rules
        idle = sum(member.idle_since is not None for member in self.members.values() if member.phase is Phase.THERE)
        return {
            "wanted": self.wanted,
            "there": self.count(Phase.THERE),
            "coming": self.count(Phase.COMING),
            "leaving": self.count(Phase.LEAVING),
            "idle": idle,
            "min": rules.min,
            "max": rules.max,
            "cost_hour": len(self.members) * rules.node_hour,
            "per_hour": rules.per_hour,
            "cost_day": round(self.day, 6),
            "per_day": rules.per_day,
            "why": self.why,
            "changed_s_ago": None if self.changed is None else round(now - self.changed, 1),
            "held": self.held,
            "history": [
                {"s_ago": round(now - at, 1), "wanted": wanted, "why": why}
                for at, wanted, why in reversed(self.history)
            ],
        }
