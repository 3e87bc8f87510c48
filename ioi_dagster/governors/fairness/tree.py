"""The tree of quotas at work: usage and limits of every unit, and a tournament at each for who of its children is next.

A tournament is a heap whose entries are not corrected but outdated: a child whose key changed is noted, keyed anew when its
parent is next asked, and its older entries are dropped as they surface. Each change costs O(depth · log children).

Queues whose first fits nowhere stand on shelves, one a shape, and of a shelf only the first stands in the heap. As soon as it is
known that room is short, it is passed over with all that are behind it: under scarcity most queues are such, and to look at each
of them in every round cost more than all else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from ioi_dagster.governors.fairness.machines import EPSILON, Need, Shape
from ioi_dagster.governors.fairness.pools import Pool
from ioi_dagster.governors.fairness.values import Request

Key = tuple[int, float, float, int, int, "Unit | Shelf"]
"""Borrowing?, share of what it is entitled to after (half of) its head, effective arrival, order, version, who."""
SHELVED = 16
"""A unit with fewer children has no shelves: they would be many, with little on each."""


class Tour:
    """What a pass of a round has found: somebody who is below what it is entitled to fits nowhere in the pools `short`, in
    `all_short` when there is no other room; and the shelves that are passed over since."""

    __slots__ = ("all_short", "passed", "short")

    def __init__(self) -> None:
        self.all_short = False
        self.short: dict[Pool, None] = {}
        self.passed: list[Shelf] = []

    def passes(self, shape: Shape) -> bool:
        """What asks for this has no room, and that there is none for those like it is known: there is nothing to see to."""
        return shape.full and not shape.open and (self.all_short or shape.pool in self.short)


class Shelf:
    """Leaves of `unit` that have one of `shape` first, which fitted nowhere when they were put here. The first stands in the heap
    of the unit for all, under `version`, except while they are `passed` over."""

    __slots__ = ("heap", "passed", "shape", "unit", "version")

    def __init__(self, unit: Unit, shape: Shape) -> None:
        self.unit, self.shape = unit, shape
        self.heap: list[Key] = []
        self.version = 0
        self.passed = False

    def list_again(self) -> None:
        """It is passed over no longer."""
        self.passed = False
        self.unit.list(self)
        self.unit.note()

    def top(self) -> Key | None:
        heap = self.heap
        while heap:
            if heap[0][4] == heap[0][5].version:
                return heap[0]
            heappop(heap)
        return None


class Entry:
    """A request in the books. `key` is its place in its queue: arrival less what its priority is worth in seconds, which is the
    same for ever, so that nobody has to be aged. Of what waits, so many as are `left` wait still, each to start by itself;
    `machines` is where one that runs does. `aside`: what it runs waits for others and takes nothing meanwhile."""

    __slots__ = (
        "aside", "checkpointable", "evicted_for", "id", "key", "leaf", "left", "line", "machines", "preemptible", "queued",
        "request", "seconds", "shape", "started",
    )  # fmt: skip

    def __init__(self, request: Request, key: float, line: Line, shape: Shape) -> None:
        self.id, self.request, self.key, self.line, self.shape = request.id, request, key, line, shape
        self.leaf = line.leaf
        self.left = request.wanted
        self.machines: list[int] | None = None
        self.started, self.seconds = 0.0, request.seconds
        self.evicted_for: Line | None = None
        self.preemptible, self.checkpointable = request.preemptible, request.checkpointable
        self.aside = False
        self.queued = False

    def one(self) -> Entry:
        """One of those that are left, by itself."""
        return self.twin(f"{self.request.id}#{self.left}")

    def twin(self, name: str) -> Entry:
        """One like it, once."""
        found = Entry(self.request, self.key, self.line, self.shape)
        found.id, found.left = name, 1
        return found


@dataclass(slots=True)
class Limits:
    """By resource number. `cap`: guarantee and what may be borrowed; `own`: the part of the guarantee not lent. Of what is
    `promised` the guarantee is what the nodes that are there can keep, and `own` likewise."""

    promised: list[float]
    cap: list[float]
    withheld: list[float]
    guarantee: list[float]
    own: list[float]

    def scale(self, parts: list[float]) -> None:
        """So much of each promise can be kept (0..1)."""
        self.guarantee = [amount * part for amount, part in zip(self.promised, parts, strict=True)]
        self.own = [amount * part for amount, part in zip(self.withheld, parts, strict=True)]


class Unit:
    """The network, a cohort, a tenant, or a tenant's block class."""

    __slots__ = (
        "children", "contending", "due_at", "entitled", "heads", "heap", "index", "kept", "limits", "listed", "most", "name",
        "noted", "parent", "part", "passed", "served", "share", "shelved", "shelves", "stale", "turns", "used", "version", "want",
        "weight",
    )  # fmt: skip

    def __init__(self, name: str, parent: Unit | None, weight: float, width: int, limits: Limits | None) -> None:
        self.name, self.parent, self.weight, self.limits = name, parent, weight, limits
        self.children: list[Unit] = []
        self.index = 0
        if parent is not None:
            self.index = len(parent.children)
            parent.children.append(self)
        self.used = [0.0] * width
        self.kept = [0.0] * width
        """Idle room that it lends to nobody, of its own guarantee and its children's."""
        self.most = [0.0] * width
        """The same when nothing of it runs."""
        self.share = 0.0
        self.part = 1.0
        """Of the whole cluster by weights alone."""
        self.entitled = 1.0
        self.want: list[float] = []
        self.heap: list[Key] = []
        self.version = 0
        self.shelves: dict[Shape, Shelf] = {}
        self.shelved = self.listed = 0
        """Entries on shelves, or a few more than there are; and the version of what was listed last, below 0."""
        self.stale: list[Unit] = []
        self.noted = False
        self.heads = 0
        """Lines below it that have somebody waiting."""
        self.served = 0.0
        """How far its children's turns have come: all that started below it, by what they are entitled to together."""
        self.contending = 1.0
        """That sum, of those that want something."""
        self.passed = 0.0
        """Up to where of its parent's turns it has had its own."""
        self.due_at = -1.0
        self.turns: list[tuple[float, int, int, Unit]] = []
        """Children that come before their share says so, and from where in the turns on."""

    def leaves(self) -> Iterator[Leaf]:
        for child in self.children:
            yield from child.leaves()

    def path(self) -> Iterator[Unit]:
        unit: Unit | None = self
        while unit is not None:
            yield unit
            unit = unit.parent

    def note(self) -> None:
        """Its key has changed, and with it those above."""
        unit = self
        while not unit.noted and unit.parent is not None:
            unit.noted = True
            unit.parent.stale.append(unit)
            unit = unit.parent

    def next(self, tour: Tour) -> Unit | None:
        """The child whose turn it is; None when no child has anything to place."""
        if self.stale:
            for child in self.stale:
                child.noted = False
                child.version += 1
                head = child.first(tour)
                if head is not None:
                    self.push(child.key(head))
            self.stale.clear()
        heap = self.heap
        while heap:
            key = heap[0]
            who = key[5]
            if key[4] != who.version:
                heappop(heap)
            elif isinstance(who, Shelf):
                heappop(heap)
                self._take_from(who, tour)
            else:
                shape = self._shelved(who) if tour.short else None
                if shape is None or not tour.passes(shape):
                    return who
                # There was room when it was listed: now it is passed over, or it would stand for its unit among others.
                self._put_on(shape, heappop(heap))
        return None

    def pop(self) -> Key:
        """The child whose turn it is has none any longer."""
        return heappop(self.heap)

    def push(self, key: Key) -> None:
        """A child has its turn in the order of its key."""
        shape = self._shelved(key[5])
        if shape is not None:
            self._put_on(shape, key)
            return
        heappush(self.heap, key)
        if len(self.heap) > 4 * len(self.children) + 64:
            self.heap = [entry for entry in self.heap if entry[4] == entry[5].version]
            heapify(self.heap)

    def _shelved(self, who: Unit | Shelf) -> Shape | None:
        """On the shelf of which shape it belongs, if on any."""
        return who.shut() if len(self.children) >= SHELVED and isinstance(who, Leaf) else None

    def _put_on(self, shape: Shape, key: Key) -> None:
        shelf = self.shelves.get(shape)
        if shelf is None:
            shelf = self.shelves[shape] = Shelf(self, shape)
            shape.shelves.append(shelf)
        heappush(shelf.heap, key)
        self.shelved += 1
        if shelf.heap[0] is key and not shelf.passed:
            self.list(shelf)
        if self.shelved > 2 * len(self.children) + 64:
            for one in self.shelves.values():
                one.heap = [entry for entry in one.heap if entry[4] == entry[5].version]
                heapify(one.heap)
            self.shelved = sum(len(one.heap) for one in self.shelves.values())

    def _take_from(self, shelf: Shelf, tour: Tour) -> None:
        """Its first stands in the heap by itself, and the next for the others."""
        if tour.passes(shelf.shape):
            shelf.passed = True
            tour.passed.append(shelf)
            return
        top = shelf.top()
        if top is not None:
            heappush(self.heap, heappop(shelf.heap))
            self.list(shelf)

    def list(self, shelf: Shelf) -> None:
        """Its first stands in the heap for all of it, if there is one."""
        top = shelf.top()
        if top is not None:
            self.listed = shelf.version = self.listed - 1
            heappush(self.heap, (top[0], top[1], top[2], top[3], shelf.version, shelf))

    def first(self, tour: Tour) -> Entry | None:
        child = self.next(tour)
        return child.first(tour) if child is not None else None

    def key(self, head: Entry) -> Key:
        shape, share, entitled = head.shape, self.share, self.entitled
        middle = share + shape.size / 2
        after = middle / entitled
        if self.limits is not None:
            rank = self.rank(shape)
        else:
            rank = 1 if middle <= entitled and middle <= self.part else 2
        if rank and share < entitled < share + shape.size and self.parent is not None:
            at = self.turn(shape)
            if self.parent.served >= at:
                return (1, 0.0, head.key, self.index, self.version, self)
            if self.due_at != at:
                self.due_at = at
                heappush(self.parent.turns, (at, self.index, self.version, self))
        return (rank, after, head.key, self.index, self.version, self)

    def turn(self, shape: Shape) -> float:
        """From where in its parent's turns on it is due what it is entitled to in part only: stride scheduling, C. Waldspurger,
        W. Weihl, MIT/LCS/TM-528, 1995. Without it who is entitled to half of the only slot would never have it."""
        return self.passed + shape.size / 2 / self.entitled

    def due(self, shape: Shape) -> bool:
        return self.parent is not None and self.share < self.entitled and self.parent.served >= self.turn(shape)

    def advance(self, size: float) -> None:
        """Something of this size starts below it."""
        unit, parent = self, self.parent
        while parent is not None:
            parent.served += size / parent.contending
            # Who could not use its turns does not save them up.
            unit.passed = max(unit.passed, parent.served - size / unit.entitled) + size / unit.entitled
            turns = parent.turns
            while turns and turns[0][0] <= parent.served:
                heappop(turns)[3].note()
            unit, parent = parent, parent.parent

    def rank(self, shape: Shape) -> int:
        """0 within its guarantee, 1 within its part by weight, 2 beyond."""
        if self.within_guarantee(shape.total):
            return 0
        return 1 if self.share + shape.size / 2 <= min(self.part, self.entitled) else 2

    def within_guarantee(self, need: Need) -> bool:
        limits = self.limits
        return limits is not None and all(self.used[n] + amount <= limits.guarantee[n] + EPSILON for n, amount in need)

    def guaranteed(self, need: Need, most: int) -> int:
        """So many times `need` it may have more within its guarantee, up to `most`."""
        if self.limits is None:
            return 0
        for number, amount in need:
            most = min(most, int((self.limits.guarantee[number] - self.used[number] + EPSILON) / amount))
        return max(0, most)

    def borrows(self, need: Need) -> bool:
        """Does it use more than its guarantee of something that is needed?"""
        guarantee = self.limits.guarantee if self.limits else None
        return any(self.used[n] > (guarantee[n] if guarantee else 0.0) + EPSILON for n, _ in need)


class Leaf(Unit):
    """What a tenant without block classes has, or one class of a tenant. What waits stands in a line for each pool of nodes, so
    that what waits for one pool does not hold up what another one would take; of their heads the earliest is next."""

    __slots__ = ("enough", "lines", "reach", "running", "tenant", "waiting", "waiting_amounts")

    def __init__(self, name: str, tenant: str, parent: Unit, weight: float, width: int, limits: Limits | None) -> None:
        super().__init__(name, parent, weight, width, limits)
        self.tenant = tenant
        self.lines: dict[Pool, Line] = {}
        self.reach: list[float] | None = None
        """The part of the cluster that it could use, by resource."""
        self.enough = 0.0
        """While it wants more than this, what it wants changes nothing for anybody; 0: it has all that it wants."""
        self.running: dict[str, Entry] = {}
        """In the order in which they started."""
        self.waiting = 0
        self.waiting_amounts = [0.0] * width
        """Of all that is asked for, also where nobody stands in a line for it."""

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def line(self, pool: Pool) -> Line:
        found = self.lines.get(pool)
        if found is None:
            found = self.lines[pool] = Line(self, pool)
        return found

    def first(self, tour: Tour) -> Entry | None:
        if len(self.lines) == 1:
            for line in self.lines.values():
                return line.head
        return min((line.head for line in self.lines.values() if line.head is not None), key=_by_key, default=None)

    def shut(self) -> Shape | None:
        """What is first in its only line that has anybody, if that is known to have no room."""
        if self.heads == 1:
            for line in self.lines.values():
                if line.head is not None:
                    shape = line.head.shape
                    return shape if shape.full and not shape.open else None
        return None

    def in_turn(self) -> list[Line]:
        """Those where somebody waits, the earliest first."""
        lines = [line for line in self.lines.values() if line.head is not None]
        return lines if len(lines) < 2 else sorted(lines, key=lambda line: line.head.key if line.head else 0.0)


class Line:
    """A queue for one pool of nodes."""

    __slots__ = ("head", "holds", "leaf", "pool", "queue", "unable", "waiting", "wishes")

    def __init__(self, leaf: Leaf, pool: Pool) -> None:
        self.leaf, self.pool = leaf, pool
        self.queue: list[tuple[float, int, Entry]] = []
        self.unable: list[tuple[float, int, Entry]] = []
        """Of the queue, what no node that is there could take if it were empty: those behind it do not wait for it."""
        self.head: Entry | None = None
        self.holds: dict[int, None] = {}
        """Nodes that are emptied for its head."""
        self.waiting = 0
        self.wishes: dict[str, Entry] = {}
        """What is asked for without standing in the line: it counts for what the leaf is entitled to."""


def _by_key(entry: Entry) -> float:
    return entry.key
