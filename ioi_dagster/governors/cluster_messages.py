"""What a cluster governor hears and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ioi_dagster.governors.autoscale import WantNodes
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    Resources,
    VerifyRequest,
)
from ioi_dagster.model.order import Orders
from ioi_dagster.model.quota import QuotaTree


class _Everything(frozenset[str]):
    def __contains__(self, item: object) -> bool:
        return True


EVERYTHING = _Everything()
"""The capabilities of a node that serves one user alone: whatever is asked of it."""


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """`resources`: what it has besides slots, by name, in the resource's own unit. `closed`: see `NodeReported`."""

    node: str
    slots: int
    capabilities: frozenset[str]
    resources: Resources = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class NodeResized:
    """From now on it takes so many, and has such `resources` (None: as before). What runs there beyond that is not taken away."""

    node: str
    slots: int
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class NodeLeft:
    node: str


@dataclass(frozen=True, slots=True)
class NodeReported:
    """From the node's heartbeat: what is warm there, how full its memory is (0..1), and how its blocks do, for people.
    `closed`: it takes nothing new, but what its own steps wait for. A step takes 1 / `speed` of its usual time there. `engaged`:
    something is done or kept there, under a lease or not."""

    node: str
    warm: frozenset[str]
    memory: float = 0.0
    blocks: tuple[dict[str, Any], ...] = ()
    closed: bool = False
    speed: float = 1.0
    engaged: bool = False


@dataclass(frozen=True, slots=True)
class WantedFound:
    """When the governor began, these nodes of `group` were wanted; what that group had cost, see `WantNodes.spent`, when that
    was told, `untold_s` ago."""

    group: str
    nodes: tuple[str, ...]
    spent: tuple[tuple[float, float], ...] = ()
    untold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class QuotasChanged:
    """From now on these are the quotas. What a tenant uses beyond a lowered limit is taken back."""

    tree: QuotaTree


@dataclass(frozen=True, slots=True)
class Ordered:
    """From now on these orders for blocks, tenants and nodes are in force."""

    orders: Orders


@dataclass(frozen=True, slots=True)
class Expelled:
    """The owner has put these domains out: what runs here for theirs ends."""

    domains: frozenset[str]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Nobody waits any longer for the answer to this announcement of `origin`, see `Announce.wait_s`."""

    run: str
    round: int
    origin: str


@dataclass(frozen=True, slots=True)
class AbandonedStopped:
    """What a `StopAbandoned` was about runs no more: the id of its lease."""

    lease: str


@dataclass(frozen=True, slots=True)
class Tick:
    pass


Event = (
    NodeJoined
    | NodeResized
    | NodeLeft
    | NodeReported
    | WantedFound
    | QuotasChanged
    | Ordered
    | Expelled
    | Announce
    | Award
    | RenewRequest
    | VerifyRequest
    | ReleaseRequest
    | Withdrawn
    | AbandonedStopped
    | Tick
)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer owed to whoever sent the event. `granted` must be journalled before it is sent. `waited`: it is the answer to an
    announcement that came earlier and waited, by its run, round and origin. An announcement without a reply waits."""

    answer: Bid | Awarded | Renewed
    granted: tuple[Lease, ...] = ()
    waited: tuple[str, int, str] | None = None


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    lease: Lease
    why: str


@dataclass(frozen=True, slots=True)
class StopStep:
    """End what runs under `lease`, whose slot is somebody else's; its run places it again, unless it `ends` for good. It is held
    until it is released."""

    lease: Lease
    why: str
    ends: bool = False


@dataclass(frozen=True, slots=True)
class StopAbandoned:
    """End what runs under `lease`, which has run out, and say `AbandonedStopped` when nothing does: its slot is kept until then,
    for a while at most."""

    lease: Lease
    why: str


Instruction = Reply | LeaseEnded | StopStep | StopAbandoned | WantNodes
