"""The tree of quotas at work: usage and limits of every unit, and a tournament at each for who of its children is next.

A tournament is a heap whose entries are not corrected but outdated: a child whose key changed is noted, keyed anew when its
parent is next asked, and its older entries are dropped as they surface. Each change costs O(depth · log children).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from ioi_dagster.governors.fairness.machines import EPSILON, Need, Shape
from ioi_dagster.governors.fairness.values import Request

Key = tuple[int, float, float, int, int, "Unit"]
"""Borrowing?, share of what it is entitled to after (half of) its head, effective arrival, order, version, who."""


class Entry:
    """A request in the books. `machines` is where it runs, `key` its place in its queue: arrival less what its priority is
    worth in seconds, which is the same for ever, so that nobody has to be aged."""

    __slots__ = ("evicted_for", "key", "leaf", "machines", "request", "shape", "started")

    def __init__(self, request: Request, key: float, leaf: Leaf, shape: Shape) -> None:
        self.request, self.key, self.leaf, self.shape = request, key, leaf, shape
        self.machines: list[int] | None = None
        self.started = 0.0
        self.evicted_for: Leaf | None = None


@dataclass(slots=True)
class Limits:
    """By resource number. `cap`: guarantee and what may be borrowed; `own`: the part of the guarantee not lent."""

    guarantee: list[float]
    cap: list[float]
    own: list[float]


class Unit:
    """The network, a cohort, a tenant, or a tenant's block class."""

    __slots__ = (
        "children", "entitled", "heap", "index", "kept", "limits", "most", "name", "noted", "parent", "part",
        "share", "stale", "used", "version", "want", "weight",
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
        self.stale: list[Unit] = []
        self.noted = False

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

    def next(self) -> Unit | None:
        """The child whose turn it is; None when no child has anything to place."""
        heap = self.heap
        if self.stale:
            for child in self.stale:
                child.noted = False
                child.version += 1
                head = child.first()
                if head is not None:
                    heappush(heap, child.key(head))
            self.stale.clear()
            if len(heap) > 4 * len(self.children) + 64:
                self.heap = heap = [entry for entry in heap if entry[4] == entry[5].version]
                heapify(heap)
        while heap:
            entry = heap[0]
            if entry[4] == entry[5].version:
                return entry[5]
            heappop(heap)
        return None

    def first(self) -> Entry | None:
        child = self.next()
        return child.first() if child is not None else None

    def key(self, head: Entry) -> Key:
        shape = head.shape
        after = self.share + shape.size / 2
        return (self.rank(shape), after / self.entitled, head.key, self.index, self.version, self)

    def rank(self, shape: Shape) -> int:
        """0 within its guarantee, 1 within its part by weight, 2 beyond."""
        limits = self.limits
        if limits is not None:
            for number, amount in shape.total:
                if self.used[number] + amount > limits.guarantee[number] + EPSILON:
                    break
            else:
                return 0
        return 1 if self.share + shape.size / 2 <= min(self.part, self.entitled) else 2

    def within_guarantee(self, need: Need) -> bool:
        limits = self.limits
        return limits is not None and all(self.used[n] + amount <= limits.guarantee[n] + EPSILON for n, amount in need)

    def borrows(self, need: Need) -> bool:
        """Does it use more than its guarantee of something that is needed?"""
        guarantee = self.limits.guarantee if self.limits else None
        return any(self.used[n] > (guarantee[n] if guarantee else 0.0) + EPSILON for n, _ in need)


class Leaf(Unit):
    """A queue: a tenant without block classes, or one class of a tenant."""

    __slots__ = ("head", "holds", "queue", "running", "tenant", "waiting", "waiting_amounts")

    def __init__(self, name: str, tenant: str, parent: Unit, weight: float, width: int, limits: Limits | None) -> None:
        super().__init__(name, parent, weight, width, limits)
        self.tenant = tenant
        self.queue: list[tuple[float, int, Entry]] = []
        self.head: Entry | None = None
        self.holds: dict[int, None] = {}
        """Nodes that are emptied for its head."""
        self.running: dict[str, Entry] = {}
        """In the order in which they started."""
        self.waiting = 0
        self.waiting_amounts = [0.0] * width

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def first(self) -> Entry | None:
        return self.head
