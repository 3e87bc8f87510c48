"""The port behind which feeds are kept, with what they state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ioi_dagster.ras.feeds.entry import Op, WireEntry
from ioi_dagster.ras.feeds.head import Head, head_in
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.proof import Proof
from ioi_dagster.ras.feeds.reader import Position, Taken
from ioi_dagster.ras.pointers import PointerEvent
from ioi_dagster.signing import Signed


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a feed."""

    at: Position
    head: Signed | None = None
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered to who asks for entries: `roster` is the newest that is known of the feed."""

    head: Signed | None = None
    roster: Signed | None = None
    entries: tuple[WireEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Stated:
    """What is stated under `item` now, and since which place."""

    item: str
    epoch: int
    seq: int
    op: Op
    body: bytes


@dataclass(frozen=True, slots=True)
class Pointed:
    """An event of a pointer, and the audiences that are told of it."""

    event: PointerEvent
    audiences: frozenset[str]


@dataclass(frozen=True, slots=True)
class News:
    """What a domain states from now on, and items that it states no longer."""

    records: tuple[Signed, ...] = ()
    pointed: tuple[Pointed, ...] = ()
    gone: tuple[str, ...] = ()


class OwnWord(Protocol):
    """What a domain's registry has of its own, whichever process has put it there."""

    def mark(self) -> object:
        """Another one whenever something was registered, said of it, signed anew or withdrawn."""
        ...

    def news(self, since: object | None) -> tuple[News, object]:
        """What has come since that mark, and the mark as of which that is; None: all that there is."""
        ...


class Log(Protocol):
    """What is kept of feeds, to look something up."""

    def entry_at(self, feed: Feed, epoch: int, seq: int) -> Signed | None:
        """An entry without its body; None where there is none, or it is not kept any more."""
        ...


class FeedStore(Log, Protocol):
    """Feeds, entries, heads, proofs. What is kept is there after a crash, whole or not at all."""

    def kept(self, origin: str = "") -> list[Kept]:
        """Of every feed that there is; of that origin alone, where one is given."""
        ...

    def heads(self, feed: Feed) -> list[Head]:
        """What others have shown of it, each its newest."""
        ...

    def keep(self, taken: Sequence[Taken], heads: Sequence[Signed] = ()) -> bool:
        """All of it, with the heads of its owner, in one transaction with the records that it states. False, and nothing is
        kept, where one of the feeds is not at the place from which it was read. Of what a complete snapshot stands for the
        entries before it go."""
        ...

    def page(self, feed: Feed, epoch: int, after: int, limit: int) -> Page:
        """At most `limit` entries after that place; from the newest snapshot on, for who is further behind. None of a feed that
        is frozen."""
        ...

    def keep_head(self, peer: str, head: Head, signed: Signed) -> None:
        """As `peer` has shown it; of its feed the newest, unless one of the same key is kept that is newer."""
        ...

    def freeze(self, feed: Feed, epoch: int, proof: Proof) -> None: ...

    def stated(self, feed: Feed) -> list[Stated]:
        """All that is stated, in order of place."""
        ...

    def stated_as(self, item: str) -> list[tuple[Feed, Stated]]:
        """Where `item` is stated."""
        ...

    def touched(self, feed: Feed, epoch: int, after: int, key: str) -> set[str]:
        """Items of which entries behind that place speak that the key of that id has signed."""
        ...

    def again(self, origin: str) -> None:
        """Its keys are others now: what was left out of what its feeds state is tried again."""
        ...

    def forget(self, origin: str) -> None:
        """Nothing is kept of its feeds any more, nor of what they state."""
        ...

    def oldest_tombstone(self, feed: Feed) -> int | None:
        """When the oldest was written that is kept (µs of its owner's time)."""
        ...


def place_of(at: Position) -> tuple[int, int, str]:
    return at.epoch, at.seq, at.hash


def furthest(heads: Iterable[Head]) -> tuple[int, int]:
    """The last epoch and seq of which they tell."""
    return max((head.place for head in heads), default=(0, 0))


def newer(head: Head, signed: Signed, kept: Signed | None) -> bool:
    """Does it take the place of the one that is kept? What another key has signed says nothing of this one's order: that may have
    been taken back."""
    other = head_in(kept) if kept is not None else None
    if kept is None or not isinstance(other, Head) or kept.key_id != signed.key_id:
        return True
    return (head.place, head.issued) >= (other.place, other.issued)
