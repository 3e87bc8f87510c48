"""A simulated node: the real node governor before a process that runs nothing but time, and what of it reaches its scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ioi_dagster.governors.cluster import LEASE_TTL_S
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.node import InContact, NodeGovernor
from ioi_dagster.model.negotiation import Lease
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import NodeSpec
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.replicas import SimReplicas

CONTACT_TTL_S = LEASE_TTL_S
"""As the node of a domain has it."""
STILL = frozenset({FaultKind.NODE_FROZEN, FaultKind.INTERPRETER_HELD})
UNHEARD = frozenset({FaultKind.NODE_CUT, FaultKind.NODE_UNHEARD, FaultKind.GOVERNOR_AWAY})
DEAF = frozenset({FaultKind.NODE_CUT, FaultKind.NODE_DEAF, FaultKind.GOVERNOR_AWAY})
NO_WITNESS = frozenset({FaultKind.NODE_CUT, FaultKind.NODE_UNHEARD, FaultKind.NODE_DEAF})
WAITED_FOR = frozenset({FaultKind.INTERPRETER_HELD, FaultKind.GOVERNOR_AWAY})
"""Nobody is given up for these."""
IMPAIRED = STILL | UNHEARD | DEAF


class Start(Protocol):
    """A step that was sent to a node, as its run knows it. One of `ended` and `lost` is called, or, where nobody can know, none
    of them."""

    lease: Lease

    def begun(self, lease: Lease) -> None:
        """Its code begins."""
        ...

    def ended(self, attempt: str, took: float, refusal: Refusal | None) -> None:
        """It was answered: after how many seconds, or with the node's refusal."""
        ...

    def lost(self, why: str, cause: Cause) -> None: ...


@dataclass(slots=True)
class Running:
    """`seconds`: so long it has its slot in all; of a call that has not begun nobody knows it."""

    lease: Lease
    attempt: str
    seconds: float
    since: float
    start: Start
    call: int = 0
    """The number of its block's call, if it is one."""


@dataclass(slots=True)
class SimNode:
    """One worker. `life` counts its processes: what was to end in an earlier one does not. `there`: its process lives; `counted`:
    its scheduler counts on it. `sent`: what its scheduler has sent there and has heard nothing of since, by the lease's key."""

    spec: NodeSpec
    cluster: str
    offers: frozenset[str]
    life: int = 0
    there: bool = False
    counted: bool = False
    suspect: bool = False
    impaired: list[Fault] = field(default_factory=list)
    full: int = 0
    slow: list[float] = field(default_factory=list)
    """So many times as long it takes for what begins there: the longest of these counts."""
    running: dict[str, Running] = field(default_factory=dict)
    sent: dict[str, Start] = field(default_factory=dict)
    inbox: list[Callable[[], None]] = field(default_factory=list)
    """What was said to it and did not get there yet."""
    outbox: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What it has said of its starts and nobody has heard yet, by the lease's key."""
    governor: NodeGovernor = field(init=False)
    replicas: SimReplicas | None = None
    """Of its process, where it offers blocks that have some."""
    contact: float = 0.0
    """When the last beat was sent that was answered, before it lost contact."""
    mended_at: float = float("-inf")
    """When the last of its faults was over."""
    attempts: int = 0
    busy_s: float = 0.0
    since: float = 0.0
    was_there_s: float = 0.0
    """Until it was gone last."""

    def __post_init__(self) -> None:
        self._new_governor()

    def _new_governor(self) -> None:
        self.governor = NodeGovernor(self.spec.name, self.cluster, self.offers, False, contact_ttl_s=CONTACT_TTL_S)

    @property
    def memory(self) -> float:
        """How full it is."""
        return 1.0 if self.full else 0.0

    def _free_of(self, kinds: frozenset[FaultKind]) -> bool:
        return not self.impaired or not any(fault.kind in kinds for fault in self.impaired)

    @property
    def moves(self) -> bool:
        """Its process does something."""
        return self._free_of(STILL)

    @property
    def stopped(self) -> bool:
        return any(fault.kind is FaultKind.NODE_FROZEN for fault in self.impaired)

    @property
    def heard(self) -> bool:
        """What it says gets to its scheduler."""
        return self._free_of(UNHEARD)

    @property
    def hears(self) -> bool:
        """What is said to it gets there, and is taken."""
        return self._free_of(STILL | DEAF)

    @property
    def witnessed(self) -> bool:
        """Who is asked about it answers."""
        return self._free_of(NO_WITNESS)

    @property
    def in_contact(self) -> bool:
        """Its beats are heard, and answered."""
        return self.there and self._free_of(IMPAIRED)

    def there_s(self, now: float) -> float:
        """How long it has been there in all."""
        return self.was_there_s + (now - self.since if self.there else 0.0)

    def end(self, now: float) -> None:
        """Its process ends, and with it what can only happen to a process."""
        self.was_there_s, self.there = self.there_s(now), False
        self.impaired = [fault for fault in self.impaired if fault.kind not in STILL]
        self.running, self.inbox, self.outbox = {}, [], {}
        self.life += 1
        if self.replicas is not None:
            self.replicas.over, self.replicas = True, None

    def give_up(self, its: Running) -> None:
        """What it ran is not wanted any more."""
        if its.call and self.replicas is not None:
            self.replicas.give_up(its.call)

    def begin(self, now: float) -> None:
        self.was_there_s, self.since, self.contact = self.there_s(now), now, now
        self.life, self.there, self.counted, self.suspect = self.life + 1, True, True, False
        self._new_governor()

    def touch(self, now: float) -> None:
        """Its governor hears when its beat was answered last."""
        if self.in_contact:
            self.contact = now
        self.governor.handle(InContact(self.contact), now)

    def out_s(self, now: float) -> float:
        """For how long it has had no contact."""
        return 0.0 if self.in_contact else now - self.contact
