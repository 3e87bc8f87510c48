"""The node governor: admits or refuses the start of a step on one worker. The last gate (G4) before code runs. And it
gives up what runs there, when its leases have run out or others have left no memory for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.governors.load import Load, MachineSeen
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartRequest
from ioi_dagster.model.versions import differences

REPLACED = "node.replaced"
"""The code of a refusal: the process of the node is being replaced, and takes starts when it is."""
OUT_OF_CONTACT, DRAINING = "node.out_of_contact", "node.draining"
OVERLOADED, MEMORY_FULL = "node.overloaded", "node.memory"
CANCELLED = "node.cancelled"
"""Why a step has no result: the owner of what it ran on has ended it for good."""
NOT_NOW = frozenset({REPLACED, OUT_OF_CONTACT, DRAINING, OVERLOADED, MEMORY_FULL})
"""Refusals that say how the node is now, and nothing of the start. Its cluster hears of each and then gives it nothing."""
NOTHING_NEW_AT = 0.8
"""Of the time for which contact counts: then nothing is started any more."""
FENCE_GRACE_S = 3.0
"""After that time what runs here is stopped. Its leases have run out, so others may run it by now."""


@dataclass(frozen=True, slots=True)
class StartAsked:
    request: StartRequest
    permit: StepPermit | Refusal | None
    """The checked permit; None where no policy root is configured."""
    memory: float = 0.0
    wall: float = 0.0
    """Unix seconds: permits expire by them."""
    awaited: bool = False
    """A step that runs here waits for it, and could not end without it."""


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """From now on nothing is started here but what steps wait for that run here. Asked again it changes the reason."""

    why: str


@dataclass(frozen=True, slots=True)
class RejoinAsked:
    """It takes starts again."""


@dataclass(frozen=True, slots=True)
class InContact:
    """Its cluster governor has answered a beat that was sent at monotonic time `sent`, and counts on this node."""

    sent: float


@dataclass(frozen=True, slots=True)
class RunningStart:
    """`preemptible`: it may be stopped and placed again; `checkpointable`: it has said that it can leave something before."""

    key: str
    preemptible: bool = True
    checkpointable: bool = False


@dataclass(frozen=True, slots=True)
class RunningSeen:
    """What runs here, in the order in which it began. Told after `MachineSeen`."""

    starts: tuple[RunningStart, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Admit:
    request: StartRequest


@dataclass(frozen=True, slots=True)
class Refuse:
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class StopAll:
    """Stop what runs here: its leases have run out."""

    why: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Let go of replicas that nobody uses: there is no memory left."""


@dataclass(frozen=True, slots=True)
class Shed:
    """Stop that start, since there is no memory left: it may leave a checkpoint, and is to begin elsewhere."""

    key: str
    why: str


Event = StartAsked | DrainAsked | RejoinAsked | InContact | MachineSeen | RunningSeen | Tick
Instruction = Admit | Refuse | StopAll | Unload | Shed


@dataclass(slots=True)
class NodeGovernor:
    """`governed`: a policy root is configured, so a start without a permit is refused. `versions`: the node's own.
    `contact_ttl_s`: for so long a beat that its cluster governor has answered counts as contact; None where there is no such
    governor."""

    node: str
    cluster: str
    offers: frozenset[str]
    governed: bool
    max_memory: float = 0.95
    versions: Mapping[str, str] = field(default_factory=dict)
    contact_ttl_s: float | None = None
    _contact: float | None = None
    """When the last beat was sent that was answered; None before the first: then nobody has counted on it yet."""
    _stopped: bool = False
    _fences: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """By origin, run and step: what another domain calls a run has nothing to do with it."""
    _nonces: dict[str, float] = field(default_factory=dict)
    _draining: str = ""
    _epoch: int = 0
    load: Load = field(init=False)
    """What others do on its machine, and how much it therefore takes."""
    _shedding: str = ""
    """The key of the start that was given up last."""

    def __post_init__(self) -> None:
        self.load = Load(self.node)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds)."""
        match event:
            case StartAsked():
                return [self._asked(event, now)]
            case DrainAsked(why):
                self._draining = why
            case RejoinAsked():
                self._draining = ""
            case InContact(sent):
                self._contact = sent if self._contact is None else max(sent, self._contact)
                self._stopped = self._stopped and self._silent_s(now) >= (self.contact_ttl_s or 0.0)
            case MachineSeen():
                self.load.seen(event, now)
            case RunningSeen(starts):
                return self._shed(starts, now)
            case Tick():
                return self._fence_off(now)
        return []

    @property
    def draining(self) -> str:
        """Why it drains; empty where it does not."""
        return self._draining

    def snapshot(self, now: float) -> dict[str, Any]:
        """Why it drains (empty: it does not), and for how long its cluster governor has not answered (s; None: never did)."""
        silent_s = None if self._contact is None else round(self._silent_s(now), 1)
        return {"draining": self._draining, "out_of_contact_s": silent_s, "stopped": self._stopped}

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        assert self.contact_ttl_s is not None or not self._stopped
        assert self._contact is not None or not self._stopped

    def _silent_s(self, now: float) -> float:
        return 0.0 if self._contact is None else max(0.0, now - self._contact)

    def _shed(self, starts: tuple[RunningStart, ...], now: float) -> list[Instruction]:
        """Replicas first, and then one start after the other: that which loses least by it, and of those the youngest."""
        if not self.load.full:
            return []
        out: list[Instruction] = [Unload()]
        ending = any(start.key == self._shedding for start in starts)
        may_go = [start for start in starts if start.preemptible]
        if may_go and not ending and self.load.sheds(now):
            goes = next((start for start in reversed(may_go) if start.checkpointable), may_go[-1])
            self._shedding = goes.key
            self.load.shed(now)
            out.append(Shed(goes.key, f"its node gave it up, since its machine has no memory left: {self.load.why}"))
        return out

    def _fence_off(self, now: float) -> list[Instruction]:
        if self.contact_ttl_s is None or self._stopped or self._silent_s(now) < self.contact_ttl_s + FENCE_GRACE_S:
            return []
        self._stopped = True
        return [StopAll(f"its cluster governor has not been heard for {self._silent_s(now):.1f} s")]

    def _asked(self, event: StartAsked, now: float) -> Admit | Refuse:
        refusal = self._first_refusal(event, now)
        if refusal is not None:
            return Refuse(refusal)
        lease = event.request.lease
        self._fences[lease.origin, lease.run, lease.step] = lease.fence
        self._epoch = max(self._epoch, lease.epoch)
        if isinstance(event.permit, StepPermit):
            self._nonces[event.permit.nonce] = event.permit.expires
        self._forget(event.wall)
        return Admit(event.request)

    def _first_refusal(self, event: StartAsked, now: float) -> Refusal | None:
        """In order: who may, then what is current, then what this node can."""
        silent_s = self._silent_s(now)
        request, permit = event.request, event.permit
        lease = request.lease
        newest = self._fences.get((lease.origin, lease.run, lease.step), 0)
        asks = request.versions != self.versions and request.kind == "step" and bool(request.versions)
        other = differences(self.versions, request.versions) if asks else []
        checks: tuple[tuple[bool, str, str, str], ...] = (
            (self.governed and permit is None, "node.no_permit", "a start without a permit", "start it through a run"),
            (
                isinstance(permit, StepPermit) and permit.nonce in self._nonces,
                "node.replayed_permit",
                "this permit was used before",
                "",
            ),
            (
                isinstance(permit, StepPermit) and permit.issuer != lease.origin,
                "node.other_origin",
                f"the lease was granted to {lease.origin or 'nobody'}, and its permit is another domain's",
                "a domain permits what was granted to itself",
            ),
            (lease.node != self.node, "node.wrong_node", f"the lease is for {lease.node}", ""),
            (lease.cluster != self.cluster, "node.wrong_cluster", f"the lease is for {lease.cluster}", ""),
            (
                lease.epoch < self._epoch,
                "node.old_epoch",
                f"the lease is of epoch {lease.epoch}, its cluster governor of {self._epoch}",
                "ask for a new lease",
            ),
            (lease.fence < newest, "node.stale_fence", f"fence {lease.fence} is older than {newest}", ""),
            (
                request.capability != lease.capability,
                "node.other_capability",
                f"the lease is for {lease.capability}, the start asks for {request.capability}",
                "",
            ),
            (
                request.capability not in self.offers,
                "node.not_offered",
                f"{request.capability} is not offered here",
                "",
            ),
            (
                bool(other),
                "node.other_versions",
                f"it cannot take steps of this run: {'; '.join(other)}",
                "install the same versions on both sides",
            ),
            (
                self.contact_ttl_s is not None and silent_s >= NOTHING_NEW_AT * self.contact_ttl_s,
                OUT_OF_CONTACT,
                f"its cluster governor has not been heard for {silent_s:.1f} s, so its leases may be others' soon",
                "it is placed again; look at the way between the node and its scheduler",
            ),
            (
                bool(self._draining) and not event.awaited,
                DRAINING,
                f"the node drains: {self._draining}",
                "place it elsewhere",
            ),
            (
                self.load.over,
                OVERLOADED,
                f"the machine has nothing left for it: {self.load.why}",
                "place it elsewhere; look at what else runs on the machine",
            ),
            (event.memory > self.max_memory, MEMORY_FULL, "the node's memory is full", "place it elsewhere"),
        )
        if isinstance(permit, Refusal):
            return permit
        for refused, code, text, remedy in checks:
            if refused:
                return Refusal(code, text, f"node {self.node}", remedy)
        return None

    def _forget(self, wall: float) -> None:
        if len(self._nonces) > 10_000:
            self._nonces = {nonce: until for nonce, until in self._nonces.items() if until > wall}
        if len(self._fences) > 100_000:
            self._fences = dict(list(self._fences.items())[-50_000:])
