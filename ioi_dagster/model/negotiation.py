"""The values of the contract net: ask, announcement, bid (supply curve), award, lease.

All are plain frozen dataclasses: msgspec encodes and decodes them on the wire as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal

OWN_STEP = "dagster.step"
"""The capability of running the project's own code: offered only inside one certificate authority."""


class Effect(StrEnum):
    """What a second start of a step would do to the world."""

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    AT_MOST_ONCE = "at_most_once"


@dataclass(frozen=True, slots=True)
class Ask:
    """One step's demand. `capability` is what it needs, not where; `domains` (if any) are the only ones allowed."""

    run: str
    step: str
    capability: str
    data_class: DataClass = DataClass.INTERNAL
    effect: Effect = Effect.PURE
    tenant: str = "default"
    priority: int = 0
    memory: int = 0
    input_bytes: int = 0
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AskGroup:
    """Asks that are the same to a bidder: how many of one capability at one data class."""

    capability: str
    data_class: DataClass
    count: int
    tenant: str = "default"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Announce:
    """Round `round` of run `run`: what is wanted, answered within `deadline_s` seconds."""

    run: str
    round: int
    origin: str
    groups: tuple[AskGroup, ...]
    deadline_s: float = 0.5


@dataclass(frozen=True, slots=True)
class SupplyPoint:
    """`slots` more steps of `capability` can start now at `price` credits each; `warm` of them on warm replicas."""

    capability: str
    data_class: DataClass
    slots: int
    price: float
    warm: int = 0


@dataclass(frozen=True, slots=True)
class Bid:
    """A cluster's supply curve for a round; not binding. What it will not do stands in `refusals`."""

    cluster: str
    domain: str
    run: str
    round: int
    epoch: int
    points: tuple[SupplyPoint, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    expires_s: float = 2.0


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """One step of an award. Idempotent by (run, step, fence, copy). `avoid`: nodes that already failed this step."""

    run: str
    step: str
    fence: int
    capability: str
    data_class: DataClass
    copy: int = 0
    tenant: str = "default"
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Award:
    cluster: str
    run: str
    round: int
    origin: str
    requests: tuple[LeaseRequest, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """Capacity granted for `ttl_s` seconds, counted by the receiver on its own monotonic clock from receipt."""

    id: str
    run: str
    step: str
    fence: int
    copy: int
    capability: str
    cluster: str
    domain: str
    node: str
    epoch: int
    ttl_s: float = 30.0

    @property
    def key(self) -> str:
        """Names one start; an attempt of the same step under another fence has another."""
        return f"{self.run}/{self.step}/{self.fence}/{self.copy}"


@dataclass(frozen=True, slots=True)
class RejectedRequest:
    step: str
    fence: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Awarded:
    """The answer to an award: what was leased and what was not, with reasons."""

    cluster: str
    leases: tuple[Lease, ...] = ()
    rejected: tuple[RejectedRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class RenewRequest:
    run: str
    leases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Renewed:
    """Lease ids still held, and those that are not (expired, revoked, of an older epoch)."""

    held: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Ended leases. An unknown id is no error: releasing twice is safe."""

    run: str
    leases: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Is this lease, in every field, one that is held? Answered by `Renewed`."""

    lease: Lease
