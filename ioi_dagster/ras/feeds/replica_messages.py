"""What a replica of feeds hears, and what it has done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.head import Head
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.proof import Proof
from ioi_dagster.ras.feeds.reader import Position
from ioi_dagster.signing import Signed

MOVED, UNREACHABLE = "feed.moved", "feed.unreachable"
"""Codes of pulls that came too late, since the feed has gone on meanwhile, and that brought no answer."""

# Events -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `members` take part; `away` of them do not answer as far as is known."""

    members: Collection[str]
    away: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of a `Pull`: `at` is where the feed is now, with what came kept; `head` came with it, also where the rest
    `failed`."""

    peer: str
    feed: Feed
    at: Position | None = None
    failed: Refusal | Proof | None = None
    head: Signed | None = None


@dataclass(frozen=True, slots=True)
class Swapped:
    """What `peer` told of feeds that this domain may see; None: it did not answer."""

    peer: str
    heads: tuple[Signed, ...] | None
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True)
class Wrote:
    """This domain has written its own feed as far as `at`, in whichever of its processes."""

    at: Position
    head: Signed


# Instructions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask `peer` for what comes after `at`, read it, and keep it if the feed is at that place still."""

    peer: str
    at: Position
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Swap:
    peer: str
    heads: tuple[Signed, ...]
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True)
class KeepHead:
    """The newest head of a feed; of `peer`, what it has shown last."""

    peer: str
    head: Head
    signed: Signed


@dataclass(frozen=True, slots=True)
class Freeze:
    """Nothing more is taken of a feed until its root begins a new epoch."""

    feed: Feed
    epoch: int
    proof: Proof


@dataclass(frozen=True, slots=True)
class Alarm:
    """To be told to people."""

    feed: Feed
    refusal: Refusal


Event = Tick | Pulled | Swapped | Wrote
Instruction = Pull | Swap | KeepHead | Freeze | Alarm
