"""Which nodes a request may use, kept with each node that comes, changes or goes: no list of names for each request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Scope = tuple[str, frozenset[str] | None]
"""The capability that a node must offer ("": any), and the only nodes allowed (None: any)."""


class Bag:
    """Numbers of which some can be drawn at random; adding and removing one takes constant time."""

    __slots__ = ("_at", "items")

    def __init__(self) -> None:
        self.items: list[int] = []
        self._at: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)

    def __contains__(self, number: object) -> bool:
        return number in self._at

    def add(self, number: int) -> None:
        if number not in self._at:
            self._at[number] = len(self.items)
            self.items.append(number)

    def discard(self, number: int) -> None:
        at = self._at.pop(number, None)
        if at is None:
            return
        last = self.items.pop()
        if last != number:
            self.items[at] = last
            self._at[last] = at


class Pool:
    """The nodes of one scope that are there; `warm` are those where a replica of the capability is loaded."""

    __slots__ = ("__weakref__", "kind_of", "kinds", "members", "reach", "scope", "version", "warm")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.members = Bag()
        self.warm = Bag()
        self.kind_of: dict[int, Any] = {}
        self.kinds: dict[Any, int] = {}
        """How many of its nodes offer just the same."""
        self.reach: list[float] = []
        self.version = -1

    def allows(self, name: str, offers: frozenset[str]) -> bool:
        capability, names = self.scope
        return (not capability or capability in offers) and (names is None or name in names)

    def drop_kind(self, number: int) -> None:
        kind = self.kind_of.pop(number, None)
        if kind is not None:
            self.kinds[kind] -= 1
            if not self.kinds[kind]:
                del self.kinds[kind]

    def overlaps(self, other: Pool) -> bool:
        """May both use one node? Of pools of named nodes it is taken to be so."""
        if self is other or self.scope[1] is not None or other.scope[1] is not None:
            return True
        few, many = (self.kinds, other.kinds) if len(self.kinds) <= len(other.kinds) else (other.kinds, self.kinds)
        return any(kind in many for kind in few)
