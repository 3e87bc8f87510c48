"""A simulated run process: the real flow governor, a ledger that survives it, and a driver that sends messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ioi_dagster.governors import flow_messages as flow
from ioi_dagster.governors.answers import checked_award
from ioi_dagster.governors.cluster import Withdrawn
from ioi_dagster.governors.failures import AT_MOST_ONCE, AT_MOST_ONCE_TODO, Cause
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.model.negotiation import Announce, Ask, Award, Effect, Lease, ReleaseRequest, RenewRequest
from ioi_dagster.model.placement import Edge
from ioi_dagster.model.placement import Step as GraphStep
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.simulate.scenario import Workflow
from ioi_dagster.simulate.transfers import Spot

if TYPE_CHECKING:
    from ioi_dagster.simulate.world import World

TICK_S, RENEW_S = 0.2, 8.0
AWARD_S, LOOK_UP_S = 3.0, 0.001
BUSY, GATHER_S, GATHERED = 12, 0.02, 32
"""While so many starts are out, events are gathered for so long, or until there are so many, as a live driver does."""


@dataclass(slots=True)
class SimLedger:
    """What of a run outlives its process."""

    fences: dict[str, int] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Refusal] = field(default_factory=dict)
    where: dict[str, Spot] = field(default_factory=dict)
    """Where the outputs of what is done lie. They outlive their nodes."""


class SimRun:
    """One workflow's run. `life` counts its processes: what was meant for an earlier one is not heard."""

    def __init__(self, world: World, workflow: Workflow) -> None:
        self.world, self._workflow = world, workflow
        self.name, self.domain = workflow.name, workflow.domain or world.scenario.topology.home
        self.tenant = workflow.tenant
        self.ledger = SimLedger()
        self.life, self.governor = 0, None
        self.began = self.ended = float("nan")
        self.waits: list[float] = []
        self.starts = self.discarded = self.given_back = 0
        self.slot_s = 0.0
        self._inbox: list[flow.Event] = []
        """What has come and was not handled."""
        self._pumps = 0
        self._closed = 0
        """Steps that this process has closed."""
        self._out: dict[tuple[str, int, int], str] = {}
        """Starts that are not answered, by step, fence and copy, and their clusters."""
        self._begun: set[str] = set()
        self._lease_of: dict[str, Lease] = {}
        """By attempt."""
        self._ready_at: dict[str, float] = {}
        self._after: dict[str, list[str]] = {}
        self._gangs: dict[str, list[str]] = {}
        for key, step in workflow.steps.items():
            if step.gang:
                self._gangs.setdefault(step.gang, []).append(key)
        self._together: dict[str, list[str]] = {}
        """Of each gang the steps that are ready and wait for the others."""
        for key, step in workflow.steps.items():
            for need in step.needs:
                self._after.setdefault(need, []).append(key)

    governor: FlowGovernor | None

    @property
    def over(self) -> bool:
        return self.ended == self.ended

    @property
    def running(self) -> int:
        """Starts that are out."""
        return len(self._out)

    @property
    def waiting(self) -> int:
        """Steps that are ready and have no slot."""
        return len(self._ready_at) - self._closed - len(self._out)

    def why_waits(self) -> str:
        """One of its steps that wait, and why."""
        waiting = self.governor.snapshot().waiting if self.governor is not None else {}
        step = next(iter(waiting), "")
        return f"{self.name}/{step}: {waiting[step]}" if step else self.name

    # Its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process of the run begins, the first one or one that takes over."""
        if self.governor is not None or self.over:
            return
        if not self.life:
            self.began = self.world.engine.now
        self.life += 1
        self._ready_at.clear()
        self._out.clear()
        self._closed = 0
        self._together = {name: [] for name in self._gangs}
        self.governor = FlowGovernor(self.name, self.domain, self._workflow.objective)
        self.governor.resume(dict(self.ledger.fences))
        self.world.engine.after(RENEW_S, self._renew, self.life)
        self.take(self._graph())
        for key in self._workflow.steps:
            self._vend(key)
        self._tick(self.life)

    def _graph(self) -> flow.GraphKnown:
        """What is left of it. Its steps have run before, so it is known about how long they take."""
        over = self.ledger.done.keys() | self.ledger.failed.keys()
        steps = {key: its for key, its in self._workflow.steps.items() if key not in over}
        told = self.world.transfers.told
        return flow.GraphKnown(
            tuple(
                GraphStep(
                    key,
                    its.seconds,
                    kind=key,
                    capability=its.capability,
                    inputs={self.domain: told(its.reads)} if told(its.reads) else {},
                )
                for key, its in steps.items()
            ),
            tuple(
                Edge(need, key, told(its.inputs.get(need, 0.0)))
                for key, its in steps.items()
                for need in its.needs
                if need in steps
            ),
            self.world.transfers.links,
        )

    def kill(self) -> None:
        """Its connections close with it."""
        self._withdraw_all()
        self._end_process()

    def _end_process(self) -> None:
        self.governor = None
        self._inbox.clear()

    def resume(self) -> None:
        """Another process takes over, if one is missing."""
        if self.life:
            self.start()

    def _vend(self, key: str) -> None:
        """Hand a step to the governor once all before it is done."""
        step = self._workflow.steps[key]
        if key in self.ledger.done or key in self.ledger.failed or key in self._ready_at:
            return
        if not all(need in self.ledger.done for need in step.needs):
            return
        self._ready_at[key] = self.world.engine.now
        if step.effect is Effect.AT_MOST_ONCE and key in self.ledger.fences:
            text = "it may run once only, and was in flight when an earlier process of the run ended"
            self._fail_step(key, Refusal(AT_MOST_ONCE, text, self.name, AT_MOST_ONCE_TODO))
        elif step.gang:
            self._together[step.gang].append(key)
            self._look_at_gang(step.gang)
        else:
            self._inbox.append(flow.StepReady(self._ask(key)))

    def _ask(self, key: str, gang_size: int = 0) -> Ask:
        step = self._workflow.steps[key]
        return Ask(
            run=self.name,
            step=key,
            capability=step.capability,
            data_class=step.data_class,
            effect=step.effect,
            tenant=self.tenant,
            priority=step.priority,
            resources=tuple(sorted(step.resources.items())),
            gang=step.gang if gang_size else "",
            gang_size=gang_size,
            checkpointable=step.checkpointable,
            near=step.near,
            apart=step.apart,
            copies=step.copies,
            input_bytes=int(self.world.transfers.told(step.reads)),
            sources=tuple(need for need, size in step.inputs.items() if self.world.transfers.told(size)),
        )

    def _look_at_gang(self, name: str) -> None:
        """Its steps are handed over when all of them are ready, without those that an earlier process committed."""
        ready, members = self._together[name], self._gangs[name]
        failed = next((key for key in members if key in self.ledger.failed), "")
        if failed:
            self._together[name] = []
            for key in ready:
                self._fail_step(key, Refusal("flow.gang_broken", f"{failed} of its gang will not run", self.name))
        elif all(key in self.ledger.done or key in ready for key in members):
            self._together[name] = []
            size = len(ready) if len(ready) > 1 else 0
            self._inbox += [flow.StepReady(self._ask(key, size)) for key in ready]

    def _tick(self, life: int) -> None:
        if self.governor is not None and life == self.life:
            self._pump()
            self.world.engine.after(TICK_S, self._tick, life)

    # Events and instructions ------------------------------------------------------------------------------------

    def take(self, *events: flow.Event) -> None:
        """They have come: they are handled now, or in a little while with what comes until then."""
        if self.governor is None:
            return
        self._inbox += events
        if len(self._out) < BUSY or len(self._inbox) >= GATHERED:
            self._pump()
        elif len(self._inbox) == len(events):
            self.world.engine.after(GATHER_S, self._gathered, self.life, self._pumps)

    def _gathered(self, life: int, pumps: int) -> None:
        if self.governor is not None and life == self.life and pumps == self._pumps:
            self._pump()

    def _pump(self) -> None:
        """Handle what has come, and what is ready because of it, and then see what time it is."""
        self._pumps += 1
        while True:
            events, self._inbox = self._inbox, []
            for event in events:
                if isinstance(event, flow.StepEnded | flow.StepLost | flow.StartRefused):
                    self._out.pop((event.step, event.fence, event.copy), None)
                elif isinstance(event, flow.ClusterLost):
                    self._out = {key: cluster for key, cluster in self._out.items() if cluster != event.cluster}
                self._handle(event, more=True)
            self._handle(_TICK, more=False)
            if not self._inbox:
                return

    def _handle(self, event: flow.Event, more: bool) -> None:
        if self.governor is None:
            return
        instructions = self.governor.handle(event, self.world.engine.now, more)
        if self.world.checked:
            self.world.check(self.governor)
        for instruction in instructions:
            act = _ACTS.get(type(instruction))
            if act is not None:
                act(self, instruction)

    def heard(self, life: int, event: flow.Event) -> None:
        if life == self.life:
            self.take(event)

    def _find(self, instruction: flow.FindPlaces) -> None:
        self.world.engine.after(LOOK_UP_S, self._places, self.life, instruction.asks)

    def _places(self, life: int, asks: tuple[Ask, ...]) -> None:
        if life != self.life:
            return
        found: list[flow.Event] = []
        for ask in asks:
            places, rejected = self.world.find(ask)
            if ask.input_bytes or ask.sources:
                inputs = self._inputs(ask.step)
                places = tuple(replace(one, transfer_s=self._to(one.domain, inputs)) for one in places)
            found.append(flow.PlacesFound(ask.step, places, rejected, may_change=bool(places) or not rejected))
        self.take(*found)

    def _inputs(self, step: str) -> list[tuple[Spot, float]]:
        """What it reads, and where that lies."""
        its = self._workflow.steps[step]
        found = [(self.ledger.where[need], size) for need, size in its.inputs.items()]
        return [*found, ((self.domain, ""), its.reads)] if its.reads else found

    def _to(self, domain: str, inputs: list[tuple[Spot, float]]) -> float:
        """Seconds until they are at a node of the domain, where that is none at which one of them lies."""
        return self.world.transfers.seconds(inputs, (domain, "*"))

    def _announce(self, instruction: flow.SendAnnounce) -> None:
        _Call(self, instruction.cluster, "announce", instruction.announce)

    def _award(self, instruction: flow.SendAward) -> None:
        _Call(self, instruction.award.cluster, "award", instruction.award)

    def _release(self, instruction: flow.ReleaseLeases) -> None:
        self._tell(instruction.cluster, "release", ReleaseRequest(self.name, instruction.leases))

    def _start(self, instruction: flow.StartStep) -> None:
        """Written before it is sent, as the ledger of a real run is."""
        lease, world = instruction.lease, self.world
        step = lease.step
        self.ledger.fences[step] = max(lease.fence, self.ledger.fences.get(step, 0))
        if step in self._ready_at and not lease.copy:
            self.waits.append(world.engine.now - self._ready_at[step])
        self.starts += 1
        world.record("start", self.name, step, lease.fence, lease.node)
        cluster = world.clusters[lease.cluster]
        seconds = self._workflow.steps[step].seconds * world.noise()
        moves_s = world.transfers.move(self._inputs(step), (cluster.domain, lease.node))
        its = _Start(self, cluster.domain, lease)
        self._out[step, lease.fence, lease.copy] = lease.cluster
        world.wire.stream(self.domain, cluster.domain, "start", cluster.start_step, lease, seconds, moves_s, its)

    def _stop(self, instruction: flow.StopStep) -> None:
        lease, there = instruction.lease, self.world.clusters[instruction.lease.cluster]
        self._out.pop((lease.step, lease.fence, lease.copy), None)
        self.world.wire.stream(self.domain, there.domain, "cancel", there.cancel, lease.node, lease.key)
        self._tell(lease.cluster, "release", ReleaseRequest(self.name, (lease.id,)))

    def begun(self, step: str) -> None:
        """A node runs its code."""
        if step not in self._begun:
            self._begun.add(step)
        elif self._workflow.steps[step].effect is Effect.AT_MOST_ONCE:
            self.world.violated(f"{self.name}/{step} may run once only, and began again")

    def answered(self, lease: Lease, attempt: str, took: float) -> None:
        """A node has ended what ran under `lease`, and its answer leaves."""
        self.slot_s += took
        self._lease_of[attempt] = lease

    def _commit(self, instruction: flow.CommitStep) -> None:
        step, fence, attempt = instruction.step, instruction.fence, instruction.attempt
        if step in self.ledger.done:
            self.world.violated(f"{self.name}/{step} was committed twice")
        if fence < self.ledger.fences.get(step, 0):
            self.world.violated(f"{self.name}/{step} was committed under fence {fence}, which is not the newest")
        lease = self._lease_of[attempt]
        if lease.fence != fence:
            self.world.violated(f"{self.name}/{step}: an attempt of fence {lease.fence} counted for {fence}")
        self._closed += 1
        self.ledger.done[step] = self.world.engine.now
        self.ledger.where[step] = (self.world.clusters[lease.cluster].domain, lease.node)
        self.world.record("commit", self.name, step, fence, attempt)
        for follower in self._after.get(step, ()):
            self._vend(follower)
        self._look_whether_over()

    def _discard(self, _instruction: flow.DiscardAttempt) -> None:
        self.discarded += 1

    def _fail(self, instruction: flow.RefuseStep | flow.FailStep) -> None:
        self._fail_step(instruction.step, instruction.refusal)

    def _fail_step(self, step: str, refusal: Refusal) -> None:
        """What needs a step that failed is not run either."""
        self._closed += 1
        doomed = [step]
        for key in doomed:
            if key not in self.ledger.failed:
                self.ledger.failed[key] = refusal
                doomed += self._after.get(key, ())
        self.world.record("fail", self.name, step, 0, refusal.code)
        for name in dict.fromkeys(self._workflow.steps[key].gang for key in doomed):
            if name:
                self._look_at_gang(name)
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if len(self.ledger.done) + len(self.ledger.failed) == len(self._workflow.steps):
            self.ended = self.world.engine.now
            leases = self.governor.leases() if self.governor is not None else []
            for lease in leases:
                self._tell(lease.cluster, "release", ReleaseRequest(self.name, (lease.id,)))
            self._withdraw_all()
            self._end_process()
            self.world.one_is_over()

    # Messages ---------------------------------------------------------------------------------------------------

    def _tell(self, cluster: str, kind: str, message: Any) -> None:
        there = self.world.clusters[cluster]
        self.world.wire.send(self.domain, there.domain, kind, there.asked, message, _unheard)

    def _withdrawn(self, instruction: flow.WithdrawAnnounce) -> None:
        self._withdraw(instruction.cluster, instruction.round)

    def _withdraw(self, cluster: str, round_: int) -> None:
        """The connection on which the answer was waited for is closed: seen there at once, or when a cut is over."""
        there = self.world.clusters[cluster]
        self.world.wire.stream(
            self.domain, there.domain, "withdraw", there.withdrawn, Withdrawn(self.name, round_, self.domain)
        )

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
            self._renew_at(self.world.clusters[cluster], leases)
        self.world.engine.after(RENEW_S, self._renew, life)

    def _renew_at(self, there: Any, leases: list[Lease]) -> None:
        life = self.life

        def renewed(told: Any) -> None:
            for lease in leases:
                if lease.id in told.lost:
                    self.world.wire.stream(self.domain, there.domain, "cancel", there.cancel, lease.node, lease.key)
                    why = "its lease is not held"
                    lost = flow.StepLost(lease.step, lease.fence, "", why, Cause.LEASE_LOST, lease.copy)
                    self.heard(life, lost)

        def answer(told: Any) -> None:
            self.world.wire.send(there.domain, self.domain, _ANSWERS["renew"], renewed, told)

        request = RenewRequest(self.name, tuple(lease.id for lease in leases))
        self.world.wire.send(self.domain, there.domain, "renew", there.asked, request, answer)


class _Call:
    """A request to a cluster. Exactly one of its answer and the lack of one becomes an event."""

    __slots__ = ("_open", "cluster", "deadline_s", "kind", "life", "message", "run", "there")

    def __init__(self, run: SimRun, cluster: str, kind: str, message: Announce | Award) -> None:
        self.run, self.life, self.kind, self.message = run, run.life, kind, message
        self.there = run.world.clusters[cluster]
        self.deadline_s = AWARD_S if isinstance(message, Award) else message.patience_s
        self._open = True
        run.world.wire.send(run.domain, self.there.domain, kind, self.there.asked, message, self.answered)
        run.world.engine.after(self.deadline_s, self.missed)

    def answered(self, told: Any) -> None:
        """The cluster's answer leaves it."""
        self.run.world.wire.send(self.there.domain, self.run.domain, _ANSWERS[self.kind], self.heard, told)

    def heard(self, told: Any) -> None:
        if self._open:
            self._open = False
            self.run.heard(self.life, self._event(told))

    def _event(self, told: Any) -> flow.Event:
        if not isinstance(self.message, Award):
            return flow.BidReceived(told)
        held = checked_award(told, self.message, self.there.domain)
        self.run.given_back += len(held.excess)
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
        self.run.heard(self.life, event)


class _Start:
    """A step that was sent to a node. How it ended is told on the connection to its cluster."""

    __slots__ = ("domain", "lease", "life", "run")

    def __init__(self, run: SimRun, domain: str, lease: Lease) -> None:
        self.run, self.life, self.domain, self.lease = run, run.life, domain, lease

    def begun(self) -> None:
        self.run.begun(self.lease.step)

    def ended(self, attempt: str, took: float, refusal: Refusal | None) -> None:
        run, lease = self.run, self.lease
        run.answered(lease, attempt, took)
        event: flow.Event = flow.StepEnded(lease.step, lease.fence, attempt, took, lease.copy)
        if refusal is not None:
            event = flow.StartRefused(lease.step, lease.fence, lease.node, refusal, lease.copy)
        run.world.wire.stream(self.domain, run.domain, "answer", run.heard, self.life, event)

    def lost(self, why: str, cause: Cause) -> None:
        run, lease = self.run, self.lease
        event = flow.StepLost(lease.step, lease.fence, lease.node, why, cause, lease.copy)
        run.world.wire.stream(self.domain, run.domain, "loss", run.heard, self.life, event)


def _unheard(_: Any) -> None:
    """The answer to a message whose sender does not wait for one."""


_TICK = flow.Tick()

_ANSWERS = {kind: f"{kind}-answer" for kind in ("announce", "award", "renew")}

_ACTS: dict[type, Callable[[SimRun, Any], None]] = {
    flow.FindPlaces: SimRun._find,
    flow.SendAnnounce: SimRun._announce,
    flow.WithdrawAnnounce: SimRun._withdrawn,
    flow.SendAward: SimRun._award,
    flow.StartStep: SimRun._start,
    flow.StopStep: SimRun._stop,
    flow.ReleaseLeases: SimRun._release,
    flow.CommitStep: SimRun._commit,
    flow.DiscardAttempt: SimRun._discard,
    flow.RefuseStep: SimRun._fail,
    flow.FailStep: SimRun._fail,
}
"""How each instruction of a flow governor is performed. What it only tells is not kept."""
