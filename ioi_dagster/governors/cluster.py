"""The cluster governor: the only authority over one cluster's capacity. Bids, re-validates awards, holds leases."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ioi_dagster.governors.node_index import Counted, NodeIndex, NodeKind
from ioi_dagster.governors.parked import OFFER_S, Kinds, Offer, Parked, ParkedAsks
from ioi_dagster.governors.turns import Part, Turns, Wanted
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    RejectedRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    SupplyPoint,
    VerifyRequest,
)
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import TenantShare

LEASE_TTL_S = 30.0
CONGESTION = 0.5
"""Price rises by this part of the base price as the cluster fills."""
MAX_FENCES = 100_000
MAX_WAITING = 32
"""Leases for a slot at most whose steps wait for others: each keeps memory at its node."""
MIN_RUN_S = 1.0
"""A step that ran shorter is not stopped for somebody else's guarantee."""
BUDGET, BUDGET_S = 16, 60.0
"""So many steps of a tenant are stopped for others' guarantees in so many seconds at most."""
COLD_START = 0.2
"""Added where no replica of the capability is warm."""


class _Everything(frozenset[str]):
    def __contains__(self, item: object) -> bool:
        return True


EVERYTHING = _Everything()
"""The capabilities of a node that serves one user alone: whatever is asked of it."""


@dataclass(frozen=True, slots=True)
class NodeJoined:
    node: str
    slots: int
    capabilities: frozenset[str]


@dataclass(frozen=True, slots=True)
class NodeResized:
    """From now on it takes so many. What it has more than that is not taken away."""

    node: str
    slots: int


@dataclass(frozen=True, slots=True)
class NodeLeft:
    node: str


@dataclass(frozen=True, slots=True)
class NodeReported:
    """From the node's heartbeat: what is warm there, how full its memory is (0..1), and how its blocks do, for people.
    `closed`: it takes nothing new, but what its own steps wait for."""

    node: str
    warm: frozenset[str]
    memory: float = 0.0
    blocks: tuple[dict[str, Any], ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class SharesChanged:
    """From now on these are the tenants' shares. What a tenant uses beyond a lowered limit is taken back."""

    shares: tuple[TenantShare, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Nobody waits any longer for the answer to this announcement, see `Announce.wait_s`."""

    run: str
    round: int


@dataclass(frozen=True, slots=True)
class Tick:
    pass


Event = (
    NodeJoined
    | NodeResized
    | NodeLeft
    | NodeReported
    | SharesChanged
    | Announce
    | Award
    | RenewRequest
    | VerifyRequest
    | ReleaseRequest
    | Withdrawn
    | Tick
)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer owed to whoever sent the event. `granted` must be journalled before it is sent. `waited`: it is the answer to an
    announcement that came earlier and waited, by its run and round. An announcement without a reply waits."""

    answer: Bid | Awarded | Renewed
    granted: tuple[Lease, ...] = ()
    waited: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    lease: Lease
    why: str


@dataclass(frozen=True, slots=True)
class StopStep:
    """End what runs under `lease`, whose slot is somebody else's; its run places it again. It is held until it is released."""

    lease: Lease
    why: str


Instruction = Reply | LeaseEnded | StopStep


@dataclass(slots=True)
class _Node:
    slots: int
    capabilities: frozenset[str]
    warm: frozenset[str] = frozenset()
    memory: float = 0.0
    blocks: tuple[dict[str, Any], ...] = ()
    closed: bool = False
    used: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    """Those of `used` whose steps wait for others, which run in their place."""

    @property
    def busy(self) -> int:
        return len(self.used) - len(self.waiting)

    @property
    def free(self) -> int:
        return 0 if self.closed and not self.waiting else max(0, self.slots - self.busy)

    @property
    def load(self) -> float:
        """By its own measure: one that may be given much ahead is not emptier for that."""
        return self.busy / self.slots if self.slots else 1.0


@dataclass(slots=True)
class _Held:
    lease: Lease
    until: float
    tenant: str
    since: float
    preemptible: bool


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    cluster: str
    domain: str
    epoch: int
    nodes: dict[str, dict[str, Any]]
    leases: tuple[dict[str, Any], ...]
    tenants: dict[str, dict[str, Any]]
    """Of those that use or ask for slots: weight, slots used, asked for besides, and entitled to now."""
    parked: int = 0
    """Runs whose announcements wait for room."""


class ClusterGovernor:
    """See the module. `price` is the base cost of a slot; `max_memory` the fullness above which a node gets nothing new;
    `shares` are the tenants' of its slots."""

    def __init__(
        self,
        domain: str,
        cluster: str,
        epoch: int,
        price: float,
        *,
        ttl_s: float = LEASE_TTL_S,
        max_memory: float = 0.9,
        shares: Iterable[TenantShare] = (),
    ) -> None:
        self._domain, self._cluster, self._epoch, self._price = domain, cluster, epoch, price
        self._ttl_s, self._max_memory = ttl_s, max_memory
        self._nodes: dict[str, _Node] = {}
        self._index = NodeIndex(f"{cluster}/{epoch}")
        self._held: dict[str, _Held] = {}
        self._by_start: dict[tuple[str, str, int], str] = {}
        self._fences: dict[tuple[str, str, int], int] = {}
        self._ends: list[tuple[float, str]] = []
        """A heap of (until, lease). One that was renewed or released meanwhile stands here still."""
        self._turns = Turns(shares)
        self._parked = ParkedAsks()
        self._stopping: dict[str, str] = {}
        """Leases whose steps are being stopped, and the tenants that they are stopped for."""
        self._stopped: deque[tuple[float, str]] = deque()
        """(When, whose) of steps that were stopped for others' guarantees."""
        self._used: dict[int, Counter[str]] = {}
        """By kind of node, how many slots each tenant uses."""
        self._now = 0.0
        self._count = 0

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds)."""
        self._now = now
        ended = self._expire(now)
        out = [*ended, *self._handle(event, now)]
        if len(self._parked):
            out += self._serve(now, bool(ended) or not isinstance(event, Announce | VerifyRequest))
        return out

    def _handle(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case NodeJoined(node, slots, capabilities):
                gone = self._drop_node(node, "its node was replaced")
                self._nodes[node] = _Node(slots, capabilities)
                self._recount(node)
                return gone
            case NodeResized(node, slots):
                if node in self._nodes:
                    self._nodes[node].slots = slots
                    self._recount(node)
                return []
            case NodeLeft(node):
                return self._drop_node(node, "its node left")
            case NodeReported(node, warm, memory, blocks, closed):
                if node in self._nodes:
                    known = self._nodes[node]
                    known.warm, known.memory, known.blocks, known.closed = warm, memory, blocks, closed
                    self._recount(node)
                return []
            case SharesChanged(shares):
                self._turns.change(shares)
                return [*self._enforce_limits(now)]
            case Announce():
                return self._announced(event, now)
            case Award():
                return self._award(event, now)
            case RenewRequest():
                return [Reply(self._renew(event, now))]
            case VerifyRequest(lease):
                held = self._held.get(lease.id)
                same = held is not None and held.lease == lease
                return [Reply(Renewed((lease.id,) if same else (), () if same else (lease.id,)))]
            case ReleaseRequest():
                return self._release(event)
            case Withdrawn(run, round_):
                waiting = self._parked.of(run)
                if waiting is not None and waiting.announce.round == round_:
                    self._parked.take(run, True, now)
                    self._turns.asks(run, (), now)
                return []
            case Tick():
                return [*self._enforce_limits(now)]

    def snapshot(self) -> ClusterSnapshot:
        return ClusterSnapshot(
            self._cluster,
            self._domain,
            self._epoch,
            {
                name: {
                    "slots": node.slots,
                    "free": node.free,
                    "memory": round(node.memory, 3),
                    "warm": sorted(node.warm),
                    "capabilities": sorted(node.capabilities),
                    "blocks": list(node.blocks),
                }
                for name, node in sorted(self._nodes.items())
            },
            tuple(
                {
                    "id": held.lease.id,
                    "run": held.lease.run,
                    "step": held.lease.step,
                    "node": held.lease.node,
                    "fence": held.lease.fence,
                    "capability": held.lease.capability,
                    "waiting": held.lease.id in self._nodes[held.lease.node].waiting,
                }
                for held in self._held.values()
            ),
            {name: self._tenant(name, part) for name, part in sorted(self._parts(None, self._now).items())},
            len(self._parked),
        )

    def _tenant(self, name: str, part: Part) -> dict[str, Any]:
        share, free = self._turns.share(name), sum(kind.free for kind in self._index.kinds())
        return {
            "weight": share.weight,
            "used": part.used,
            "waiting": part.waiting,
            "entitled": round(part.entitled, 2),
            "guarantee": share.guarantee,
            "limit": None if share.borrows is None else share.guarantee + share.borrows,
            "lent": max(0, share.guarantee - part.used - free),
            "stopping": sum(self._held[name_].tenant == name for name_ in self._stopping),
        }

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        self._parked.validate()
        assert self._stopping.keys() <= self._held.keys()
        for name, node in self._nodes.items():
            assert node.waiting <= node.used <= set(self._held), name
        for identity, held in self._held.items():
            lease = held.lease
            assert identity in self._nodes[lease.node].used
            assert self._by_start[lease.run, lease.step, lease.copy] == identity
        assert len(self._by_start) == len(self._held)
        for name, node in self._nodes.items():
            assert self._index.kind(node.capabilities).nodes[name] == self._counted(node), name
        assert self._index.slots == sum(node.slots for node in self._nodes.values())
        waiting = {one for node in self._nodes.values() for one in node.waiting}
        used = Counter(held.tenant for identity, held in self._held.items() if identity not in waiting)
        assert sum(self._used.values(), Counter()) == used

    # Announcements ----------------------------------------------------------------------------------------------

    def _announced(self, announce: Announce, now: float) -> list[Instruction]:
        older = self._parked.take(announce.run, False, now)
        out: list[Instruction] = [self._empty_bid(older.announce)] if older is not None else []
        asked = [Wanted(group.tenant, group.capability, group.count) for group in announce.groups]
        self._turns.asks(announce.run, asked, now)
        bid, stops = self._bid(announce, now)
        out += stops
        if not bid.points and announce.wait_s and announce.groups and self._parked.park(announce, now):
            self._turns.asks(announce.run, asked, now, announce.wait_s)
            return out
        if bid.points:
            self._parked.take(announce.run, True, now)
        return [*out, Reply(bid)]

    def _empty_bid(self, announce: Announce) -> Reply:
        """To one that waits no more, since its run has announced anew."""
        bid = Bid(self._cluster, self._domain, announce.run, announce.round, self._epoch)
        return Reply(bid, waited=(announce.run, announce.round))

    def _serve(self, now: float, changed: bool) -> list[Instruction]:
        """Answer those that wait: who has waited long enough, and, where something changed, for whom there is room now."""
        out: list[Instruction] = []
        hopeless: set[Kinds] = set()
        while changed and (one := self._parked.first(self._turns.turn, hopeless)) is not None:
            bid, stops = self._bid(one.announce, now)
            out += stops
            if bid.points:
                out.append(self._answered(one, bid, now))
            else:
                hopeless.add(one.kinds)
        for one in self._parked.overdue(now):
            bid, _ = self._bid(one.announce, now)
            out.append(self._answered(one, bid, now))
        return out

    def _answered(self, one: Parked, bid: Bid, now: float) -> Reply:
        announce = one.announce
        self._parked.take(announce.run, bool(bid.points), now)
        asked = [Wanted(group.tenant, group.capability, group.count) for group in announce.groups]
        self._turns.asks(announce.run, asked, now)
        if bid.points:
            tenants = {group.capability: group.tenant for group in announce.groups}
            offers = tuple(
                Offer(announce.run, tenants[point.capability], point.capability, point.slots, now + OFFER_S)
                for point in bid.points
            )
            self._parked.offer(announce.run, offers)
            bid = replace(bid, expires_s=OFFER_S)
        return Reply(bid, waited=(announce.run, announce.round))

    # Bids -------------------------------------------------------------------------------------------------------

    def _bid(self, announce: Announce, now: float) -> tuple[Bid, list[StopStep]]:
        points, refusals, stops = [], [], []
        for group in announce.groups:
            able = self._index.able(group.capability)
            offer = self._offer(announce.run, group, able, now)
            if isinstance(offer, Refusal):
                refusals.append(offer)
            else:
                points.append(offer)
            stops += self._take_back_guarantee(group, able, offer.slots if isinstance(offer, SupplyPoint) else 0, now)
        bid = Bid(
            self._cluster, self._domain, announce.run, announce.round, self._epoch, tuple(points), tuple(refusals)
        )
        return bid, stops

    def _offer(self, run: str, group: AskGroup, able: list[NodeKind], now: float) -> SupplyPoint | Refusal:
        if not able:
            return Refusal("cluster.not_offered", f"no node here offers {group.capability}", self._cluster)
        slots = self._room(run, able, now)
        warm = min(slots, sum(kind.warm[group.capability] for kind in able))
        if slots <= 0:
            return self._full(able)
        part = self._part(group.tenant, group.capability, able, now)
        if part is not None:
            slots = part.more(slots)
            if not slots:
                return self._not_its_turn(group.tenant, part)
        price = self._price_now(warm > 0)
        return SupplyPoint(group.capability, group.data_class, min(slots, group.count), price, warm)

    def _room(self, run: str, able: list[NodeKind], now: float) -> int:
        """Free slots that were not offered to others a moment ago."""
        room = sum(kind.room for kind in able)
        offered = Counter[str]()
        for offer in self._parked.offered(now, run) if room else ():
            offered[offer.capability] += offer.slots
        for capability, slots in offered.items():
            if any(capability in kind.capabilities for kind in able):
                elsewhere = sum(kind.room for kind in self._index.able(capability) if kind not in able)
                room -= max(0, slots - elsewhere)
        return max(0, room)

    def _price_now(self, warm: bool) -> float:
        busy = len(self._held) / (self._index.slots or 1)
        return self._price * (1 + CONGESTION * busy) + (0.0 if warm else COLD_START)

    # Shares -----------------------------------------------------------------------------------------------------

    def _part(self, tenant: str, capability: str, able: list[NodeKind], now: float) -> Part | None:
        """Its part of the slots that could take `capability`; None where it may have whatever is free."""
        if self._turns.unlimited(tenant):
            return None
        offered = {one for kind in able for one in self._turns.capabilities(now) if one in kind.capabilities}
        waiting = self._turns.waiting(offered, now)
        if not waiting.keys() - {tenant} and not self._turns.keeps:
            return None
        # Who asks for a lease waits for a slot, whether it was announced or not.
        return self._parts(able, now, waiting | {tenant: max(1, waiting.get(tenant, 0))})[tenant]

    def _parts(
        self, able: list[NodeKind] | None, now: float, waiting: Mapping[str, int] | None = None
    ) -> dict[str, Part]:
        kinds = self._index.kinds() if able is None else able
        used: Counter[str] = sum((self._used.get(id(kind), Counter()) for kind in kinds), Counter())
        for offer in self._parked.offered(now):
            if any(offer.capability in kind.capabilities for kind in kinds):
                used[offer.tenant] += offer.slots
        asked = self._turns.waiting(None, now) if waiting is None else waiting
        return self._turns.parts(sum(kind.slots for kind in kinds), used, asked)

    def _not_its_turn(self, tenant: str, part: Part) -> Refusal:
        uses, share = f"{tenant} uses {part.used} slots", self._turns.share(tenant)
        if part.used >= share.limit:
            text = f"{uses} and may use {share.limit:g} at most"
            return Refusal("cluster.limit", text, self._cluster, "raise what it borrows, or wait for what it runs")
        if part.kept and (part.used < part.whole or not self._turns.waiting(None, self._now).keys() - {tenant}):
            text = f"{uses}, and what is free is kept by tenants that do not lend it"
            return Refusal("cluster.kept", text, self._cluster, "have them lend more, or give it a guarantee")
        text = f"{uses} and is entitled to {part.entitled:.3g} while other tenants wait"
        return Refusal("cluster.not_its_turn", text, self._cluster, "it is asked again")

    def _take_back_guarantee(self, group: AskGroup, able: list[NodeKind], free: int, now: float) -> list[StopStep]:
        """Where a tenant asks for what it is guaranteed and others have borrowed, their youngest steps are stopped."""
        tenant, guarantee = group.tenant, self._turns.share(group.tenant).guarantee
        if not guarantee:
            return []
        parts = self._parts(able, now)
        used = parts[tenant].used
        for_it = sum(whom == tenant for whom in self._stopping.values())
        wanted = min(guarantee - used, group.count) - free - for_it
        if wanted <= 0:
            return []
        while self._stopped and self._stopped[0][0] <= now - BUDGET_S:
            self._stopped.popleft()
        spent = Counter(whose for _, whose in self._stopped)
        spare = {
            name: min(part.used - max(part.whole, self._turns.share(name).guarantee), BUDGET - spent[name])
            for name, part in parts.items()
            if name != tenant
        }
        why = f"{tenant} asks for what it is guaranteed: {used} of {guarantee} slots are its"
        stops = self._stop(tenant, wanted, spare, {id(kind) for kind in able}, MIN_RUN_S, why, now)
        self._stopped += [(now, self._held[stop.lease.id].tenant) for stop in stops]
        return stops

    def _enforce_limits(self, now: float) -> list[StopStep]:
        """What a tenant uses beyond its limit, since that was lowered, is taken back."""
        used: Counter[str] = sum(self._used.values(), Counter())
        out: list[StopStep] = []
        for name in list(used) if self._turns.keeps else ():
            over = used[name] - self._turns.share(name).limit
            if over > 0:
                why = f"{name} may use {self._turns.share(name).limit:g} slots now, and used {used[name]}"
                out += self._stop("", int(over), {name: int(over)}, None, 0.0, why, now)
        return out

    def _stop(
        self,
        whom: str,
        count: int,
        spare: Mapping[str, int],
        kinds: set[int] | None,
        min_run_s: float,
        why: str,
        now: float,
    ) -> list[StopStep]:
        """Stop up to `count` steps for the tenant `whom`: the youngest of who has most to spare by weight, each time anew.
        `spare`: how many steps each may lose, with those that are being stopped already."""
        ending = Counter(self._held[name].tenant for name in self._stopping)
        left = {name: some - ending[name] for name, some in spare.items() if some > ending[name]}
        if not left:
            return []
        of: dict[str, list[_Held]] = {name: [] for name in left}
        # In the order in which they were granted.
        for name, held in self._held.items():
            node = self._nodes[held.lease.node]
            fits = kinds is None or id(self._index.kind(node.capabilities)) in kinds
            if held.tenant in of and fits and held.preemptible and now - held.since >= min_run_s:
                if name not in self._stopping and name not in node.waiting:
                    of[held.tenant].append(held)
        out: list[StopStep] = []
        while len(out) < count:
            most = max(
                (n for n in of if of[n] and left[n] > 0), key=lambda n: left[n] / self._turns.weight(n), default=""
            )
            if not most:
                break
            lease = of[most].pop().lease
            left[most] -= 1
            self._stopping[lease.id] = whom
            out.append(StopStep(lease, why))
        return out

    # Awards and leases ------------------------------------------------------------------------------------------

    def _award(self, award: Award, now: float) -> list[Instruction]:
        leases, rejected, granted = [], [], []
        out: list[Instruction] = []
        promised = self._parked.awarded(award.run, now)
        for request in award.requests:
            known = self._held.get(self._by_start.get((request.run, request.step, request.copy), ""))
            if known is not None and known.lease.fence == request.fence:
                leases.append(known.lease)
                continue
            if request.fence <= self._fences.get((request.run, request.step, request.copy), 0):
                text = "a lease of this fence or a newer one was granted before"
                rejected.append(self._reject(request, "cluster.stale_fence", text))
                continue
            if known is not None:
                out += self._end(known.lease.id, f"superseded by fence {request.fence}")
            name, refusal = self._pick(request, now, promised[request.capability] > 0)
            if name is None:
                assert refusal is not None
                rejected.append(RejectedRequest(request.step, request.fence, refusal))
                continue
            promised[request.capability] -= 1
            lease = self._grant(request, name, now)
            leases.append(lease)
            granted.append(lease)
        return [*out, Reply(Awarded(self._cluster, tuple(leases), tuple(rejected)), tuple(granted))]

    def _pick(self, request: LeaseRequest, now: float, promised: bool) -> tuple[str | None, Refusal | None]:
        """Warm nodes first, then the emptiest; a node that failed this step only when there is no other in the cluster."""
        able = self._index.able(request.capability)
        if not able:
            return None, Refusal("cluster.not_offered", f"no node here offers {request.capability}", self._cluster)
        # Where nodes have left, more may be promised than there is: who comes first has it.
        room = sum(kind.room for kind in able) if promised else self._room(request.run, able, now)
        if not room:
            return None, self._full(able)
        part = self._part(request.tenant, request.capability, able, now)
        if part is not None and not promised and not part.more(room):
            return None, self._not_its_turn(request.tenant, part)
        avoid = frozenset(request.avoid)
        if avoid and all(name in avoid for kind in able for name in kind.nodes):
            avoid = frozenset()
        name = self._index.emptiest(able, request.capability, avoid, lambda node: self._nodes[node].load)
        return (name, None) if name is not None else (None, self._full(able, avoid))

    def _full(self, able: list[NodeKind], avoid: frozenset[str] = frozenset()) -> Refusal:
        nodes = [counted for kind in able for name, counted in kind.nodes.items() if name not in avoid]
        if any(counted.room > 0 for counted in nodes):
            text = "what is free was offered to others a moment ago"
            return Refusal("cluster.full", text, self._cluster, "it is asked again")
        if any(counted.free > 0 for counted in nodes):
            text = f"what is free of {len(nodes)} nodes has no memory left"
            return Refusal("cluster.no_memory", text, self._cluster, "it is asked again")
        return Refusal("cluster.full", f"all {len(nodes)} nodes are busy", self._cluster, "it is asked again")

    def _recount(self, name: str) -> None:
        node = self._nodes[name]
        self._index.kind(node.capabilities).count(name, self._counted(node))

    def _counted(self, node: _Node) -> Counted:
        return Counted(node.free if node.memory < self._max_memory else 0, node.free, node.slots, node.warm)

    def _grant(self, request: LeaseRequest, node: str, now: float) -> Lease:
        self._count += 1
        lease = Lease(
            id=f"{self._cluster}/{self._epoch}/{self._count}",
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
        )
        self._held[lease.id] = _Held(lease, now + self._ttl_s, request.tenant, now, request.preemptible)
        self._by_start[lease.run, lease.step, lease.copy] = lease.id
        self._remember(lease)
        heapq.heappush(self._ends, (now + self._ttl_s, lease.id))
        self._nodes[node].used.add(lease.id)
        self._recount(node)
        self._count_used(node, request.tenant, 1)
        self._turns.got(lease.run, request.tenant, lease.capability)
        return lease

    def _count_used(self, node: str, tenant: str, by: int) -> None:
        used = self._used.setdefault(id(self._index.kind(self._nodes[node].capabilities)), Counter())
        used[tenant] += by
        if not used[tenant]:
            del used[tenant]

    def _remember(self, lease: Lease) -> None:
        """The newest fence of a step outlives its lease, or an award that was under way could bring an older one back."""
        self._fences.pop((lease.run, lease.step, lease.copy), None)
        self._fences[lease.run, lease.step, lease.copy] = lease.fence
        if len(self._fences) > MAX_FENCES:
            del self._fences[next(iter(self._fences))]

    def _reject(self, request: LeaseRequest, code: str, text: str) -> RejectedRequest:
        return RejectedRequest(request.step, request.fence, Refusal(code, text, self._cluster))

    def _renew(self, request: RenewRequest, now: float) -> Renewed:
        # One whose step is being stopped runs out, should its run not release it.
        held = [
            name
            for name in request.leases
            if name in self._held and self._held[name].lease.run == request.run and name not in self._stopping
        ]
        for name in held:
            self._held[name].until = now + self._ttl_s
            heapq.heappush(self._ends, (now + self._ttl_s, name))
            self._waits(self._held[name], name in request.waiting)
        return Renewed(tuple(held), tuple(name for name in request.leases if name not in set(held)))

    def _waits(self, held: _Held, waits: bool) -> None:
        """Its slot is somebody else's while it waits. When it goes on, its node may run more than its slots for a while."""
        name, where = held.lease.id, held.lease.node
        node = self._nodes[where]
        if waits == (name in node.waiting) or (waits and len(node.waiting) >= MAX_WAITING * node.slots):
            return
        if waits:
            node.waiting.add(name)
        else:
            node.waiting.discard(name)
        self._count_used(where, held.tenant, -1 if waits else 1)
        self._recount(where)

    def _release(self, request: ReleaseRequest) -> list[Instruction]:
        out: list[Instruction] = []
        for name in request.leases:
            held = self._held.get(name)
            if held is not None and held.lease.run == request.run:
                out += self._end(name, "released")
        return out

    def _expire(self, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        while self._ends and self._ends[0][0] <= now:
            _, name = heapq.heappop(self._ends)
            if name in self._held and self._held[name].until <= now:
                out += self._end(name, "expired")
        return out

    def _drop_node(self, node: str, why: str) -> list[Instruction]:
        known = self._nodes.get(node)
        out: list[Instruction] = []
        for name in list(known.used) if known else []:
            out += self._end(name, why)
        if known:
            self._index.kind(known.capabilities).drop(node)
            del self._nodes[node]
        return out

    def _end(self, name: str, why: str) -> Iterable[Instruction]:
        held = self._held.pop(name)
        self._stopping.pop(name, None)
        lease = held.lease
        self._by_start.pop((lease.run, lease.step, lease.copy), None)
        if lease.node in self._nodes:
            node = self._nodes[lease.node]
            if name not in node.waiting:
                self._count_used(lease.node, held.tenant, -1)
            node.used.discard(name)
            node.waiting.discard(name)
            self._recount(lease.node)
        return [LeaseEnded(lease, why)]
