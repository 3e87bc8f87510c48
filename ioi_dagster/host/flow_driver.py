"""Performs the flow governor's instructions: asks registries and policy, negotiates with clusters, starts steps.

The executor calls `pump` in its loop; everything slow happens in threads that post back events. What changes the ledger
is gathered and written in one transaction a turn, before anything that depends on it is done.
"""

from __future__ import annotations

import contextlib
import queue
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ioi_dagster.adapters.dask import stores
from ioi_dagster.adapters.sql.ledger import Ledger, LedgerAwayError, Started
from ioi_dagster.clock import Clock
from ioi_dagster.errors import FinalError, RetryableError
from ioi_dagster.governors import flow
from ioi_dagster.governors.failures import RULES, in_doubt
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import Idle, StartStep
from ioi_dagster.governors.mapping import Report
from ioi_dagster.host.commits import RunLedger
from ioi_dagster.host.fleet_watch import FleetWatch
from ioi_dagster.host.fleets import Fleet
from ioi_dagster.host.interventions import InterventionDesk
from ioi_dagster.host.io_manager import ObjectStore
from ioi_dagster.host.map_desk import Heard, MapDesk
from ioi_dagster.host.negotiator import Negotiator
from ioi_dagster.host.pools import PoolSlots
from ioi_dagster.host.results import Follower, Results, Shell
from ioi_dagster.host.run_outputs import RunOutputs
from ioi_dagster.host.starts import Begun, Came, Done, GivenUp, Starts, TimeUp, Told
from ioi_dagster.host.work import Network, Outcome, Work
from ioi_dagster.model.intervention import Intervention
from ioi_dagster.model.negotiation import Ask, Effect, Lease, ReleaseRequest, run_key
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

TURNS = 10
BUSY = 12
GATHER_S = 0.02
GATHERED = 32
"""While so many starts are out, answers are gathered for so long, or until there are so many."""
EXPERIENCE_S = 30.0
"""What the run sees of clusters is told to its domain so often, for runs that begin while it goes on."""
LONGEST_URL = 4_096
SCHEDULER_WENT = "its Dask scheduler went away"
UNFIT_TODO = "see that what it is sent is there and can be read: run the steps that make it again"


@dataclass(frozen=True, slots=True)
class _Stores:
    """A node is about to write to the store at `url`, which is whatever it says."""

    url: Any


class FlowDriver:
    """One per run process; not thread-safe except for its inbox."""

    def __init__(
        self,
        run: str,
        epoch: int,
        network: Network,
        governor: FlowGovernor,
        ledger: Ledger,
        objects: ObjectStore,
        clock: Clock,
    ) -> None:
        self._run, self._network, self._governor, self._clock = run, network, governor, clock
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._pool = ThreadPoolExecutor(12, thread_name_prefix="flow")
        self._work: dict[str, Work] = {}
        self._ledger = RunLedger(run, epoch, ledger, clock)
        self._interventions = InterventionDesk(run, ledger, clock)
        self._run_key = run_key(network.home, run)
        self._maps = MapDesk(self._run_key, self)
        self._negotiator = Negotiator(run, network, self._is_typed, self._pool, self._inbox.put)
        self._starts = Starts(self._run_key, network, lambda: self._maps.waiting, clock, self._inbox.put)
        self._watch = FleetWatch(run, network, self._pool, self._inbox.put, clock)
        self.outputs = RunOutputs(run, objects, clock, self.renew)
        self._results = Results(
            self._work, network, self.outputs, self._ledger, self._starts, self._pool, clock, self._inbox.put
        )
        self._to_stop: list[Lease] = []
        self._outcomes: list[Outcome] = []
        """Owed, and told when what they rest on is in the ledger."""
        self._at_once: list[Outcome] = []
        """Of ready steps that are not placed: nothing of theirs is to be written any more."""
        self._ahead: dict[str, Outcome] = {}
        """Of steps that ran in one task after another one, and are not ready yet."""
        self._listening: set[str] = set()
        self._closed = False
        self._streams: dict[str, tuple[Lease, Came]] = {}
        self._tells_at = clock.monotonic() + EXPERIENCE_S
        self.pools: PoolSlots | None = None
        """The slots that steps of the run have in pools."""
        self.keeps_resources = False
        """The run's nodes keep resources for it until it ends."""
        self.not_torn_down: list[str] = []
        """What was raised where they were torn down, in words."""
        self.in_doubt: set[str] = set()
        """Steps that an earlier process of this run had in flight: whether they ran is not known."""
        self.found: dict[str, Lease] = {}
        """Those of them that are under way still, see `adoption`."""

    # For the executor -------------------------------------------------------------------------------------------

    def submit(self, work: Work) -> None:
        """A step is ready: place it, run it, commit it; its `Outcome` comes from a later `pump`."""
        step = work.ask.step
        self._work[step] = work
        found = self.found.pop(step, None)
        if found is not None:
            self.in_doubt.discard(step)
            # What else may have run in its task is not known here.
            self._work[step] = replace(work, then=(), fused=None)
            self._inbox.put(flow.StepFound(work.ask, found))
            return
        if step in self.in_doubt:
            self.in_doubt.discard(step)
            if work.ask.effect is Effect.AT_MOST_ONCE:
                self._owe(self._results.refused(step, in_doubt(flow.BY)))
                return
        self._inbox.put(flow.StepReady(work.ask))

    def take_fused(self, step: str) -> bool:
        """A step is ready: had it run already, in one task with the step before it? Then its outcome comes with `fused`."""
        outcome = self._ahead.pop(step, None)
        if outcome is not None:
            self._at_once.append(outcome)
        return outcome is not None

    def refuse(self, step: str, refusal: Refusal) -> None:
        """The step cannot be placed as it is: its `Outcome` is the refusal, and comes with `fused`."""
        self._at_once.append(Outcome(step, refusal=refusal))

    def fused(self) -> list[Outcome]:
        """Outcomes of ready steps that are not placed: they had run already, in one task with the step before them, or cannot
        be placed."""
        outcomes, self._at_once = self._at_once, []
        return outcomes

    def pump(self, wait_s: float) -> list[Outcome]:
        """Handle what happened, waiting up to `wait_s` seconds for something to happen."""
        events = self._drain(wait_s)
        if events and len(self._starts) >= BUSY:
            # The nodes have work ahead, so a little patience costs them nothing and saves a transaction for each answer.
            until = self._clock.monotonic() + GATHER_S
            while (left := until - self._clock.monotonic()) > 0 and len(events) < GATHERED:
                events += self._drain(left)
        self._watch_fleets()
        for text in self._network.issued_anew():
            self.tell(Chapter.POLICY, text)
        self._tell_experience()
        self._pool_slots()
        events += self._interventions.look()
        self._take_all(events)
        for _ in range(TURNS):
            # What was answered at once is taken at once: a step goes from ready to started in one turn.
            if self._inbox.empty():
                break
            self._take_all(self._drain(0.0))
        self._stop_all()
        self.renew()
        return self._flush()

    def tell(self, chapter: Chapter, text: str, facts: Mapping[str, Any] | None = None, step: str = "") -> None:
        self._ledger.tell(chapter, text, facts, step, keep=step in self._work)

    def published(self, step: str, attempt: str) -> None:
        """The events of a commit are in Dagster's log; the ledger learns of it with its next write."""
        self._ledger.published(step, attempt)

    def places_in(self, text: str) -> tuple[str, ...]:
        """Domains of an `ioi/place_in` tag; `home` is the run's own."""
        names = (name.strip() for name in text.split(","))
        return tuple(self._network.home if name == "home" else name for name in names if name)

    @property
    def shares_storage(self) -> bool:
        return self._network.shares_storage

    @property
    def ledger_away(self) -> str:
        """Why the ledger cannot be written now."""
        return self._ledger.away

    def replaced(self) -> list[str]:
        """What is to be told of nodes whose processes are being replaced, since the last call."""
        return self._starts.replaced()

    def streams(self) -> list[tuple[Lease, Came]]:
        """What is to be told of how far streamed calls have come, since the last call."""
        came, self._streams = list(self._streams.values()), {}
        return came

    def look_up(self, idle: Callable[[Intervention], Idle | None]) -> None:
        """From now on `idle` says why there is nothing to be done about what people say to the run, where that is so."""
        self._interventions.idle = idle

    def places(self) -> set[str]:
        """Names of the nodes and clusters that are known here."""
        return self._governor.places() | self._network.names()

    def interventions(self) -> list[str]:
        """What is to be told of what people said to the run, since the last call."""
        return self._interventions.told()

    # For the maps inside steps -----------------------------------------------------------------------------------

    def reports(self) -> list[Report]:
        """Of the maps inside steps that are over since the last call."""
        return self._maps.reports()

    @property
    def maps(self) -> bool:
        """Do steps of this run make chunks, of which nobody knows how many come?"""
        return self._maps.any

    def post(self, event: Any) -> None:
        """From any thread."""
        self._inbox.put(event)

    def lease(self, step: str) -> Lease | None:
        """The lease under which the step runs now."""
        return self._governor.lease(step)

    def work(self, step: str) -> Work | None:
        """What was submitted as `step`, until its outcome is told."""
        return self._work.get(step)

    def fleet(self, cluster: str) -> Fleet:
        """The cluster of that name, which the run has a place or a lease in."""
        return self._network.fleet(cluster)

    def drop(self, step: str) -> None:
        """Nobody waits for `step` any more."""
        lease = self._governor.lease(step)
        self._work.pop(step, None)
        self._ledger.take_story(step)
        for instruction in self._governor.handle(
            flow.StepDropped(step, "nobody waits for it"), self._clock.monotonic()
        ):
            self._perform(instruction)
        self._ledger.dropped(step)
        if lease is not None:
            # It may take seconds until what runs has stopped.
            self._pool.submit(self._network.fleet(lease.cluster).cancel, [lease.key])

    # For the executor again -------------------------------------------------------------------------------------

    def snapshot(self) -> flow.FlowSnapshot:
        """How far the run is, and why its steps wait."""
        return self._governor.snapshot()

    def running(self) -> list[str]:
        """Steps of Dagster's plan that nodes run now, as far as can be told from here: with those that wait for the items of
        their maps, without those that wait at a node."""
        return [step for step in self._starts.running() if "#" not in step]

    def close(self, interrupted: bool) -> None:
        """Give back what is held. After an interruption running steps are cancelled first.

        Raises `FencedError` where another process has the run by now: then nothing is given back, since it is that one's.
        """
        try:
            if not self._ledger.fenced:
                self._last_words()
                self._give_back(interrupted)
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        self._closed = True
        self._negotiator.close(self._governor.holding())
        self._pool.shutdown(wait=False, cancel_futures=True)

    def leave(self) -> bool:
        """Another process is to go on with the run: what is held stays for it, and so does what runs. Where that ends with this
        process, it is cancelled; False then.

        Raises `FencedError` as `close` does.
        """
        outlives = self._network.outlives_run_process
        try:
            if not self._ledger.fenced:
                self._last_words()
                if not outlives:
                    self._cancel(self._governor.leases())
        finally:
            self._end_threads()
        return outlives

    def _tell_experience(self) -> None:
        """From time to time; what is seen after that is told at the end."""
        now = self._clock.monotonic()
        if now < self._tells_at:
            return
        self._tells_at = now + EXPERIENCE_S
        seen = self._governor.experience()
        if seen:
            self._pool.submit(self._network.experienced, seen)

    def _last_words(self) -> None:
        seen = self._governor.experience()
        if seen:
            self._network.experienced(seen)
        # What could not be written by now is owed still: the events of its commits are told when the run is resumed.
        with contextlib.suppress(LedgerAwayError):
            self._ledger.last_words()
            self._interventions.write()

    def _give_back(self, interrupted: bool) -> None:
        leases = [*self._governor.leases(), *self._to_stop]
        if interrupted:
            self._cancel(leases)
        for cluster, mine in _by_cluster(leases).items():
            # Where nobody answers, the lease expires by itself.
            with contextlib.suppress(RetryableError):
                self._network.fleet(cluster).release(ReleaseRequest(self._run, tuple(lease.id for lease in mine)))
        for fleet in self._network.fleets():
            if self.keeps_resources:
                self.not_torn_down += fleet.tear_down(self._run_key)
            # Of attempts that were never committed too.
            fleet.forget(self._run)
        self.outputs.tidy()

    def _cancel(self, leases: Iterable[Lease]) -> None:
        for cluster, mine in _by_cluster(leases).items():
            self._network.fleet(cluster).cancel([lease.key for lease in mine])

    # Events in --------------------------------------------------------------------------------------------------

    def _drain(self, wait_s: float) -> list[Any]:
        events: list[Any] = []
        try:
            events.append(self._inbox.get(timeout=wait_s))
            while True:
                events.append(self._inbox.get_nowait())
        except queue.Empty:
            return events

    def _take_all(self, events: Iterable[Any]) -> None:
        for event in events:
            self._take(event, more=True)
        self._take(flow.Tick())

    def _take(self, event: Any, more: bool = False) -> None:
        if isinstance(event, Heard):
            return self._maps.heard(event)
        if isinstance(event, _Stores):
            return self._stored_at(event.url)
        if isinstance(event, Begun):
            return self._starts.begun(event)
        if isinstance(event, GivenUp):
            return self._starts.given_up(event)
        if isinstance(event, TimeUp):
            return self._starts.time_up(event)
        if isinstance(event, Told):
            return self._came(event)
        if isinstance(event, Done):
            event = self._ended(event)
        if isinstance(event, Shell):
            return self._owe(self._results.shell_ended(event, self._governor.raise_fence))
        for instruction in self._governor.handle(event, self._clock.monotonic(), more):
            self._perform(instruction)

    def _came(self, told: Told) -> None:
        known = self._starts.came(told)
        if known is None:
            return
        lease, came = known
        facts = {"first": came.first, "pieces": came.pieces, "bytes": came.bytes, "broke": came.broke}
        self.tell(Chapter.PROGRESS, f"{came} from {lease.node} of {lease.cluster}", facts, lease.step)
        self._streams[lease.step] = (lease, came)

    def _ended(self, done: Done) -> flow.Event:
        lease, answer = done.start.lease, done.answer
        event = self._starts.ended(done)
        if isinstance(event, flow.StepEnded):
            assert answer is not None
            self._results.answered(lease, answer)
        if isinstance(event, flow.StepLost) and RULES[event.cause].blames:
            # What was placed anew meanwhile is blamed for nothing that happens where it was.
            if event.fence == self._governor.fence(event.step):
                self._maps.lost(event.step)
        if isinstance(event, flow.StepLost) and answer is not None and answer.checkpoint is not None and not lease.copy:
            self._keep(lease, answer.checkpoint)
        self._maps.ended(lease)
        return event

    def _keep(self, lease: Lease, checkpoint: bytes) -> None:
        size = len(checkpoint)
        try:
            if self.outputs.keep_checkpoint(lease.step, lease.fence, checkpoint):
                text = f"it left a checkpoint of {size} bytes, from which it goes on"
                self.tell(Chapter.LOSS, text, {"bytes": size}, lease.step)
        except (OSError, RetryableError) as error:
            text = f"it left a checkpoint of {size} bytes, which cannot be stored ({error}): it goes on without it"
            self.tell(Chapter.LOSS, text, {"bytes": size}, lease.step)

    # Instructions out -------------------------------------------------------------------------------------------

    def _perform(self, instruction: flow.Instruction) -> None:
        match instruction:
            case flow.Tell(step, chapter, text, facts):
                self.tell(chapter, text, facts, step)
            case StartStep(ask, lease):
                self._start(ask, lease)
            case flow.AdoptStep(ask, lease):
                self._adopt(ask, lease)
            case flow.StopStep(lease):
                self._to_stop.append(lease)
            case flow.CommitStep(step, fence, attempt):
                for follower in self._results.commit(step, fence, attempt):
                    self._commit_follower(follower)
            case flow.DiscardAttempt(step, fence, attempt, _):
                self._results.discard(step, fence, attempt)
            case flow.Answer():
                self._interventions.answered(instruction)
            case flow.RefuseStep(step, refusal) | flow.FailStep(step, refusal):
                # A block call's node decides what becomes of its input, also when the machinery gave up on it.
                self._owe(self._results.refused(step, refusal))
            case _:
                self._negotiator.perform(instruction)

    def _is_typed(self, step: str) -> bool:
        return self._work[step].payload is not None

    def _start(self, ask: Ask, lease: Lease) -> None:
        if self.pools is not None and not lease.copy and not self.pools.may_start(ask.step):
            return self._put_back(lease)
        try:
            work = self._work[ask.step]
            alone = not all(self._governor.may_follow(then.ask.step) for then in work.then)
            self._starts.make(work, lease, alone)
        except (FinalError, OSError) as error:
            if lease.copy:
                # What it was sent at first is there.
                return self._take(flow.StepReturned(ask.step, lease.fence, str(error), lease.copy))
            return self._unfit(ask.step, str(error))
        # Where the run is resumed, the first start is looked for, and its copy is none that anybody waits for.
        if not lease.copy:
            self._ledger.started(
                Started(ask.step, lease.fence, lease.domain, lease.cluster, lease.node, ask.capability, ask.data_class)
            )

    def _put_back(self, lease: Lease) -> None:
        """Others have the slots of its pool: it is submitted again when it has one."""
        why = "it had a place, and waits for a slot in its pool"
        self._take(flow.StepReturned(lease.step, lease.fence, why), more=True)
        self._take(flow.StepDropped(lease.step, why), more=True)

    def _pool_slots(self) -> None:
        if self.pools is None:
            return
        for step in self.pools.give_back(self._governor.waits_since, self._clock.monotonic()):
            self.tell(Chapter.WAIT, "its slot in its pool is given back until it has a place", step=step)
        for work in self.pools.again():
            self._take(flow.StepReady(work.ask))

    def _unfit(self, step: str, why: str) -> None:
        """What the step is to be sent is not there any more."""
        for instruction in self._governor.handle(flow.StepDropped(step, why), self._clock.monotonic()):
            self._perform(instruction)
        self._owe(self._results.refused(step, Refusal("flow.unfit_step", why, flow.BY, UNFIT_TODO)))

    def _stop_all(self) -> None:
        """It may take seconds until what runs has stopped, so those of one cluster are stopped together, in a thread."""
        to_stop, self._to_stop = self._to_stop, []
        for cluster, leases in _by_cluster(to_stop).items():
            self._pool.submit(self._stop, cluster, leases)

    def _stop(self, cluster: str, leases: list[Lease]) -> None:
        fleet = self._network.fleet(cluster)
        # Where nobody answers, what runs there cannot commit, and the lease expires by itself.
        with contextlib.suppress(RetryableError):
            fleet.cancel([lease.key for lease in leases])
            fleet.release(ReleaseRequest(self._run, tuple(lease.id for lease in leases)))

    def _adopt(self, ask: Ask, lease: Lease) -> None:
        self._listen(self._network.fleet(lease.cluster))
        self._starts.adopt(self._work[ask.step], lease)

    def _commit_follower(self, follower: Follower) -> None:
        work, result, attempt = follower.work, follower.result, uuid.uuid4().hex
        self._work[work.ask.step] = work
        fused = flow.StepFused(work.ask, follower.lease, attempt, result.ended - result.started)
        for instruction in self._governor.handle(fused, self._clock.monotonic()):
            if isinstance(instruction, flow.CommitStep) and instruction.step == work.ask.step:
                self._results.commit_follower(follower, instruction.fence, attempt)
            else:
                self._perform(instruction)

    def _owe(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._outcomes.append(outcome)

    def _stored_at(self, url: Any) -> None:
        if isinstance(url, str) and len(url) <= LONGEST_URL and url not in self.outputs.stores:
            self.outputs.stores.add(url)
            self._ledger.store(url)

    # Out to the world -------------------------------------------------------------------------------------------

    def _flush(self) -> list[Outcome]:
        """One transaction; only then starts and outcomes."""
        committed = self._ledger.write()
        if committed is None:
            return []
        for outcome, links, first in committed:
            self.outputs.publish(outcome.attempt, links, first)
            if first and outcome.fused_after:
                self._ahead[outcome.step] = outcome
                self._told(outcome)
            elif first:
                self._outcomes.append(outcome)
        self._starts.send(self._governor.wants, self._listen)
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            self._told(outcome)
        return [outcome for outcome in outcomes if not self._maps.took(outcome)]

    def _listen(self, fleet: Fleet) -> None:
        """To what nodes of `fleet` tell, before the first step is sent there."""
        self._maps.listen(fleet)
        if fleet.cluster not in self._listening:
            self._listening.add(fleet.cluster)
            self._starts.hear_shed(fleet)
            fleet.listen(stores.topic(self._run_key), lambda url: self.post(_Stores(url)))

    def _told(self, outcome: Outcome) -> None:
        self._work.pop(outcome.step, None)
        if self.pools is not None:
            self.pools.over(outcome.step)
        if outcome.lease is not None:
            where = f"{outcome.lease.node} of {outcome.lease.cluster}"
            facts = {"attempt": outcome.attempt, "fence": outcome.lease.fence}
            self.tell(Chapter.COMMIT, f"attempt {outcome.attempt} on {where} committed", facts, outcome.step)

    def _watch_fleets(self) -> None:
        for cluster in self._watch.look():
            for returned in self._starts.unsent(cluster, SCHEDULER_WENT):
                self._take(returned)
            self._take(flow.ClusterLost(cluster, SCHEDULER_WENT))

    def renew(self) -> None:
        """Renew the leases that are due, of which there are none after `close`; called again and again, also by who keeps `pump`
        waiting."""
        if self._closed:
            return
        self._watch.renew(lambda: (self._governor.leases(), self._maps.waiting))


def _by_cluster(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    found: dict[str, list[Lease]] = {}
    for lease in leases:
        found.setdefault(lease.cluster, []).append(lease)
    return found
