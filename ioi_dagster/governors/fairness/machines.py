"""The nodes of a cluster and what is free on each; finding one that a demand fits on.

Small clusters are searched whole for the best node. In large ones the best of a few sampled nodes is nearly as good
(M. Mitzenmacher, "The power of two choices in randomized load balancing", 2001); only when none of those fits is the rest
looked at, and that not twice: a shape that fits nowhere is tried again only on nodes freed since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from heapq import nsmallest
from random import Random
from weakref import WeakValueDictionary

from ioi_dagster.governors.fairness.pools import Bag, Pool, Scope
from ioi_dagster.governors.fairness.shapes import EPSILON, Need, Shape
from ioi_dagster.model.quota import Amounts

MAX_SHAPES = 4096
SHUT = object()
"""Who holds a node that takes nothing new."""
NOTHING: frozenset[str] = frozenset()


class Machines:
    """`free` and `size` by node number and resource number; a node that left keeps its number with nothing on it until
    another one needs a number. `spread`: of nodes that fit the emptiest is best, not the one that is left most useful."""

    def __init__(self, resources: Iterable[str], seed: int, exact: int, choices: int, spread: bool = False) -> None:
        self.resources = sorted(resources)
        self.number = {name: number for number, name in enumerate(self.resources)}
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.free: list[list[float]] = []
        self.size: list[list[float]] = []
        self.offers: list[frozenset[str]] = []
        self._kinds: list[int] = []
        """By node, of how many resources it has something."""
        self._warm: dict[int, frozenset[str]] = {}
        self.total = [0.0] * len(self.resources)
        self.inverse = [0.0] * len(self.resources)
        self.held: dict[int, object] = {}
        """Node number → the line for whose head it is emptied, or SHUT. Nobody else is placed there."""
        self.coming: Mapping[str, tuple[Amounts, frozenset[str]]] = {}
        """Nodes that are not there and may come: what each has, and what it offers."""
        self._random = Random(seed)
        self._exact, self._choices, self._spread = exact, choices, spread
        self._version = 0
        self._gone: list[int] = []
        self._least: dict[int, float] = {}
        """By resource, the least that was asked of it."""
        self._pools: WeakValueDictionary[Scope, Pool] = WeakValueDictionary()
        self._shapes: dict[tuple[Need, int, Scope], Shape] = {}

    # Nodes ------------------------------------------------------------------------------------------------------

    def add_resource(self, name: str) -> None:
        """One that no node had so far; every node has nothing of it."""
        self.number[name] = len(self.resources)
        self.resources.append(name)
        for vector in (*self.free, *self.size, self.total, self.inverse):
            vector.append(0.0)
        self._version += 1

    def resize(self, name: str, amounts: Amounts, offers: frozenset[str] = NOTHING) -> int:
        """The node joins, or has `amounts` from now on (nothing: it left); its number. What runs there stays booked."""
        number = self.index.get(name)
        if number is None:
            number = self._numbered(name)
        size, free = self.size[number], self.free[number]
        for resource, known in enumerate(self.resources):
            amount = float(amounts.get(known, 0.0))
            free[resource] += amount - size[resource]
            self.total[resource] += amount - size[resource]
            size[resource] = amount
        self.offers[number] = offers
        self.inverse = [1.0 / amount if amount > 0 else 0.0 for amount in self.total]
        self._kinds[number] = sum(amount > 0 for amount in size)
        self._version += 1
        for pool in list(self._pools.values()):
            self._belongs(number, pool)
        return number

    def _numbered(self, name: str) -> int:
        number = self._gone.pop() if self._gone else len(self.names)
        if number == len(self.names):
            self.names.append(name)
            self.free.append([0.0] * len(self.resources))
            self.size.append([0.0] * len(self.resources))
            self.offers.append(NOTHING)
            self._kinds.append(0)
        self.index[name], self.names[number] = number, name
        return number

    def forget(self, name: str) -> None:
        """It left for good and nothing runs there: its number is free for another node."""
        number = self.index.pop(name)
        self.held.pop(number, None)
        self._warm.pop(number, None)
        self.free[number] = [0.0] * len(self.resources)
        self._gone.append(number)

    def warm(self, name: str, capabilities: frozenset[str]) -> None:
        """Replicas of these are loaded there, so that their steps rather go there."""
        number = self.index[name]
        if self._warm.get(number, NOTHING) == capabilities:
            return
        self._warm[number] = capabilities
        for pool in list(self._pools.values()):
            self._belongs(number, pool)

    def _belongs(self, number: int, pool: Pool) -> None:
        """Whether the node is one of the pool's, from now on."""
        if self._kinds[number] and pool.allows(self.names[number], self.offers[number]):
            pool.members.add(number)
            kind = (type(self.offers[number]), self.offers[number])
            if pool.kind_of.get(number) != kind:
                pool.drop_kind(number)
                pool.kind_of[number] = kind
                pool.kinds[kind] = pool.kinds.get(kind, 0) + 1
            if pool.scope[0] in self._warm.get(number, NOTHING):
                pool.warm.add(number)
            else:
                pool.warm.discard(number)
        else:
            pool.members.discard(number)
            pool.warm.discard(number)
            pool.drop_kind(number)

    # Shapes and pools -------------------------------------------------------------------------------------------

    def shape(self, amounts: Amounts, copies: int, capability: str, nodes: frozenset[str] | None) -> Shape:
        """Raises `KeyError` with the name of a resource that no node has."""
        need = tuple(sorted((self.number[name], float(amount)) for name, amount in amounts.items() if amount))
        return self.shaped(need, copies, (capability, nodes))

    def shaped(self, need: Need, copies: int, scope: Scope) -> Shape:
        key = (need, copies, scope)
        found = self._shapes.get(key)
        if found is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()  # those in use live on at their requests; the same again is then another one
            found = self._shapes[key] = Shape(need, copies, self.pool(scope))
            for number, amount in need:
                self._least[number] = min(self._least.get(number, amount), amount)
            for shape in self._shapes.values():
                shape.least = shape.copies == len(shape.need) == 1 and shape.need[0][1] <= self._least[shape.need[0][0]]
        found.size = self.share(found.total)
        return found

    def share(self, total: Need) -> float:
        """Its dominant part of the cluster."""
        return max((amount * self.inverse[number] for number, amount in total), default=0.0)

    def pool(self, scope: Scope) -> Pool:
        found = self._pools.get(scope)
        if found is None:
            found = self._pools[scope] = Pool(scope)
            for number in self.index.values():
                self._belongs(number, found)
        return found

    def reach(self, pool: Pool) -> list[float]:
        """The part of the cluster that its nodes are, by resource."""
        if pool.version != self._version:
            rows = [self.size[number] for number in pool.members]
            sums = [sum(column) for column in zip(*rows, strict=True)] if rows else [0.0] * len(self.resources)
            pool.reach = [amount * part for amount, part in zip(sums, self.inverse, strict=True)]
            pool.version = self._version
        return pool.reach

    # What fits --------------------------------------------------------------------------------------------------

    def copies_on(self, room: list[float], need: Need) -> int:
        """How many copies fit into `room`."""
        return max(0, min((int((room[number] + EPSILON) / amount) for number, amount in need), default=1 << 30))

    def could_hold(self, shape: Shape) -> int:
        """How many copies the pool's nodes would take if they were empty, counted up to what is asked."""
        if shape.could_at != self._version:
            shape.could, shape.could_at = 0, self._version
            for number in shape.pool.members:
                shape.could = min(shape.copies, shape.could + self.copies_on(self.size[number], shape.need))
                if shape.could == shape.copies:
                    break
        return shape.could

    def could_come(self, shape: Shape) -> int:
        """How many copies nodes would take that may come, counted up to what is asked."""
        found = 0
        for name, (amounts, offers) in self.coming.items():
            if found >= shape.copies:
                break
            if name not in self.index and shape.pool.allows(name, offers):
                found += self.copies_on([amounts.get(resource, 0.0) for resource in self.resources], shape.need)
        return min(found, shape.copies)

    def count(self, shape: Shape, most: int) -> tuple[int, list[int]]:
        """So many times it fits now, up to `most`; when that is less, all the nodes where it does."""
        wanted, found, where = most * shape.copies, 0, []
        # A gang may take what was too little for it before.
        members = list(shape.open) if shape.known and shape.copies == 1 else shape.pool.members.items
        for number in members:
            if number not in self.held and self.fits(shape.need, number):
                found += self.copies_on(self.free[number], shape.need)
                where.append(number)
                if found >= wanted:
                    return most, where
        return found // shape.copies, where

    def count_warm(self, shape: Shape, most: int) -> int:
        """The same on nodes where a replica is warm."""
        found = 0
        for number in shape.pool.warm:
            if number not in self.held:
                found += self.copies_on(self.free[number], shape.need)
                if found >= most:
                    return most
        return found

    def fits(self, need: Need, number: int) -> bool:
        free = self.free[number]
        for resource, amount in need:  # noqa: SIM110 - a hot test, twice as fast as `all`
            if free[resource] + EPSILON < amount:
                return False
        return True

    # Finding ----------------------------------------------------------------------------------------------------

    def find(self, shape: Shape) -> list[int] | None:
        """Nodes for all copies, one for each, or None, and then `shape` is `full`."""
        found = self._one(shape) if shape.copies == 1 else self._gang(shape, ())
        if found is None:
            shape.full = shape.known = True
            shape.open.clear()
        return found

    def find_held(self, shape: Shape, held: Iterable[int]) -> list[int] | None:
        """The same with the nodes `held` for who asks; for one copy, on those alone."""
        if shape.copies > 1:
            return self._gang(shape, held)
        fits = [number for number in held if self.fits(shape.need, number)]
        return [min(fits, key=self._waste)] if fits else None

    def find_rather(self, shape: Shape, prefer: Collection[int], avoid: Collection[int]) -> int | None:
        """A node for one copy: one of `prefer`, if there is room; one of `avoid` only where no other of the pool could take it,
        were it empty."""
        fits = [n for n in prefer if n in shape.pool.members and n not in self.held and self.fits(shape.need, n)]
        fits = [n for n in fits if n not in avoid] or fits
        if fits:
            return min(fits, key=lambda n: self._rank(shape.pool, n))
        if not avoid or all(n in avoid for n in shape.pool.members if self.copies_on(self.size[n], shape.need)):
            found = self._one(shape)
            return found[0] if found else None
        for members in (shape.pool.warm, shape.pool.members):
            fits = [n for n in members if n not in avoid and n not in self.held and self.fits(shape.need, n)]
            if fits:
                return min(fits, key=lambda n: self._rank(shape.pool, n))
        return None

    def find_gang(self, shape: Shape, prefer: Collection[int], avoid: Collection[int]) -> list[int] | None:
        """The same for a gang."""
        rather = [n for n in prefer if n in shape.pool.members and n not in self.held and n not in avoid]
        return self._gang(shape, rather, avoid) or (self._gang(shape, rather) if avoid else None)

    def nearest(self, shape: Shape, count: int, any_held: bool) -> list[int]:
        """The `count` nodes that lack least for one copy, in a large cluster of a sample; held for nobody, or `any_held`."""
        members = shape.pool.members.items
        few = max(2 * self._choices, 4 * count)
        if len(members) > max(self._exact, few):
            draw = self._random.random
            members = list({members[int(draw() * len(members))]: None for _ in range(few)})
        held = self.held
        able = [
            n
            for n in members
            if (n not in held or (any_held and held[n] is not SHUT)) and self.copies_on(self.size[n], shape.need)
        ]
        inverse, free = self.inverse, self.free

        def lacks(number: int) -> tuple[float, int]:
            room = free[number]
            return sum(max(0.0, amount - room[resource]) * inverse[resource] for resource, amount in shape.need), number

        return nsmallest(count, able, key=lacks)

    def _one(self, shape: Shape) -> list[int] | None:
        pool = shape.pool
        if shape.full or (shape.known and len(pool.members) > self._exact):
            return self._best_open(shape)
        if len(pool.warm):
            found = self._sampled(shape, pool.warm.items)
            if found is not None:
                return found
        found = self._sampled(shape, pool.members.items)
        return found if found is not None or len(pool.members) <= self._exact else self._rest(shape)

    def _best(self, shape: Shape, members: Iterable[int]) -> list[int] | None:
        need, held, free, pool = shape.need, self.held, self.free, shape.pool
        fits: list[int] = []
        for number in members:
            room = free[number]
            for resource, amount in need:
                if room[resource] + EPSILON < amount:
                    break
            else:
                if number not in held:
                    fits.append(number)
        return self._least_waste(pool, fits)

    def _best_open(self, shape: Shape) -> list[int] | None:
        """Of where it may fit; where it does not is forgotten, until something comes free there."""
        need, held, free = shape.need, self.held, self.free
        fits: list[int] = []
        gone: list[int] = []
        for number in shape.open:
            room = free[number]
            for resource, amount in need:
                if room[resource] + EPSILON < amount:
                    gone.append(number)
                    break
            else:
                if number not in held:
                    fits.append(number)
        for number in gone:
            del shape.open[number]
        return self._least_waste(shape.pool, fits)

    def _least_waste(self, pool: Pool, fits: list[int]) -> list[int] | None:
        if len(fits) < 2:
            return fits or None
        if len(pool.warm):
            return [min(fits, key=lambda number: self._rank(pool, number))]
        waste = self._waste
        best = fits[0]
        least = waste(best)
        kinds = self._kinds
        for number in fits:
            if kinds[number] <= least[0] and (one := waste(number)) < least:
                best, least = number, one
        return [best]

    def _sampled(self, shape: Shape, members: list[int]) -> list[int] | None:
        """The best of all where there are few, else of a few."""
        count = len(members)
        if count <= self._exact:
            return self._best(shape, members)
        need, held, free, draw = shape.need, self.held, self.free, self._random.random
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
        return [best] if best >= 0 else None

    def _rest(self, shape: Shape) -> list[int] | None:
        """The first that fits, from anywhere."""
        need, held, free, members = shape.need, self.held, self.free, shape.pool.members.items
        count = len(members)
        start = int(self._random.random() * count)
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

    def _gang(self, shape: Shape, mine: Iterable[int], avoid: Collection[int] = ()) -> list[int] | None:
        own = dict.fromkeys(mine)
        warm = (n for n in shape.pool.warm if n not in self.held and n not in avoid)
        others = (n for n in shape.pool.members if n not in self.held and n not in avoid)
        found: list[int] = []
        for number in dict.fromkeys((*own, *warm, *others)):
            fit = self.copies_on(self.free[number], shape.need)
            found += [number] * min(fit, shape.copies - len(found))
            if len(found) == shape.copies:
                return found
        return None

    def _rank(self, pool: Pool, number: int) -> tuple[bool, tuple[int, float], str]:
        return number not in pool.warm, self._waste(number), self.names[number]

    def _waste(self, number: int) -> tuple[int, float]:
        """Least first: how many kinds of resources the node has, so that those of rare kinds stay free; how much it has left,
        or, to `spread`, how full it is."""
        if self._spread:
            most = 0.0
            for amount, size in zip(self.free[number], self.size[number]):  # noqa: B905 - a hot loop, of equal lengths
                if size > 0 and 1.0 - amount / size > most:
                    most = 1.0 - amount / size
            return self._kinds[number], most
        left = 0.0
        for amount, part in zip(self.free[number], self.inverse):  # noqa: B905 - a hot loop, of equal lengths
            left += amount * part
        return self._kinds[number], left

    def names_of(self, numbers: Iterable[int]) -> list[str]:
        return [self.names[number] for number in numbers]

    def numbers_of(self, names: Iterable[str]) -> list[int]:
        """Of those that are known."""
        index: Mapping[str, int] = self.index
        return [index[name] for name in names if name in index]

    def validate(self) -> None:
        for pool in self._pools.values():
            members = {n for n in self.index.values() if self._kinds[n] and pool.allows(self.names[n], self.offers[n])}
            assert set(pool.members) == members == set(pool.kind_of), pool.scope
            assert set(pool.warm) == {n for n in members if pool.scope[0] in self._warm.get(n, NOTHING)}
            assert sum(pool.kinds.values()) == len(members)


__all__ = ["EPSILON", "SHUT", "Bag", "Machines", "Need", "Pool", "Shape"]
