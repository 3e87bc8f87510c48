"""What a block governor hears and what it wants done: events in, instructions out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.refusal import Refusal

# Events -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offered:
    """The node offers `block` as `spec` says. Where it offered another version, this one takes over."""

    block: str
    spec: BlockSpec


@dataclass(frozen=True, slots=True)
class CallAsked:
    """`call` is a number of the caller's choice, used once. `streams`: its result is taken in pieces; it shares no batch."""

    call: int
    block: str
    streams: bool = False


@dataclass(frozen=True, slots=True)
class CallGivenUp:
    """Nobody waits for the call any more: it gets no answer."""

    call: int


@dataclass(frozen=True, slots=True)
class ReplicaLoaded:
    replica: str


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """It is gone; nothing is left of it to unload."""

    replica: str
    why: str


class BatchEnd(StrEnum):
    DONE = "done"
    FAILED = "failed"
    """The block raised an exception."""
    DIED = "died"
    """It was stopped, or its process ended: the replica is of no more use."""
    UNTOUCHED = "untouched"
    """The replica was gone before it got the batch, so that no call of it has run."""


@dataclass(frozen=True, slots=True)
class ReaderAwaited:
    """The streamed call of the batch has given more than is read of it: it waits, for which its block can do nothing."""

    batch: int


@dataclass(frozen=True, slots=True)
class ReaderBack:
    """It goes on."""

    batch: int


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """`unread`: it ended so because nobody read on, which says nothing about its block."""

    batch: int
    end: BatchEnd
    unread: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaUnloaded:
    replica: str


@dataclass(frozen=True, slots=True)
class MemoryShort:
    """Free something: the least recently used idle replica goes."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    Offered
    | CallAsked
    | CallGivenUp
    | ReplicaLoaded
    | LoadFailed
    | ReaderAwaited
    | ReaderBack
    | BatchEnded
    | ReplicaUnloaded
    | MemoryShort
    | Tick
)  # fmt: skip

# Instructions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Make a replica; `ReplicaLoaded` or `LoadFailed` is owed."""

    replica: str
    spec: BlockSpec


@dataclass(frozen=True, slots=True)
class StopLoad:
    """Break the loading off; its `LoadFailed` is still owed."""

    replica: str
    why: str


@dataclass(frozen=True, slots=True)
class Unload:
    """End a replica, which has nothing to do; `ReplicaUnloaded` is owed, whatever its `unload` does."""

    replica: str


@dataclass(frozen=True, slots=True)
class RunBatch:
    """One `invoke` with these calls, in order; `BatchEnded` is owed."""

    batch: int
    replica: str
    calls: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StopBatch:
    """Break the batch off; its `BatchEnded` is still owed."""

    batch: int
    replica: str
    why: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Give the call what its batch brought: its result, or the batch's error."""

    call: int
    batch: int


@dataclass(frozen=True, slots=True)
class RefuseCall:
    """The call has not run and will not run here."""

    call: int
    refusal: Refusal


Instruction = Load | StopLoad | Unload | RunBatch | StopBatch | Answer | RefuseCall


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One version of a block on this node, for people. `replicas` counts them by state."""

    block: str
    capability: str
    version: str
    state: str
    breaker: str
    failures: int
    queue: int
    running: int
    replicas: dict[str, int] = field(default_factory=dict)
