"""The cluster governor: the only authority over one cluster's capacity. Bids, re-validates awards, holds leases.

Who gets what is the fair arbiter's decision (`fairness/`). What runs ask for and were offered stands in `bids.py`, what is leased
in `leases.py`, what nodes say of themselves in `nodes.py`. Here events come in, and answers and what is to be done go out.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ioi_dagster.governors.abandoned import Abandoned
from ioi_dagster.governors.autoscale import Autoscaler, Group, Pressure, WantNodes
from ioi_dagster.governors.bids import LOADS_NOTHING, Bids
from ioi_dagster.governors.cluster_messages import (
    EVERYTHING,
    AbandonedStopped,
    Event,
    Expelled,
    Instruction,
    LeaseEnded,
    NodeJoined,
    NodeLeft,
    NodeReported,
    NodeResized,
    Ordered,
    QuotasChanged,
    Reply,
    StopAbandoned,
    StopStep,
    Tick,
    WantedFound,
    Withdrawn,
)
from ioi_dagster.governors.fairness.arbiter import Arbiter
from ioi_dagster.governors.fairness.tree import Entry
from ioi_dagster.governors.fairness.values import Rules
from ioi_dagster.governors.leases import Held, Leases
from ioi_dagster.governors.nodes import Nodes
from ioi_dagster.governors.orders_in_force import Narrowed, OrdersInForce, Waits, means, reason
from ioi_dagster.governors.outlook import NodeNow, Occupied, outlook
from ioi_dagster.governors.parked import AGING_S, Asked
from ioi_dagster.governors.pressure import demands
from ioi_dagster.governors.tally import Tally
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.negotiation import (
    MAX_OUTLOOK,
    SLOTS,
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    RejectedRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    VerifyRequest,
    Whose,
    run_key,
)
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.refusal import Refusal

__all__ = [
    "EVERYTHING", "AbandonedStopped", "ClusterGovernor", "ClusterSnapshot", "Event", "Expelled", "Instruction", "LeaseEnded",
    "NodeJoined", "NodeLeft", "NodeReported", "NodeResized", "Ordered", "QuotasChanged", "Reply", "StopAbandoned", "StopStep",
    "Tick", "WantNodes", "WantedFound", "Withdrawn",
]  # fmt: skip

LEASE_TTL_S = 30.0
MAX_WAITING = 32
"""Leases for a slot at most whose steps wait for others: each keeps memory at its node."""
MIN_RUN_S = 1.0
"""A step that ran shorter is not stopped for somebody else's guarantee."""
STOP_S = 25.0
"""So long a step that may leave a checkpoint is said to have its lease while it is stopped: its grace is 15 s at most, and what
does not stop then ends with its process, 5 s later. It is less than a lease's time. As long is waited for what nobody renews."""
BUDGET, BUDGET_S = 16, 60.0
"""So many steps of a tenant are stopped for others' guarantees in so many seconds at most. One of a gang counts as one: what its
run does to the rest of the gang is not known here."""
EXACT = 32
"""Of more nodes than this a few are looked at for each step, not all."""


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    cluster: str
    domain: str
    epoch: int
    nodes: dict[str, dict[str, Any]]
    leases: tuple[dict[str, Any], ...]
    abandoned: tuple[dict[str, Any], ...]
    """What is being stopped since its lease has run out, and keeps its slot until it has."""
    tenants: dict[str, dict[str, Any]]
    """Of those that use, ask for or are guaranteed something: cohort, weight, `share` of the cluster and what it is `entitled` to
    now (both 0..1, of the resource that it takes most of); by resource what is used, guaranteed, borrowed, lent to others, and
    the limit; how many run, wait and are being stopped, and how long the first has waited (s)."""
    cohorts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The same of all cohorts; `cohort`: the one that it is part of."""
    classes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """The same of the block classes of those of `tenants` that have quotas for some; those without one are under ""."""
    parked: int = 0
    """Runs whose announcements wait for room."""
    scaling: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By group of nodes that come and go, see `Autoscaler.snapshot`."""
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By tenant, what became of what was asked since this governor started, see `Tally`."""
    ordered: tuple[str, ...] = ()
    """The blocks, tenants and nodes for which it goes by an owner's order: what is ordered is heard within a second or two."""


class ClusterGovernor:
    """See the module. `price`: see `ClusterSpec`; `max_memory` the fullness above which a node gets nothing new; `quotas`
    say who may use how much: without them whoever comes has weight 1; `expected` are nodes that are to come, for which what only
    they could take waits; of each of `groups` it has as many as are of use; `stop_s`: so long at most a slot is kept for what
    runs on after its lease has run out (0: not at all, where whoever holds the leases stops that)."""

    def __init__(
        self,
        domain: str,
        cluster: str,
        epoch: int,
        price: float,
        *,
        ttl_s: float = LEASE_TTL_S,
        max_memory: float = 0.9,
        quotas: QuotaTree | None = None,
        expected: Iterable[NodeJoined] = (),
        groups: Sequence[Group] = (),
        stop_s: float = STOP_S,
    ) -> None:
        self._domain, self._cluster, self._epoch = domain, cluster, epoch
        self._ttl_s = ttl_s
        rules = Rules(
            aging_s=AGING_S,
            min_run_s=MIN_RUN_S,
            evictions=BUDGET,
            window_s=BUDGET_S,
            seed=zlib.crc32(f"{cluster}/{epoch}".encode()),
            exact=EXACT,
            spread=True,
        )
        self._tree = quotas if quotas is not None else QuotaTree.flat()
        self._leases = Leases()
        self._abandoned = Abandoned(stop_s)
        self._orders = OrdersInForce(cluster, self._leases)
        self._weighed = self._tree
        known = {SLOTS, *(resource for group in groups for resource in group.amounts)}
        self._arbiter = Arbiter({}, self._tree, rules, elastic=True, resources=known)
        self._scaler = Autoscaler(groups)
        self._grouped = tuple(name for group in groups for name in group.members)
        self._within_s = max((group.rules.within_s for group in groups), default=0.0)
        self._boot_s = max((group.rules.boot_s for group in groups), default=0.0)
        self._nodes = Nodes(cluster, price, max_memory, self._arbiter, self._scaler)
        coming = {name: (its.amounts, its.offers) for its in groups for name in its.members[: its.rules.most]}
        for node in expected:
            self._nodes.expect(node)
            if groups:
                coming[node.node] = ({SLOTS: float(node.slots), **dict(node.resources)}, node.capabilities)
        self._arbiter.on_coming(coming)
        self._bids = Bids(cluster, domain, epoch, self._arbiter, self._nodes)
        self._tally = Tally()
        self._stopping: dict[str, float] = {}
        """Leases whose steps are being stopped, and until when their runs are told that they hold them."""
        self._freed: list[Held] = []
        """What has ended or begun to wait in the event at hand."""
        self._now = 0.0
        self._count = 0

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds). Raises `BadInputError` for quotas that make no sense, which then
        change nothing."""
        self._now = now
        self._bids.expire(now)
        for name in self._abandoned.over(now):
            self._stopped(name)
        out = [one for name in self._leases.expired(now) for one in self._ran_out(name, now)]
        out += self._handle(event, now)
        out += [self._waits_no_more(one) for one in self._orders.over(now)]
        freed, self._freed = self._freed, []
        again = self._orders.untaken() if isinstance(event, Tick) else self._orders.freed(freed)
        out += self._looked_at_again(again, now)
        out += self._serve(now, event if isinstance(event, Announce) else None)
        if self._scaler and isinstance(event, Tick):
            out += self._scale(now)
        return out

    def _handle(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case NodeJoined():
                return self._joined(event)
            case NodeResized(node, slots, resources):
                self._nodes.resize(node, slots, resources)
                return []
            case NodeLeft(node):
                return self._drop_node(node, "its node left")
            case NodeReported():
                self._nodes.reported(event)
                return []
            case WantedFound(group, nodes, spent, untold_s):
                self._scaler.found(group, nodes, spent, untold_s, now)
                return []
            case QuotasChanged(tree):
                self._weigh(tree)
                return self._stops(now)
            case Ordered():
                return self._ordered(event, now)
            case Expelled(domains):
                return self._expelled(domains, now)
            case Announce():
                return self._announced(event, now)
            case Award():
                return self._award(event, now)
            case RenewRequest():
                return self._renew(event, now)
            case VerifyRequest(lease, origin):
                held = self._leases.held_by(origin, lease.id)
                same = held is not None and held.lease == lease
                return [Reply(Renewed((lease.id,) if same else (), () if same else (lease.id,)))]
            case ReleaseRequest():
                return self._release(event)
            case AbandonedStopped(lease):
                self._stopped(lease)
                return []
            case Withdrawn(run, round_, origin):
                self._orders.end((origin, run), round_)
                self._bids.withdrawn((origin, run), round_, now)
                return []
            case Tick():
                return self._stops(now) + self._drained(now)

    # Announcements ----------------------------------------------------------------------------------------------

    def _announced(self, announce: Announce, now: float) -> list[Instruction]:
        self._tally.announced(announce)
        out = [self._waits_no_more(one) for one in [self._orders.end(announce.whose)] if one is not None]
        return out + self._asked(self._orders.narrowed(announce), now, stops=True)

    def _asked(self, narrowed: Narrowed, now: float, *, stops: bool = False) -> list[Instruction]:
        wanted, refusals = narrowed.wanted, narrowed.refusals
        if refusals and not narrowed.announce.groups:
            out = self._superseded(self._bids.forget(wanted.whose, now))
            if self._orders.wait(wanted, refusals, now):
                return out
            return [*out, Reply(self._told(wanted, refusals))]
        older, asked, bid = self._bids.announced(narrowed, now)
        out = self._superseded(older)
        if stops:  # else the next tick sees to it
            out += self._stops(now, [entry for entry in asked.entries() if entry.machines is None])
        if bid is None:
            # A turn may be its own though nobody else would have been refused: then it does not wait.
            out += self._serve(now, wanted)
            return out
        self._bids.owe(asked)
        self._tally.bid(wanted, bid)
        return [*out, Reply(self._with_nodes(bid, wanted, now))]

    def _superseded(self, older: Announce | None) -> list[Instruction]:
        if older is None:
            return []
        return [Reply(self._bids.nothing(older), waited=(older.run, older.round, older.origin))]

    def _told(self, announce: Announce, refusals: tuple[Refusal, ...]) -> Bid:
        bid = replace(self._bids.nothing(announce), refusals=refusals)
        self._tally.bid(announce, bid)
        return bid

    def _waits_no_more(self, one: Waits) -> Instruction:
        its = one.announce
        return Reply(self._told(its, one.refusals), waited=(its.run, its.round, its.origin))

    def _ordered(self, event: Ordered, now: float) -> list[Instruction]:
        """Those that it means are looked at again: they may start something now, or less of it, or nothing. Each has its time
        still."""
        changed = self._orders.given(event.orders, now)
        self._weigh(self._tree)
        parked = [one for one in self._bids.desk.asked.values() if one.waits and means(changed, one.wanted)]
        others = [self._taken_up(one, now) for one in parked]
        again = self._looked_at_again(self._orders.all(others), now)
        return self._cancelled(now) + self._stops(now) + self._drained(now) + again

    def _weigh(self, tree: QuotaTree) -> None:
        """These are the quotas, with the weights that are ordered."""
        weighed = self._orders.weighed(tree)
        if weighed != self._weighed:
            self._bids.refused(self._arbiter.on_quota(weighed))
        self._tree, self._weighed = tree, weighed

    def _taken_up(self, asked: Asked, now: float) -> Waits:
        """It waits for room no more, to be looked at as a whole again; it keeps its place."""
        self._bids.forget(asked.wanted.whose, now)
        return Waits(asked.wanted, asked.refusals, asked.until)

    def _looked_at_again(self, waits: Iterable[tuple[Waits, Narrowed]], now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for one, narrowed in waits:
            its, left = one.announce, max(0.0, one.until - now)
            again = replace(
                narrowed,
                wanted=replace(narrowed.wanted, wait_s=left),
                announce=replace(narrowed.announce, wait_s=left),
            )
            for said in self._asked(again, now):
                mine = isinstance(said, Reply) and said.waited is None
                out.append(replace(said, waited=(its.run, its.round, its.origin)) if mine else said)
        return out

    def _drained(self, now: float) -> list[Instruction]:
        """Steps whose block or tenant is drained, and whose time is over; those that may run once only go on to their end."""
        late = self._orders.overdue(now)
        if not late:
            return []
        left = (one for one in self._leases if one.preemptible and one.lease.id not in self._stopping)
        found = [(one, why) for one in left if (why := reason(late, one))]
        self._stopping |= {one.lease.id: now + STOP_S if one.checkpointable else now for one, _ in found}
        return [StopStep(one.lease, why) for one, why in found]

    def _cancelled(self, now: float) -> list[Instruction]:
        """Steps that are to end for good. Their runs hold their leases until their nodes have told them so."""
        found = self._orders.cancelled(self._leases)
        self._stopping |= {one.lease.id: now + STOP_S for one, _ in found}
        return [StopStep(one.lease, why, ends=True) for one, why in found]

    def _serve(self, now: float, at_once: Announce | None = None) -> list[Instruction]:
        """Answer those that wait and have something, or have waited long enough. `at_once` has only just come."""
        out: list[Instruction] = []
        for asked, bid in self._bids.serve(now):
            self._tally.bid(asked.wanted, bid)
            new = at_once is not None and asked.announce.whose == at_once.whose
            waited = None if new else (bid.run, bid.round, asked.announce.origin)
            out.append(Reply(self._with_nodes(bid, asked.announce, now), waited=waited))
        return out

    def _with_nodes(self, bid: Bid, announce: Announce, now: float) -> Bid:
        """Who plans ahead is told how the nodes look."""
        if not announce.about:
            return bid
        some = map(self._node_now, self._nodes.roomiest(announce.about, MAX_OUTLOOK))
        return replace(bid, nodes=outlook(some, run_key(*announce.whose), announce.about, now))

    def _node_now(self, name: str) -> NodeNow:
        node = self._nodes[name]
        held = [self._holder(lease) for lease in node.used if lease not in node.waiting]
        occupied = [Occupied(one.lease.run_key, one.since, one.seconds, one.resources) for one in held]
        warm = node.warm | LOADS_NOTHING
        return NodeNow(name, node.slots, node.capabilities, occupied, node.speed, node.resources, warm)

    # Awards and leases ------------------------------------------------------------------------------------------

    def _award(self, award: Award, now: float) -> list[Instruction]:
        leases: list[Lease] = []
        granted: list[Lease] = []
        rejected: list[RejectedRequest] = []
        out: list[Instruction] = []
        offered = self._bids.offered_to(award.whose, now)
        asked, twice, broken = _once(award.requests)
        for requests in _together(asked):
            fresh = []
            for request in requests:
                known = self._leases.of(award.origin, request)
                if known is not None and known.fence == request.fence:
                    leases.append(known)
                elif self._leases.stale(award.origin, request):
                    text = "a lease of this fence or a newer one was granted before"
                    rejected.append(self._reject(request, Refusal("cluster.stale_fence", text, self._cluster)))
                else:
                    fresh.append(request)
            if not fresh:
                continue
            for request in fresh:
                known = self._leases.of(award.origin, request)
                if known is not None:
                    out += self._end(known.id, f"superseded by fence {request.fence}")
                    self._bids.freed()
            refusal = self._gang_refusal(award.origin, requests, fresh, broken)
            refusal = refusal or self._orders.refusal(award.whose, fresh)
            entries = refusal or self._bids.grant(award.whose, fresh, self._lease_id(1), offered, now)
            if isinstance(entries, Refusal):
                rejected += [self._reject(request, entries) for request in fresh]
                continue
            for request, entry in zip(fresh, entries, strict=True):
                granted.append(self._grant(award.origin, request, entry, now))
                leases.append(granted[-1])
        self._bids.decline(offered)
        text, remedy = "the award names this step and copy before", "name each once, under its newest fence"
        again = [self._reject(one, Refusal("cluster.twice", text, self._cluster, remedy)) for one in twice]
        self._tally.awarded(asked, granted, rejected)
        self._tally.awarded(twice, (), again)
        return [*out, Reply(Awarded(self._cluster, tuple(leases), (*rejected, *again)), tuple(granted))]

    def _gang_refusal(
        self, origin: str, requests: list[LeaseRequest], fresh: list[LeaseRequest], broken: frozenset[str]
    ) -> Refusal | None:
        """A gang is leased whole or not at all."""
        first = fresh[0]
        if first.gang in broken:
            text = f"a step of gang {first.gang} stands in the award before, and not in that gang"
            return Refusal("cluster.gang", text, self._cluster, "name each step once")
        if any(
            (r.tenant, r.capability, r.resources) != (first.tenant, first.capability, first.resources) for r in fresh
        ):
            text = f"the steps of gang {first.gang} ask for different things"
            return Refusal("cluster.mixed_gang", text, self._cluster, "gangs of steps that ask for the same")
        stale = (
            len(requests)
            - len(fresh)
            - sum(
                (known := self._leases.of(origin, request)) is not None and known.fence == request.fence
                for request in requests
            )
        )
        if stale:
            text = f"{counted(stale, 'step')} of gang {first.gang} {'was' if stale == 1 else 'were'} granted before"
            return Refusal("cluster.gang", text, self._cluster, "award all of them under new fences")
        return None

    def _reject(self, request: LeaseRequest, refusal: Refusal) -> RejectedRequest:
        return RejectedRequest(request.step, request.fence, refusal)

    def _lease_id(self, ahead: int) -> str:
        return f"{self._cluster}/{self._epoch}/{self._count + ahead}"

    def _grant(self, origin: str, request: LeaseRequest, entry: Entry, now: float) -> Lease:
        self._count += 1
        (node,) = self._arbiter.node_of(entry)
        lease = Lease(
            id=self._lease_id(0),
            run=request.run,
            step=request.step,
            fence=request.fence,
            copy=request.copy,
            capability=request.capability,
            cluster=self._cluster,
            domain=self._domain,
            node=node,
            epoch=self._epoch,
            ttl_s=self._ttl_s,
            origin=origin,
        )
        if entry.id != lease.id:
            self._arbiter.rename(entry, lease.id)
        entry.preemptible, entry.seconds = request.preemptible, request.seconds
        entry.checkpointable = request.checkpointable or request.copy > 0  # of what runs elsewhere nothing is lost
        self._leases.add(lease, origin, request, now + self._ttl_s, now)
        self._nodes.took(node, lease.id)
        return lease

    def _renew(self, request: RenewRequest, now: float) -> list[Instruction]:
        # One whose step is being stopped runs out, should its run not release it. Its run is told at once, unless the step may
        # leave something for its next attempt first.
        names = [
            name
            for name in request.leases
            if (held := self._leases.held_by(request.origin, name)) is not None
            and held.lease.run == request.run
            and now < self._stopping.get(name, math.inf)
        ]
        waiting = frozenset(request.waiting)
        whose: set[Whose] = set()
        for name in names:
            if name not in self._stopping:
                self._leases.renew(name, now + self._ttl_s)
            if self._waits(name, name in waiting):
                held = self._leases.held[name]
                whose.add((held.origin, held.lease.run))
        renewed = set(names)
        told = Renewed(tuple(names), tuple(name for name in request.leases if name not in renewed))
        out: list[Instruction] = [Reply(told)]
        for run in whose:
            asked = self._bids.desk.asked.get(run)
            narrowed = asked is not None and asked.waits and bool(asked.refusals)
            parked = self._taken_up(asked, now) if narrowed and asked is not None else None
            out += self._looked_at_again(self._orders.awaited(run, parked), now)
        return out

    def _waits(self, name: str, waits: bool) -> bool:
        """Its slot is somebody else's while it waits. When it goes on, its node may run more than its slots for a while. True
        where it waits from now on."""
        held = self._leases.held[name]
        node = self._nodes[held.lease.node]
        if waits == held.waits or (waits and len(node.waiting) >= MAX_WAITING * node.slots):
            return False
        self._leases.waits(name, waits)
        self._arbiter.set_aside(name, waits)
        self._nodes.waits(held.lease.node, name, waits)
        if waits:
            self._freed.append(held)
        return waits

    def _release(self, request: ReleaseRequest) -> list[Instruction]:
        out: list[Instruction] = []
        for name in request.leases:
            held = self._leases.held_by(request.origin, name)
            if held is not None and held.lease.run == request.run:
                out += self._end(name, "released")
        return out

    def _end(self, name: str, why: str) -> list[Instruction]:
        held = self._leases.end(name)
        self._freed.append(held)
        self._stopping.pop(name, None)
        self._arbiter.on_finished(name)
        self._nodes.left_by(held.lease.node, name)
        return [LeaseEnded(held.lease, why)]

    def _ran_out(self, name: str, now: float) -> list[Instruction]:
        """Its run may be gone, and then nobody else stops what runs under it. Until that has stopped nothing else starts in its
        place, where it would wait."""
        return self._abandon(name, "expired", f"its run has not renewed its lease for {self._ttl_s:g} s", now)

    def _expelled(self, domains: frozenset[str], now: float) -> list[Instruction]:
        """Their runs can renew nothing any more, so nobody else would stop what runs for them."""
        names = [held.lease.id for held in self._leases if held.origin in domains]
        return [one for name in names for one in self._abandon(name, "expelled", "its domain was expelled", now)]

    def _abandon(self, name: str, told: str, why: str, now: float) -> list[Instruction]:
        if not self._abandoned.patience_s:
            return self._end(name, told)
        held = self._leases.end(name)
        self._stopping.pop(name, None)
        self._arbiter.leaves(name)
        held.since, held.seconds = now, 0.0  # whoever plans with the slot hears that it is free soon
        self._abandoned.add(held, now)
        return [LeaseEnded(held.lease, told), StopAbandoned(held.lease, why)]

    def _stopped(self, name: str) -> None:
        """What was abandoned under that lease runs no more, or has had its time."""
        held = self._abandoned.pop(name)
        if held is not None:
            self._freed.append(held)
            self._arbiter.on_finished(name)
            self._nodes.left_by(held.lease.node, name)

    def _holder(self, name: str) -> Held:
        """Who has the slot of that lease."""
        return self._abandoned[name] if name in self._abandoned else self._leases.held[name]

    def _stops(self, now: float, asked: Iterable[Entry] | None = None) -> list[Instruction]:
        """Steps of who uses more than a limit that was lowered, and of who has borrowed what others ask for and are guaranteed;
        of these only what is `asked` for, if that is given."""
        out: list[Instruction] = []
        for evicted in self._arbiter.evict(now, asked):
            held = self._leases.held[evicted.victim]
            self._stopping[evicted.victim] = now + STOP_S if held.checkpointable else now
            self._tally.stopped(held.tenant)
            out.append(StopStep(held.lease, evicted.why))
        return out

    # Nodes ------------------------------------------------------------------------------------------------------

    def _joined(self, event: NodeJoined) -> list[Instruction]:
        gone = self._drop_node(event.node, "its node was replaced")
        self._nodes.join(event)
        self._scaler.joined(event.node, self._now)
        self._nodes.leave(event.node, self._scaler.leaving(event.node))
        return gone

    def _drop_node(self, name: str, why: str) -> list[Instruction]:
        if name not in self._nodes:
            return []
        for lease in [lease for lease in self._nodes[name].used if lease in self._abandoned]:
            self._stopped(lease)
        out = [one for lease in list(self._nodes[name].used) for one in self._end(lease, why)]
        self._bids.evacuate(name)
        self._nodes.drop(name)
        self._scaler.left(name, self._now)
        return out

    def _scale(self, now: float) -> list[Instruction]:
        """As many nodes as are of use. One that is to go takes nothing new from this moment on, so that no award can be on its
        way to it."""
        asked = ()
        if len(self._bids.desk.asked) and self._scaler.may_grow():
            running = Counter((held.origin, held.lease.run) for held in self._leases)
            asked = demands(self._bids.desk, self._arbiter, running, self._within_s, self._boot_s)
        found: list[Instruction] = list(self._scaler.decide(now, Pressure(asked, self._nodes.seen(self._grouped))))
        for name in self._grouped:
            if name in self._nodes:
                self._nodes.leave(name, self._scaler.leaving(name))
        return found

    # What is told -----------------------------------------------------------------------------------------------

    def snapshot(self) -> ClusterSnapshot:
        shares = self._arbiter.snapshot(self._now)
        tenants = {
            name: view
            for name, view in shares.tenants.items()
            if view.running or view.waiting or any(view.guarantee.values())
        }
        return ClusterSnapshot(
            self._cluster,
            self._domain,
            self._epoch,
            self._nodes.snapshot(),
            tuple(map(_told, self._leases)),
            tuple(_told(self._abandoned[name]) for name in self._abandoned),
            {name: asdict(view) for name, view in tenants.items()},
            {name: asdict(view) for name, view in shares.cohorts.items()},
            {
                name: {one: asdict(view) for one, view in classes.items()}
                for name, classes in shares.classes.items()
                if name in tenants
            },
            len(self._bids.desk) + len(self._orders),
            self._scaler.snapshot(self._now),
            self._tally.snapshot(),
            self._orders.names(),
        )

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        self._arbiter.validate()
        self._leases.validate()
        self._bids.desk.validate()
        self._orders.validate([asked.announce for asked in self._bids.desk.asked.values() if asked.waits])
        self._scaler.validate()
        assert self._stopping.keys() <= self._leases.held.keys()
        entries = self._arbiter.running()
        offers = {entry.id for offered in self._bids.desk.offers.values() for entry in offered.entries()}
        assert not self._leases.held.keys() & {*self._abandoned}
        assert entries.keys() == self._leases.held.keys() | {*self._abandoned} | offers
        used: Counter[str] = Counter()
        for name in [*self._leases.held, *self._abandoned]:
            held = self._holder(name)
            assert self._arbiter.node_of(entries[name]) == [held.lease.node]
            assert entries[name].aside == held.waits
            assert entries[name].request.tenant == held.tenant
            assert (name in self._nodes[held.lease.node].waiting) == held.waits
            assert name in self._nodes[held.lease.node].used
            used[held.lease.node] += 1
        self._nodes.validate(used)


def _told(held: Held) -> dict[str, Any]:
    return {
        "id": held.lease.id,
        "origin": held.origin,
        "run": held.lease.run,
        "step": held.lease.step,
        "node": held.lease.node,
        "fence": held.lease.fence,
        "capability": held.lease.capability,
        "waiting": held.waits,
    }


def _once(requests: Iterable[LeaseRequest]) -> tuple[list[LeaseRequest], list[LeaseRequest], frozenset[str]]:
    """The first request for each start, which counts; the others; and gangs that lack one for that, since its first is in none or
    in another."""
    first: dict[tuple[str, str, int], LeaseRequest] = {}
    twice = []
    for request in requests:
        start = (request.run, request.step, request.copy)
        if start in first:
            twice.append((request, first[start].gang))
        else:
            first[start] = request
    broken = frozenset(request.gang for request, gang in twice if request.gang not in ("", gang))
    return list(first.values()), [request for request, _ in twice], broken


def _together(requests: Iterable[LeaseRequest]) -> list[list[LeaseRequest]]:
    """Those of one gang together, in the order of their first; each other by itself."""
    found: dict[Any, list[LeaseRequest]] = {}
    for number, request in enumerate(requests):
        found.setdefault(request.gang or number, []).append(request)
    return list(found.values())
