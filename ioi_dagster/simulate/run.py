"""A simulated run process: the real flow governor, a ledger that survives it, and a driver that sends messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ioi_dagster.governors import flow
from ioi_dagster.governors.cluster import Withdrawn
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import SendAnnounce, SendAward, StartStep, WithdrawAnnounce
from ioi_dagster.model.negotiation import Ask, Award, Lease, ReleaseRequest, RenewRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.simulate.scenario import Workflow

if TYPE_CHECKING:
    from ioi_dagster.simulate.world import World

TICK_S, RENEW_S = 0.2, 8.0
AWARD_S, LOOK_UP_S = 3.0, 0.001


@dataclass(slots=True)
class SimLedger:
    """What of a run outlives its process."""

    fences: dict[str, int] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Refusal] = field(default_factory=dict)


class SimRun:
    """One workflow's run. `life` counts its processes: what was meant for an earlier one is not heard."""

    def __init__(self, world: World, workflow: Workflow) -> None:
        self._world, self._workflow = world, workflow
        self.name, self.domain = workflow.name, workflow.domain or world.scenario.topology.home
        self.ledger = SimLedger()
        self.life, self.governor = 0, None
        self.began = self.ended = float("nan")
        self.waits: list[float] = []
        self.starts = self.discarded = 0
        self.slot_s = 0.0
        self._fence_of: dict[str, int] = {}
        self._ready_at: dict[str, float] = {}
        self._after: dict[str, list[str]] = {}
        for key, step in workflow.steps.items():
            for need in step.needs:
                self._after.setdefault(need, []).append(key)

    governor: FlowGovernor | None

    @property
    def over(self) -> bool:
        return self.ended == self.ended

    # Its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process of the run begins, the first one or one that takes over."""
        if self.governor is not None or self.over:
            return
        if not self.life:
            self.began = self._world.engine.now
        self.life += 1
        self._ready_at.clear()
        self.governor = FlowGovernor(self.name, self.domain, self._workflow.objective)
        self.governor.resume(dict(self.ledger.fences))
        self._tick(self.life)
        self._world.engine.after(RENEW_S, self._renew, self.life)
        for key in self._workflow.steps:
            self._vend(key)

    def kill(self) -> None:
        """Its connections close with it."""
        self._withdraw_all()
        self.governor = None

    def resume(self) -> None:
        """Another process takes over, if one is missing."""
        if self.life:
            self.start()

    def _vend(self, key: str) -> None:
        """Hand a step to the governor once all before it is done."""
        step = self._workflow.steps[key]
        if key in self.ledger.done or key in self.ledger.failed or key in self._ready_at:
            return
        if all(need in self.ledger.done for need in step.needs):
            self._ready_at[key] = self._world.engine.now
            self.take(
                flow.StepReady(Ask(self.name, key, step.capability, step.data_class, tenant=self._workflow.tenant))
            )

    def _tick(self, life: int) -> None:
        if self.governor is not None and life == self.life:
            self.take(flow.Tick())
            self._world.engine.after(TICK_S, self._tick, life)

    # Events and instructions ------------------------------------------------------------------------------------

    def take(self, event: flow.Event) -> None:
        if self.governor is None:
            return
        instructions = self.governor.handle(event, self._world.engine.now)
        self._world.check(self.governor)
        for instruction in instructions:
            self._perform(instruction)

    def heard(self, life: int, event: flow.Event) -> None:
        if life == self.life:
            self.take(event)

    def _perform(self, instruction: flow.Instruction) -> None:
        match instruction:
            case flow.FindPlaces(asks):
                self._world.engine.after(LOOK_UP_S, self._places, self.life, asks)
            case SendAnnounce(cluster, announce):
                self._call(
                    cluster, "announce", announce, announce.deadline_s + announce.wait_s, flow.BidReceived,
                    lambda why: flow.BidMissed(cluster, announce.round, why),
                )  # fmt: skip
            case WithdrawAnnounce(cluster, round_):
                self._withdraw(cluster, round_)
            case SendAward(award):
                self._award(award)
            case StartStep(_, lease):
                self._start(lease)
            case flow.ReleaseLeases(cluster, leases):
                self._tell(cluster, "release", ReleaseRequest(self.name, leases))
            case flow.CommitStep(step, fence, attempt):
                self._commit(step, fence, attempt)
            case flow.DiscardAttempt():
                self.discarded += 1
            case flow.RefuseStep(step, refusal) | flow.FailStep(step, refusal):
                self._fail(step, refusal)
            case _:
                pass

    def _places(self, life: int, asks: tuple[Ask, ...]) -> None:
        for ask in asks:
            places, rejected = self._world.find(ask)
            self.heard(life, flow.PlacesFound(ask.step, places, rejected, may_change=bool(places) or not rejected))

    def _award(self, award: Award) -> None:
        steps = tuple(request.step for request in award.requests)
        self._call(
            award.cluster, "award", award, AWARD_S, flow.AwardAnswered,
            lambda why: flow.AwardMissed(award.cluster, steps, why),
        )  # fmt: skip

    def _start(self, lease: Lease) -> None:
        """Written before it is sent, as the ledger of a real run is."""
        self.ledger.fences[lease.step] = max(lease.fence, self.ledger.fences.get(lease.step, 0))
        now, step = self._world.engine.now, lease.step
        if step in self._ready_at:
            self.waits.append(now - self._ready_at[step])
        self.starts += 1
        self._world.record("start", self.name, step, lease.fence, lease.node)
        cluster, life = self._world.clusters[lease.cluster], self.life
        seconds = self._workflow.steps[step].seconds * self._world.noise()

        def ended(attempt: str, took: float, refusal: Refusal | None) -> None:
            event: flow.Event = flow.StepEnded(step, lease.fence, attempt, took)
            if refusal is not None:
                event = flow.StartRefused(step, lease.fence, lease.node, refusal)
            self.slot_s += took
            self._fence_of[attempt] = lease.fence
            self._world.wire.stream(cluster.domain, self.domain, "answer", self.heard, life, event)

        def lost(why: str, cause: Cause) -> None:
            event = flow.StepLost(step, lease.fence, lease.node, why, cause)
            self._world.wire.stream(cluster.domain, self.domain, "loss", self.heard, life, event)

        self._world.wire.stream(self.domain, cluster.domain, "start", cluster.start_step, lease, seconds, ended, lost)

    def _commit(self, step: str, fence: int, attempt: str) -> None:
        if step in self.ledger.done:
            self._world.violated(f"{self.name}/{step} was committed twice")
        if fence < self.ledger.fences.get(step, 0):
            self._world.violated(f"{self.name}/{step} was committed under fence {fence}, which is not the newest")
        if self._fence_of[attempt] != fence:
            self._world.violated(
                f"{self.name}/{step}: an attempt of fence {self._fence_of[attempt]} counted for {fence}"
            )
        self.ledger.done[step] = self._world.engine.now
        self._world.record("commit", self.name, step, fence, attempt)
        for follower in self._after.get(step, ()):
            self._vend(follower)
        self._look_whether_over()

    def _fail(self, step: str, refusal: Refusal) -> None:
        """What needs a step that failed is not run either."""
        doomed = [step]
        for key in doomed:
            if key not in self.ledger.failed:
                self.ledger.failed[key] = refusal
                doomed += self._after.get(key, ())
        self._world.record("fail", self.name, step, 0, refusal.code)
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if len(self.ledger.done) + len(self.ledger.failed) == len(self._workflow.steps):
            self.ended = self._world.engine.now
            leases = self.governor.leases() if self.governor is not None else []
            for lease in leases:
                self._tell(lease.cluster, "release", ReleaseRequest(self.name, (lease.id,)))
            self._withdraw_all()
            self.governor = None
            self._world.one_is_over()

    # Messages ---------------------------------------------------------------------------------------------------

    def _call(
        self,
        cluster: str,
        kind: str,
        message: Any,
        deadline_s: float,
        heard: Callable[[Any], flow.Event],
        missed: Callable[[str], flow.Event],
    ) -> None:
        """Exactly one of `heard` and `missed` becomes an event."""
        there, life, open_ = self._world.clusters[cluster], self.life, [True]

        def take(answer: Any) -> None:
            if open_.pop() if open_ else False:
                self.heard(life, heard(answer))

        def miss() -> None:
            if open_.pop() if open_ else False:
                self.heard(life, missed(f"no answer within {deadline_s:g} s"))

        def answer(told: Any) -> None:
            self._world.wire.send(there.domain, self.domain, f"{kind}-answer", take, told)

        self._world.wire.send(self.domain, there.domain, kind, there.asked, message, answer)
        self._world.engine.after(deadline_s, miss)

    def _tell(self, cluster: str, kind: str, message: Any) -> None:
        there = self._world.clusters[cluster]
        self._world.wire.send(self.domain, there.domain, kind, there.asked, message, lambda _: None)

    def _withdraw(self, cluster: str, round_: int) -> None:
        """The connection on which the answer was waited for is closed: seen there at once, or when a cut is over."""
        there = self._world.clusters[cluster]
        self._world.wire.stream(self.domain, there.domain, "withdraw", there.withdrawn, Withdrawn(self.name, round_))

    def _withdraw_all(self) -> None:
        for cluster, round_ in (self.governor.holding() if self.governor is not None else {}).items():
            self._withdraw(cluster, round_)

    def _renew(self, life: int) -> None:
        if self.governor is None or life != self.life:
            return
        by_cluster: dict[str, list[Lease]] = {}
        for lease in self.governor.leases():
            by_cluster.setdefault(lease.cluster, []).append(lease)
        for cluster, leases in by_cluster.items():
            self._renew_at(self._world.clusters[cluster], leases)
        self._world.engine.after(RENEW_S, self._renew, life)

    def _renew_at(self, there: Any, leases: list[Lease]) -> None:
        life = self.life

        def renewed(told: Any) -> None:
            for lease in leases:
                if lease.id in told.lost:
                    self._world.wire.stream(self.domain, there.domain, "cancel", there.cancel, lease.node, lease.key)
                    lost = flow.StepLost(lease.step, lease.fence, "", "its lease is not held", Cause.LEASE_LOST)
                    self.heard(life, lost)

        def answer(told: Any) -> None:
            self._world.wire.send(there.domain, self.domain, "renew-answer", renewed, told)

        request = RenewRequest(self.name, tuple(lease.id for lease in leases))
        self._world.wire.send(self.domain, there.domain, "renew", there.asked, request, answer)
