"""What waits in a cluster and could run if it had more nodes, as its autoscaler weighs it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from ioi_dagster.governors.autoscale import Demand
from ioi_dagster.governors.fairness.arbiter import Arbiter
from ioi_dagster.governors.fairness.shapes import EPSILON
from ioi_dagster.governors.fairness.tree import Entry, Unit
from ioi_dagster.governors.parked import Asked, Desk
from ioi_dagster.model.negotiation import Whose

MOST = 100_000
"""Steps beyond which no more are counted: that many nodes nobody has."""

Kind = tuple[str, tuple[tuple[str, float], ...], int]
"""Capability, amounts of one step, and how many start together."""
Taken = dict[Unit, dict[int, float]]
"""By unit and number of the resource."""


def demands(
    desk: Desk, arbiter: Arbiter, running: Mapping[Whose, int], within_s: float, boot_s: float = 0.0
) -> tuple[Demand, ...]:
    """Like with like, the highest priority first, then who is to be over soonest, then who came first. Not counted: copies of
    what runs elsewhere, and what a tenant may not use however much room there is. Of a run that says how many seconds of work it
    has left, and has no priority, no more at once than get through it by when it is to be over, `boot_s` after which nodes would
    be there, or, where it does not say when, `within_s` (0: all); less what it has `running`."""
    waiting: Counter[tuple[int, Kind]] = Counter()
    taken: Taken = {}
    total = 0
    for whose, asked in sorted(desk.asked.items(), key=lambda its: _due_s(its[1], desk.now)):
        pace = _pace(asked, running.get(whose, 0), within_s, boot_s, desk.now)
        for group, entry in asked.groups:
            if group.idle or not isinstance(entry, Entry) or not arbiter.asks(entry):
                continue
            times, copies = _may_use(entry, taken), entry.shape.copies
            # Parts of a map come before other steps of their run by one, whatever its priority.
            if group.priority - group.part <= 0:
                times = min(times, math.ceil(pace / copies))
                pace -= times * copies
            if times <= 0:
                continue
            _take(entry, times, taken)
            kind = (group.capability, tuple(sorted(entry.request.amounts.items())), copies)
            waiting[-group.priority, kind] += times * copies
            total += times * copies
        if total >= MOST:
            break
    ordered = sorted(waiting.items(), key=lambda item: item[0][0])
    return tuple(Demand(capability, amounts, n, copies) for (_, (capability, amounts, copies)), n in ordered)


def _due_s(asked: Asked, now: float) -> float:
    due_s = asked.due_s(now)
    return math.inf if due_s is None else due_s


def _pace(asked: Asked, running: int, within_s: float, boot_s: float, now: float) -> int:
    """How many more of its steps are to run at once."""
    left_s, due_s = asked.announce.remaining_s, asked.due_s(now)
    if due_s is not None:
        within_s = due_s - boot_s
    return max(0, math.ceil(left_s / within_s) - running) if within_s > 0 and left_s > 0 else MOST


def _may_use(entry: Entry, taken: Taken) -> int:
    """How often more its tenant's quotas let it run, with what was `taken` before it."""
    times = entry.left
    for unit in entry.leaf.path():
        if unit.limits is None or unit.parent is None:
            continue
        before = taken.get(unit, {})
        for number, amount in entry.shape.total:
            room = unit.limits.cap[number] - unit.used[number] - before.get(number, 0.0)
            if room < amount * times:
                times = max(0, int((room + EPSILON) / amount))
    return times


def _take(entry: Entry, times: int, taken: Taken) -> None:
    for unit in entry.leaf.path():
        if unit.limits is not None and unit.parent is not None:
            its = taken.setdefault(unit, {})
            for number, amount in entry.shape.total:
                its[number] = its.get(number, 0.0) + amount * times
