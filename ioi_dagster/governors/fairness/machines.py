"""The nodes of a cluster and what is free on each; finding one that a demand fits on.

Small clusters are searched whole for the node that is left most useful. In large ones the best of a few sampled nodes is
nearly as good (M. Mitzenmacher, "The power of two choices in randomized load balancing", 2001); only when none of those
fits is the rest looked at, and that not twice: a shape that fits nowhere is tried again only on nodes freed since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

EPSILON = 1e-9
MAX_SHAPES = 4096

Need = tuple[tuple[int, float], ...]
"""What is asked, by the resource's number; nothing that is zero."""


class Pool:
    """The nodes that a request may use: all (`names` is None), or those named."""

    __slots__ = ("members", "names", "reach", "version")

    def __init__(self, names: frozenset[str] | None) -> None:
        self.names = names
        self.members: list[int] = []
        self.reach: list[float] = []
        self.version = -1


class Shape:
    """Requests that ask for the same on the same nodes are one to the search.

    While `full`, it fits on no node but, perhaps, those in `open`. `heads` counts the queues that it stands first in;
    `size` is its dominant share of the cluster, all copies."""

    __slots__ = ("copies", "full", "heads", "need", "open", "pool", "size", "total")

    def __init__(self, need: Need, copies: int, pool: Pool) -> None:
        self.need, self.copies, self.pool = need, copies, pool
        self.total: Need = tuple((number, amount * copies) for number, amount in need)
        self.size = 0.0
        self.full = False
        self.open: dict[int, None] = {}
        self.heads = 0


class Machines:
    """`free` and `size` by node number and resource number; a node that left keeps its number with nothing on it."""

    def __init__(self, resources: Iterable[str], seed: int, exact: int, choices: int) -> None:
        self.resources = tuple(sorted(resources))
        self.number = {name: number for number, name in enumerate(self.resources)}
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.free: list[list[float]] = []
        self.size: list[list[float]] = []
        self._kinds: list[int] = []
        """By node, of how many resources it has something."""
        self.total = [0.0] * len(self.resources)
        self.inverse = [0.0] * len(self.resources)
        self.held: dict[int, object] = {}
        """Node number → the queue for whose head it is emptied. Nobody else is placed there."""
        self._random = Random(seed)
        self._exact, self._choices = exact, choices
        self._version = 0
        self._pools: dict[frozenset[str] | None, Pool] = {}
        self._shapes: dict[tuple[Need, int, frozenset[str] | None], Shape] = {}

    def resize(self, name: str, amounts: Mapping[str, float]) -> int:
        """The node joins, or has `amounts` from now on (nothing: it left); its number. What runs there stays booked."""
        number = self.index.get(name)
        if number is None:
            number = self.index[name] = len(self.names)
            self.names.append(name)
            self.free.append([0.0] * len(self.resources))
            self.size.append([0.0] * len(self.resources))
            self._kinds.append(0)
        size, free = self.size[number], self.free[number]
        for resource, known in enumerate(self.resources):
            amount = float(amounts.get(known, 0.0))
            free[resource] += amount - size[resource]
            self.total[resource] += amount - size[resource]
            size[resource] = amount
        self.inverse = [1.0 / amount if amount > 0 else 0.0 for amount in self.total]
        self._kinds[number] = sum(amount > 0 for amount in size)
        self._version += 1
        return number

    def shape(self, amounts: Mapping[str, float], copies: int, nodes: frozenset[str] | None) -> Shape:
        """Raises `KeyError` with the name of a resource that no node has."""
        need = tuple(sorted((self.number[name], float(amount)) for name, amount in amounts.items() if amount))
        key = (need, copies, nodes)
        found = self._shapes.get(key)
        if found is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()  # those in use live on at their requests; the same again is then another one
            pool = self._pools.get(nodes)
            if pool is None:
                pool = self._pools[nodes] = Pool(nodes)
            found = self._shapes[key] = Shape(need, copies, pool)
        found.size = max((amount * self.inverse[number] for number, amount in found.total), default=0.0)
        return found

    def members(self, pool: Pool) -> list[int]:
        """The numbers of the pool's nodes that are there."""
        if pool.version != self._version:
            names = self.names if pool.names is None else sorted(pool.names & self.index.keys())
            pool.members = [number for number in map(self.index.__getitem__, names) if any(self.size[number])]
            sums = [sum(self.size[number][r] for number in pool.members) for r in range(len(self.resources))]
            pool.reach = [amount * part for amount, part in zip(sums, self.inverse, strict=True)]
            pool.version = self._version
        return pool.members

    def allows(self, pool: Pool, number: int) -> bool:
        return pool.names is None or self.names[number] in pool.names

    def copies_on(self, room: list[float], need: Need) -> int:
        """How many copies fit into `room`."""
        return min((int((room[number] + EPSILON) / amount) for number, amount in need), default=1 << 30)

    def could_hold(self, shape: Shape) -> int:
        """How many copies the pool's nodes would take if they were empty, counted up to what is asked."""
        found = 0
        for number in self.members(shape.pool):
            found += self.copies_on(self.size[number], shape.need)
            if found >= shape.copies:
                return shape.copies
        return found

    def find(self, shape: Shape) -> list[int] | None:
        """Nodes for all copies, one for each, or None, and then `shape` is `full`."""
        found = self._one(shape) if shape.copies == 1 else self._gang(shape, ())
        if found is None:
            shape.full = True
            shape.open.clear()
        return found

    def find_held(self, shape: Shape, held: Iterable[int]) -> list[int] | None:
        """The same with the nodes `held` for who asks; for one copy, on those alone."""
        if shape.copies > 1:
            return self._gang(shape, held)
        fits = [number for number in held if self.fits(shape.need, number)]
        return [min(fits, key=self._waste)] if fits else None

    def fits(self, need: Need, number: int) -> bool:
        free = self.free[number]
        for resource, amount in need:  # noqa: SIM110 - a hot test, twice as fast as `all`
            if free[resource] + EPSILON < amount:
                return False
        return True

    def nearest(self, shape: Shape, count: int, any_held: bool) -> list[int]:
        """The `count` nodes that lack least for one copy, in a large cluster of a sample; held for nobody, or `any_held`."""
        members = self.members(shape.pool)
        if len(members) > max(self._exact, 4 * count):
            draw = self._random.random
            picked = {members[int(draw() * len(members))]: None for _ in range(max(self._exact, 4 * count))}
            members = list(picked)
        able = [n for n in members if (any_held or n not in self.held) and self.copies_on(self.size[n], shape.need)]
        inverse, free = self.inverse, self.free

        def lacks(number: int) -> float:
            room = free[number]
            return sum(max(0.0, amount - room[resource]) * inverse[resource] for resource, amount in shape.need)

        return sorted(able, key=lacks)[:count]

    def _one(self, shape: Shape) -> list[int] | None:
        need, held, free = shape.need, self.held, self.free
        members = list(shape.open) if shape.full else self.members(shape.pool)
        if len(members) <= self._exact:
            fits = [number for number in members if number not in held and self.fits(need, number)]
            return [min(fits, key=self._waste)] if fits else None
        draw, count = self._random.random, len(members)
        best, least = -1, (0, 0.0)
        for _ in range(self._choices):
            number = members[int(draw() * count)]
            room = free[number]
            for resource, amount in need:
                if room[resource] + EPSILON < amount:
                    break
            else:
                if number not in held:
                    waste = self._waste(number)
                    if best < 0 or waste < least:
                        best, least = number, waste
        if best >= 0:
            return [best]
        start = int(draw() * count)
        for place in range(start - count, start):
            number = members[place]
            room = free[number]
            for resource, amount in need:
                if room[resource] + EPSILON < amount:
                    break
            else:
                if number not in held:
                    return [number]
        return None

    def _gang(self, shape: Shape, mine: Iterable[int]) -> list[int] | None:
        own = dict.fromkeys(mine)
        found: list[int] = []
        for number in (*own, *(n for n in self.members(shape.pool) if n not in self.held)):
            fit = self.copies_on(self.free[number], shape.need)
            found += [number] * min(fit, shape.copies - len(found))
            if len(found) == shape.copies:
                return found
        return None

    def _waste(self, number: int) -> tuple[int, float]:
        """Least first: how many kinds of resources the node has, so that those of rare kinds stay free; how much it has left."""
        left = 0.0
        for amount, part in zip(self.free[number], self.inverse):  # noqa: B905 - a hot loop, of equal lengths
            left += amount * part
        return self._kinds[number], left
