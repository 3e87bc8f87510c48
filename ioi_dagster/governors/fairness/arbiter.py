"""Fair arbitration: whose request gets which node next.

    rounds     (`rounds.py`) what waits in queues starts in the order of shares
    claims     (`claims.py`) what does not stand in a queue starts at once, if it takes nothing from those who have too little
    eviction   (`eviction.py`) gives a tenant its guarantee back from those that borrow

Time is passed in (s, of one monotonic clock); the only randomness is which nodes are sampled, from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.fairness import eviction, reasons
from ioi_dagster.governors.fairness.books import LEAST, Books
from ioi_dagster.governors.fairness.claims import Claims
from ioi_dagster.governors.fairness.machines import EPSILON, NOTHING, SHUT, Machines
from ioi_dagster.governors.fairness.rounds import Rounds
from ioi_dagster.governors.fairness.tree import Entry
from ioi_dagster.governors.fairness.values import Evict, Request, Rules, Snapshot
from ioi_dagster.model.amounts import told
from ioi_dagster.model.quota import ANY, Amounts, CohortQuota, QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal

ORPHANS = "(no quota)"
MAX_TENANTS = 10_000
"""That are there at a time, named in the tree or not."""


class Arbiter:
    """`capacity`: what each node has, by resource. `shares`: weights of tenants, or the whole tree of quotas. `elastic`: nodes
    come and go while quotas stay, and where they are too few, guarantees shrink in proportion. `resources` are known though no
    node may have them yet.

    Raises `BadInputError` for a tree that makes no sense, or, unless `elastic`, one that `capacity` cannot keep."""

    def __init__(
        self,
        capacity: Mapping[str, Amounts],
        shares: Mapping[str, float] | QuotaTree,
        rules: Rules = Rules(),
        *,
        elastic: bool = False,
        resources: Collection[str] = (),
    ) -> None:
        self.rules = rules
        names = {*resources, *(resource for amounts in capacity.values() for resource in amounts)}
        self._machines = Machines(names, rules.seed, rules.exact, rules.choices, rules.spread)
        for node, amounts in capacity.items():
            self._machines.resize(node, _checked(node, amounts))
        tree = shares if isinstance(shares, QuotaTree) else QuotaTree.of_weights(shares)
        self._books = Books(self._machines, tree, elastic)
        self._evictions = eviction.Ledger()
        self._rounds = Rounds(self._books, self._evictions)
        self.claims = Claims(self._books, self._rounds)
        self._ids = count(1)

    # Requests ---------------------------------------------------------------------------------------------------

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
        entry = self.entry(request)
        if isinstance(entry, Refusal):
            return entry
        self._rounds.wait(entry)
        return None

    def entry(self, request: Request) -> Entry | Refusal:
        """`request` as it would stand in the books, where it does not stand yet; or why nothing could ever satisfy it."""
        if request.copies < 1 or request.wanted < 1:
            amount = min(request.copies, request.wanted)
            raise BadInputError(f"request {request.id!r} is for {amount} copies", todo="ask for one or more")
        if not (request.seconds >= 0 and math.isfinite(request.seconds)):
            raise BadInputError(f"request {request.id!r} runs {request.seconds:g} s", todo="give 0 or more seconds")
        for resource, amount in request.amounts.items():
            if not 0 <= amount < math.inf:  # nor NaN
                raise BadInputError(
                    f"request {request.id!r} asks for {told(resource, amount)}", todo="ask for 0 or more"
                )
        if len(self._books.tenants) >= MAX_TENANTS and request.tenant not in self._books.tenants:
            self._replant(self._books.tree, judged=False)  # which forgets those that are not named and ask for nothing
            if len(self._books.tenants) >= MAX_TENANTS:
                return reasons.too_many_tenants(request, self._books)
        leaf = self._books.leaf(request.tenant, request.block_class)
        if leaf is None:
            return reasons.unknown_tenant(request, self._books)
        unknown = [name for name, amount in request.amounts.items() if amount and name not in self._machines.number]
        if unknown:
            return reasons.not_offered(unknown, self._books)
        nodes = None if request.nodes is None else frozenset(request.nodes)
        shape = self._machines.shape(request.amounts, request.copies, request.capability, nodes)
        refusal = reasons.never(leaf, shape, self._books)
        if refusal is not None:
            return refusal
        left = min(request.remaining_s, self.rules.longest_s)
        key = request.arrived - self.rules.aging_s * request.priority + left
        return Entry(request, key, leaf.line(shape.pool), shape)

    def wish(self, entry: Entry) -> None:
        """It is asked for, which counts for what its tenant is entitled to, but does not wait."""
        self._rounds.wish(entry)

    def wait(self, entry: Entry) -> None:
        """It waits from now on."""
        self._rounds.wait(entry)

    def step_back(self, entry: Entry) -> None:
        """It does not wait any longer, and is wished for still."""
        self._rounds.step_back(entry)

    def less(self, entry: Entry, by: int) -> None:
        """So many less are asked for of what waits or is wished for; with the last it is gone."""
        if by >= entry.left:
            self._rounds.leave(entry)
        elif by > 0:
            self._rounds.unasked(entry, by)
            entry.left -= by

    def on_finished(self, request_id: str) -> None:
        """It runs no longer, or is wanted no longer, however that came. An id that is not known is no error."""
        entry = self._books.entries.get(request_id)
        if entry is None:
            return
        if entry.machines is None:
            self._rounds.leave(entry)
            return
        del self._books.entries[request_id]
        self._evictions.ended(entry)
        if not entry.aside:
            self._rounds.end(entry)

    def leaves(self, request_id: str) -> None:
        """What runs is being stopped, for nobody in particular: it is not told so again."""
        entry = self._books.entries[request_id]
        if request_id not in self._evictions.leaving:
            self._evictions.order([entry], None, [], 0.0)

    # Nodes and quotas -------------------------------------------------------------------------------------------

    def on_node(self, node: str, amounts: Amounts, offers: frozenset[str] = NOTHING) -> None:
        """A node joins, or has other amounts from now on. What runs there stays, even when it is more.

        Raises `BadInputError` for amounts that are no amounts."""
        new = [name for name in _checked(node, amounts) if name not in self._machines.number]
        for name in new:
            self._machines.add_resource(name)
        machine = self._machines.resize(node, amounts, offers)
        if new:
            self._replant(self._books.tree, judged=False)
        self._rounds.resized(machine)

    def on_node_left(self, node: str) -> tuple[str, ...]:
        """The node is gone; the requests that ran there, which run nowhere now and are forgotten."""
        machine = self._machines.index.get(node)
        if machine is None:
            return ()
        lost = [name for name, entry in self._books.entries.items() if entry.machines and machine in entry.machines]
        for name in lost:
            self.on_finished(name)
        self._rounds.holds.drop(machine)
        self._machines.resize(node, {})
        self._rounds.resized(machine)
        self._machines.forget(node)
        return tuple(lost)

    def on_coming(self, nodes: Mapping[str, tuple[Amounts, frozenset[str]]]) -> None:
        """These are not there and may come, with such amounts and offers, so that what only they could take may wait."""
        self._machines.coming = nodes

    def room(self, node: str) -> tuple[dict[str, float], bool]:
        """What is free there by resource (nothing where it takes nothing new), and whether nothing runs there or waits to."""
        machine = self._machines.index[node]
        free, size, holder = (
            self._machines.free[machine],
            self._machines.size[machine],
            self._machines.held.get(machine),
        )
        idle = all(have + EPSILON >= whole for have, whole in zip(free, size, strict=True)) and holder in (None, SHUT)
        return ({} if holder is not None else dict(zip(self._machines.resources, free, strict=True))), idle

    def on_warm(self, node: str, capabilities: frozenset[str]) -> None:
        """Replicas of these are loaded at the node."""
        self._machines.warm(node, capabilities)

    def shut(self, node: str, shut: bool) -> None:
        """Whether the node takes nothing new from now on."""
        machine = self._machines.index[node]
        if shut:
            self._rounds.holds.drop(machine)
            self._machines.held[machine] = SHUT
        elif self._machines.held.get(machine) is SHUT:
            del self._machines.held[machine]
            self._rounds.freed(machine)

    def on_quota(self, tree: QuotaTree) -> tuple[tuple[str, Refusal], ...]:
        """Other quotas from now on. What waits keeps its place and what runs goes on; `evict` says what is over.

        Returns the requests that wait no longer, since the new tree could never satisfy them. A tenant of running requests
        that the tree no longer names stays, without weight of its own to speak of, until those have ended. Raises
        `BadInputError` for a tree that cannot be kept; then nothing has changed."""
        self._books.check(tree)
        return self._replant(tree)

    def _replant(self, tree: QuotaTree, judged: bool = True) -> tuple[tuple[str, Refusal], ...]:
        entries = list(self._books.entries.values())
        kept = _with_orphans(tree, {e.request.tenant for e in entries if e.machines is not None})
        self._rounds.clear()
        self._books.plant(kept)
        self._books.entries.clear()
        running = [entry for entry in entries if entry.machines is not None]
        for entry in sorted(running, key=lambda entry: entry.started):
            leaf = self._books.leaf(entry.request.tenant, entry.request.block_class)
            assert leaf is not None
            entry.leaf, entry.line = leaf, leaf.line(entry.shape.pool)
            self._books.entries[entry.id] = entry
            if not entry.aside:
                leaf.running[entry.id] = entry
                self._books.book(leaf, entry.shape.total, 1)
        refused = []
        for entry in entries:
            if entry.machines is None:
                refusal = self._again(entry, judged)
                if refusal is not None:
                    refused.append((entry.id, refusal))
        self._evictions.replanted()
        return tuple(refused)

    def _again(self, entry: Entry, judged: bool) -> Refusal | None:
        """What waited or was wished for, in the new tree."""
        leaf = self._books.leaf(entry.request.tenant, entry.request.block_class)
        if leaf is None:
            return reasons.unknown_tenant(entry.request, self._books)
        refusal = reasons.never(leaf, entry.shape, self._books) if judged else None
        if refusal is not None:
            return refusal
        entry.leaf, entry.line = leaf, leaf.line(entry.shape.pool)
        if entry.queued:
            self._rounds.wait(entry)
        else:
            self._rounds.wish(entry)
        return None

    # Decisions --------------------------------------------------------------------------------------------------

    def arbitrate(self, now: float) -> list[tuple[str, str]]:
        """What starts now and where, in order; a gang has one pair for each copy. Of a request that is wanted more than once
        each has an id of its own."""
        names = self._machines.names
        return [(entry.id, names[machine]) for entry in self._rounds.run(now) for machine in entry.machines or ()]

    def start(self, now: float) -> list[Entry]:
        """The same as entries of the books."""
        return self._rounds.run(now)

    def evict(self, now: float, heads: Iterable[Entry] | None = None) -> list[Evict]:
        """Who must stop, so that quotas are kept: those over a limit that was lowered, and those that borrow what a tenant
        needs that is within its guarantee; and who runs longer than it said, where that was lent to it. Ask after `arbitrate`;
        each is told once. `heads`: only for these."""
        found = [] if heads is not None else list(eviction.over_limits(self._books, self._evictions, now))
        found += self._rounds.backfill.overdue(now)
        claimants = self._heads() if heads is None else heads
        found += eviction.guaranteed(claimants, self._books, self._evictions, self.rules, now)
        for line, machines in self._evictions.take_holds():
            for machine in machines:
                if line.head is not None:
                    self._rounds.holds.hold(line, machine)
        return found

    def guarantees(self, entry: Entry) -> bool:
        """Is its tenant guaranteed it, or are some being stopped for it or for another in its line?"""
        return entry.line in self._evictions.awaited or (self._books.promises and eviction.within(entry) > 0)

    def _heads(self) -> Iterator[Entry]:
        lines = [line for leaf in self._books.leaves.values() for line in leaf.lines.values()]
        for line in lines if self._books.promises else ():
            if line.head is not None:
                yield line.head
            elif line.wishes:
                yield next(iter(line.wishes.values()))

    # What runs --------------------------------------------------------------------------------------------------

    def node_of(self, entry: Entry) -> list[str]:
        """By copy, where it runs."""
        return self._machines.names_of(entry.machines or ())

    def rename(self, entry: Entry, name: str) -> None:
        """What runs is known by another id from now on."""
        entries, running = self._books.entries, entry.leaf.running
        del entries[entry.id]
        if not entry.aside:
            del running[entry.id]
            running[name] = entry
        entry.id, entries[name] = name, entry

    def running(self) -> dict[str, Entry]:
        """All that run, also what is aside."""
        return {name: entry for name, entry in self._books.entries.items() if entry.machines is not None}

    def has(self, resource: str) -> bool:
        """Is it one that some node has, had, or a quota names?"""
        return resource in self._machines.number

    def asks(self, entry: Entry) -> bool:
        """It waits or is wished for."""
        return entry.machines is None and self._books.entries.get(entry.id) is entry

    def lent(self) -> dict[str, float]:
        """What runs on room that is lent of a gang's, and when the gang is due there."""
        return {
            entry.id: until for entry, until in self._rounds.backfill.lent.items() if entry.id in entry.leaf.running
        }

    def is_lent(self, entry: Entry) -> bool:
        """It runs where a gang is to start, which it must not delay."""
        return entry in self._rounds.backfill.lent

    def is_warm(self, entry: Entry) -> bool:
        return any(machine in entry.shape.pool.warm for machine in entry.machines or ())

    def keeps(self, entry: Entry) -> bool:
        """Its nodes take something new, and have not more on them than they have room for."""
        free, held = self._machines.free, self._machines.held
        return all(
            held.get(machine) is not SHUT and all(free[machine][number] > -EPSILON for number, _ in entry.shape.need)
            for machine in entry.machines or ()
        )

    def in_the_way(self, one: Entry, entry: Entry) -> bool:
        """`one` runs where `entry` might."""
        return any(machine in entry.shape.pool.members for machine in one.machines or ())

    def split(self, entry: Entry) -> list[Entry]:
        """A gang that runs, as one entry for each copy; each of them may end by itself."""
        if entry.shape.copies == 1:
            return [entry]
        shape = self._machines.shaped(entry.shape.need, 1, entry.shape.pool.scope)
        found = []
        for number, machine in enumerate(entry.machines or ()):
            one = Entry(entry.request, entry.key, entry.line, shape)
            one.id, one.machines, one.started, one.left = f"{entry.id}/{number}", [machine], entry.started, 1
            one.preemptible, one.checkpointable, one.seconds = entry.preemptible, entry.checkpointable, entry.seconds
            self._books.entries[one.id] = entry.leaf.running[one.id] = one
            found.append(one)
        del self._books.entries[entry.id], entry.leaf.running[entry.id]
        return found

    def relocate(self, entry: Entry, prefer: Collection[str], avoid: Collection[str]) -> bool:
        """To a node that suits better, if one has room; whether it is at none of `avoid` now, or there is no other."""
        machines = self._machines
        here = entry.machines[0] if entry.machines else -1
        prefers, avoids = machines.numbers_of(prefer), frozenset(machines.numbers_of(avoid))
        if here not in avoids and (not prefers or here in prefers):
            return True
        there = machines.find_rather(entry.shape, prefers, avoids)
        if there is None or (here not in avoids and there not in prefers):
            return here not in avoids
        self.move(entry, there)
        return True

    def move(self, entry: Entry, there: int) -> None:
        here = entry.machines[0] if entry.machines else -1
        entry.machines = [there]
        for number, amount in entry.shape.need:
            self._machines.free[here][number] += amount
            self._machines.free[there][number] -= amount
        self._rounds.freed(here)

    def set_aside(self, request_id: str, aside: bool) -> None:
        """What runs waits for others and takes nothing meanwhile; or goes on, be there room or not."""
        entry = self._books.entries[request_id]
        if entry.aside == aside:
            return
        if aside:
            self._rounds.end(entry)
            entry.aside = True
        else:
            entry.aside = False
            self._rounds.take_up(entry)

    # What is told -----------------------------------------------------------------------------------------------

    def explain(self, request_id: str, now: float) -> Refusal | None:
        """Why it waits; None when it runs or is not known."""
        entry = self._books.entries.get(request_id)
        if entry is None or entry.machines is not None:
            return None
        return reasons.waits(entry, self._books, self._evictions, now)

    def snapshot(self, now: float) -> Snapshot:
        self._books.work_out()
        self._rounds.rekey()
        return reasons.snapshot(self._books, self._evictions, now)

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        self._books.validate()
        self._rounds.validate()
        assert self._evictions.leaving.keys() <= self._books.entries.keys()


def _checked(node: str, amounts: Amounts) -> Amounts:
    for resource, amount in amounts.items():
        if not (amount >= 0 and math.isfinite(amount)):
            raise BadInputError(f"node {node!r} has {told(resource, amount)}", todo="give what it has, 0 or more")
    return amounts


def _with_orphans(tree: QuotaTree, tenants: set[str]) -> QuotaTree:
    """Whoever still runs something has a place: those that `tree` does not name are in a cohort of next to no weight."""
    named = {tenant.name for _, tenant in tree.tenants()}
    orphans = sorted(tenants - named) if ANY not in named else []
    if not orphans:
        return tree
    weight = LEAST * min(cohort.weight for cohort in tree.cohorts) if tree.cohorts else 1.0
    return QuotaTree((*tree.cohorts, CohortQuota(ORPHANS, tuple(map(TenantQuota, orphans)), weight)))
