"""Which nodes have room, kept up to date with each change: a cluster of a hundred nodes is not looked through for each step.

Among few nodes the emptiest is found exactly. Among many the emptiest of a few random ones is taken, which keeps load nearly even
(M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

EXACT, CHOICES = 32, 8


class NameBag:
    """A set of names of which some can be drawn at random, in constant time."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def add(self, name: str) -> None:
        if name not in self._at:
            self._at[name] = len(self._names)
            self._names.append(name)

    def discard(self, name: str) -> None:
        at = self._at.pop(name, None)
        if at is None:
            return
        last = self._names.pop()
        if last != name:
            self._names[at] = last
            self._at[last] = at

    def some(self, rng: random.Random) -> Iterable[str]:
        """All where there are few, else `CHOICES` of them."""
        return self._names if len(self._names) <= EXACT else rng.choices(self._names, k=CHOICES)


@dataclass(slots=True)
class Counted:
    """What of a node is counted in its kind. `room`: free slots, none where its memory is full; `free`: also then."""

    room: int = 0
    free: int = 0
    slots: int = 0
    warm: frozenset[str] = frozenset()


@dataclass(slots=True)
class NodeKind:
    """Nodes that offer the same."""

    capabilities: frozenset[str]
    nodes: dict[str, Counted] = field(default_factory=dict)
    room: int = 0
    free: int = 0
    slots: int = 0
    warm: Counter[str] = field(default_factory=Counter)
    """Free slots by what is warm there."""
    open: NameBag = field(default_factory=NameBag)
    open_warm: dict[str, NameBag] = field(default_factory=dict)

    def count(self, name: str, now: Counted) -> None:
        """From now on the node counts so much."""
        before = self.nodes.get(name, Counted())
        self.nodes[name] = now
        self.room += now.room - before.room
        self.free += now.free - before.free
        self.slots += now.slots - before.slots
        (self.open.add if now.room else self.open.discard)(name)
        for capability in before.warm:
            self.warm[capability] -= before.room
            self.open_warm[capability].discard(name)
        for capability in now.warm:
            self.warm[capability] += now.room
            bag = self.open_warm.setdefault(capability, NameBag())
            if now.room:
                bag.add(name)

    def drop(self, name: str) -> None:
        if name in self.nodes:
            self.count(name, Counted())
            del self.nodes[name]


class NodeIndex:
    """`seed` decides which nodes are looked at where there are many."""

    def __init__(self, seed: str) -> None:
        self._kinds: dict[tuple[type, frozenset[str]], NodeKind] = {}
        self._rng = random.Random(seed)

    @property
    def slots(self) -> int:
        return sum(kind.slots for kind in self._kinds.values())

    def kind(self, capabilities: frozenset[str]) -> NodeKind:
        # A set that holds everything equals an empty one.
        return self._kinds.setdefault((type(capabilities), capabilities), NodeKind(capabilities))

    def kinds(self) -> list[NodeKind]:
        return list(self._kinds.values())

    def able(self, capability: str) -> list[NodeKind]:
        """Those that offer it and have a node."""
        return [kind for kind in self._kinds.values() if kind.nodes and capability in kind.capabilities]

    def emptiest(
        self, kinds: Collection[NodeKind], capability: str, avoid: Collection[str], load: Callable[[str], float]
    ) -> str | None:
        """A node with room, rather a warm one, then a rather empty one; none of `avoid`."""
        warm = [kind.open_warm[capability] for kind in kinds if capability in kind.open_warm]
        for bags in (warm, [kind.open for kind in kinds]):
            found = {name for bag in bags for name in bag.some(self._rng) if name not in avoid}
            if not found and avoid:
                # It was bad luck, perhaps, to draw those alone.
                found = {name for bag in bags for name in bag if name not in avoid}
            if found:
                return min(found, key=lambda name: (load(name), name))
        return None
