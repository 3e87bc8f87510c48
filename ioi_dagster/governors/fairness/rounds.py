"""The queues, and rounds in which what waits in them starts.

unit      at every level the child with the least (beyond its part?, share of what it is entitled to, effective arrival)
node      the one that is left most useful, or the emptiest; of many, the best of a few
turn      while somebody who is below what it is entitled to fits nowhere, nobody beyond its own starts anything there
hold      whoever is well below and fits nowhere has a node emptied for it (a gang: as many as it needs)
backfill  what is over before the gang can start runs there meanwhile
"""

from __future__ import annotations

from heapq import heappop, heappush

from ioi_dagster.governors.fairness.backfill import Backfill
from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.eviction import Ledger
from ioi_dagster.governors.fairness.holds import Holds
from ioi_dagster.governors.fairness.machines import Shape
from ioi_dagster.governors.fairness.pools import Pool
from ioi_dagster.governors.fairness.tree import Entry, Key, Leaf, Line, Tour, Unit
from ioi_dagster.governors.fairness.watch import Watch

BEYOND = (2, 1.0)
"""What is above it in the order of turns has more than it is entitled to."""
PASSES = 2
"""Of a round: what is no longer held after the first is offered in a second."""


class Rounds:
    def __init__(self, books: Books, evictions: Ledger) -> None:
        self._books, self._machines = books, books.machines
        self._sequence = 0
        self._freed: dict[int, None] = {}
        self._watch = Watch(books.machines)
        self._open = self._watch.open
        self.holds = Holds(books, evictions, self.freed)
        self.backfill = Backfill(books, self.holds, evictions)
        self._at_limit: Leaf | None = None
        self._closed: Unit | None = None
        self._tour = Tour()

    # Queues -----------------------------------------------------------------------------------------------------

    def wish(self, entry: Entry) -> None:
        """It is asked for, which counts for what its leaf is entitled to, and stands in no line."""
        entry.line.wishes[entry.id] = entry
        self._books.entries[entry.id] = entry
        self._asked(entry, entry.left)

    def wait(self, entry: Entry) -> None:
        """It stands in its line from now on."""
        line = entry.line
        if line.wishes.pop(entry.id, None) is None:
            self._books.entries[entry.id] = entry
            self._asked(entry, entry.left)
        entry.queued = True
        self._sequence += 1
        heappush(line.queue, (entry.key, self._sequence, entry))
        line.waiting += 1
        if line.queue[0][2] is entry:
            self._set_head(line)

    def leave(self, entry: Entry) -> None:
        """It is asked for no longer."""
        del self._books.entries[entry.id]
        self.unasked(entry, entry.left)
        if entry.line.wishes.pop(entry.id, None) is None:
            self._leave_line(entry)

    def step_back(self, entry: Entry) -> None:
        """It is asked for still, but stands in its line no longer."""
        self._leave_line(entry)
        entry.line.wishes[entry.id] = entry

    def unasked(self, entry: Entry, count: int) -> None:
        """So many of it less are asked for."""
        self._asked(entry, -count)

    def _asked(self, entry: Entry, count: int) -> None:
        leaf = entry.leaf
        self._books.touched[leaf] = None
        if not leaf.waiting:
            for unit in leaf.path():  # who had nothing to ask for was entitled to nothing yet
                unit.entitled = max(unit.entitled, unit.part)
            self._books.asking[leaf] = None
        leaf.waiting += count
        if not leaf.waiting:
            del self._books.asking[leaf]
        for number, amount in entry.shape.total:
            leaf.waiting_amounts[number] += amount * count

    def _leave_line(self, entry: Entry) -> None:
        line = entry.line
        entry.queued = False
        line.waiting -= 1
        if line.head is entry:
            self._set_head(line)
        elif len(line.queue) + len(line.unable) > 2 * line.waiting + 64:
            line.queue = _in_line(line.queue)
            line.unable = _in_line(line.unable)

    def _set_head(self, line: Line) -> None:
        old = line.head
        queue = line.queue
        while queue and (not queue[0][2].queued or self._unable(queue[0][2])):
            one = heappop(queue)
            if one[2].queued:
                heappush(line.unable, one)
        while line.unable and not line.unable[0][2].queued:
            heappop(line.unable)
        # Where no node could take any of them, the first of all.
        first = queue or line.unable
        new = line.head = first[0][2] if first else None
        if (old is None) != (new is None):
            self._contends(line.leaf, 1 if old is None else -1)
        line.leaf.note()
        self.backfill.head(line)
        shape = new.shape if new is not None else None
        if line.holds or (shape is not None and not shape.least):
            self.holds.due[line] = None
        if old is not None and old.shape is shape:
            return
        if old is not None:
            old.shape.heads -= 1
            if not old.shape.heads:
                self._watch.rests(old.shape)
        if shape is not None:
            if not shape.heads:
                self._watch.wakes(shape)
            shape.heads += 1
        if line.holds:
            self.holds.release(line)  # they were chosen for another demand

    def _unable(self, entry: Entry) -> bool:
        """Not even empty could the nodes that are there take it."""
        return self._machines.could_hold(entry.shape) < entry.shape.copies

    def _look_again(self, leaf: Leaf) -> None:
        """Nodes have changed: what none could take they may, and the other way round."""
        for line in leaf.lines.values():
            if not all(map(self._unable, {one[2].shape: one[2] for one in line.unable}.values())):
                line.queue, line.unable = _in_line([*line.queue, *line.unable]), []
                self._set_head(line)
            elif line.queue and self._unable(line.queue[0][2]):
                self._set_head(line)

    def _contends(self, leaf: Leaf, change: int) -> None:
        for unit in leaf.path():
            if not unit.heads and unit.parent is not None:
                unit.passed = max(unit.passed, unit.parent.served)  # who comes anew begins where the others are
            unit.heads += change

    def clear(self) -> None:
        """Nobody waits, and no node is held for anybody."""
        self._watch.clear()
        self.holds.clear()
        self.backfill.clear()

    # What begins and ends ---------------------------------------------------------------------------------------

    def begin(self, entry: Entry, found: list[int], now: float) -> None:
        """It runs at the nodes `found` from now on."""
        entry.machines, entry.started, entry.left = found, now, 1
        need = entry.shape.need
        for machine in found:
            free = self._machines.free[machine]
            for number, amount in need:
                free[number] -= amount
        entry.leaf.running[entry.id] = self._books.entries[entry.id] = entry
        entry.leaf.advance(entry.shape.size)
        self._books.book(entry.leaf, entry.shape.total, 1)

    def end(self, entry: Entry) -> None:
        """What it ran on is free."""
        del entry.leaf.running[entry.id]
        self._books.book(entry.leaf, entry.shape.total, -1)
        self._books.touched[entry.leaf] = None
        if entry.leaf.heads:
            entry.leaf.note()
            for line in entry.leaf.lines.values():
                if not entry.shape.least or line.holds:
                    self.holds.due[line] = None
        found = entry.machines or ()
        for machine in found:
            free = self._machines.free[machine]
            for number, amount in entry.shape.need:
                free[number] += amount
        for machine in found if len(found) == 1 else dict.fromkeys(found):
            self.freed(machine)

    def count(self, shape: Shape, most: int) -> int:
        """So many times it fits now, up to `most`."""
        return self._watch.count(shape, most)

    def take_up(self, entry: Entry) -> None:
        """What waited for others goes on, be there room or not."""
        for machine in entry.machines or ():
            free = self._machines.free[machine]
            for number, amount in entry.shape.need:
                free[number] -= amount
        entry.leaf.running[entry.id] = entry
        self._books.book(entry.leaf, entry.shape.total, 1)
        self._books.touched[entry.leaf] = None
        entry.leaf.note()

    def freed(self, machine: int) -> None:
        """Something of it may be free that was not."""
        self._freed[machine] = None
        if machine not in self._machines.held:
            self._watch.freed(machine)

    def resized(self, machine: int) -> None:
        self._books.resized()
        self.holds.drop(machine)
        self.freed(machine)
        self._watch.resized(machine)
        for leaf in self._books.asking:
            self._look_again(leaf)

    # Rounds -----------------------------------------------------------------------------------------------------

    def run(self, now: float) -> list[Entry]:
        """What starts now, in order."""
        if not (self._open or self._freed or self.holds.due or self.backfill.is_due()):
            return []
        if self._books.refresh():
            self.rekey()
        granted: list[Entry] = []
        for _ in range(PASSES):
            self._serve_holders(now, granted)
            aside: list[tuple[Unit, Key]] = []
            while self._open and self._step(self._books.trunk, now, granted, aside):
                pass
            self._closed = None
            tour, self._tour = self._tour, Tour()
            for shelf in tour.passed:
                if shelf.passed:
                    shelf.list_again()
            for unit, key in aside:
                if key[4] == key[5].version:  # else its place has changed meanwhile
                    unit.push(key)
                    unit.note()  # it may have been left out when those above had their places
            self.holds.settle()
            if not self._freed:
                break
        for entry, machine in self.backfill.offers(now):
            self._start(entry, [machine], now, granted)
            self.backfill.began(granted[-1])
        return granted

    def _serve_holders(self, now: float, granted: list[Entry]) -> None:
        """Offer the nodes freed since to whoever holds them."""
        held = self._machines.held
        while self._freed:
            freed, self._freed = self._freed, {}
            for machine in freed:
                line = held.get(machine)
                while isinstance(line, Line) and line.holds and self._place_held(line, now, granted):
                    line = held.get(machine)

    def _place_held(self, line: Line, now: float, granted: list[Entry]) -> bool:
        entry = line.head
        if entry is None or self._books.limiter(line.leaf, entry.shape.total) is not None:
            return False
        found = self._machines.find_held(entry.shape, line.holds)
        if found is None:
            return False
        self._start(entry, found, now, granted)
        return True

    def _step(self, unit: Unit, now: float, granted: list[Entry], aside: list[tuple[Unit, Key]]) -> bool:
        """Start one request below `unit`. Children for whom there is nothing are set aside for the round."""
        tour = self._tour
        while self._open:
            child = unit.next(tour)
            if child is None:
                return False
            if tour.short:
                if tour.all_short and unit.heap[0][:2] > BEYOND:
                    # All others are beyond what they are entitled to as well.
                    return False
                shape = child.shut() if isinstance(child, Leaf) else None
                if shape is not None and tour.passes(shape):
                    # Nobody is short of anything more by it, so there is nothing else to see to.
                    aside.append((unit, unit.pop()))
                    continue
            key = unit.pop()  # at once: who comes before it may be listed meanwhile
            if isinstance(child, Leaf):
                if self._place(child, now, granted):
                    return True
            elif self._step(child, now, granted, aside):
                return True
            if child is not self._at_limit:
                aside.append((unit, key))
            if self._closed is not None:
                if self._closed is unit:
                    self._closed = None
                return False
        return False

    def _place(self, leaf: Leaf, now: float, granted: list[Entry]) -> bool:
        self._at_limit = None
        if len(leaf.lines) == 1:
            (line,) = leaf.lines.values()
            return self._place_line(line, now, granted)
        limited = 0
        lines = leaf.in_turn()
        for line in lines:
            if self._place_line(line, now, granted):
                return True
            if self._closed is not None:
                return False
            limited += self._at_limit is leaf
        if limited < len(lines):
            self._at_limit = None
        return False

    def _place_line(self, line: Line, now: float, granted: list[Entry]) -> bool:
        entry, leaf = line.head, line.leaf
        assert entry is not None
        shape = entry.shape
        found = None
        below = leaf.share + shape.size / 2 <= leaf.entitled or leaf.due(shape)
        tour = self._tour
        if tour.short and not below and (tour.all_short or any(line.pool.overlaps(pool) for pool in tour.short)):
            return False
        if shape.full and not shape.open:
            # What it may hold was seen to when it last changed.
            self._open.pop(shape, None)
            if below and not tour.all_short and self._books.lacks_room_only(leaf, shape):
                self._is_short(line.pool)
            return False
        limiter = self._books.limiter(leaf, shape.total) if self._books.limits else None
        if limiter is not None and limiter[0] is not self._books.root:
            self.holds.release(line)
            if limiter[0] is leaf:
                self._at_limit = leaf  # until something of its own ends
            elif self.holds.wanted(line, shape):
                self._closed = limiter[0]  # or those beside it would use up what it waits for
            return False
        if limiter is None:
            found = self._machines.find(shape)
            if found is None:
                self._open.pop(shape, None)
                # To what it holds there may be added what came free elsewhere.
                found = self._machines.find_held(shape, line.holds) if line.holds else None
        if found is None:
            if below and self._books.lacks_room_only(leaf, shape):
                self._is_short(line.pool)
            self.holds.due[line] = None
            self.holds.reserve(line)
            return False
        self._start(entry, found, now, granted)
        return True

    def _is_short(self, pool: Pool) -> None:
        tour = self._tour
        if pool not in tour.short:
            tour.short[pool] = None
            tour.all_short = all(any(shape.pool.overlaps(short) for short in tour.short) for shape in self._open)

    def _start(self, entry: Entry, found: list[int], now: float, granted: list[Entry]) -> None:
        line = entry.line
        self._asked_less(entry)
        if entry.left > 1:
            started = entry.one()
            entry.left -= 1
            self.begin(started, found, now)
            line.leaf.note()
            self.holds.due[line] = None
        else:
            started = entry
            self.begin(entry, found, now)
            self._leave_line(entry)
        granted.append(started)
        if self.holds.gang is line:
            self.holds.release(line)

    def _asked_less(self, entry: Entry) -> None:
        leaf = entry.leaf
        leaf.waiting -= 1
        if not leaf.waiting:
            del self._books.asking[leaf]
        for number, amount in entry.shape.total:
            leaf.waiting_amounts[number] -= amount

    def rekey(self) -> None:
        for unit in self._books.units():
            if unit.parent is not None and unit.heads:
                unit.note()
        for leaf in self._books.leaves.values():
            for line in leaf.lines.values():
                if line.head is not None:
                    self.holds.due[line] = None

    def validate(self) -> None:
        heads: dict[Shape, int] = {}
        for leaf in self._books.leaves.values():
            for line in leaf.lines.values():
                if line.head is not None:
                    heads[line.head.shape] = heads.get(line.head.shape, 0) + 1
        self._watch.validate(heads)


def _in_line(items: list[tuple[float, int, Entry]]) -> list[tuple[float, int, Entry]]:
    """Those of them that wait still, in their order."""
    return sorted((item for item in items if item[2].queued), key=lambda item: item[:2])
