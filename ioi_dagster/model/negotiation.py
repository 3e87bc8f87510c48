"""The values of the contract net: ask, announcement, bid (supply curve), award, lease.

All are plain frozen dataclasses: msgspec encodes and decodes them on the wire as they stand, and refuses what is beyond the
bounds that stand at the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal

OWN_STEP = "dagster.step"
"""The capability of running the project's own code: offered only inside one certificate authority."""


DEFAULT_TENANT = "default"
"""Whose are the runs that name nobody."""

MAX_GROUPS, MAX_REQUESTS, MAX_LEASES = 64, 1_000, 10_000
MAX_POINTS = 6
"""Of a supply curve."""
MAX_WAIT_S = 60.0
LATE_S = 1.0
"""So much later than its wait is over an announcement may be answered that has waited in vain: governors look once a second."""
MAX_OUTLOOK, MAX_BUSY = 64, 64
"""Nodes of which a bid tells how they look, and slots of each."""
MAX_PLANNED = 128
"""Over more nodes no plan is made, so a cluster that has more for a run tells it of none."""

Name = Annotated[str, Meta(min_length=1, max_length=500)]
StepKey = Annotated[str, Meta(min_length=1, max_length=4_000)]
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Of a round, a fence, an epoch, a copy: JSON's numbers are exact up to there (RFC 8259, section 6)."""
Slots = Annotated[int, Meta(ge=0, le=10_000_000)]
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Credits = Annotated[float, Meta(ge=0, le=1e12)]
MAX_SECONDS = 86_400.0
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Amount = Annotated[float, Meta(ge=0, le=1e18)]
Whose = tuple[str, str]
"""The domain that asks, and its run: another domain may call a run the same, and has nothing to do with it."""
Origin = Annotated[str, Meta(max_length=500)]
"""The domain that asks, as the gateway has found out by certificate and signature; empty for the cluster's own processes."""
Resources = Annotated[tuple[tuple[Name, Amount], ...], Meta(max_length=16)]
"""What one step takes of a node besides its slot, by the resource's name, in the order of the names; nothing that is 0."""


def run_key(origin: str, run: str) -> str:
    """Names a run of the domain `origin` where runs of several come together. No domain has a `/` in its name."""
    return f"{origin}/{run}"


def start_key(its_run: str, step: str, fence: int, copy: int) -> str:
    """`its_run`: its `run_key`."""
    return f"{its_run}/{step}/{fence}/{copy}"


SLOTS = "slots"
"""The resource of which every step takes one."""


class Effect(StrEnum):
    """What a second start of a step would do to the world."""

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    AT_MOST_ONCE = "at_most_once"


@dataclass(frozen=True, slots=True)
class Ask:
    """One step's demand. `capability` is what it needs, not where; `domains` (if any) are the only ones allowed, and so is
    `cluster`. `resources`: what it takes of its node besides a slot. The `gang_size` steps of one `gang` start together, in one
    cluster, or none does. `checkpointable`: ending it loses little. `near`: keys of steps of its run beside which it rather runs;
    `apart`: those beside which it runs only where there is no other place. `copies`: how often it may run besides, where it is
    late and room is idle. `sources`: keys of steps whose outputs it reads where those ran."""

    run: str
    step: str
    capability: str
    data_class: DataClass = DataClass.INTERNAL
    effect: Effect = Effect.PURE
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    input_bytes: int = 0
    domains: tuple[str, ...] = ()
    cluster: str = ""
    resources: tuple[tuple[str, float], ...] = ()
    gang: str = ""
    gang_size: int = 0
    checkpointable: bool = False
    near: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    copies: int = 0
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AskGroup:
    """Asks that are the same to a bidder: how many of one capability at one data class. `gang`: so many start together or none
    does (0: each by itself); `count` is a multiple of it. `idle`: copies of what runs elsewhere, for what nobody else wants.
    `seconds`: each is over so long after its start, as far as the run knows, and may be stopped when it is not; 0: it does not
    know, or none may be stopped. `part`: they are parts of maps inside steps of the run that have begun and wait for them."""

    capability: Name
    data_class: DataClass
    count: Slots
    tenant: Name = DEFAULT_TENANT
    priority: Priority = 0
    resources: Resources = ()
    gang: Slots = 0
    idle: bool = False
    seconds: Seconds = 0.0
    part: bool = False


@dataclass(frozen=True, slots=True)
class Announce:
    """Round `round` of run `run`: what is wanted, answered within `deadline_s` seconds. Where there is no room for any of it,
    the answer may wait for room, `wait_s` seconds more; an older announcement of the run that waits is answered at once.
    `about`: capabilities for whose sake the run wants to know the nodes, since it plans ahead. `remaining_s`: seconds of work
    that the run has left, as far as it knows; 0: it does not. `due_s`: in so many seconds it is to be over; None: nobody says."""

    run: Name
    round: Number
    origin: Name
    groups: Annotated[tuple[AskGroup, ...], Meta(max_length=MAX_GROUPS)]
    deadline_s: Seconds = 0.5
    wait_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 0.0
    about: Annotated[tuple[Name, ...], Meta(max_length=MAX_GROUPS)] = ()
    remaining_s: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    due_s: Annotated[float, Meta(ge=0, le=1e12)] | None = None

    @property
    def whose(self) -> Whose:
        return self.origin, self.run

    @property
    def patience_s(self) -> float:
        """So long who asks waits for the answer."""
        return self.deadline_s + (self.wait_s + LATE_S if self.wait_s else 0.0)


@dataclass(frozen=True, slots=True)
class SupplyPoint:
    """`slots` more steps of `capability` can start now at `price` credits each; `warm` of them on warm replicas. `resources`,
    `gang`, `idle` and `part` are those of the group that it answers. Points that are alike in all but slots, price and warmth
    are one supply curve, which adds up to what can start; whoever takes of it takes the cheapest first."""

    capability: Name
    data_class: DataClass
    slots: Slots
    price: Credits
    warm: Slots = 0
    resources: Resources = ()
    gang: Slots = 0
    idle: bool = False
    part: bool = False


@dataclass(frozen=True, slots=True)
class Busy:
    """A slot that somebody else holds, for about `seconds` more, and what it takes besides."""

    seconds: Seconds
    resources: Resources = ()


@dataclass(frozen=True, slots=True)
class NodeOutlook:
    """A node as who plans ahead sees it: `slots` at once and `resources` in all, `busy` those of others. A step takes 1 / `speed`
    of its usual time there. `able`: by their places in `Announce.about`, the capabilities that it offers; `warm`: those of them
    that begin there at once, their block being loaded."""

    node: Name
    slots: Slots
    speed: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    able: Annotated[tuple[Slots, ...], Meta(max_length=MAX_GROUPS)] = ()
    busy: Annotated[tuple[Busy, ...], Meta(max_length=MAX_BUSY)] = ()
    resources: Resources = ()
    warm: Annotated[tuple[Slots, ...], Meta(max_length=MAX_GROUPS)] = ()


@dataclass(frozen=True, slots=True)
class Never:
    """Not even an idle cluster, as it is now, could do one of `group`; `refusal` says what it would need."""

    group: AskGroup
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Bid:
    """A cluster's supply curves for a round, each of `MAX_POINTS` at most; not binding. What it will not do now stands in
    `refusals`, what it could never do in `never` too. `nodes`: what was asked by `Announce.about`."""

    cluster: Name
    domain: Name
    run: Name
    round: Number
    epoch: Number
    points: Annotated[tuple[SupplyPoint, ...], Meta(max_length=MAX_GROUPS * MAX_POINTS)] = ()
    refusals: tuple[Refusal, ...] = ()
    expires_s: Seconds = 2.0
    nodes: Annotated[tuple[NodeOutlook, ...], Meta(max_length=MAX_OUTLOOK)] = ()
    never: Annotated[tuple[Never, ...], Meta(max_length=MAX_GROUPS)] = ()


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """One step of an award. Idempotent by (run, step, fence, copy). `avoid`: nodes that it gets only if there is no other, since
    it failed there or is to be apart from what runs there; `prefer`: nodes that it rather gets, since its inputs lie there or it
    is to be near to what runs there. `seconds`: how long it is expected to hold its slot; 0: nobody knows. `preemptible`: it may
    be stopped and placed again when its slot is somebody else's by guarantee; `checkpointable`: it loses little by that. Those
    of one `gang` are leased all or none."""

    run: Name
    step: StepKey
    fence: Number
    capability: Name
    data_class: DataClass
    copy: Number = 0
    tenant: Name = DEFAULT_TENANT
    avoid: Annotated[tuple[Name, ...], Meta(max_length=MAX_REQUESTS)] = ()
    prefer: Annotated[tuple[Name, ...], Meta(max_length=MAX_REQUESTS)] = ()
    preemptible: bool = True
    checkpointable: bool = False
    priority: Priority = 0
    resources: Resources = ()
    gang: Annotated[str, Meta(max_length=500)] = ""
    seconds: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class Award:
    cluster: Name
    run: Name
    round: Number
    origin: Name
    requests: Annotated[tuple[LeaseRequest, ...], Meta(max_length=MAX_REQUESTS)]

    @property
    def whose(self) -> Whose:
        return self.origin, self.run


@dataclass(frozen=True, slots=True)
class Lease:
    """Capacity granted for `ttl_s` seconds, counted by the receiver on its own monotonic clock from receipt. `origin`: the domain
    that it was granted to, as its cluster was told by the gateway that has found it out."""

    id: Name
    run: Name
    step: StepKey
    fence: Number
    copy: Number
    capability: Name
    cluster: Name
    domain: Name
    node: Name
    epoch: Number
    ttl_s: Seconds = 30.0
    origin: Origin = ""

    @property
    def key(self) -> str:
        """Names one start at a node; an attempt of the same step under another fence has another."""
        return start_key(self.run_key, self.step, self.fence, self.copy)

    @property
    def run_key(self) -> str:
        return run_key(self.origin, self.run)


@dataclass(frozen=True, slots=True)
class RejectedRequest:
    step: StepKey
    fence: Number
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Awarded:
    """The answer to an award: what was leased and what was not, with reasons."""

    cluster: Name
    leases: tuple[Lease, ...] = ()
    rejected: tuple[RejectedRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class RenewRequest:
    """`waiting`: those of `leases` whose steps wait for others and do nothing at their nodes; the rest of them do not."""

    run: Name
    leases: Annotated[tuple[Name, ...], Meta(max_length=MAX_LEASES)] = ()
    waiting: Annotated[tuple[Name, ...], Meta(max_length=MAX_LEASES)] = ()
    origin: Origin = ""


@dataclass(frozen=True, slots=True)
class Renewed:
    """Lease ids still held, and those that are not (expired, revoked, of an older epoch)."""

    held: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Ended leases. An unknown id is no error: releasing twice is safe."""

    run: Name
    leases: Annotated[tuple[Name, ...], Meta(max_length=MAX_LEASES)] = field(default=())
    origin: Origin = ""


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Is this lease, in every field, one that is held? Answered by `Renewed`."""

    lease: Lease
    origin: Origin = ""
