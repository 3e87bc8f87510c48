"""Reading a feed: from a place in it, some entries more.

Checked of each entry: its form, its digest, its place, that it names the hash of the one before, that its key may sign there. The
last one's signature is verified, by which all before it are their owner's word too (see `entry`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ioi_dagster.decoding import converted
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.content import Change, Prune, Undo, change_of
from ioi_dagster.ras.feeds.entry import NOTHING, Entry, Op, WireEntry, read_entry, verified
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.proof import Proof
from ioi_dagster.ras.feeds.roster import Roster, read_roster
from ioi_dagster.signing import Signed, canonical

SNAPSHOT = "ioi.feed-snapshot/1"
MAX_PAGE = 2_000
"""Entries of an answer."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a feed is read. `root`: who signs its rosters (base64), empty where nobody has said so; `roster`: the newest that
    is known; `serial`: no older one is taken; `base`: where the newest snapshot begins; `open_until`: the seq at which it is
    complete, 0 where it is. `last`: the entry itself, without its body."""

    feed: Feed
    root: str = ""
    serial: int = 0
    epoch: int = 0
    seq: int = 0
    hash: str = NOTHING
    hlc: int = 0
    roster: Signed | None = None
    base: int = 0
    open_until: int = 0
    last: Signed | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class Taken:
    """`entries` follow each other from `before` to `at`, and make `changes`; `left_out` says which made none, and why."""

    before: Position
    at: Position
    entries: tuple[Entry, ...]
    changes: tuple[Change, ...]
    left_out: tuple[Refusal, ...] = ()


def read_entries(at: Position, wires: Sequence[WireEntry], roster: Signed | None = None) -> Taken | Refusal | Proof:
    """All of `wires`, or why nothing of them is taken. `roster`: the newest that the sender has. A `Refusal` is of whoever has
    sent them; a `Proof` is of the owner, who has signed something else at that place before."""
    if len(wires) > MAX_PAGE:
        return Refusal("feed.too_large", f"{len(wires)} entries; an answer has {MAX_PAGE} at most", "feeds")
    read = list[tuple[Entry, Mapping[str, Any]]]()
    for wire in wires:
        both = read_entry(at.feed, wire)
        if isinstance(both, Refusal):
            return both
        if both[0].place > at.place:
            read.append(both)
    return take(at, read, roster)


def take(
    at: Position, read: Sequence[tuple[Entry, Mapping[str, Any]]], newest: Signed | None = None
) -> Taken | Refusal | Proof:
    """As `read_entries`, of entries that were read, with what they say."""
    before, changes, left_out = at, list[Change](), list[Refusal]()
    roster = known_roster(at, newest)
    for entry, said in read:
        if isinstance(roster, Refusal):
            return roster
        if entry.op in (Op.KEY, Op.SNAPSHOT):
            roster = _roster_in(at, roster, entry, said)
            if isinstance(roster, Refusal):
                return roster
        step = _follow(at, roster, entry)
        if not isinstance(step, Position):
            return step
        if entry.op is Op.SNAPSHOT:
            changes += _undone(at, step, roster)
            step = replace(step, base=entry.seq, open_until=entry.seq + said["count"])
        elif entry.op is not Op.KEY:
            change = change_of(entry, said)
            if isinstance(change, Refusal):
                left_out.append(change)
            else:
                changes.append(change)
        at = step
        if at.open_until and entry.seq >= at.open_until:
            at = replace(at, open_until=0)
            changes.append(Prune((at.epoch, at.base)))
    if read:
        last = read[-1][0]
        public = None if roster is None or isinstance(roster, Refusal) else roster.key(last.key_id, last.seq)
        if public is None or not verified(last, public):
            text = f"entry {last.epoch}/{last.seq} of {at.feed} is not signed by its key"
            return Refusal("feed.signature", text, "feeds")
        at = replace(at, last=last.signed)
    if isinstance(roster, Roster):
        at = replace(at, roster=roster.signed, serial=roster.serial)
    return Taken(before, at, tuple(entry for entry, _ in read), tuple(changes), tuple(left_out))


def known_roster(at: Position, newest: Signed | None = None) -> Roster | Refusal | None:
    """The newer of what is known and `newest`, which the root must have signed; None where there is neither."""
    found: Roster | None = None
    for signed in (at.roster, newest):
        if signed is None or not at.root:
            continue
        roster = read_roster(signed, at.feed, at.root)
        if isinstance(roster, Refusal):
            return roster
        if found is None or roster.serial > found.serial:
            found = roster
    if found is not None and found.serial < at.serial:
        text = f"{at.feed} has roster {at.serial} by its owner's word, and roster {found.serial} came"
        return Refusal("feed.roster", text, "feeds", "ask another")
    return found


def _follow(at: Position, roster: Roster | None, entry: Entry) -> Position | Refusal | Proof:
    """Where reading is after `entry`."""
    place = f"entry {entry.epoch}/{entry.seq} of {at.feed}"
    next_ = entry.epoch == at.epoch and entry.seq == at.seq + 1
    if entry.place <= at.place or (not next_ and entry.op is not Op.SNAPSHOT):
        text = f"{place} came after {at.epoch}/{at.seq}"
        return Refusal("feed.gap", text, "feeds", "ask for what lies between")
    if roster is None:
        return Refusal("feed.roster", f"{at.feed} does not begin with a roster", "feeds")
    if roster.epoch != entry.epoch:
        return Refusal("feed.epoch", f"{place} came, and its owner is at epoch {roster.epoch}", "feeds", "ask another")
    public = roster.key(entry.key_id, entry.seq)
    if public is None:
        todo = "its owner takes the newer key into the roster"
        return Refusal("feed.key", f"{entry.key_id} may not sign {place}", "feeds", todo)
    if next_ and entry.prev != at.hash:
        if at.last is not None and verified(entry, public):
            return Proof(at.last, entry.signed)
        return Refusal("feed.link", f"{place} does not follow the one before", "feeds", "ask another")
    return replace(at, epoch=entry.epoch, seq=entry.seq, hash=entry.hash, hlc=entry.hlc, last=None)


def _undone(at: Position, after: Position, roster: Roster | None) -> list[Change]:
    """What a new epoch takes back at once: what was told by a key that somebody else had by then."""
    if roster is None or after.epoch == at.epoch:
        return []
    lost = [one.last for one in roster.revoked if one.epoch == at.epoch and one.last < at.seq]
    return [Undo(at.epoch, min(lost))] if lost else []


def _roster_in(at: Position, known: Roster | None, entry: Entry, said: Mapping[str, Any]) -> Roster | Refusal:
    """The newer of the roster that a `key` or `snapshot` brings, and the one that is known."""
    wanted = {"schema", "roster"} | ({"count"} if entry.op is Op.SNAPSHOT else set())
    count = said.get("count", 0)
    if said.keys() != wanted or said["schema"] != SNAPSHOT or type(count) is not int or not 0 <= count < 2**40:
        return Refusal("feed.malformed", f"entry {entry.epoch}/{entry.seq} of {at.feed} brings no roster", "feeds")
    try:
        signed = converted(said["roster"], Signed)
    except msgspec.ValidationError as error:
        return Refusal("feed.malformed", f"the roster of {at.feed} is none: {error}", "feeds")
    if not at.root:
        return Refusal("feed.root", f"nobody has said which root signs for {at.feed}", "feeds")
    roster = read_roster(signed, at.feed, at.root)
    if isinstance(roster, Refusal):
        return roster
    return roster if known is None or roster.serial > known.serial else known


def roster_body(roster: Signed, count: int | None = None) -> bytes:
    """What `key` says, and with `count`, what `snapshot` says: so many entries after it state all that is stated."""
    its = {"body": roster.body, "key_id": roster.key_id, "signature": roster.signature}
    return canonical({"schema": SNAPSHOT, "roster": its} | ({} if count is None else {"count": count}))
