"""A simulated run process: the real flow governor, and a driver that sends messages and writes the run's ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ioi_dagster.governors import flow_messages as flow
from ioi_dagster.governors.cluster import Withdrawn
from ioi_dagster.governors.failures import GANG_BROKEN, GANG_TODO, Cause, in_doubt
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_to_come import ToCome, graph_to_come, op_of
from ioi_dagster.model.negotiation import Ask, Effect, Lease, ReleaseRequest, RenewRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter
from ioi_dagster.simulate.calls import ANSWERS, Call, SentStart
from ioi_dagster.simulate.faults import FaultKind
from ioi_dagster.simulate.knowledge import OUTPUT
from ioi_dagster.simulate.timing import TURN_S
from ioi_dagster.simulate.transfers import Spot

if TYPE_CHECKING:
    from ioi_dagster.simulate.run import SimRun

Places = tuple[flow.Place, ...]
Rejected = tuple[tuple[str, Refusal], ...]
SPENDING = frozenset({Chapter.AWARD, Chapter.REFUSED, Chapter.COPY})
"""Chapters whose `price` is spent, or comes back where it is below 0."""
RENEW_S = 8.0
TELL_S = 30.0
"""From one telling of what was seen of clusters to the next, as a run process does it."""
LOOK_UP_S, DISCOVER_S, SILENT_S = 0.001, 2.0, 0.1
"""Until all registries have answered; who does not is waited for so long the first time, and the next times so long."""
BUSY, GATHER_S, GATHERED = 12, 0.02, 32
"""While so many starts are out, events are gathered for so long, or until there are so many, as a live driver does."""
PATIENCE_S = 60.0
"""So long a process waits for a ledger that cannot be written; then it ends, and the run is resumed when it can be."""


class SimProcess:
    """`epoch`: which of the run's processes it is; what an older one would write is refused, and it ends."""

    def __init__(self, run: SimRun, epoch: int) -> None:
        self.run, self.world, self.epoch = run, run.world, epoch
        self.name, self.domain, self.ledger = run.name, run.domain, run.ledger
        self._workflow = run.workflow
        self._links = self.world.scenario.topology.links_of(self.domain)
        self.alive, self._fenced = True, False
        its = self._workflow
        due = None if its.deadline is None else its.arrives + its.deadline
        self.governor = FlowGovernor(self.name, self.domain, its.objective, budget=its.budget, due=due)
        self._inbox: list[flow.Event] = []
        """What has come and was not handled."""
        self._pumps = 0
        self._silent: frozenset[str] = frozenset()
        """Domains that did not answer when they were asked last."""
        self._answers_at = 0.0
        """When the question is over on which others wait."""
        self._closed = 0
        """Steps that this process has closed."""
        self._out: dict[tuple[str, int, int], str] = {}
        """Starts that are not answered, by step, fence and copy, and their clusters."""
        self._ready_at: dict[str, float] = {}
        self._together: dict[str, list[str]] = {name: [] for name in run.gangs}
        """Of each gang the steps that are ready and wait for the others."""
        self._unwritten: list[tuple[Callable[[SimProcess, Any], None], Any, float]] = []
        """What waits for the ledger, in order."""
        self._unwritten_since = 0.0

    @property
    def running(self) -> int:
        """Starts that are out."""
        return len(self._out)

    @property
    def waiting(self) -> int:
        """Steps that are ready and have no slot."""
        return len(self._ready_at) - self._closed - len(self._out)

    # Its life ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.governor.resume(dict(self.ledger.fences), 0.0 if self._workflow.budget is None else self.ledger.spent)
        self.world.engine.after(RENEW_S, self._renew)
        self.world.engine.after(TELL_S, self._tell_experience)
        known = self.world.standings[self.domain].all(self.world.engine.now)
        if known:
            self._inbox.append(flow.StandingKnown(known))
        self.take(self._graph())
        for key in self._workflow.steps:
            self._vend(key)
        self._tick()

    def kill(self) -> None:
        """Its connections close with it."""
        self._withdraw_all()
        self._end()

    def leave(self) -> None:
        """The run is over: what it holds goes back, and what it has seen of clusters is told."""
        self._tell_seen()
        for lease in self.governor.leases():
            self._tell(lease.cluster, "release", ReleaseRequest(self.name, (lease.id,)))
        self.kill()

    def _end(self) -> None:
        self.alive = False
        self._inbox.clear()
        self._unwritten.clear()
        self.run.ended_process(self)

    def _graph(self) -> flow.GraphKnown:
        """What is left of it, as a live run knows it: how long steps take and how much they make by their op alone, and of what
        lies between domains what the topology tells."""
        over = self.ledger.done.keys() | self.ledger.failed.keys()
        steps = [
            ToCome(
                key,
                its.needs,
                its.capability,
                its.resources.get("memory", 0.0),
                its.resources.get("gpu", 0.0),
                reads=tuple((op_of(one), OUTPUT) for one in its.inputs),
            )
            for key, its in self._workflow.steps.items()
        ]
        took, made = self.world.took(self.run), self.world.made(self.run)
        return graph_to_come(steps, over, took, made, self.domain, self._links)

    def _vend(self, key: str) -> None:
        """Hand a step to the governor once all before it is done."""
        step = self._workflow.steps[key]
        if key in self.ledger.done or key in self.ledger.failed or key in self._ready_at:
            return
        if not all(need in self.ledger.done for need in step.needs):
            return
        self._ready_at[key] = self.world.engine.now
        if step.effect is Effect.AT_MOST_ONCE and key in self.ledger.fences:
            self._fail_step(key, in_doubt(self.name))
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
            tenant=self.run.tenant,
            priority=step.priority,
            resources=tuple(sorted(step.resources.items())),
            gang=step.gang if gang_size else "",
            gang_size=gang_size,
            checkpointable=step.checkpointable,
            near=step.near,
            apart=step.apart,
            copies=step.copies,
            input_bytes=int(self.world.transfers.told(step.reads + sum(step.inputs.values()))),
        )

    def _look_at_gang(self, name: str) -> None:
        """Its steps are handed over when all of them are ready, without those that an earlier process committed."""
        ready, members = self._together[name], self.run.gangs[name]
        failed = next((key for key in members if key in self.ledger.failed), "")
        if failed:
            self._together[name] = []
            for key in ready:
                self._fail_step(key, Refusal(GANG_BROKEN, f"{failed} of its gang will not run", self.name, GANG_TODO))
        elif all(key in self.ledger.done or key in ready for key in members):
            self._together[name] = []
            size = len(ready) if len(ready) > 1 else 0
            self._inbox += [flow.StepReady(self._ask(key, size)) for key in ready]

    def _tick(self) -> None:
        if not self.alive:
            return
        if self._unwritten and self.world.engine.now - self._unwritten_since > PATIENCE_S:
            self.kill()
            self.run.start()
            return
        self._pump()
        self.world.engine.after(TURN_S, self._tick)

    # Events and instructions ------------------------------------------------------------------------------------

    def take(self, *events: flow.Event) -> None:
        """They have come: they are handled now, or in a little while with what comes until then."""
        if not self.alive:
            return
        self._inbox += events
        if len(self._out) < BUSY or len(self._inbox) >= GATHERED:
            self._pump()
        elif len(self._inbox) == len(events):
            self.world.engine.after(GATHER_S, self._gathered, self._pumps)

    def _gathered(self, pumps: int) -> None:
        if self.alive and pumps == self._pumps:
            self._pump()

    def _pump(self) -> None:
        """Handle what has come, and what is ready because of it, and then see what time it is."""
        self._pumps += 1
        while self.alive:
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
        if not self.alive:
            return
        instructions = self.governor.handle(event, self.world.engine.now, more)
        if self.world.checked:
            self.world.check(self.governor)
        for instruction in instructions:
            kind = type(instruction)
            if kind in _WRITES:
                self._write(_WRITES[kind], instruction)
            elif kind in _ACTS and not self._fenced:
                _ACTS[kind](self, instruction)

    # The ledger -------------------------------------------------------------------------------------------------

    def _write(self, act: Callable[[SimProcess, Any], None], instruction: Any) -> None:
        """`act` stands in the ledger before anybody else hears of it: now, or when that can be written."""
        if not self.alive:
            return
        if self.ledger.epoch != self.epoch:
            # It was taken over, and ends without a word: what it holds runs out.
            self._fenced = True
            self.kill()
        elif self.ledger.away:
            self.world.met(FaultKind.LEDGER_AWAY, self.domain)
            self.world.met(FaultKind.DISK_FULL, self.domain)
            self._unwritten_since = self._unwritten_since if self._unwritten else self.world.engine.now
            self._unwritten.append((act, instruction, self.world.engine.now))
        else:
            act(self, instruction)

    def write(self) -> None:
        """What waited for the ledger."""
        waited, self._unwritten = self._unwritten, []
        for act, instruction, since in waited:
            if isinstance(instruction, flow.CommitStep):
                lease = self.run.lease_of[instruction.attempt]
                for kind in (FaultKind.LEDGER_AWAY, FaultKind.DISK_FULL):
                    self.world.recoveries.hit(kind, (lease,), self.world.engine.now, since)
            if not isinstance(instruction, flow.StartStep) or self.governor.wants(instruction.lease):
                self._write(act, instruction)
        self.take()

    def _start(self, instruction: flow.StartStep) -> None:
        lease, world = instruction.lease, self.world
        step = lease.step
        self.ledger.fences[step] = max(lease.fence, self.ledger.fences.get(step, 0))
        if step in self._ready_at and not lease.copy:
            self.run.waits.append(world.engine.now - self._ready_at[step])
        self.run.starts[step] += 1
        world.record("start", self.name, step, lease.fence, lease.node)
        cluster = world.clusters[lease.cluster]
        seconds = self._workflow.steps[step].seconds * world.noise(self.name, step, self.run.starts[step])
        there, lies = (cluster.domain, lease.node), world.transfers.lies(self.domain)
        makes = self.run.makes(step)
        moves_s = world.transfers.move(self._inputs(step), there) + world.transfers.seconds([(there, makes)], lies)
        sent = SentStart(self, cluster.domain, lease, moves_s)
        self._out[step, lease.fence, lease.copy] = lease.cluster
        permit = world.permits.issue(lease) if world.permits is not None else None
        world.wire.stream(
            self.domain, cluster.domain, "start", cluster.start_step, lease, seconds, moves_s, sent, permit
        )

    def _commit(self, instruction: flow.CommitStep) -> None:
        step, fence, attempt = instruction.step, instruction.fence, instruction.attempt
        if step in self.ledger.done:
            self.world.violated(f"{self.name}/{step} was committed twice")
        if fence < self.ledger.fences.get(step, 0):
            self.world.violated(f"{self.name}/{step} was committed under fence {fence}, which is not the newest")
        lease = self.run.lease_of[attempt]
        if lease.fence != fence:
            self.world.violated(f"{self.name}/{step}: an attempt of fence {lease.fence} counted for {fence}")
        self._closed += 1
        self.world.recoveries.closed(self.name, step, self.world.engine.now)
        self.ledger.done[step] = self.world.engine.now
        self.ledger.took[step] = self.run.worked[attempt]
        self.ledger.made[step] = self.world.transfers.told(self.run.makes(step))
        self.world.record("commit", self.name, step, fence, attempt)
        for follower in self.run.after.get(step, ()):
            self._vend(follower)
        self._look_whether_over()

    def _fail(self, instruction: flow.RefuseStep | flow.FailStep) -> None:
        self._fail_step(instruction.step, instruction.refusal)

    def _fail_step(self, step: str, refusal: Refusal) -> None:
        """What needs a step that failed is not run either."""
        self._closed += 1
        doomed = [step]
        for key in doomed:
            if key not in self.ledger.failed:
                self.world.recoveries.closed(self.name, key, self.world.engine.now, failed=True)
                self.ledger.failed[key] = refusal
                doomed += self.run.after.get(key, ())
        self.world.record("fail", self.name, step, 0, refusal.code)
        for name in dict.fromkeys(self._workflow.steps[key].gang for key in doomed):
            if name:
                self._look_at_gang(name)
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if self.alive and len(self.ledger.done) + len(self.ledger.failed) == len(self._workflow.steps):
            self.run.is_over()

    # Where to ---------------------------------------------------------------------------------------------------

    def _find(self, instruction: flow.FindPlaces) -> None:
        """All domains are asked each time, at their own gateways, whatever the network governor of its own thinks of them."""
        unheard, now = self.world.unheard(self.domain), self.world.engine.now
        if unheard <= self._silent:
            wait_s = SILENT_S if unheard else LOOK_UP_S
        else:
            # A question that is under way is not asked again.
            self._answers_at = self._answers_at if now < self._answers_at else now + DISCOVER_S
            wait_s = self._answers_at - now
        self.world.engine.after(wait_s, self._places, instruction.asks, unheard)

    def _places(self, asks: tuple[Ask, ...], unheard: frozenset[str]) -> None:
        if not self.alive:
            return
        self._silent = unheard
        found: list[flow.Event] = []
        for ask in asks:
            places, rejected = _heard(*self.world.find(ask), unheard)
            if ask.input_bytes:
                places = flow.from_home(places, self.domain, ask.input_bytes, self._links)
            may_change = bool(unheard) or not (places or rejected)
            found.append(flow.PlacesFound(ask.step, places, rejected, may_change))
        self.take(*found)

    def _inputs(self, step: str) -> list[tuple[Spot, float]]:
        """What it reads, and where that lies."""
        its, home = self._workflow.steps[step], (self.domain, "")
        found: dict[Spot, float] = {self.world.transfers.lies(self.domain): sum(its.inputs.values())}
        found[home] = found.get(home, 0.0) + its.reads
        return list(found.items())

    # Messages ---------------------------------------------------------------------------------------------------

    def _announce(self, instruction: flow.SendAnnounce) -> None:
        Call(self, instruction.cluster, "announce", instruction.announce)

    def _award(self, instruction: flow.SendAward) -> None:
        Call(self, instruction.award.cluster, "award", instruction.award)

    def _release(self, instruction: flow.ReleaseLeases) -> None:
        self._tell(instruction.cluster, "release", ReleaseRequest(self.name, instruction.leases))

    def _stop(self, instruction: flow.StopStep) -> None:
        lease, there = instruction.lease, self.world.clusters[instruction.lease.cluster]
        self._out.pop((lease.step, lease.fence, lease.copy), None)
        self.world.wire.stream(self.domain, there.domain, "cancel", there.cancel, lease.node, lease.key)
        self._tell(lease.cluster, "release", ReleaseRequest(self.name, (lease.id,)))

    def _tell_story(self, instruction: flow.Tell) -> None:
        """Of what a governor tells, what a start cost is kept: who goes on with the run is to know it."""
        if instruction.chapter in SPENDING and self.ledger.epoch == self.epoch:
            self.ledger.spent += instruction.facts.get("price", 0.0)

    def _discard(self, _instruction: flow.DiscardAttempt) -> None:
        self.run.discarded += 1

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
        for cluster, round_ in self.governor.holding().items():
            self._withdraw(cluster, round_)

    def _tell_experience(self) -> None:
        """From time to time, to its domain's gateway."""
        if self.alive:
            self._tell_seen()
            self.world.engine.after(TELL_S, self._tell_experience)

    def _tell_seen(self) -> None:
        seen = self.governor.experience()
        if seen:
            standings = self.world.standings[self.domain]
            standings.tell(seen, self.world.engine.now)
            self.world.check(standings)

    def _renew(self) -> None:
        if not self.alive:
            return
        by_cluster: dict[str, list[Lease]] = {}
        for lease in self.governor.leases():
            by_cluster.setdefault(lease.cluster, []).append(lease)
        for cluster, leases in by_cluster.items():
            self._renew_at(self.world.clusters[cluster], leases)
        self.world.engine.after(RENEW_S, self._renew)

    def _renew_at(self, there: Any, leases: list[Lease]) -> None:
        def renewed(told: Any) -> None:
            for lease in leases:
                if lease.id in told.lost:
                    self.world.wire.stream(self.domain, there.domain, "cancel", there.cancel, lease.node, lease.key)
                    why = "its lease is not held"
                    self.take(flow.StepLost(lease.step, lease.fence, "", why, Cause.LEASE_LOST, lease.copy))

        def answer(told: Any) -> None:
            self.world.wire.send(there.domain, self.domain, ANSWERS["renew"], renewed, told)

        request = RenewRequest(self.name, tuple(lease.id for lease in leases))
        self.world.wire.send(self.domain, there.domain, "renew", there.asked, request, answer)


def _heard(places: Places, rejected: Rejected, unheard: frozenset[str]) -> tuple[Places, Rejected]:
    """Without those in domains that do not answer, which may be back later."""
    if not unheard:
        return places, rejected
    away = tuple(
        (name, Refusal("domain.unreachable", f"{name} does not answer", "registry")) for name in sorted(unheard)
    )
    return tuple(place for place in places if place.domain not in unheard), (*rejected, *away)


def _unheard(_: Any) -> None:
    """The answer to a message whose sender does not wait for one."""


_TICK = flow.Tick()

_WRITES: dict[type, Callable[[SimProcess, Any], None]] = {
    flow.StartStep: SimProcess._start,
    flow.CommitStep: SimProcess._commit,
    flow.RefuseStep: SimProcess._fail,
    flow.FailStep: SimProcess._fail,
}
"""How instructions of a flow governor are performed that stand in the ledger first."""
_ACTS: dict[type, Callable[[SimProcess, Any], None]] = {
    flow.FindPlaces: SimProcess._find,
    flow.SendAnnounce: SimProcess._announce,
    flow.WithdrawAnnounce: SimProcess._withdrawn,
    flow.SendAward: SimProcess._award,
    flow.StopStep: SimProcess._stop,
    flow.ReleaseLeases: SimProcess._release,
    flow.DiscardAttempt: SimProcess._discard,
    flow.Tell: SimProcess._tell_story,
}
"""The same of the others."""
