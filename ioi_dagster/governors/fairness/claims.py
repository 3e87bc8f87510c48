"""What starts without standing in a queue: at once, if it is within what its tenant is entitled to, or takes nothing from those
who have less than that."""

from __future__ import annotations

from collections.abc import Collection

from ioi_dagster.governors.fairness import reasons
from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.rounds import Rounds
from ioi_dagster.governors.fairness.tree import Entry
from ioi_dagster.model.refusal import Refusal


class Claims:
    def __init__(self, books: Books, rounds: Rounds) -> None:
        self._books, self._machines, self._rounds = books, books.machines, rounds

    def quote(self, entry: Entry) -> int:
        """So many times it could start at once, if it were claimed now."""
        room = self._rounds.count(entry.shape, entry.left)
        room = self._books.most(entry.leaf, entry.shape.total, room) if room else 0
        if not room or self._alone(entry):
            return room
        whole = self._books.whole(entry.leaf, entry.shape)
        return room if whole >= room or not self._others_wait(entry) else whole

    def quote_idle(self, entry: Entry) -> int:
        """So many times it could start on room that nobody asks for."""
        room = self._rounds.count(entry.shape, entry.left + sum(leaf.waiting for leaf in self._books.asking))
        for leaf in self._books.asking if room else ():
            lines = (line for line in leaf.lines.values() if line.head is not None or line.wishes)
            if any(line.pool.overlaps(entry.line.pool) for line in lines):
                room -= leaf.waiting
        return self._books.most(entry.leaf, entry.shape.total, min(room, entry.left)) if room > 0 else 0

    def quote_warm(self, entry: Entry, most: int) -> int:
        """So many of them where a replica is warm."""
        return self._machines.count_warm(entry.shape, most)

    def claim(
        self, entry: Entry, now: float, prefer: Collection[str] = (), avoid: Collection[str] = ()
    ) -> Refusal | None:
        """It starts now, rather at the nodes `prefer` and at `avoid` only where there are no others; or why it may not."""
        leaf, shape = entry.leaf, entry.shape
        if (
            self._books.limiter(leaf, shape.total) is not None
            or not (self._alone(entry) or self._books.whole(leaf, shape) or not self._others_wait(entry))
            or not self._place(entry, now, prefer, avoid)
        ):
            return self.why_not(entry)
        return None

    def _alone(self, entry: Entry) -> bool:
        """Nobody else asks for anything, so nobody's share matters; else shares are as they are now."""
        asking = self._books.asking
        if not asking or (len(asking) == 1 and entry.leaf in asking):
            return True
        if self._books.refresh():
            self._rounds.rekey()
        return False

    def redeem(self, entry: Entry, now: float, prefer: Collection[str] = (), avoid: Collection[str] = ()) -> bool:
        """It starts now wherever there is room, as it was promised; whether there is."""
        return self._place(entry, now, prefer, avoid)

    def _place(self, entry: Entry, now: float, prefer: Collection[str], avoid: Collection[str]) -> bool:
        machines, shape = self._machines, entry.shape
        if shape.copies > 1:
            found = machines.find_gang(shape, machines.numbers_of(prefer), frozenset(machines.numbers_of(avoid)))
        else:
            one = machines.find_rather(shape, machines.numbers_of(prefer), frozenset(machines.numbers_of(avoid)))
            found = None if one is None else [one]
        if found is None:
            return False
        self._rounds.begin(entry, found, now)
        self._books.touched[entry.leaf] = None
        if entry.leaf.heads:
            entry.leaf.note()
        return True

    def why_not(self, entry: Entry) -> Refusal:
        """Why it may not start now."""
        return reasons.claims_not(entry, self._books)

    def _others_wait(self, entry: Entry) -> bool:
        """Is there somebody else who asks for what it could use and has less than it is entitled to by a whole request?"""
        for leaf in self._books.asking:
            if leaf is entry.leaf:
                continue
            for line in leaf.lines.values():
                other = line.head or next(iter(line.wishes.values()), None)
                if (
                    other is not None
                    and line.pool.overlaps(entry.line.pool)
                    and self._books.whole(leaf, other.shape)
                    and self._books.lacks_room_only(leaf, other.shape)
                ):
                    return True
        return False
