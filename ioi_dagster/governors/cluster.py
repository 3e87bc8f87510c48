"""The cluster governor: the only authority over one cluster's capacity. Bids, re-validates awards, holds leases."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.governors.node_index import Counted, NodeIndex, NodeKind
from ioi_dagster.governors.turns import Part, Turns, Wanted
from ioi_dagster.model.negotiation import (
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
    SupplyPoint,
    VerifyRequest,
)
from ioi_dagster.model.refusal import Refusal

LEASE_TTL_S = 30.0
CONGESTION = 0.5
"""Price rises by this part of the base price as the cluster fills."""
MAX_FENCES = 100_000
MAX_WAITING = 32
"""Leases for a slot at most whose steps wait for others: each keeps memory at its node."""
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
    """From the node's heartbeat: what is warm there, how full its memory is (0..1), and how its blocks do, for people."""

    node: str
    warm: frozenset[str]
    memory: float = 0.0
    blocks: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    pass


Event = (
    NodeJoined
    | NodeResized
    | NodeLeft
    | NodeReported
    | Announce
    | Award
    | RenewRequest
    | VerifyRequest
    | ReleaseRequest
    | Tick
)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer owed to whoever sent the event. `granted` must be journalled before it is sent."""

    answer: Bid | Awarded | Renewed
    granted: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    lease: Lease
    why: str


Instruction = Reply | LeaseEnded


@dataclass(slots=True)
class _Node:
    slots: int
    capabilities: frozenset[str]
    warm: frozenset[str] = frozenset()
    memory: float = 0.0
    blocks: tuple[dict[str, Any], ...] = ()
    used: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    """Those of `used` whose steps wait for others, which run in their place."""

    @property
    def busy(self) -> int:
        return len(self.used) - len(self.waiting)

    @property
    def free(self) -> int:
        return max(0, self.slots - self.busy)

    @property
    def load(self) -> float:
        """By its own measure: one that may be given much ahead is not emptier for that."""
        return self.busy / self.slots if self.slots else 1.0


@dataclass(slots=True)
class _Held:
    lease: Lease
    until: float
    tenant: str


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    cluster: str
    domain: str
    epoch: int
    nodes: dict[str, dict[str, Any]]
    leases: tuple[dict[str, Any], ...]
    tenants: dict[str, dict[str, Any]]
    """Of those that use or ask for slots: weight, slots used, asked for besides, and entitled to now."""


class ClusterGovernor:
    """See the module. `price` is the base cost of a slot; `max_memory` the fullness above which a node gets nothing new;
    `weights` are the tenants' in their shares of the slots, 1 where none is given."""

    def __init__(
        self,
        domain: str,
        cluster: str,
        epoch: int,
        price: float,
        *,
        ttl_s: float = LEASE_TTL_S,
        max_memory: float = 0.9,
        weights: Mapping[str, float] | None = None,
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
        self._turns = Turns(weights or {})
        self._used: dict[int, Counter[str]] = {}
        """By kind of node, how many slots each tenant uses."""
        self._now = 0.0
        self._count = 0

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds)."""
        self._now = now
        ended = self._expire(now)
        match event:
            case NodeJoined(node, slots, capabilities):
                gone = self._drop_node(node, "its node was replaced")
                self._nodes[node] = _Node(slots, capabilities)
                self._recount(node)
                return [*ended, *gone]
            case NodeResized(node, slots):
                if node in self._nodes:
                    self._nodes[node].slots = slots
                    self._recount(node)
                return ended
            case NodeLeft(node):
                return [*ended, *self._drop_node(node, "its node left")]
            case NodeReported(node, warm, memory, blocks):
                if node in self._nodes:
                    known = self._nodes[node]
                    known.warm, known.memory, known.blocks = warm, memory, blocks
                    self._recount(node)
                return ended
            case Announce():
                return [*ended, Reply(self._bid(event, now))]
            case Award():
                return [*ended, *self._award(event, now)]
            case RenewRequest():
                return [*ended, Reply(self._renew(event, now))]
            case VerifyRequest(lease):
                held = self._held.get(lease.id)
                same = held is not None and held.lease == lease
                return [*ended, Reply(Renewed((lease.id,) if same else (), () if same else (lease.id,)))]
            case ReleaseRequest():
                return [*ended, *self._release(event)]
            case Tick():
                return ended

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
            {
                name: {
                    "weight": self._turns.weight(name),
                    "used": part.used,
                    "waiting": part.waiting,
                    "entitled": round(part.entitled, 2),
                }
                for name, part in sorted(self._parts(None, self._now).items())
            },
        )

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
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

    # Bids -------------------------------------------------------------------------------------------------------

    def _bid(self, announce: Announce, now: float) -> Bid:
        points, refusals = [], []
        asked = [Wanted(group.tenant, group.capability, group.count) for group in announce.groups]
        self._turns.asks(announce.run, asked, now)
        for group in announce.groups:
            able = self._index.able(group.capability)
            if not able:
                refusals.append(
                    Refusal("cluster.not_offered", f"no node here offers {group.capability}", self._cluster)
                )
                continue
            slots = sum(kind.room for kind in able)
            warm = sum(kind.warm[group.capability] for kind in able)
            if slots == 0:
                refusals.append(self._full(able))
                continue
            part = self._part(group.tenant, group.capability, able, now)
            if part is not None and part.more < slots:
                slots = part.more
            if part is not None and not slots:
                refusals.append(self._not_its_turn(group.tenant, part))
                continue
            points.append(
                SupplyPoint(
                    group.capability, group.data_class, min(slots, group.count), self._price_now(warm > 0), warm
                )
            )
        return Bid(
            self._cluster, self._domain, announce.run, announce.round, self._epoch, tuple(points), tuple(refusals)
        )

    def _price_now(self, warm: bool) -> float:
        busy = len(self._held) / (self._index.slots or 1)
        return self._price * (1 + CONGESTION * busy) + (0.0 if warm else COLD_START)

    def _part(self, tenant: str, capability: str, able: list[NodeKind], now: float) -> Part | None:
        """Its part of the slots that could take `capability`; None where nobody else asks for any of them."""
        if self._turns.alone(tenant):
            return None
        offered = {one for kind in able for one in self._turns.capabilities(now) if one in kind.capabilities}
        waiting = self._turns.waiting(offered, now)
        if not waiting.keys() - {tenant}:
            return None
        return self._parts(able, now, waiting).get(tenant, Part(0, 0, 0.0, 0))

    def _parts(
        self, able: list[NodeKind] | None, now: float, waiting: Mapping[str, int] | None = None
    ) -> dict[str, Part]:
        kinds = self._index.kinds() if able is None else able
        used: Counter[str] = sum((self._used.get(id(kind), Counter()) for kind in kinds), Counter())
        asked = self._turns.waiting(None, now) if waiting is None else waiting
        return self._turns.parts(sum(kind.slots for kind in kinds), used, asked)

    def _not_its_turn(self, tenant: str, part: Part) -> Refusal:
        text = f"{tenant} uses {part.used} slots and is entitled to {part.entitled:.3g} while other tenants wait"
        return Refusal("cluster.not_its_turn", text, self._cluster, "it is asked again")

    # Awards and leases ------------------------------------------------------------------------------------------

    def _award(self, award: Award, now: float) -> list[Instruction]:
        leases, rejected, granted = [], [], []
        out: list[Instruction] = []
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
            name, refusal = self._pick(request, now)
            if name is None:
                assert refusal is not None
                rejected.append(RejectedRequest(request.step, request.fence, refusal))
                continue
            lease = self._grant(request, name, now)
            leases.append(lease)
            granted.append(lease)
        return [*out, Reply(Awarded(self._cluster, tuple(leases), tuple(rejected)), tuple(granted))]

    def _pick(self, request: LeaseRequest, now: float) -> tuple[str | None, Refusal | None]:
        """Warm nodes first, then the emptiest; a node that failed this step only when there is no other in the cluster."""
        able = self._index.able(request.capability)
        if not able:
            return None, Refusal("cluster.not_offered", f"no node here offers {request.capability}", self._cluster)
        part = self._part(request.tenant, request.capability, able, now)
        if part is not None and not part.more:
            return None, self._not_its_turn(request.tenant, part)
        avoid = frozenset(request.avoid)
        if avoid and all(name in avoid for kind in able for name in kind.nodes):
            avoid = frozenset()
        name = self._index.emptiest(able, request.capability, avoid, lambda node: self._nodes[node].load)
        return (name, None) if name is not None else (None, self._full(able, avoid))

    def _full(self, able: list[NodeKind], avoid: frozenset[str] = frozenset()) -> Refusal:
        nodes = [counted for kind in able for name, counted in kind.nodes.items() if name not in avoid]
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
        self._held[lease.id] = _Held(lease, now + self._ttl_s, request.tenant)
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
        held = [name for name in request.leases if name in self._held and self._held[name].lease.run == request.run]
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
