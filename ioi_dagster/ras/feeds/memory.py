"""Feeds in memory: for tests, simulation, and domains that keep nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ioi_dagster.ras.feeds.content import Change, Gone, Point, Prune, Put, Undo
from ioi_dagster.ras.feeds.entry import Entry, Op, to_wire
from ioi_dagster.ras.feeds.head import Head, head_in
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.proof import Proof
from ioi_dagster.ras.feeds.reader import Position, Taken
from ioi_dagster.ras.feeds.store import Kept, Page, Stated, newer, place_of
from ioi_dagster.signing import Signed


@dataclass(slots=True)
class _Feed:
    at: Position
    head: Signed | None = None
    proof: Proof | None = None
    frozen: int = 0
    entries: dict[tuple[int, int], Entry] = field(default_factory=dict)
    stated: dict[str, Stated] = field(default_factory=dict)
    items: dict[tuple[int, int], str] = field(default_factory=dict)
    shown: dict[str, Signed] = field(default_factory=dict)


class MemoryFeeds:
    """Implements `ras.feeds.store.FeedStore`. `changed` hears what each transaction states and takes back."""

    def __init__(self, changed: Callable[[Feed, Sequence[Change]], None] = lambda feed, changes: None) -> None:
        self._feeds: dict[Feed, _Feed] = {}
        self._changed = changed

    def kept(self, origin: str = "") -> list[Kept]:
        return [Kept(one.at, one.head, one.proof) for feed, one in self._feeds.items() if origin in ("", feed.origin)]

    def heads(self, feed: Feed) -> list[Head]:
        return [head for head in map(head_in, self._at(feed).shown.values()) if isinstance(head, Head)]

    def keep(self, taken: Sequence[Taken], heads: Sequence[Signed] = ()) -> bool:
        for one in taken:
            if place_of(self._at(one.at.feed).at) != place_of(one.before):
                return False
        for one in taken:
            feed = self._at(one.at.feed)
            feed.at = one.at
            feed.entries |= {entry.place: entry for entry in one.entries}
            feed.items |= {its.at: its.item for its in one.changes if isinstance(its, Put | Point | Gone)}
            bodies = {entry.place: (entry.op, entry.body) for entry in one.entries}
            for change in one.changes:
                _apply(feed.stated, change, bodies)
            if not one.at.open_until:
                first = (one.at.epoch, one.at.base)
                feed.entries = {place: entry for place, entry in feed.entries.items() if place >= first}
            self._changed(one.at.feed, one.changes)
        for signed in heads:
            head = head_in(signed)
            assert isinstance(head, Head)
            self._at(head.feed).head = signed
        return True

    def page(self, feed: Feed, epoch: int, after: int, limit: int) -> Page:
        its = self._at(feed)
        at = its.at
        if its.proof is not None and its.frozen >= at.epoch:
            return Page(its.head, at.roster)
        follows = epoch == at.epoch and after >= at.base - 1
        first = after + 1 if follows else at.base
        found: Iterable[Entry] = ()
        if (epoch, after) < at.place:
            places = ((at.epoch, seq) for seq in range(first, min(first + limit, at.seq + 1)))
            found = [its.entries[place] for place in places]
        return Page(its.head, at.roster, tuple(to_wire(entry) for entry in found))

    def entry_at(self, feed: Feed, epoch: int, seq: int) -> Signed | None:
        entry = self._at(feed).entries.get((epoch, seq))
        return entry.signed if entry is not None else None

    def keep_head(self, peer: str, head: Head, signed: Signed) -> None:
        its = self._at(head.feed)
        its.shown[peer] = signed
        if newer(head, signed, its.head):
            its.head = signed

    def freeze(self, feed: Feed, epoch: int, proof: Proof) -> None:
        its = self._at(feed)
        its.frozen, its.proof = epoch, proof

    def stated(self, feed: Feed) -> list[Stated]:
        return sorted(self._at(feed).stated.values(), key=lambda one: (one.epoch, one.seq))

    def stated_as(self, item: str) -> list[tuple[Feed, Stated]]:
        return [(feed, its.stated[item]) for feed, its in self._feeds.items() if item in its.stated]

    def touched(self, feed: Feed, epoch: int, after: int, key: str) -> set[str]:
        its = self._at(feed)
        behind = [one for one in its.entries.values() if one.epoch == epoch and one.seq > after and one.key_id == key]
        return {its.items[one.place] for one in behind if one.place in its.items}

    def again(self, origin: str) -> None:
        """Nothing is left out here."""

    def forget(self, origin: str) -> None:
        self._feeds = {feed: its for feed, its in self._feeds.items() if feed.origin != origin}

    def oldest_tombstone(self, feed: Feed) -> int | None:
        gone = [entry.hlc for entry in self._at(feed).entries.values() if entry.op is Op.TOMBSTONE]
        return min(gone, default=None)

    def _at(self, feed: Feed) -> _Feed:
        return self._feeds.setdefault(feed, _Feed(Position(feed)))


def _apply(stated: dict[str, Stated], change: Change, bodies: dict[tuple[int, int], tuple[Op, bytes]]) -> None:
    match change:
        case Put(item, at) | Point(item, at):
            stated[item] = Stated(item, *at, *bodies[at])
        case Gone(item):
            stated.pop(item, None)
        case Prune(first):
            for item in [item for item, one in stated.items() if (one.epoch, one.seq) < first]:
                del stated[item]
        case Undo(epoch, last):
            for item in [item for item, one in stated.items() if one.epoch == epoch and one.seq > last]:
                del stated[item]
