"""What a simulated run process has asked of a cluster, and what it has started there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ioi_dagster.governors import flow_messages as flow
from ioi_dagster.governors.answers import checked_award
from ioi_dagster.governors.failures import Cause
from ioi_dagster.model.negotiation import Announce, Award, Lease
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.simulate.timing import AWARD_S

if TYPE_CHECKING:
    from ioi_dagster.simulate.process import SimProcess

ANSWERS = {kind: f"{kind}-answer" for kind in ("announce", "award", "renew")}


class Call:
    """A request to a cluster. Exactly one of its answer and the lack of one becomes an event."""

    __slots__ = ("_open", "deadline_s", "kind", "message", "process", "there")

    def __init__(self, process: SimProcess, cluster: str, kind: str, message: Announce | Award) -> None:
        self.process, self.kind, self.message = process, kind, message
        world = process.world
        self.there = world.clusters[cluster]
        self.deadline_s = AWARD_S if isinstance(message, Award) else message.patience_s
        self._open = True
        world.wire.send(process.domain, self.there.domain, kind, self.there.asked, message, self.answered)
        world.engine.after(self.deadline_s, self.missed)

    def answered(self, told: Any) -> None:
        """The cluster's answer leaves it."""
        wire = self.process.world.wire
        wire.send(self.there.domain, self.process.domain, ANSWERS[self.kind], self.heard, told)

    def heard(self, told: Any) -> None:
        if self._open:
            self._open = False
            self.process.take(self._event(told))

    def _event(self, told: Any) -> flow.Event:
        if not isinstance(self.message, Award):
            return flow.BidReceived(told)
        held = checked_award(told, self.message, self.there.domain)
        self.process.run.given_back += len(held.excess)
        return flow.AwardAnswered(held.awarded, held.missing, held.excess)

    def missed(self) -> None:
        if not self._open:
            return
        self._open = False
        message, why, cluster = self.message, f"no answer within {self.deadline_s:g} s", self.there.name
        if isinstance(message, Award):
            event: flow.Event = flow.AwardMissed(cluster, tuple(request.step for request in message.requests), why)
        else:
            event = flow.BidMissed(cluster, message.round, why)
        self.process.take(event)


class SentStart:
    """A step that was sent to a node. How it ended is told on the connection to its cluster. `moves_s`: so long of the time for
    which it has its slot is for what it reads and makes, as its lease is held until what it made is with its run."""

    __slots__ = ("domain", "lease", "moves_s", "process")

    def __init__(self, process: SimProcess, domain: str, lease: Lease, moves_s: float) -> None:
        self.process, self.domain, self.lease, self.moves_s = process, domain, lease, moves_s

    def begun(self, lease: Lease) -> None:
        self.process.run.begun(lease)

    def ended(self, attempt: str, took: float, refusal: Refusal | None) -> None:
        process, lease = self.process, self.lease
        process.run.answered(lease, attempt, took)
        if refusal is None:
            transfers = process.world.transfers
            transfers.move([((self.domain, lease.node), process.run.makes(lease.step))], transfers.lies(process.domain))
            worked = max(0.0, took - self.moves_s)
            process.run.worked[attempt] = worked
            event: flow.Event = flow.StepEnded(lease.step, lease.fence, attempt, worked, lease.copy)
        else:
            event = flow.StartRefused(lease.step, lease.fence, lease.node, refusal, lease.copy)
        process.world.wire.stream(self.domain, process.domain, "answer", process.take, event)

    def lost(self, why: str, cause: Cause) -> None:
        process, lease = self.process, self.lease
        event = flow.StepLost(lease.step, lease.fence, lease.node, why, cause, lease.copy)
        process.world.wire.stream(self.domain, process.domain, "loss", process.take, event)
