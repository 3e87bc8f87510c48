"""Who must stop so that quotas are kept.

A tenant whose next request is within its guarantee may take room back: at each level of the tree from its own upwards, as
long as that level is within its guarantee too, from the units beside it that borrow; so from its cohort first. The most
over-share borrower gives first, each time anew, of its requests those that lose little, then the youngest. Whoever is within
its guarantee has a borrowed share of 0, which never exceeds the victim's; and what was evicted was borrowed, so it cannot take
the room back. Together with a shortest run and a budget for each tenant this ends (tests/properties/test_arbiter.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.machines import EPSILON
from ioi_dagster.governors.fairness.tree import Entry, Leaf, Line, Unit
from ioi_dagster.governors.fairness.values import Evict, Rules
from ioi_dagster.model.amounts import shown, told

MAX_EXAMINED = 10_000
"""Running requests looked at for one that waits."""


class Ledger:
    """Who was told to stop and has not yet, and how often each tenant was."""

    def __init__(self) -> None:
        self.leaving: dict[str, Entry] = {}
        self.awaited: dict[Line, dict[str, Entry]] = {}
        """Line → those that leave for its head."""
        self.times: dict[str, deque[float]] = {}
        self._holds: list[tuple[Line, list[int]]] = []

    def ended(self, entry: Entry) -> None:
        if self.leaving.pop(entry.id, None) is not None and entry.evicted_for is not None:
            left = self.awaited.get(entry.evicted_for, {})
            left.pop(entry.id, None)
            if not left:
                self.awaited.pop(entry.evicted_for, None)

    def replanted(self) -> None:
        """The lines are others now: who leaves still leaves, for nobody."""
        for entry in self.leaving.values():
            entry.evicted_for = None
        self.awaited.clear()
        self._holds.clear()

    def spent(self, tenant: str, rules: Rules, now: float) -> int:
        """How many of the tenant's were stopped in the window."""
        times = self.times.get(tenant)
        while times and times[0] <= now - rules.window_s:
            times.popleft()
        return len(times or ())

    def order(self, victims: list[Entry], line: Line | None, machines: list[int], now: float) -> None:
        for victim in victims:
            self.leaving[victim.id] = victim
            victim.evicted_for = line
            if line is not None:
                self.times.setdefault(victim.leaf.tenant, deque()).append(now)
                self.awaited.setdefault(line, {})[victim.id] = victim
        if line is not None and machines:
            self._holds.append((line, machines))

    def take_holds(self) -> list[tuple[Line, list[int]]]:
        taken, self._holds = self._holds, []
        return taken


def over_limits(books: Books, ledger: Ledger, now: float) -> Iterator[Evict]:
    """Of what exceeds a limit that was lowered, the youngest; no budget, since the owner has said so."""
    if not books.limits:
        return
    for unit in reversed(books.units()):
        if unit.limits is None or unit is books.root:
            continue
        over = [used - cap for used, cap in zip(unit.used, unit.limits.cap, strict=True)]
        if not any(amount > EPSILON for amount in over):
            continue
        running = [entry for leaf in unit.leaves() for entry in leaf.running.values()]
        for entry in running:
            if entry.id in ledger.leaving:
                for number, amount in entry.shape.total:
                    over[number] -= amount
        for entry in sorted((one for one in reversed(running) if one.preemptible), key=_loses_least):
            if entry.id in ledger.leaving:
                continue
            if any(over[number] > EPSILON for number, _ in entry.shape.total):
                for number, amount in entry.shape.total:
                    over[number] -= amount
                ledger.order([entry], None, [], now)
                why = f"{unit.name or entry.leaf.tenant} uses more than its quota now allows"
                yield Evict(entry.id, entry.leaf.tenant, why)


def guaranteed(heads: Iterable[Entry], books: Books, ledger: Ledger, rules: Rules, now: float) -> Iterator[Evict]:
    """For those of `heads` that are within a guarantee and fit nowhere."""
    for head in heads if books.promises else ():
        times = within(head)
        if not times:
            continue
        found = _Search(head, books, ledger, rules, now).run(times)
        if found is None:
            continue
        victims, machines = found
        ledger.order(victims, head.line, machines, now)
        its = _told(head, books)
        for victim in victims:
            why = f"{its} and needs the room that {victim.leaf.tenant} has borrowed"
            yield Evict(victim.id, head.leaf.tenant, why)


def _loses_least(entry: Entry) -> tuple[bool, float]:
    return (not entry.checkpointable, -entry.started)


def _tenant_path(leaf: Leaf) -> list[Unit]:
    """The queue and, when it is a class, its tenant."""
    parent = leaf.parent
    return [leaf, parent] if parent is not None and parent.name == leaf.tenant and leaf.name != leaf.tenant else [leaf]


def within(head: Entry) -> int:
    """How many of it and its like in the line are within the guarantee of its tenant or class."""
    room = max((unit.guaranteed(head.shape.total, 1 << 30) for unit in _tenant_path(head.leaf)), default=0)
    like = head.left
    for _, _, other in head.line.queue if room > like else ():
        if like >= room:
            break
        like += other.left if other.queued and other is not head and other.shape is head.shape else 0
    return min(room, like)


def _told(head: Entry, books: Books) -> str:
    unit = max(_tenant_path(head.leaf), key=lambda unit: unit.guaranteed(head.shape.total, 1 << 30))
    guarantee = unit.limits.guarantee if unit.limits is not None else unit.used
    parts = [_of(books.machines.resources[n], unit.used[n], guarantee[n]) for n, _ in head.shape.total]
    return f"{head.leaf.tenant} is within its guarantee ({', '.join(parts)})"


def _of(resource: str, used: float, guarantee: float) -> str:
    return f"{shown(resource, used)} of {told(resource, guarantee)}"


@dataclass(slots=True)
class _Giver:
    """A queue that borrows what is needed, and the unit beside the claimant's that must go on borrowing for it to give."""

    unit: Unit
    leaf: Leaf
    level: int
    left: list[Entry]
    """Whom it can give, the one that loses least last."""
    budget: int
    gave: int = 0
    given: dict[int, float] = field(default_factory=dict)

    def still_borrows(self, head: Entry, by_unit: dict[Unit, dict[int, float]]) -> bool:
        pairs = ((self.unit, by_unit.get(self.unit, {})), (self.leaf, self.given))
        return all(_over(unit, given, head) for unit, given in pairs)

    def over_share(self) -> float:
        leaf = self.leaf
        guarantee = leaf.limits.guarantee if leaf.limits else [0.0] * len(leaf.used)
        used = [amount - self.given.get(number, 0.0) for number, amount in enumerate(leaf.used)]
        whole = max(sum(leaf.used), EPSILON)
        return leaf.share * max(u - g for u, g in zip(used, guarantee, strict=True)) / whole / leaf.weight


def _over(unit: Unit, given: dict[int, float], head: Entry) -> bool:
    guarantee = unit.limits.guarantee if unit.limits else None
    return any(
        unit.used[n] - given.get(n, 0.0) > (guarantee[n] if guarantee else 0.0) + EPSILON for n, _ in head.shape.total
    )


class _Search:
    """Whom to evict for `head`, so often as it may start, and where it will go."""

    def __init__(self, head: Entry, books: Books, ledger: Ledger, rules: Rules, now: float) -> None:
        self._head, self._books, self._ledger, self._rules, self._now = head, books, ledger, rules, now
        self._room: dict[int, list[float]] = {}
        self._fits: dict[int, int] = {}
        self._by_unit: dict[Unit, dict[int, float]] = {}

    def run(self, times: int) -> tuple[list[Entry], list[int]] | None:
        """None when nobody needs to go, or nothing that may go would help."""
        head, books = self._head, self._books
        machines, shape = books.machines, head.shape
        limiter = books.limiter(head.leaf, shape.total)
        if limiter is not None and limiter[0] is not books.root:
            return None
        givers = list(self._givers())
        if not givers:
            return None
        held = machines.held  # not those emptied for others
        self._fits = {
            m: machines.copies_on(machines.free[m], shape.need)
            for m in shape.pool.members
            if held.get(m) in (None, head.line)
        }
        for entry in self._ledger.awaited.get(head.line, {}).values():
            self._give(entry)
        count = before = sum(self._fits.values())
        wanted = shape.copies * times
        if count >= wanted and limiter is None:
            return None
        taken: list[Entry] = []
        good, reached = 0, before // shape.copies
        while count < wanted and (entry := self._next(givers)) is not None:
            taken.append(entry)
            count += self._give(entry)
            if count // shape.copies > reached:
                good, reached = len(taken), count // shape.copies
        if not good:
            return None
        for entry in reversed(taken[good:]):
            self._take_back(entry)
        return self._trimmed(taken[:good], reached * shape.copies)

    def _givers(self) -> Iterator[_Giver]:
        head = self._head
        need = head.shape.total
        units = list(head.leaf.path())
        start = next((i for i, unit in enumerate(units) if unit.within_guarantee(need)), len(units))
        examined = 0
        for level, unit in enumerate(units[start:]):
            if unit.parent is None or not unit.within_guarantee(need):
                return
            for other in unit.parent.children:
                if other is unit or not other.borrows(need):
                    continue
                for leaf in other.leaves():
                    budget = self._rules.evictions - self._ledger.spent(leaf.tenant, self._rules, self._now)
                    if budget <= 0 or not leaf.running or not leaf.borrows(need) or examined > MAX_EXAMINED:
                        continue
                    examined += len(leaf.running)
                    left = [entry for entry in reversed(leaf.running.values()) if self._may_go(entry)]
                    if left:
                        yield _Giver(other, leaf, level, sorted(left, key=_loses_least)[::-1], budget)

    def _may_go(self, entry: Entry) -> bool:
        held, members = self._books.machines.held, self._head.shape.pool.members
        return (
            entry.preemptible
            and self._now - entry.started >= self._rules.min_run_s
            and entry.id not in self._ledger.leaving
            and any(m in members and held.get(m) in (None, self._head.line) for m in entry.machines or ())
        )

    def _next(self, givers: list[_Giver]) -> Entry | None:
        """From whom borrows most, of those that are nearest in the tree."""
        spent: dict[str, int] = {}
        for giver in givers:
            spent[giver.leaf.tenant] = spent.get(giver.leaf.tenant, 0) + giver.gave
        able = [
            giver
            for giver in givers
            if giver.left and spent[giver.leaf.tenant] < giver.budget and giver.still_borrows(self._head, self._by_unit)
        ]
        if not able:
            return None
        giver = min(able, key=lambda one: (one.level, -one.over_share(), one.leaf.tenant, one.leaf.name))
        entry = giver.left.pop()
        giver.gave += 1
        of_unit = self._by_unit.setdefault(giver.unit, {})
        for number, amount in entry.shape.total:
            giver.given[number] = giver.given.get(number, 0.0) + amount
            of_unit[number] = of_unit.get(number, 0.0) + amount
        return entry

    def _give(self, entry: Entry, sign: int = 1) -> int:
        """What it runs on is free: how many copies more that makes."""
        machines, need = self._books.machines, self._head.shape.need
        more = 0
        for machine in entry.machines or ():
            if machine not in self._fits:
                continue
            vector = self._room.setdefault(machine, list(machines.free[machine]))
            for number, amount in entry.shape.need:
                vector[number] += sign * amount
            now_fits = machines.copies_on(vector, need)
            more += now_fits - self._fits[machine]
            self._fits[machine] = now_fits
        return more

    def _take_back(self, entry: Entry) -> int:
        return self._give(entry, -1)

    def _trimmed(self, taken: list[Entry], wanted: int) -> tuple[list[Entry], list[int]]:
        """Without those that need not go after all; the first chosen stay chosen as long as they can."""
        victims, count = list(taken), sum(self._fits.values())
        for entry in reversed(taken[:-1]):
            less = self._take_back(entry)
            if count + less >= wanted:
                count += less
                victims.remove(entry)
            else:
                self._give(entry)
        if self._head.shape.least:
            return victims, []  # wherever something ends it fits, so no node is kept from others
        touched = {machine for victim in victims for machine in victim.machines or ()}
        chosen: list[int] = []
        left = wanted
        for machine in sorted(self._fits, key=lambda m: (m not in touched, m)):
            if left > 0 and self._fits[machine]:
                chosen.append(machine)
                left -= self._fits[machine]
        return victims, chosen
