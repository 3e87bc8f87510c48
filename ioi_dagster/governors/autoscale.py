"""How many nodes a cluster asks for: by what waits there that no free room could take, within what its owner lets it cost.

Part of the cluster governor, and like it without I/O or clock. What is wanted is said as a whole, by the names of the nodes, so
that saying it again changes nothing and who hears it late hears the truth. A node goes in two steps: it takes nothing new
first, and is given back when, a while later, still nothing runs there. All times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ioi_dagster.governors.autoscale_messages import Amounts, Demand, Group, NodeSeen, Pressure, WantNodes
from ioi_dagster.governors.autoscale_pool import Phase, Pool
from ioi_dagster.governors.fairness.shapes import EPSILON
from ioi_dagster.model.refusal import Refusal

DRAIN_S = 2.0
"""So long a node takes nothing new before it is given back. A bid that counted on it is over by then."""
RETRY_S, MAX_RETRY_S = 60.0, 3600.0
"""After a node that did not come nothing more is asked for so long, twice as long after each further one."""
TELL_S = 60.0
"""So often what a group costs is told, to be kept over a restart."""

__all__ = ["Autoscaler", "Demand", "Group", "NodeSeen", "Phase", "Pressure", "WantNodes"]


class Autoscaler:
    """Of one cluster."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._pools = {group.name: Pool(group) for group in groups}
        self._pool_of = {name: pool for pool in self._pools.values() for name in pool.group.members}
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._pools)

    # What is told to it -----------------------------------------------------------------------------------------

    def found(
        self, group: str, nodes: Iterable[str], spent: Iterable[tuple[float, float]], untold_s: float, now: float
    ) -> None:
        """What was wanted when its governor began: those nodes are there, or come. What they have cost goes on counting, and what
        they cost since that was told, `untold_s` ago, counts too."""
        pool = self._pools.get(group)
        if pool is None:
            return
        names = set(nodes)
        for name in pool.group.members:
            if name in names and name not in pool.members:
                pool.coming(name, now)
        pool.told = frozenset(names)
        pool.resume(spent, len(names), untold_s, now)
        if pool.members:
            pool.changes(now, "its cluster's scheduler was started anew")

    def joined(self, node: str, now: float) -> None:
        pool = self._pool_of.get(node)
        if pool is None:
            return
        member = pool.members.get(node)
        if member is None:
            # It was given up and came all the same, or nobody knows who started it.
            if pool.wanted >= pool.group.rules.most or pool.over_budget():
                return
            member = pool.coming(node, now)
            pool.changes(now, f"{node} came without being waited for")
        if member.phase is Phase.COMING:
            member.enter(Phase.THERE, now)
        member.joined, member.idle_since = now, now
        pool.failures, pool.retry_at = 0, -math.inf

    def left(self, node: str, now: float) -> None:
        """Its process is gone. Where it is still wanted, whoever has started it starts it again."""
        pool = self._pool_of.get(node)
        member = pool.members.get(node) if pool is not None else None
        if pool is None or member is None:
            return
        if member.phase is Phase.LEAVING:
            del pool.members[node]
        else:
            member.enter(Phase.COMING, now)
            member.idle_since = None

    # What it says -----------------------------------------------------------------------------------------------

    def leaving(self, node: str) -> bool:
        """It takes nothing new, since it is to go, now or when it is idle."""
        pool = self._pool_of.get(node)
        if pool is None:
            return False
        member = pool.members.get(node)
        return member is None or member.phase is Phase.LEAVING or pool.over_budget()

    def may_grow(self) -> bool:
        """Has any group less nodes than its owner gave it? Else nobody need find out what waits."""
        return any(pool.wanted < pool.group.rules.max for pool in self._pools.values())

    def decide(self, now: float, pressure: Pressure) -> list[WantNodes]:
        """Called about once a second."""
        self._now = now
        for pool in self._pools.values():
            pool.account(now)
            self._give_up(pool, now)
            _look(pool, pressure, now)
        needs = self._needs(pressure)
        out = []
        for pool in self._pools.values():
            self._raise(pool, needs.get(pool.group.name, 0), pressure, now)
            if pool.over_budget():
                self._let_go(pool, now)
            elif not needs.get(pool.group.name):
                self._lower(pool, pressure, now)
            self._give_back(pool, pressure, now)
            out += self._tell(pool, now)
        return out

    def _give_up(self, pool: Pool, now: float) -> None:
        rules = pool.group.rules
        late = [
            name
            for name, member in pool.members.items()
            if member.phase is Phase.COMING and now - member.since >= rules.give_up_s
        ]
        for name in late:
            del pool.members[name]
        if late:
            pool.failures += 1
            pause_s = min(MAX_RETRY_S, RETRY_S * 2 ** (pool.failures - 1))
            pool.retry_at = now + pause_s
            names = ", ".join(late[:4]) + (f" and {len(late) - 4} others" if len(late) > 4 else "")
            text = f"{names} did not come within {rules.give_up_s:g} s; more are asked for in {pause_s:g} s"
            pool.changes(now, text)

    def _needs(self, pressure: Pressure) -> dict[str, int]:
        """By group, how many nodes more would take what waits: after the room that is free or coming, the cheapest first."""
        found: dict[str, int] = {}
        for pool in self._pools.values():
            pool.held = ""
        if not pressure.demands:
            return found
        rooms = [(seen.offers, dict(seen.free)) for seen in pressure.nodes.values()]
        for pool in self._pools.values():
            rooms += [(pool.group.offers, dict(pool.group.amounts)) for _ in range(pool.count(Phase.COMING))]
        for demand in pressure.demands:
            trial = [(offers, dict(room)) for offers, room in rooms] if demand.copies > 1 else rooms
            left = _fill(trial, demand, demand.count)
            more: dict[str, int] = {}
            for pool in sorted(self._pools.values(), key=lambda pool: _unit_cost(pool.group, demand)):
                if left:
                    left = self._take(pool, demand, left, found, more, trial)
            if demand.copies > 1 and demand.count - left < demand.copies:
                continue  # a part of a gang is of no use to it
            rooms = trial
            for name, count in more.items():
                found[name] = found.get(name, 0) + count
        return found

    def _take(
        self,
        pool: Pool,
        demand: Demand,
        left: int,
        found: Mapping[str, int],
        more: dict[str, int],
        rooms: list[tuple[frozenset[str], dict[str, float]]],
    ) -> int:
        """How many are left when `pool` has grown for them as far as it may."""
        group = pool.group
        each = _times(group.amounts, demand.amounts) if demand.capability in group.offers else 0
        if not each:
            return left
        name = group.name
        may = group.rules.most - pool.wanted - found.get(name, 0) - more.get(name, 0)
        count = max(0, min(may, math.ceil(left / each)))
        if count < math.ceil(left / each):
            pool.held = _bound(group)
        if count:
            fresh = [(group.offers, dict(group.amounts)) for _ in range(count)]
            left = _fill(fresh, demand, left)
            rooms += fresh
            more[name] = more.get(name, 0) + count
        return left

    def _raise(self, pool: Pool, need: int, pressure: Pressure, now: float) -> None:
        rules = pool.group.rules
        below = max(0, min(rules.min, rules.most) - pool.wanted)
        if not need:
            pool.short_since = None
        elif pool.short_since is None:
            pool.short_since = now
        waited = pool.short_since is not None and now - pool.short_since >= rules.after_s
        count = max(below, need if waited else 0)
        if not count:
            return
        held = pool.binds(now)
        if held:
            pool.held = held
            return
        if not below and now - pool.raised < rules.up_pause_s:
            return
        count = int(min(count, rules.most - pool.wanted, pool.pays_for(now)))
        back = [name for name, member in pool.members.items() if member.phase is Phase.LEAVING][:count]
        for name in back:
            pool.members[name].enter(Phase.THERE, now)
        # A name is used again only when the one that had it is gone.
        free = [name for name in pool.group.members if name not in pool.members and name not in pressure.nodes]
        fresh = free[: count - len(back)]
        for name in fresh:
            pool.coming(name, now)
        if back or fresh:
            pool.raised = now
            why = f"{rules.min} are to be there always" if below >= need else "more waits than has room"
            pool.changes(now, f"{len(back) + len(fresh)} more: {why}")

    def _let_go(self, pool: Pool, now: float) -> None:
        """The budget is spent: those that come are given back, and so is each where nothing runs, whatever waits."""
        coming = [name for name, member in pool.members.items() if member.phase is Phase.COMING]
        for name in coming:
            del pool.members[name]
        idle = [name for name in pool.there() if pool.members[name].idle_since is not None]
        for name in idle:
            pool.members[name].enter(Phase.LEAVING, now)
        pool.held = pool.binds(now)
        if coming or idle:
            pool.lowered = now
            pool.changes(now, f"{len(coming) + len(idle)} less: its budget for the day is spent")

    def _lower(self, pool: Pool, pressure: Pressure, now: float) -> None:
        rules = pool.group.rules
        if now - max(pool.raised, pool.lowered) < rules.down_pause_s:
            return
        there = pool.there()
        slots = pool.group.amounts.get("slots", 1.0)
        busy = sum(pressure.nodes[name].busy for name in there if name in pressure.nodes)
        able = [
            name
            for name in there
            if (idle := pool.members[name].idle_since) is not None
            and now - idle >= rules.idle_s
            and now - pool.members[name].joined >= rules.min_age_s
        ]
        able.sort(key=lambda name: pool.members[name].idle_since or now)
        gone = 0
        for name in able:
            if pool.wanted <= rules.min or busy > rules.busy_below * slots * (len(there) - gone - 1):
                break
            pool.members[name].enter(Phase.LEAVING, now)
            gone += 1
        if gone:
            pool.lowered = now
            pool.changes(now, f"{gone} less: nothing has run there for {rules.idle_s:g} s")

    def _give_back(self, pool: Pool, pressure: Pressure, now: float) -> None:
        for name, member in list(pool.members.items()):
            if member.phase is not Phase.LEAVING:
                continue
            seen = pressure.nodes.get(name)
            if seen is not None and not seen.idle:
                member.enter(Phase.THERE, now)  # what runs there is never ended for this
            elif now - member.since >= DRAIN_S:
                del pool.members[name]

    def _tell(self, pool: Pool, now: float) -> Iterator[WantNodes]:
        names = frozenset(pool.members)
        costs = bool(pool.group.rules.node_hour and names) and now - pool.told_at >= TELL_S
        if names == (pool.told or frozenset()) and not costs:
            return
        pool.told, pool.told_at = names, now
        spent = tuple((now - at, amount) for at, amount in pool.spent)
        yield WantNodes(pool.group.name, tuple(name for name in pool.group.members if name in names), pool.why, spent)

    # What is told of it -----------------------------------------------------------------------------------------

    def waits(self, capability: str, amounts: Amounts, cluster: str) -> Refusal | None:
        """Why there is no room yet for a step that a group could take; None where none could take it, or none may have more."""
        for pool in self._pools.values():
            group, rules = pool.group, pool.group.rules
            if capability not in group.offers or not _times(group.amounts, tuple(amounts.items())):
                continue
            coming = [member.since for member in pool.members.values() if member.phase is Phase.COMING]
            if coming:
                text = (
                    f"{len(coming)} more of {group.name} come, the first asked for {self._now - min(coming):.0f} s ago"
                )
                text += f"; one takes about {rules.boot_s:g} s"
                return Refusal("cluster.scaling_up", text, cluster, "it is given room when they are there")
            held, there = pool.binds(self._now) or pool.held, len(pool.there())
            if held and (not there or pool.over_budget()):
                is_there = (
                    f"{there} of {group.name} end what runs there" if there else f"no node of {group.name} is there"
                )
                text = f"{is_there}, and none is asked for: {held}"
                return Refusal("cluster.scaling_held", text, cluster, "wait, or have its owner raise what binds it")
            if held:
                continue
            if pool.wanted < rules.most:
                text = f"{pool.wanted} of at most {rules.most} nodes of {group.name} are there; more are asked for"
                return Refusal("cluster.scaling_up", f"{text} where this waits", cluster, "nothing: it is waited for")
        return None

    def snapshot(self, now: float) -> dict[str, dict[str, Any]]:
        """By group: how many nodes are wanted, there, on their way, idle and leaving; what it costs an hour and has cost in the
        last day, and may; why it changed last, and when (s ago)."""
        return {name: pool.view(now) for name, pool in self._pools.items()}

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        for pool in self._pools.values():
            assert pool.members.keys() <= set(pool.group.members)
            assert pool.wanted <= len(pool.members) <= pool.group.rules.max
            assert all(m.idle_since is None for m in pool.members.values() if m.phase is Phase.COMING)


def _look(pool: Pool, pressure: Pressure, now: float) -> None:
    for name, member in pool.members.items():
        seen = pressure.nodes.get(name)
        if member.phase is Phase.COMING or seen is None or not seen.idle:
            member.idle_since = None
        elif member.idle_since is None:
            member.idle_since = now


def _times(room: Amounts, amounts: Iterable[tuple[str, float]]) -> int:
    """How often that fits."""
    return max(0, min((int((room.get(name, 0.0) + EPSILON) / amount) for name, amount in amounts if amount), default=0))


def _fill(rooms: Iterable[tuple[frozenset[str], dict[str, float]]], demand: Demand, left: int) -> int:
    """Put as many as fit into `rooms`, which have less room then; how many are left."""
    for offers, room in rooms:
        if not left:
            break
        if demand.capability in offers:
            count = min(left, _times(room, demand.amounts))
            left -= count
            for name, amount in demand.amounts:
                room[name] = room.get(name, 0.0) - amount * count
    return left


def _unit_cost(group: Group, demand: Demand) -> tuple[float, int, str]:
    """Where all cost the same, a node is rather one on which little is left over."""
    each = _times(group.amounts, demand.amounts) or 1
    return group.rules.node_hour / each, each, group.name


def _bound(group: Group) -> str:
    rules = group.rules
    if rules.most < rules.max:
        return f"{rules.most} nodes cost what it may an hour ({rules.per_hour:g} credits)"
    return f"it has {rules.max} nodes at most"
