"""Writing a feed: its owner alone does, from one process at a time.

What is written is read as others will before it is given out, so nothing goes out that they would not take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError
from ioi_dagster.ras.feeds.entry import Entry, Op, make_entry
from ioi_dagster.ras.feeds.head import HOLDS_S, Head, sign_head
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.reader import Position, Taken, known_roster, roster_body, take
from ioi_dagster.ras.feeds.roster import KeySpan, Revoked, Roster, public_text, sign_roster
from ioi_dagster.signing import Signed, SigningKey

Said = tuple[Op, bytes]
"""An operation and the canonical bytes of what it says."""
KEEP_TOMBSTONES_S = 30 * 86_400
"""A tombstone is kept for so long at least; then a snapshot may take its place, and whoever was away longer begins anew."""


class FeedWriter:
    """`at` is where the feed ends. Each method gives what it writes, and has moved on; the caller keeps that before anybody sees
    it, and makes another writer where he could not. They raise `FinalError` where a reader would not take it."""

    def __init__(self, key: SigningKey, at: Position) -> None:
        self._key, self.at = key, at

    def append(self, said: Iterable[Said], now: float) -> Taken:
        """`now`: Unix seconds."""
        return self._write(self.at, self.at.epoch, said, now)

    def rotate(self, roster: Signed, now: float) -> Taken:
        """From now on the keys of `roster` count."""
        return self._write(self.at, self.at.epoch, [(Op.KEY, roster_body(roster))], now)

    def snapshot(self, roster: Signed, stated: Sequence[Said], now: float) -> Taken:
        """State all that is stated again; what came before is not needed any more. With a roster of another epoch that begins
        here, as the first does."""
        at = self.at if self.at.root else replace(self.at, root=roster.body["root"])
        said = [(Op.SNAPSHOT, roster_body(roster, len(stated))), *stated]
        return self._write(at, roster.body["epoch"], said, now)

    def head(self, now: float, holds_s: int = HOLDS_S) -> Signed:
        """How far the feed is."""
        at, issued = self.at, int(now)
        its = Head(at.feed, at.epoch, at.seq, at.hash, at.root, at.serial, issued, issued + holds_s)
        return sign_head(self._key, its)

    def _write(self, at: Position, epoch: int, said: Iterable[Said], now: float) -> Taken:
        entries = list[Entry]()
        seq, prev, hlc = at.seq if epoch == at.epoch else 0, at.hash, at.hlc
        for op, body in said:
            seq, hlc = seq + 1, max(hlc + 1, int(now * 1e6))
            entries.append(make_entry(self._key, at.feed, epoch, seq, prev, hlc, op, body))
            prev = entries[-1].hash
        taken = take(at, [(entry, from_json(entry.body)) for entry in entries])
        if not isinstance(taken, Taken) or taken.left_out:
            why = taken.left_out[0] if isinstance(taken, Taken) else taken
            raise FinalError(f"{at.feed} cannot be written: {why}")
        self.at = taken.at
        return taken


def first_roster(root: SigningKey, feed: Feed, key: SigningKey) -> Signed:
    return sign_roster(root, feed, 1, 1, [KeySpan(public_text(key))])


def with_key(root: SigningKey, at: Position, key: SigningKey, keep: bool = False) -> Signed:
    """The roster of the same epoch in which `key` signs from now on; those before it not any more, unless they are to be kept
    beside it. Raises `FinalError` where the feed has none."""
    roster, text = _roster(at), public_text(key)
    before = [
        KeySpan(span.key, span.until if keep else min(span.until, at.seq)) for span in roster.keys if span.key != text
    ]
    # Of those that signed nothing that is still needed none is told any more.
    kept = [span for span in before if span.until >= at.base]
    return sign_roster(root, at.feed, at.epoch, roster.serial + 1, [*kept, KeySpan(text)], roster.revoked)


def next_epoch(
    root: SigningKey, at: Position, key: SigningKey, revoked: Sequence[Revoked] = (), told: tuple[int, int] = (0, 0)
) -> Signed:
    """The roster of a new epoch, where the feed that is there cannot be gone on with: it was restored from an old copy, or
    somebody else had its key. `told`: the highest epoch and serial that others have of it."""
    roster = _roster(at)
    epoch, serial = max(at.epoch, told[0]) + 1, max(roster.serial, at.serial, told[1]) + 1
    return sign_roster(root, at.feed, epoch, serial, [KeySpan(public_text(key))], [*roster.revoked, *revoked])


def _roster(at: Position) -> Roster:
    roster = known_roster(at)
    if not isinstance(roster, Roster):
        raise FinalError(f"{at.feed} has no roster: {roster}")
    return roster
