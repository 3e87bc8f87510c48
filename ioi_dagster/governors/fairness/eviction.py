"""Who must stop so that quotas are kept.

A tenant whose next request is within its guarantee may take room back: at each level of the tree from its own upwards, as
long as that level is within its guarantee too, from the units beside it that borrow; so from its cohort first. The most
over-share borrower gives first, of its requests those that lose little, then the youngest. Whoever is within its guarantee
has a borrowed share of 0, which never exceeds the victim's; and what was evicted was borrowed, so it cannot take the room
back. Together with a shortest run and a budget for each tenant this ends (tests/properties/test_arbiter.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.machines import EPSILON
from ioi_dagster.governors.fairness.tree import Entry, Leaf, Unit
from ioi_dagster.governors.fairness.values import Evict, Rules

MAX_EXAMINED = 10_000
"""Running requests looked at for one that waits."""


class Ledger:
    """Who was told to stop and has not yet, and how often each tenant was."""

    def __init__(self) -> None:
        self.leaving: dict[str, Entry] = {}
        self.awaited: dict[Leaf, dict[str, None]] = {}
        """Queue → those that leave for its head."""
        self.times: dict[str, deque[float]] = {}
        self._holds: list[tuple[Leaf, list[int]]] = []

    def ended(self, request_id: str) -> None:
        entry = self.leaving.pop(request_id, None)
        if entry is not None and entry.evicted_for is not None:
            left = self.awaited.get(entry.evicted_for, {})
            left.pop(request_id, None)
            if not left:
                self.awaited.pop(entry.evicted_for, None)

    def replanted(self, entries: dict[str, Entry]) -> None:
        """The queues are others now: who leaves still leaves, for nobody."""
        self.leaving = {name: entries[name] for name in self.leaving if name in entries}
        for entry in self.leaving.values():
            entry.evicted_for = None
        self.awaited.clear()

    def spent(self, tenant: str, rules: Rules, now: float) -> bool:
        times = self.times.get(tenant)
        while times and times[0] <= now - rules.window_s:
            times.popleft()
        return len(times or ()) >= rules.evictions

    def order(self, victims: list[Entry], leaf: Leaf | None, machines: list[int], now: float) -> None:
        for victim in victims:
            self.leaving[victim.request.id] = victim
            victim.evicted_for = leaf
            if leaf is not None:
                self.times.setdefault(victim.leaf.tenant, deque()).append(now)
                self.awaited.setdefault(leaf, {})[victim.request.id] = None
        if leaf is not None:
            self._holds.append((leaf, machines))

    def take_holds(self) -> list[tuple[Leaf, list[int]]]:
        taken, self._holds = self._holds, []
        return taken


def choose(books: Books, ledger: Ledger, rules: Rules, now: float) -> list[Evict]:
    found = list(_over_limits(books, ledger, rules, now))
    leaves = [leaf for leaf in books.leaves.values() if leaf.head is not None and leaf not in ledger.awaited]
    for leaf in leaves:
        head = leaf.head
        assert head is not None
        if not any(unit.within_guarantee(head.shape.total) for unit in _tenant_path(leaf)):
            continue
        victims, machines = _for_head(head, books, ledger, rules, now)
        if victims:
            ledger.order(victims, leaf, machines, now)
            why = f"{leaf.tenant} is within its guarantee and needs the room that {victims[0].leaf.tenant} has borrowed"
            found += [Evict(victim.request.id, leaf.tenant, why) for victim in victims]
    return found


def _over_limits(books: Books, ledger: Ledger, rules: Rules, now: float) -> Iterator[Evict]:
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
            if entry.request.id in ledger.leaving:
                for number, amount in entry.shape.total:
                    over[number] -= amount
        for entry in sorted(running, key=_loses_least):
            if entry.request.id in ledger.leaving or now - entry.started < rules.min_run_s:
                continue
            if any(over[number] > EPSILON for number, _ in entry.shape.total):
                for number, amount in entry.shape.total:
                    over[number] -= amount
                ledger.order([entry], None, [], now)
                why = f"{unit.name or entry.leaf.tenant} uses more than its quota now allows"
                yield Evict(entry.request.id, entry.leaf.tenant, why)


def _loses_least(entry: Entry) -> tuple[bool, float]:
    return (not entry.request.checkpointable, -entry.started)


def _tenant_path(leaf: Leaf) -> list[Unit]:
    """The queue and, when it is a class, its tenant."""
    parent = leaf.parent
    return [leaf, parent] if parent is not None and parent.name == leaf.tenant and leaf.name != leaf.tenant else [leaf]


def _borrowers(leaf: Leaf, head: Entry) -> Iterator[tuple[Unit, Leaf]]:
    """Queues that borrow what is needed, with the unit that must go on borrowing for them to give; in their order."""
    need = head.shape.total
    units = list(leaf.path())
    start = next(i for i, unit in enumerate(units) if unit.within_guarantee(need))
    for unit in units[start:]:
        if unit.parent is None or not unit.within_guarantee(need):
            return
        beside = [other for other in unit.parent.children if other is not unit and other.borrows(need)]
        givers = [
            (other, giver) for other in beside for giver in other.leaves() if giver.running and giver.borrows(need)
        ]
        yield from sorted(givers, key=lambda pair: (-_over_share(pair[1]), pair[1].tenant, pair[1].name))


def _over_share(leaf: Leaf) -> float:
    guarantee = leaf.limits.guarantee if leaf.limits else [0.0] * len(leaf.used)
    whole = max(sum(leaf.used), EPSILON)
    return leaf.share * max(u - g for u, g in zip(leaf.used, guarantee, strict=True)) / whole / leaf.weight


def _for_head(head: Entry, books: Books, ledger: Ledger, rules: Rules, now: float) -> tuple[list[Entry], list[int]]:
    """Whom to evict for it and where it will go; nobody when that cannot make it fit, or it fits already."""
    machines, shape, leaf = books.machines, head.shape, head.leaf
    limiter = books.limiter(leaf, shape.total)
    if limiter is not None and limiter[0] is not books.root:
        return [], []
    able = [
        m for m in machines.members(shape.pool) if machines.held.get(m) in (None, leaf)
    ]  # not those emptied for others
    allowed = set(able)
    fits = {m: machines.copies_on(machines.free[m], shape.need) for m in able}
    count = sum(fits.values())
    if count >= shape.copies and limiter is None:
        return [], []
    room: dict[int, list[float]] = {}
    taken: list[Entry] = []
    given: dict[Unit, list[float]] = {}
    examined = 0
    done = False
    for unit, giver in _borrowers(leaf, head):
        if ledger.spent(giver.tenant, rules, now):
            continue
        budget = rules.evictions - len(ledger.times.get(giver.tenant, ()))
        for entry in sorted(giver.running.values(), key=_loses_least):
            examined += 1
            if examined > MAX_EXAMINED or budget <= sum(victim.leaf.tenant == giver.tenant for victim in taken):
                break
            if now - entry.started < rules.min_run_s or entry.request.id in ledger.leaving:
                continue
            touched = [m for m in entry.machines or () if m in allowed]
            if not touched or not _still_borrows((unit, giver), given, head):
                continue
            for one in (unit, giver) if unit is not giver else (unit,):
                amounts = given.setdefault(one, [0.0] * books.width)
                for number, amount in entry.shape.total:
                    amounts[number] += amount
            taken.append(entry)
            for machine in touched:
                vector = room.setdefault(machine, list(machines.free[machine]))
                for number, amount in entry.shape.need:
                    vector[number] += amount
                now_fits = machines.copies_on(vector, shape.need)
                count += now_fits - fits[machine]
                fits[machine] = now_fits
            if count >= shape.copies:
                done = True
                break
        if done:
            break
    if not done:
        return [], []
    return _trimmed(head, taken, room, fits, books)


def _still_borrows(units: tuple[Unit, Unit], given: dict[Unit, list[float]], head: Entry) -> bool:
    for unit in units:
        amounts = given.get(unit)
        guarantee = unit.limits.guarantee if unit.limits else None
        if not any(
            unit.used[n] - (amounts[n] if amounts else 0.0) > (guarantee[n] if guarantee else 0.0) + EPSILON
            for n, _ in head.shape.total
        ):
            return False
    return True


def _trimmed(
    head: Entry, taken: list[Entry], room: dict[int, list[float]], fits: dict[int, int], books: Books
) -> tuple[list[Entry], list[int]]:
    """Without those that need not go after all; the first chosen stay chosen as long as they can."""
    machines, shape = books.machines, head.shape
    victims = list(taken)
    for entry in reversed(taken[:-1]):
        after = dict(fits)
        vectors = {m: list(room[m]) for m in entry.machines or () if m in room}
        for machine in entry.machines or ():
            if machine in vectors:
                for number, amount in entry.shape.need:
                    vectors[machine][number] -= amount
                after[machine] = machines.copies_on(vectors[machine], shape.need)
        if sum(after.values()) >= shape.copies:
            fits.update(after)
            room.update(vectors)
            victims.remove(entry)
    touched = {machine for victim in victims for machine in victim.machines or ()}
    chosen: list[int] = []
    left = shape.copies
    for machine in sorted(fits, key=lambda m: (m not in touched, m)):
        if left > 0 and fits[machine]:
            chosen.append(machine)
            left -= fits[machine]
    return victims, chosen
