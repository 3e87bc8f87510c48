"""The node governor: admits or refuses the start of a step on one worker. The last gate (G4) before code runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartRequest
from ioi_dagster.model.versions import differences

REPLACED = "node.replaced"
"""The code of a refusal: the process of the node is being replaced, and takes starts when it is."""


@dataclass(frozen=True, slots=True)
class StartAsked:
    request: StartRequest
    permit: StepPermit | Refusal | None
    """The checked permit; None where no policy root is configured."""
    memory: float = 0.0


@dataclass(frozen=True, slots=True)
class DrainAsked:
    why: str


@dataclass(frozen=True, slots=True)
class Admit:
    request: StartRequest


@dataclass(frozen=True, slots=True)
class Refuse:
    refusal: Refusal


@dataclass(slots=True)
class NodeGovernor:
    """`governed`: a policy root is configured, so a start without a permit is refused. `versions`: the node's own."""

    node: str
    cluster: str
    offers: frozenset[str]
    governed: bool
    max_memory: float = 0.95
    versions: Mapping[str, str] = field(default_factory=dict)
    _fences: dict[tuple[str, str], int] = field(default_factory=dict)
    _nonces: dict[str, float] = field(default_factory=dict)
    _draining: str = ""
    _epoch: int = 0

    def handle(self, event: StartAsked | DrainAsked, now: float) -> list[Admit | Refuse]:
        """Take one event at wall time `now` (Unix seconds: permits expire by it)."""
        if isinstance(event, DrainAsked):
            self._draining = event.why
            return []
        refusal = self._first_refusal(event)
        if refusal is not None:
            return [Refuse(refusal)]
        lease = event.request.lease
        self._fences[lease.run, lease.step] = lease.fence
        self._epoch = max(self._epoch, lease.epoch)
        if isinstance(event.permit, StepPermit):
            self._nonces[event.permit.nonce] = event.permit.expires
        self._forget(now)
        return [Admit(event.request)]

    def _first_refusal(self, event: StartAsked) -> Refusal | None:
        """In order: who may, then what is current, then what this node can."""
        request, permit = event.request, event.permit
        lease = request.lease
        newest = self._fences.get((lease.run, lease.step), 0)
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
            (bool(self._draining), "node.draining", f"the node drains: {self._draining}", "place it elsewhere"),
            (event.memory > self.max_memory, "node.memory", "the node's memory is full", "place it elsewhere"),
        )
        if isinstance(permit, Refusal):
            return permit
        for refused, code, text, remedy in checks:
            if refused:
                return Refusal(code, text, f"node {self.node}", remedy)
        return None

    def _forget(self, now: float) -> None:
        if len(self._nonces) > 10_000:
            self._nonces = {nonce: until for nonce, until in self._nonces.items() if until > now}
        if len(self._fences) > 100_000:
            self._fences = dict(list(self._fences.items())[-50_000:])
