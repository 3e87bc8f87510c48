"""What a domain states of its own, in a feed for each audience."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ioi_dagster.errors import BadInputError, FinalError, RetryableError
from ioi_dagster.ras.feeds.content import (
    event_name,
    event_said,
    pointer_body,
    pointer_item,
    record_body,
    record_item,
    tombstone_body,
)
from ioi_dagster.ras.feeds.entry import Op
from ioi_dagster.ras.feeds.head import HOLDS_S, Head, head_in
from ioi_dagster.ras.feeds.names import Feed, read_feed
from ioi_dagster.ras.feeds.reader import Position, Taken, known_roster
from ioi_dagster.ras.feeds.replica_messages import Wrote
from ioi_dagster.ras.feeds.roster import Revoked, Roster
from ioi_dagster.ras.feeds.store import FeedStore, Kept, News, Pointed
from ioi_dagster.ras.feeds.writer import KEEP_TOMBSTONES_S, FeedWriter, Said, first_roster, next_epoch, with_key
from ioi_dagster.ras.record import PUBLIC, record_of
from ioi_dagster.signing import Signed, SigningKey


@dataclass(frozen=True, slots=True)
class _Word:
    """One thing that is said in the feed of `audience`."""

    audience: str
    said: Said


class Owner:
    """Writes the feeds of the domain whose `key` it has, into `store`. `root` is needed to begin a feed, to change keys and for a
    new epoch; it need not be on this machine else. One at a time writes. Each method gives what was written, which the
    domain's replica is told; it raises `FinalError` where the root is missing, and `RetryableError` where somebody else wrote
    meanwhile. `now`: Unix seconds."""

    def __init__(self, key: SigningKey, store: FeedStore, root: SigningKey | None = None) -> None:
        self._key, self._store, self._root = key, store, root

    def state(self, records: Sequence[Signed], now: float) -> list[Wrote]:
        """State records, each in the feed of its audience; one that is stated elsewhere moves. What is stated already is no
        error, and nothing is written of it."""
        return self.tell(News(tuple(records)), now)

    def withdraw(self, items: Sequence[str], now: float) -> list[Wrote]:
        """State them no longer, in whichever feed that is."""
        return self.tell(News(gone=tuple(items)), now)

    def tell(self, news: News, now: float) -> list[Wrote]:
        """All of it in one transaction: records, then what is said of them, then what goes. An event is told to its audiences
        alone; one without any stays where it is told."""
        words = [word for signed in news.records for word in self._put(signed)]
        words += [word for one in news.pointed if one.audiences for word in self._point(one)]
        words += [word for item in dict.fromkeys(news.gone) for word in self._gone(item)]
        return self._write(words, now)

    def tell_all(self, news: News, now: float) -> list[Wrote]:
        """The same of all records that there are: others are stated no longer."""
        meant = {record_item(record.urn, record.version) for record in map(record_of, news.records)}
        stated = {one.item for kept in self._own() for one in self._store.stated(kept.at.feed) if one.op is Op.PUT}
        return self.tell(replace(news, gone=(*news.gone, *sorted(stated - meant))), now)

    def point(self, urn: str, name: str, said: Mapping[str, Any], now: float) -> list[Wrote]:
        """Have `name` of `urn` point at what `said` says, for all."""
        body = pointer_body(urn, name, said)
        return self._write(self._words(pointer_item(urn, name), {PUBLIC}, Op.POINTER, body), now)

    def renew(self, now: float) -> list[Wrote]:
        """What time asks for: heads before they expire, a snapshot in place of old tombstones."""
        out: list[Wrote] = []
        for kept in self._own():
            head = head_in(kept.head) if kept.head is not None else None
            oldest = self._store.oldest_tombstone(kept.at.feed)
            if oldest is not None and oldest / 1e6 < now - KEEP_TOMBSTONES_S and self._may_sign(kept.at):
                out += self.snapshot(kept.at.feed, now)
            elif not isinstance(head, Head) or head.place != kept.at.place or now > head.issued + HOLDS_S / 3:
                out.append(self._keep([], FeedWriter(self._key, kept.at), now))
        return out

    def snapshot(self, feed: Feed, now: float) -> list[Wrote]:
        """State again all that is stated; what came before is not needed any more."""
        at = self._position(feed)
        if at.roster is None:
            return []
        writer = FeedWriter(self._key, at)
        return [self._keep([writer.snapshot(at.roster, self._said(feed), now)], writer, now)]

    def change_key(self, now: float) -> list[Wrote]:
        """From now on the key that this owner has signs, and no other."""
        out: list[Wrote] = []
        for kept in self._own():
            if self._may_sign(kept.at):
                continue
            writer = FeedWriter(self._key, kept.at)
            roster = with_key(self._the_root(kept.at.feed), kept.at, self._key)
            out.append(self._keep([writer.rotate(roster, now)], writer, now))
        return out

    def new_epoch(self, feed: Feed, now: float, revoked: Sequence[Revoked] = ()) -> list[Wrote]:
        """Begin `feed` anew with what it states now, whatever others have of it: behind all epochs that they have shown.
        Nothing is stated again of which a key has spoken after it was `revoked`."""
        at = self._position(feed)
        writer = FeedWriter(self._key, at)
        shown = self._store.heads(feed)
        told = max((head.epoch for head in shown), default=0), max((head.serial for head in shown), default=0)
        roster = next_epoch(self._the_root(feed), at, self._key, revoked, told)
        lost = {
            item
            for one in revoked
            if one.epoch == at.epoch
            for item in self._store.touched(feed, one.epoch, one.last, one.key_id)
        }
        stated = [(one.op, one.body) for one in self._store.stated(feed) if one.item not in lost]
        return [self._keep([writer.snapshot(roster, stated, now)], writer, now)]

    # ------------------------------------------------------------------------------------------------------------------

    def _put(self, signed: Signed) -> list[_Word]:
        record = record_of(signed)
        if record.domain != self._key.domain:
            raise BadInputError(f"{self._key.domain} cannot state {record.urn}", where="feeds", todo="its owner does")
        item = record_item(record.urn, record.version)
        return self._words(item, {record.audience}, Op.PUT, record_body(signed))

    def _point(self, one: Pointed) -> list[_Word]:
        urn, name = one.event.urn, event_name(one.event)
        body = pointer_body(urn, name, event_said(one.event))
        return self._words(pointer_item(urn, name), one.audiences, Op.POINTER, body)

    def _words(self, item: str, audiences: Collection[str], op: Op, body: bytes) -> list[_Word]:
        """What is to be said so that `item` is stated to those audiences, and to no others."""
        there = self._stated(item)
        gone = _Word("", (Op.TOMBSTONE, tombstone_body(item)))
        words = [replace(gone, audience=feed.audience) for feed in there if feed.audience not in audiences]
        for audience in sorted(audiences):
            read_feed(self._key.domain, audience)
            if there.get(Feed(self._key.domain, audience)) != (op, body):
                words.append(_Word(audience, (op, body)))
        return words

    def _gone(self, item: str) -> list[_Word]:
        return [_Word(feed.audience, (Op.TOMBSTONE, tombstone_body(item))) for feed in self._stated(item)]

    def _stated(self, item: str) -> dict[Feed, Said]:
        found = self._store.stated_as(item)
        return {feed: (one.op, one.body) for feed, one in found if feed.origin == self._key.domain}

    def _write(self, words: Sequence[_Word], now: float) -> list[Wrote]:
        """In one transaction, so that nothing is stated twice or not at all where it moves."""
        if not words:
            return []
        taken: list[Taken] = []
        heads: list[Signed] = []
        for audience in sorted({word.audience for word in words}):
            feed = Feed(self._key.domain, audience)
            at, said = self._position(feed), [word.said for word in words if word.audience == audience]
            writer = FeedWriter(self._key, at)
            if at.roster is None:
                first = first_roster(self._the_root(feed), feed, self._key)
                # What is stated from the first on is no snapshot's: who reads it has nothing to drop.
                taken.append(writer.snapshot(first, said, now))
            else:
                taken.append(writer.append(said, now))
            heads.append(writer.head(now))
        return self._kept(taken, heads)

    def _keep(self, taken: Sequence[Taken], writer: FeedWriter, now: float) -> Wrote:
        return self._kept(taken, [writer.head(now)], writer.at)[0]

    def _kept(self, taken: Sequence[Taken], heads: Sequence[Signed], at: Position | None = None) -> list[Wrote]:
        if not self._store.keep(taken, heads):
            raise RetryableError(f"a feed of {self._key.domain} was written by somebody else meanwhile")
        places = [one.at for one in taken] if at is None else [at]
        return [Wrote(place, head) for place, head in zip(places, heads, strict=True)]

    def _said(self, feed: Feed) -> list[Said]:
        return [(one.op, one.body) for one in self._store.stated(feed)]

    def _own(self) -> list[Kept]:
        return [one for one in self._store.kept(self._key.domain) if one.at.roster is not None]

    def _position(self, feed: Feed) -> Position:
        return next((one.at for one in self._store.kept(feed.origin) if one.at.feed == feed), Position(feed))

    def _may_sign(self, at: Position) -> bool:
        roster = known_roster(at)
        return isinstance(roster, Roster) and roster.key(self._key.key_id, at.seq + 1) is not None

    def _the_root(self, feed: Feed) -> SigningKey:
        if self._root is None:
            raise FinalError(f"the root of {self._key.domain} is not here, which signs for {feed} — bring its key file")
        return self._root
