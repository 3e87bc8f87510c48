"""The port behind which feeds are kept, with what they state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ioi_dagster.ras.feeds.entry import Op, WireEntry
from ioi_dagster.ras.feeds.head import Head
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.proof import Proof
from ioi_dagster.ras.feeds.reader import Position, Taken
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


class Log(Protocol):
    """What is kept of feeds, to look something up."""

    def entry_at(self, feed: Feed, epoch: int, seq: int) -> Signed | None:
        """An entry without its body; None where there is none, or it is not kept any more."""
        ...


class FeedStore(Log, Protocol):
    """Feeds, entries, heads, proofs. What is kept is there after a crash, whole or not at all."""

    def kept(self) -> list[Kept]:
        """Of every feed that there is."""
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
        """The newest of its feed, as `peer` has shown it."""
        ...

    def freeze(self, feed: Feed, epoch: int, proof: Proof) -> None: ...

    def stated(self, feed: Feed) -> list[Stated]:
        """All that is stated, in order of place."""
        ...

    def stated_as(self, item: str) -> list[tuple[Feed, Stated]]:
        """Where `item` is stated."""
        ...

    def oldest_tombstone(self, feed: Feed) -> int | None:
        """When the oldest was written that is kept (µs of its owner's time)."""
        ...


def place_of(at: Position) -> tuple[int, int, str]:
    return at.epoch, at.seq, at.hash
