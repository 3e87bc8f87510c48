"""Fair arbitration: whose request gets which node next.

    unit      at every level the child with the least (beyond its part?, share of what it is entitled to, effective arrival)
    node      the one that is left most useful; of many, the best of a few
    turn      while somebody who is below what it is entitled to fits nowhere, nobody beyond its own starts anything
    hold      whoever is well below and fits nowhere has a node emptied for it (a gang: as many as it needs)
    eviction  (`eviction.py`) gives a tenant its guarantee back from those that borrow

Time is passed in (s, of one monotonic clock); the only randomness is which nodes are sampled, from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from heapq import heappop, heappush

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.fairness import eviction, reasons
from ioi_dagster.governors.fairness.books import LEAST, Books
from ioi_dagster.governors.fairness.machines import EPSILON, Machines, Shape
from ioi_dagster.governors.fairness.tree import Entry, Leaf, Unit
from ioi_dagster.governors.fairness.values import Evict, Request, Rules, Snapshot
from ioi_dagster.model.quota import ANY, Amounts, CohortQuota, QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal

HOLD_BELOW = 0.85
"""Of what it is entitled to: a queue that has more waits for its turn, and no node is emptied for it. Emptied nodes stand idle
meanwhile, so there is one a queue: more of them cost more room than they bring those who wait."""
BEYOND = (2, 1.0)
"""What is above it in the order of turns has more than it is entitled to."""
ORPHANS = "(no quota)"
PASSES = 2
"""Of a round: what is no longer held after the first is offered in a second."""


class Arbiter:
    """`capacity`: what each node has, by resource. `shares`: weights of tenants, or the whole tree of quotas.

    Raises `BadInputError` for a tree that `capacity` cannot keep."""

    def __init__(
        self, capacity: Mapping[str, Amounts], shares: Mapping[str, float] | QuotaTree, rules: Rules = Rules()
    ) -> None:
        self.rules = rules
        names = {resource for amounts in capacity.values() for resource in amounts}
        self._machines = Machines(names, rules.seed, rules.exact, rules.choices)
        for node, amounts in capacity.items():
            self._machines.resize(node, _checked(node, amounts))
        tree = shares if isinstance(shares, QuotaTree) else QuotaTree.of_weights(shares)
        self._books = Books(self._machines, tree)
        self._evictions = eviction.Ledger()
        self._sequence = 0
        self._freed: dict[int, None] = {}
        self._shapes: dict[Shape, None] = {}
        """Those that some queue has first."""
        self._open: dict[Shape, None] = {}
        """Of these, those that may fit somewhere."""
        self._claims: dict[Leaf, None] = {}
        """Queues that may have a right to hold nodes, or hold too many."""
        self._at_limit: Leaf | None = None
        self._closed: Unit | None = None
        self._short = False
        """In this round somebody who is below what it is entitled to fits nowhere."""
        self._gang: Leaf | None = None
        """Whose gang holds nodes. One at a time, or each might hold what the other needs."""

    # Events -----------------------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> Refusal | None:
        """It waits from now on, or is refused since nothing could ever satisfy it. The same one twice is one.

        Raises `BadInputError` for an id that is in use for another request, and for amounts that are no amounts."""
        known = self._books.entries.get(request.id)
        if known is not None:
            if known.request != request:
                raise BadInputError(
                    f"request {request.id!r} is known with other contents", todo="give it an id of its own"
                )
            return None
        if request.copies < 1:
            raise BadInputError(f"request {request.id!r} is for {request.copies} copies", todo="ask for one or more")
        for resource, amount in request.amounts.items():
            if not (amount >= 0 and math.isfinite(amount)):
                raise BadInputError(f"request {request.id!r} asks for {amount:g} {resource}", todo="ask for 0 or more")
        leaf = self._books.leaf(request.tenant, request.block_class)
        if leaf is None:
            return reasons.unknown_tenant(request, self._books)
        unknown = [name for name, amount in request.amounts.items() if amount and name not in self._machines.number]
        if unknown:
            return reasons.not_offered(unknown, self._books)
        nodes = None if request.nodes is None else frozenset(request.nodes)
        shape = self._machines.shape(request.amounts, request.copies, nodes)
        refusal = reasons.never(request, leaf, shape, self._books)
        if refusal is not None:
            return refusal
        self._wait(Entry(request, request.arrived - self.rules.aging_s * request.priority, leaf, shape))
        return None

    def on_finished(self, request_id: str) -> None:
        """It runs no longer, however that came. An id that is not known is no error."""
        entry = self._books.entries.get(request_id)
        if entry is None:
            return
        if entry.machines is None:
            self.on_cancel(request_id)
            return
        del self._books.entries[request_id]
        leaf, need = entry.leaf, entry.shape.need
        del leaf.running[request_id]
        for machine in entry.machines:
            free = self._machines.free[machine]
            for number, amount in need:
                free[number] += amount
            self._freed[machine] = None
        self._books.book(leaf, entry.shape.total, -1)
        self._books.changes += 1
        self._evictions.ended(request_id)
        leaf.note()
        self._claims[leaf] = None

    def on_cancel(self, request_id: str) -> None:
        """It is wanted no longer: out of its queue, or, when it runs, as if it had finished."""
        entry = self._books.entries.get(request_id)
        if entry is None:
            return
        if entry.machines is not None:
            self.on_finished(request_id)
            return
        del self._books.entries[request_id]
        self._leave_queue(entry)

    def on_node(self, node: str, amounts: Amounts) -> None:
        """A node joins, or has other amounts from now on. What runs there stays, even when it is more.

        Raises `BadInputError` when it has a resource that the cluster did not have; the tree must name it first."""
        unknown = [name for name in _checked(node, amounts) if name not in self._machines.number]
        if unknown:
            raise BadInputError(
                f"no node had {', '.join(sorted(unknown))} so far", todo="name it with 0 on some node at the beginning"
            )
        machine = self._machines.resize(node, amounts)
        self._resized(machine)

    def on_node_left(self, node: str) -> tuple[str, ...]:
        """The node is gone; the requests that ran there, which run nowhere now and are forgotten."""
        machine = self._machines.index.get(node)
        if machine is None:
            return ()
        lost = [
            identity
            for leaf in self._books.leaves.values()
            for identity, entry in leaf.running.items()
            if entry.machines and machine in entry.machines
        ]
        for identity in lost:
            self.on_finished(identity)
        self._machines.resize(node, {})
        self._resized(machine)
        return tuple(lost)

    def on_quota(self, tree: QuotaTree) -> tuple[tuple[str, Refusal], ...]:
        """Other quotas from now on. What waits keeps its place and what runs goes on; `evict` says what is over.

        Returns the requests that wait no longer, since the new tree could never satisfy them. A tenant of running requests
        that the tree no longer names stays, without weight of its own to speak of, until those have ended. Raises
        `BadInputError` for a tree that cannot be kept; then nothing has changed."""
        tree.check(dict(zip(self._machines.resources, self._machines.total, strict=True)))
        entries = list(self._books.entries.values())
        kept = _with_orphans(tree, {e.request.tenant for e in entries if e.machines is not None})
        self._books.plant(kept)
        self._machines.held.clear()
        for shape in self._shapes:
            shape.heads = 0
        self._shapes.clear()
        self._open.clear()
        self._claims.clear()
        self._gang = None
        self._books.entries.clear()
        refused = []
        running = [entry for entry in entries if entry.machines is not None]
        for entry in sorted(running, key=lambda entry: entry.started):
            leaf = self._books.leaf(entry.request.tenant, entry.request.block_class)
            assert leaf is not None
            entry.leaf = leaf
            self._books.entries[entry.request.id] = entry
            leaf.running[entry.request.id] = entry
            self._books.book(leaf, entry.shape.total, 1)
        for entry in entries:
            if entry.machines is None:
                refusal = self.on_request(entry.request)
                if refusal is not None:
                    refused.append((entry.request.id, refusal))
        self._evictions.replanted(self._books.entries)
        return tuple(refused)

    # Decisions --------------------------------------------------------------------------------------------------

    def arbitrate(self, now: float) -> list[tuple[str, str]]:
        """What starts now and where, in order; a gang has one pair for each copy."""
        if self._books.refresh():
            self._rekey()
        granted: list[tuple[str, str]] = []
        for _ in range(PASSES):
            self._open_freed(now, granted)
            self._short = False
            aside: list[Unit] = []
            while self._open and self._step(self._books.root, now, granted, aside):
                pass
            for unit in aside:
                unit.note()
            self._claim()
            if not self._freed:
                break
        return granted

    def evict(self, now: float) -> list[Evict]:
        """Who must stop, so that quotas are kept: those over a limit that was lowered, and those that borrow what a tenant
        needs that is within its guarantee. Ask after `arbitrate`; each is told once."""
        found = eviction.choose(self._books, self._evictions, self.rules, now)
        for leaf, machines in self._evictions.take_holds():
            for machine in machines:
                self._hold(leaf, machine)
        return found

    def explain(self, request_id: str, now: float) -> Refusal | None:
        """Why it waits; None when it runs or is not known."""
        entry = self._books.entries.get(request_id)
        if entry is None or entry.machines is not None:
            return None
        return reasons.waits(entry, self._books, self._evictions, now)

    def snapshot(self, now: float) -> Snapshot:
        return reasons.snapshot(self._books, now)

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        self._books.validate()
        heads: dict[int, int] = {}
        for leaf in self._books.leaves.values():
            if leaf.head is not None:
                heads[id(leaf.head.shape)] = heads.get(id(leaf.head.shape), 0) + 1
        assert heads == {id(shape): shape.heads for shape in self._shapes}
        assert set(self._open) <= set(self._shapes)
        for shape in self._shapes:
            assert (shape in self._open) == (not shape.full or bool(shape.open))

    # Queues -----------------------------------------------------------------------------------------------------

    def _wait(self, entry: Entry) -> None:
        leaf = entry.leaf
        self._books.entries[entry.request.id] = entry
        self._books.changes += 1
        self._sequence += 1
        heappush(leaf.queue, (entry.key, self._sequence, entry))
        if not leaf.waiting:
            for unit in leaf.path():  # who had nothing to ask for was entitled to nothing yet
                unit.entitled = max(unit.entitled, unit.part)
        leaf.waiting += 1
        for number, amount in entry.shape.total:
            leaf.waiting_amounts[number] += amount
        if leaf.queue[0][2] is entry:
            self._set_head(leaf)

    def _leave_queue(self, entry: Entry) -> None:
        leaf = entry.leaf
        leaf.waiting -= 1
        for number, amount in entry.shape.total:
            leaf.waiting_amounts[number] -= amount
        self._books.changes += 1
        if leaf.head is entry:
            self._set_head(leaf)
        elif len(leaf.queue) > 2 * leaf.waiting + 64:
            leaf.queue = [item for item in leaf.queue if self._books.is_waiting(item[2])]
            leaf.queue.sort()

    def _set_head(self, leaf: Leaf) -> None:
        old = leaf.head
        queue, waiting = leaf.queue, self._books.is_waiting
        while queue and not waiting(queue[0][2]):
            heappop(queue)
        new = leaf.head = queue[0][2] if queue else None
        leaf.note()
        shape = new.shape if new is not None else None
        self._claims[leaf] = None
        if old is not None and old.shape is shape:
            return
        if old is not None:
            old.shape.heads -= 1
            if not old.shape.heads:
                del self._shapes[old.shape]
                self._open.pop(old.shape, None)
        if shape is not None:
            if not shape.heads:
                shape.full = False
                shape.open.clear()
                self._shapes[shape] = self._open[shape] = None
            shape.heads += 1
        if leaf.holds:
            self._release(leaf)  # they were chosen for another demand

    # Rounds -----------------------------------------------------------------------------------------------------

    def _open_freed(self, now: float, granted: list[tuple[str, str]]) -> None:
        """Offer the nodes freed since to whoever holds them, and then to the shapes that fit there."""
        machines = self._machines
        while self._freed:
            freed, self._freed = self._freed, {}
            for machine in freed:
                leaf = machines.held.get(machine)
                while isinstance(leaf, Leaf) and leaf.holds and self._place_held(leaf, now, granted):
                    leaf = machines.held.get(machine)
            for shape in self._shapes:
                if shape.full:
                    for machine in freed:
                        if (
                            machines.fits(shape.need, machine)
                            and machine not in machines.held
                            and machines.allows(shape.pool, machine)
                        ):
                            shape.open[machine] = None
                    if shape.open:
                        self._open[shape] = None

    def _place_held(self, leaf: Leaf, now: float, granted: list[tuple[str, str]]) -> bool:
        entry = leaf.head
        if entry is None or self._books.limiter(leaf, entry.shape.total) is not None:
            return False
        found = self._machines.find_held(entry.shape, leaf.holds)
        if found is None:
            return False
        self._start(entry, found, now, granted)
        return True

    def _step(self, unit: Unit, now: float, granted: list[tuple[str, str]], aside: list[Unit]) -> bool:
        """Start one request below `unit`. Children for whom there is nothing are set aside for the round."""
        while self._open:
            child = unit.next()
            if child is None or (self._short and unit.heap[0][:2] > BEYOND):
                # All others are beyond what they are entitled to as well.
                return False
            if isinstance(child, Leaf):
                if self._place(child, now, granted):
                    return True
            elif self._step(child, now, granted, aside):
                return True
            heappop(unit.heap)
            child.version += 1
            if child is not self._at_limit:
                aside.append(child)
            if self._closed is not None:
                if self._closed is unit:
                    self._closed = None
                return False
        return False

    def _place(self, leaf: Leaf, now: float, granted: list[tuple[str, str]]) -> bool:
        entry = leaf.head
        assert entry is not None
        self._at_limit = None
        shape = entry.shape
        found = None
        below = leaf.share + shape.size / 2 <= leaf.entitled
        if self._short and not below:
            return False
        if shape.full and not shape.open:
            # What it may hold was seen to when it last changed.
            self._short = self._short or (below and self._could_start(leaf, shape))
            return False
        limiter = self._books.limiter(leaf, shape.total) if self._books.limits else None
        if limiter is not None and limiter[0] is not self._books.root:
            self._release(leaf)
            if limiter[0] is leaf:
                self._at_limit = leaf  # until something of its own ends
            elif self._wanted(leaf, shape):
                self._closed = limiter[0]  # or those beside it would use up what it waits for
            return False
        if limiter is None:
            found = self._machines.find(shape)
            if found is None:
                self._open.pop(shape, None)
        if found is None:
            self._short = self._short or (below and self._could_start(leaf, shape))
            self._claims[leaf] = None
            self._reserve(leaf)
            return False
        self._start(entry, found, now, granted)
        return True

    def _could_start(self, leaf: Leaf, shape: Shape) -> bool:
        """Only room is what it lacks."""
        limiter = self._books.limiter(leaf, shape.total)
        free_to = limiter is None or limiter[0] is self._books.root
        return free_to and self._machines.could_hold(shape) == shape.copies

    def _start(self, entry: Entry, found: list[int], now: float, granted: list[tuple[str, str]]) -> None:
        leaf, shape = entry.leaf, entry.shape
        entry.machines, entry.started = found, now
        for machine in found:
            free = self._machines.free[machine]
            for number, amount in shape.need:
                free[number] -= amount
            granted.append((entry.request.id, self._machines.names[machine]))
        leaf.running[entry.request.id] = entry
        self._books.book(leaf, shape.total, 1)
        self._leave_queue(entry)
        if self._gang is leaf:
            self._release(leaf)

    def _rekey(self) -> None:
        for unit in self._books.units():
            if unit.parent is not None and (not isinstance(unit, Leaf) or unit.head is not None):
                unit.note()
        for leaf in self._books.leaves.values():
            if leaf.head is not None:
                self._claims[leaf] = None

    def _resized(self, machine: int) -> None:
        self._books.resized()
        holder = self._machines.held.get(machine)
        if isinstance(holder, Leaf):
            del self._machines.held[machine], holder.holds[machine]
        self._freed[machine] = None
        for shape in self._shapes:  # shares are of another whole
            shape.size = max((amount * self._machines.inverse[number] for number, amount in shape.total), default=0.0)

    # Holds ------------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        claims = [leaf for leaf in self._claims if leaf.head is not None]
        self._claims.clear()
        for leaf in sorted(claims, key=_urgency):
            self._reserve(leaf)

    def _reserve(self, leaf: Leaf) -> None:
        """Hold as many nodes as it lacks of what it is entitled to, where it lacks least; give back what is more."""
        entry = leaf.head
        if entry is None:
            return
        shape = entry.shape
        if leaf in self._evictions.awaited:
            return
        limiter = self._books.limiter(leaf, shape.total)
        free_to = limiter is None or limiter[0] is self._books.root
        wanted = self._wanted(leaf, shape) if shape.full and free_to else 0
        gang = shape.copies > 1
        if gang and wanted:
            if self._gang not in (None, leaf):
                return
            self._gang = leaf
        if wanted > len(leaf.holds):
            for machine in self._machines.nearest(shape, wanted - len(leaf.holds), gang):
                self._hold(leaf, machine)
        elif not wanted:
            self._release(leaf)
        for machine in list(leaf.holds)[wanted:]:
            self._unhold(leaf, machine)

    def _wanted(self, leaf: Leaf, shape: Shape) -> int:
        if leaf.share + shape.size / 2 > HOLD_BELOW * leaf.entitled and leaf.share > EPSILON:
            return 0
        return shape.copies

    def _hold(self, leaf: Leaf, machine: int) -> None:
        holder = self._machines.held.get(machine)
        if isinstance(holder, Leaf):
            del holder.holds[machine]
        self._machines.held[machine] = leaf
        leaf.holds[machine] = None

    def _unhold(self, leaf: Leaf, machine: int) -> None:
        del self._machines.held[machine], leaf.holds[machine]
        self._freed[machine] = None

    def _release(self, leaf: Leaf) -> None:
        for machine in list(leaf.holds):
            self._unhold(leaf, machine)
        if self._gang is leaf:
            self._gang = None


def _urgency(leaf: Leaf) -> tuple[int, float, float, str, str]:
    head = leaf.head
    assert head is not None
    return (*leaf.key(head)[:3], leaf.tenant, leaf.name)


def _checked(node: str, amounts: Amounts) -> Amounts:
    for resource, amount in amounts.items():
        if not (amount >= 0 and math.isfinite(amount)):
            raise BadInputError(f"node {node!r} has {amount:g} {resource}", todo="give what it has, 0 or more")
    return amounts


def _with_orphans(tree: QuotaTree, tenants: set[str]) -> QuotaTree:
    """Whoever still runs something has a place: those that `tree` does not name are in a cohort of next to no weight."""
    named = {tenant.name for _, tenant in tree.tenants()}
    orphans = sorted(tenants - named) if ANY not in named else []
    if not orphans:
        return tree
    weight = LEAST * min(cohort.weight for cohort in tree.cohorts) if tree.cohorts else 1.0
    return QuotaTree((*tree.cohorts, CohortQuota(ORPHANS, tuple(map(TenantQuota, orphans)), weight)))
