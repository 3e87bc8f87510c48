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

import msgspec

from ioi_dagster.adapters.dask import client, stores
from ioi_dagster.adapters.dask.client import NEVER_THERE, TAKEN_BACK
from ioi_dagster.adapters.dask.node import begun_topic
from ioi_dagster.adapters.sql.ledger import Commit, FencedError, Ledger, LedgerAwayError, Started
from ioi_dagster.clock import Clock
from ioi_dagster.errors import FinalError, RetryableError
from ioi_dagster.framing import encode_payload
from ioi_dagster.governors import flow
from ioi_dagster.governors.failures import RULES, Cause
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import SendAnnounce, SendAward, StartStep, WithdrawAnnounce
from ioi_dagster.governors.flow_rounds import MAX_HOLDING
from ioi_dagster.governors.mapping import Report
from ioi_dagster.governors.node import REPLACED
from ioi_dagster.host import run_outputs
from ioi_dagster.host.answers import checked_award, checked_bid
from ioi_dagster.host.exchange import Owed, StepResult
from ioi_dagster.host.federated_fleets import run_shell
from ioi_dagster.host.fleet_watch import FleetWatch
from ioi_dagster.host.fleets import Fleet, Start
from ioi_dagster.host.io_manager import ObjectStore
from ioi_dagster.host.losses import SendingOrder, cause_of_loss
from ioi_dagster.host.map_desk import Heard, MapDesk
from ioi_dagster.host.run_outputs import RunOutputs
from ioi_dagster.host.work import Found, Network, Outcome, Work
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Announce, Ask, Award, Effect, Lease, ReleaseRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer
from ioi_dagster.model.story import Chapter, Entry

TURNS = 10
BUSY = 12
GATHER_S = 0.02
GATHERED = 32
"""While so many starts are out, answers are gathered for so long, or until there are so many."""
TRANSFER_BYTES_PER_S = 50e6
LONGEST_URL = 4_096
BRIEF_S = 0.03
"""A step whose like took no longer than this may share a task with others."""


ADOPTED = "as it was started by an earlier process of the run"


@dataclass(frozen=True, slots=True)
class _Shell:
    """A refused block step was run here: its `result`, or the `error` that it ended with."""

    step: str
    result: bytes | None
    error: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class _Done:
    start: Start
    answer: StartAnswer | None
    why: str | None
    at: float
    """When it came, monotonic."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A node of `cluster` said, at monotonic time `at`, that the code of the start under `key` begins."""

    cluster: str
    key: Any
    at: float


@dataclass(frozen=True, slots=True)
class _Stores:
    """A node is about to write to the store at `url`, which is whatever it says."""

    url: Any


@dataclass(frozen=True, slots=True)
class _Death:
    """The loss of a node: the keys of all starts that were there, and of those among them that were running."""

    there: frozenset[str]
    running: frozenset[str]


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
        self._run, self._epoch, self._network, self._governor = run, epoch, network, governor
        self._ledger, self._clock = ledger, clock
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._pool = ThreadPoolExecutor(12, thread_name_prefix="flow")
        self._waiting = ThreadPoolExecutor(MAX_HOLDING + 1, thread_name_prefix="flow-waits")
        self._work: dict[str, Work] = {}
        self._answers: dict[tuple[str, int, str], tuple[StartAnswer, Lease]] = {}
        self._permits: dict[str, str] = {}
        self._watch = FleetWatch(run, network, self._pool, self._inbox.put, clock)
        self.outputs = RunOutputs(run, objects, clock, self.renew)
        self._story: list[Entry] = []
        self._stories: dict[str, list[Entry]] = {}
        self._started: list[Started] = []
        self._commits: list[tuple[Commit, Outcome, list[tuple[str, str]]]] = []
        self._outcomes: list[Outcome] = []
        self._starts: list[Start] = []
        self._published: list[tuple[str, str]] = []
        self._dropped: list[str] = []
        self._stores: list[str] = []
        self._listening: set[str] = set()
        self._sent: dict[str, dict[str, Start]] = {}
        self._ahead: dict[str, Outcome] = {}
        self._order = SendingOrder(self._sent)
        self._code_since: dict[str, float | None] = {}
        """Of starts with a limit of time: since when their code runs, None where it is not known to."""
        self._begun_heard: set[str] = set()
        self._deaths: dict[str, _Death] = {}
        self._took: dict[str, float] = {}
        self._maps = MapDesk(run, self)
        self._replaced: dict[str, str] = {}
        """Node → what is to be told of its being replaced, empty where that was told."""
        self._unwritten_since: float | None = None
        self.ledger_away = ""
        """Why the ledger cannot be written now."""
        self._fenced = self._closed = False
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
                text = "it may run once only, and was in flight when an earlier process of the run ended"
                self._refuse(step, Refusal("flow.at_most_once", text, flow.BY))
                return
        self._inbox.put(flow.StepReady(work.ask))

    def take_fused(self, step: str) -> bool:
        """A step is ready: had it run already, in one task with the step before it? Then its outcome comes with `fused`."""
        outcome = self._ahead.pop(step, None)
        if outcome is not None:
            self._outcomes.append(outcome)
        return outcome is not None

    def refuse(self, step: str, refusal: Refusal) -> None:
        """The step cannot be placed as it is: its `Outcome` is the refusal."""
        self._outcomes.append(Outcome(step, refusal=refusal))

    def fused(self) -> list[Outcome]:
        """Outcomes of ready steps that had run already, in one task with the step before them."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def pump(self, wait_s: float) -> list[Outcome]:
        """Handle what happened, waiting up to `wait_s` seconds for something to happen."""
        events = self._drain(wait_s)
        if events and sum(map(len, self._sent.values())) >= BUSY:
            # The nodes have work ahead, so a little patience costs them nothing and saves a transaction for each answer.
            until = self._clock.monotonic() + GATHER_S
            while (left := until - self._clock.monotonic()) > 0 and len(events) < GATHERED:
                events += self._drain(left)
        self._watch_fleets()
        self._take_all(events)
        for _ in range(TURNS):
            # What was answered at once is taken at once: a step goes from ready to started in one turn.
            if self._inbox.empty():
                break
            self._take_all(self._drain(0.0))
        self.renew()
        return self._flush()

    def tell(self, chapter: Chapter, text: str, facts: Mapping[str, Any] | None = None, step: str = "") -> None:
        entry = Entry(self._run, step, chapter, text, self._clock.wall(), dict(facts or {}))
        self._story.append(entry)
        if step in self._work:
            self._stories.setdefault(step, []).append(entry)

    def published(self, step: str, attempt: str) -> None:
        """The events of a commit are in Dagster's log; the ledger learns of it with its next write."""
        self._published.append((step, attempt))

    def places_in(self, text: str) -> tuple[str, ...]:
        """Domains of an `ioi/place_in` tag; `home` is the run's own."""
        names = (name.strip() for name in text.split(","))
        return tuple(self._network.home if name == "home" else name for name in names if name)

    @property
    def shares_storage(self) -> bool:
        return self._network.shares_storage

    def replaced(self) -> list[str]:
        """What is to be told of nodes whose processes are being replaced, since the last call."""
        texts = [text for text in self._replaced.values() if text]
        if texts:
            self._replaced = dict.fromkeys(self._replaced, "")
        return texts

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
        self._stories.pop(step, None)
        for instruction in self._governor.handle(
            flow.StepDropped(step, "nobody waits for it"), self._clock.monotonic()
        ):
            self._perform(instruction)
        self._dropped.append(step)
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
        running: list[str] = []
        for node, sent in self._sent.items():
            begun = self._maps.waiting.union(self._first(node))
            running += [start.lease.step for key, start in sent.items() if key in begun and "#" not in start.lease.step]
        return running

    def close(self, interrupted: bool) -> None:
        """Give back what is held. After an interruption running steps are cancelled first.

        Raises `FencedError` where another process has the run by now: then nothing is given back, since it is that one's.
        """
        try:
            if not self._fenced:
                self._last_words()
                self._give_back(interrupted)
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        self._closed = True
        for cluster, round_ in self._governor.holding().items():
            self._network.fleet(cluster).withdraw(self._run, round_)
        for pool in (self._pool, self._waiting):
            pool.shutdown(wait=False, cancel_futures=True)

    def leave(self) -> bool:
        """Another process is to go on with the run: what is held stays for it, and so does what runs. Where that ends with this
        process, it is cancelled; False then.

        Raises `FencedError` as `close` does.
        """
        outlives = self._network.outlives_run_process
        try:
            if not self._fenced:
                self._last_words()
                if not outlives:
                    self._cancel(self._governor.leases())
        finally:
            self._end_threads()
        return outlives

    def _last_words(self) -> None:
        # What could not be written by now is owed still: the events of its commits are told when the run is resumed.
        with contextlib.suppress(LedgerAwayError):
            self._ledger.write(
                self._run, self._epoch, [], [], self._story, self._published, self._dropped, self._stores
            )
            self._story, self._published, self._dropped, self._stores = [], [], [], []

    def _give_back(self, interrupted: bool) -> None:
        leases = self._governor.leases()
        if interrupted:
            self._cancel(leases)
        for cluster, mine in _by_cluster(leases).items():
            # Where nobody answers, the lease expires by itself.
            with contextlib.suppress(RetryableError):
                self._network.fleet(cluster).release(ReleaseRequest(self._run, tuple(lease.id for lease in mine)))
        for fleet in self._network.fleets():
            if self.keeps_resources:
                self.not_torn_down += fleet.tear_down(self._run)
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
        if isinstance(event, _Begun):
            return self._begun(event)
        if isinstance(event, _Done):
            lease = event.start.lease
            event = self._ended(event)
            if isinstance(event, flow.StepLost) and RULES[event.cause].blames:
                # What was placed anew meanwhile is blamed for nothing that happens where it was.
                if event.fence == self._governor.fence(event.step):
                    self._maps.lost(event.step)
            self._maps.ended(lease)
        if isinstance(event, _Shell):
            return self._shell_ended(event)
        for instruction in self._governor.handle(event, self._clock.monotonic(), more):
            self._perform(instruction)

    def _begun(self, event: _Begun) -> None:
        """Told by whoever runs the cluster: what is no start there says nothing."""
        sent = (
            start.key for node in self._sent.values() for start in node.values() if start.lease.cluster == event.cluster
        )
        if event.key in sent and event.key in self._code_since:
            self._code_since[event.key] = event.at

    def _ended(self, done: _Done) -> flow.Event:
        lease, answer = done.start.lease, done.answer
        since = self._code_since.pop(done.start.key, None)
        if answer is None:
            why = done.why or "no answer"
            if why in (TAKEN_BACK, client.REPLACED):
                self._sent.get(lease.node, {}).pop(done.start.key, None)
                waited = "it waited behind a long step" if why == TAKEN_BACK else why
                return flow.StepReturned(lease.step, lease.fence, waited)
            ran_s = 0.0 if since is None else done.at - since
            ran = why != NEVER_THERE and self._may_have_caused(done.start)
            death = self._deaths.get(lease.node)
            alone = death is not None and len(death.there) == 1
            cause = cause_of_loss(why, ran, alone, done.start.timeout_s, ran_s)
            self._sent.get(lease.node, {}).pop(done.start.key, None)
            for start in self._order.drop(node=lease.node):
                self._inbox.put(flow.StepReturned(start.lease.step, start.lease.fence, f"its node was lost: {why}"))
            return flow.StepLost(lease.step, lease.fence, lease.node, why, cause)
        self._sent.get(lease.node, {}).pop(done.start.key, None)
        self._deaths.pop(lease.node, None)
        if answer.refusal is not None:
            if answer.refusal.code == REPLACED and lease.node not in self._replaced:
                self._replaced[lease.node] = f"{lease.node} of {lease.cluster}: {answer.refusal.text}"
            return flow.StartRefused(lease.step, lease.fence, lease.node, answer.refusal)
        if answer.error is not None or answer.result is None:
            cause = Cause.said(answer.cause)
            error = answer.error or "the node returned nothing"
            return flow.StepLost(lease.step, lease.fence, lease.node, error, cause)
        self._answers[lease.step, lease.fence, answer.attempt] = (answer, lease)
        return flow.StepEnded(lease.step, lease.fence, answer.attempt, max(0.0, answer.ended - answer.started))

    def _may_have_caused(self, start: Start) -> bool:
        """Did this start run when its node was lost, or did it wait there for others?

        Dask runs what a worker has by priority and then in order of submission, so it is the first ones. They are told when
        the first start comes back lost, and for all that were there then; an answer from the node ends that.
        """
        if start.brief_s:
            # Which of a task's steps it was cannot be told. Placed again, each has a task of its own.
            return False
        node = start.lease.node
        death = self._deaths.get(node)
        if death is None or start.key not in death.there:
            sent = self._sent.get(node, {})
            death = self._deaths[node] = _Death(frozenset(sent), frozenset(self._first(node)))
        return start.key in death.running

    def _first(self, node: str) -> list[str]:
        """The keys of the starts that a node runs now, as far as can be told from here."""
        sent, waiting = self._sent.get(node, {}), self._maps.waiting
        order = sorted((key for key in sent if key not in waiting), key=lambda key: -sent[key].priority)
        return order[: self._network.fleet(next(iter(sent.values())).lease.cluster).at_once(node)] if sent else []

    # Instructions out -------------------------------------------------------------------------------------------

    def _perform(self, instruction: flow.Instruction) -> None:
        match instruction:
            case flow.Tell(step, chapter, text, facts):
                self.tell(chapter, text, facts, step)
            case flow.FindPlaces(asks):
                self._find(asks)
            case SendAnnounce(cluster, announce):
                # One that waits for room keeps no thread from the others.
                pool = self._waiting if announce.wait_s else self._pool
                self._post(lambda: self._announce(cluster, announce),
                           lambda why: flow.BidMissed(cluster, announce.round, why), pool)  # fmt: skip
            case WithdrawAnnounce(cluster, round_):
                self._network.fleet(cluster).withdraw(self._run, round_)
            case SendAward(award):
                steps = tuple(request.step for request in award.requests)
                self._post(lambda: self._award(award),
                           lambda why: flow.AwardMissed(award.cluster, steps, why))  # fmt: skip
            case StartStep(ask, lease):
                self._start(ask, lease)
            case flow.AdoptStep(ask, lease):
                self._adopt(ask, lease)
            case flow.ReleaseLeases(cluster, leases):
                release = ReleaseRequest(self._run, leases)
                self._post(lambda: self._network.fleet(cluster).release(release), lambda why: None)
            case flow.CommitStep(step, fence, attempt):
                self._commit(step, fence, attempt)
            case flow.DiscardAttempt(step, fence, attempt, _):
                self._answers.pop((step, fence, attempt), None)
            case flow.RefuseStep(step, refusal):
                self._refuse(step, refusal)
            case flow.FailStep(step, refusal):
                # A block call's node decides what becomes of its input, also when the machinery gave up on it.
                self._refuse(step, refusal)

    def _announce(self, cluster: str, announce: Announce) -> flow.BidReceived:
        return flow.BidReceived(checked_bid(self._network.fleet(cluster).announce(announce), cluster, announce))

    def _award(self, award: Award) -> flow.AwardAnswered:
        fleet = self._network.fleet(award.cluster)
        awarded, missing = checked_award(fleet.award(award), award, fleet.domain)
        if missing:
            why = f"it has neither a good lease nor a refusal for {', '.join(missing[:3])}"
            self._inbox.put(flow.AwardMissed(award.cluster, missing, why))
        return flow.AwardAnswered(awarded)

    def _post(
        self, call: Callable[[], Any], missed: Callable[[str], Any], pool: ThreadPoolExecutor | None = None
    ) -> None:
        """Run `call` in a thread and post its event, or the event that says why there is none."""

        def run() -> None:
            try:
                event = call()
            except Exception as error:  # an answer is owed to the governor whatever goes wrong
                event = missed(str(error) or type(error).__name__)
            if event is not None:
                self._inbox.put(event)

        if self._network.immediate:
            run()
        else:
            (pool or self._pool).submit(run)

    def _find(self, asks: tuple[Ask, ...]) -> None:
        groups: dict[tuple, list[Ask]] = {}
        for ask in asks:
            typed = self._work[ask.step].payload is not None
            groups.setdefault((ask.capability, ask.data_class, ask.domains, typed), []).append(ask)
        for (capability, data_class, domains, typed), members in groups.items():
            if self._network.immediate:
                self._find_group(capability, data_class, domains, typed, members)
            else:
                self._pool.submit(self._find_group, capability, data_class, domains, typed, members)

    def _find_group(
        self, capability: str, data_class: DataClass, domains: tuple[str, ...], typed: bool, members: list[Ask]
    ) -> None:
        try:
            found = self._network.find(capability, data_class, domains, typed)
        except Exception as error:
            refusal = Refusal("ras.unreachable", str(error) or type(error).__name__, "registry")
            found = Found((), (("registry", refusal),), True)
        # Most of them are alike in what their places depend on.
        alike: dict[tuple[str, int], tuple[tuple[flow.Place, ...], tuple[tuple[str, Refusal], ...]]] = {}
        for ask in members:
            key = (ask.cluster, ask.input_bytes)
            if key not in alike:
                alike[key] = (self._places(ask, found), (*found.rejected, *_elsewhere(ask, found.places)))
            self._inbox.put(flow.PlacesFound(ask.step, *alike[key], found.may_change))

    def _places(self, ask: Ask, found: Found) -> tuple[flow.Place, ...]:
        away_s = ask.input_bytes / TRANSFER_BYTES_PER_S
        return tuple(
            flow.Place(place.cluster, place.domain, 0.0 if place.domain == self._network.home else away_s)
            for place in found.places
            if ask.cluster in ("", place.cluster)
        )

    def _start(self, ask: Ask, lease: Lease) -> None:
        work = self._work[ask.step]
        fleet = self._network.fleet(lease.cluster)
        payload = None
        try:
            if fleet.accepts == "block" and work.payload is not None:
                payload = work.payload()
                data = work.encoded()
            elif work.fused is not None and lease.fence == 1:
                # Only once: a loss must name the step that caused it.
                data = work.fused()
            else:
                data = work.encoded()
        except (FinalError, OSError) as error:
            return self._unfit(ask.step, str(error))
        sent = data if payload is None else encode_payload(payload)
        permit = self._network.step_permit(lease, ask.data_class, sent)
        self._permits[ask.step] = permit.key_id if permit else ""
        self._started.append(
            Started(ask.step, lease.fence, lease.domain, lease.cluster, lease.node, ask.capability, ask.data_class)
        )
        self._starts.append(
            Start(
                lease.key,
                lease,
                permit,
                ask.capability,
                data,
                payload,
                work.priority,
                work.timeout_s,
                self._brief(work, lease),
                _own_process(ask),
            )
        )

    def _unfit(self, step: str, why: str) -> None:
        """What the step is to be sent is not there any more."""
        for instruction in self._governor.handle(flow.StepDropped(step, why), self._clock.monotonic()):
            self._perform(instruction)
        self._refuse(step, Refusal("flow.unfit_step", why, flow.BY))

    def _adopt(self, ask: Ask, lease: Lease) -> None:
        work = self._work[ask.step]
        self._permits[ask.step] = ADOPTED
        start = Start(
            lease.key,
            lease,
            None,
            ask.capability,
            b"",
            None,
            work.priority,
            work.timeout_s,
            own_process=_own_process(ask),
        )
        if start.timeout_s:
            # It began earlier; how much earlier is not known here.
            self._code_since[start.key] = self._clock.monotonic()
        self._sent.setdefault(lease.node, {})[start.key] = start
        fleet = self._network.fleet(lease.cluster)
        self._listen(fleet)
        fleet.adopt(start, self._on_done)

    def _brief(self, work: Work, lease: Lease) -> float:
        """See `Start.brief_s`. Never for what was lost before, or may run once only: a shared task's end names nobody."""
        alone = work.payload is not None or work.fused is not None or work.chunk or work.timeout_s
        if alone or lease.fence > 1 or work.ask.effect is Effect.AT_MOST_ONCE:
            return 0.0
        seconds = self._took.get(_like(work.ask.step), float("inf"))
        return seconds if seconds <= BRIEF_S else 0.0

    def _commit(self, step: str, fence: int, attempt: str) -> None:
        answer, lease = self._answers.pop((step, fence, attempt))
        assert answer.result is not None
        result = msgspec.msgpack.decode(answer.result, type=StepResult)
        work = self._work[step]
        abroad = work.payload is not None and self._network.fleet(lease.cluster).accepts == "block"
        # What ran here of a foreign block's call is its step around the answer.
        ran = (answer.started, answer.ended) if abroad else (result.started, result.ended or answer.ended)
        self._stage(step, fence, attempt, result, lease, answer.node, *ran)
        for follower, its_result in zip(work.then, result.then, strict=False):
            self._stage_fused(follower, its_result, lease, answer.node)

    def _stage_fused(self, work: Work, result: StepResult, lease: Lease, node: str) -> None:
        step, attempt = work.ask.step, uuid.uuid4().hex
        self._work[step] = work
        fused = flow.StepFused(work.ask, lease, attempt, result.ended - result.started)
        for instruction in self._governor.handle(fused, self._clock.monotonic()):
            if isinstance(instruction, flow.CommitStep) and instruction.step == step:
                its_lease = replace(lease, step=step, fence=instruction.fence)
                self._started.append(
                    Started(step, instruction.fence, lease.domain, lease.cluster, node, OWN_STEP, work.ask.data_class)
                )
                self._stage(
                    step, instruction.fence, attempt, result, its_lease, node, result.started, result.ended, lease.step
                )
            else:
                self._perform(instruction)

    def _stored_at(self, url: Any) -> None:
        if isinstance(url, str) and len(url) <= LONGEST_URL and url not in self.outputs.stores:
            self.outputs.stores.add(url)
            self._stores.append(url)

    def _stage(
        self,
        step: str,
        fence: int,
        attempt: str,
        decoded: StepResult,
        lease: Lease | None,
        node: str,
        started: float,
        ended: float,
        fused_after: str = "",
    ) -> None:
        """Outputs are stored under the attempt's name; the commit row makes them the step's outputs."""
        work = self._work[step]
        stored = self.outputs.store(attempt, decoded, work.ask.data_class, work.assigns_class)
        its_like = _like(step)
        self._took[its_like] = max(ended - started, 0.8 * self._took.get(its_like, 0.0), 0.001)
        owed = msgspec.msgpack.encode(Owed(decoded.events, stored.links, None if work.chunk else decoded.failure))
        commit = Commit(step, fence, attempt, node, started, ended, stored.references, owed, stored.classes)
        outcome = Outcome(
            step,
            events=decoded.events,
            lease=lease,
            attempt=attempt,
            permit=self._permits.get(step, ""),
            data_class=work.ask.data_class,
            failure=decoded.failure,
            fused_after=fused_after,
            chunk=work.chunk,
            seconds=ended - started,
            story=tuple(self._stories.pop(step, ())),
        )
        self._commits.append((commit, outcome, stored.links))

    def _refuse(self, step: str, refusal: Refusal) -> None:
        work = self._work[step]
        if work.payload is None:
            self._outcomes.append(self._refused(step, refusal, work.chunk))
            return

        def run() -> None:
            try:
                self._inbox.put(_Shell(step, run_shell(work.encoded(), refusal), "", refusal))
            except BaseException as error:  # an outcome is owed, whatever the step's code raises
                self._inbox.put(_Shell(step, None, f"{type(error).__name__}: {error}", refusal))

        self._pool.submit(run)

    def _refused(self, step: str, refusal: Refusal, chunk: bool = False) -> Outcome:
        return Outcome(step, refusal=refusal, chunk=chunk, story=tuple(self._stories.pop(step, ())))

    def _shell_ended(self, event: _Shell) -> None:
        if event.result is None:
            text = f"{event.refusal.text}; what its step makes of that is not known, since it ended with {event.error}"
            self._outcomes.append(self._refused(event.step, replace(event.refusal, text=text)))
            return
        ask = self._work[event.step].ask
        fence = self._governor.raise_fence(event.step)
        now = self._clock.wall()
        result = msgspec.msgpack.decode(event.result, type=StepResult)
        self._started.append(Started(event.step, fence, "", "", "", ask.capability, ask.data_class))
        self._stage(event.step, fence, f"refused-{uuid.uuid4().hex}", result, None, "", now, now)

    # Out to the world -------------------------------------------------------------------------------------------

    def _flush(self) -> list[Outcome]:
        """One transaction; only then starts and outcomes."""
        if self._started or self._commits or self._story or self._stores:
            commits = [commit for commit, _, _ in self._commits]
            committed = self._write(commits)
            if committed is None:
                return []
            for commit, outcome, links in self._commits:
                self.outputs.publish(commit.attempt, links, commit.attempt in committed)
                if commit.attempt in committed:
                    if outcome.fused_after:
                        self._ahead[outcome.step] = outcome
                        self._told(outcome)
                    else:
                        self._outcomes.append(outcome)
            self._started, self._commits, self._story, self._published = [], [], [], []
            self._dropped, self._stores = [], []
        starts, self._starts = self._starts, []
        by_cluster: dict[str, list[Start]] = {}
        for start in starts:
            self._order.add(start)
        for start in self._order.take():
            if self._governor.lease(start.lease.step) is not start.lease:
                continue
            self._sent.setdefault(start.lease.node, {})[start.key] = start.without_work()
            if start.timeout_s:
                self._code_since[start.key] = None
            by_cluster.setdefault(start.lease.cluster, []).append(start)
        for cluster, its_starts in by_cluster.items():
            fleet = self._network.fleet(cluster)
            self._listen(fleet)
            if any(start.timeout_s for start in its_starts):
                self._hear_begun(fleet)
            fleet.start(its_starts, self._on_done)
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            self._told(outcome)
        return [outcome for outcome in outcomes if not self._maps.took(outcome)]

    def _write(self, commits: list[Commit]) -> set[str] | None:
        """The attempts that were committed; None when the ledger cannot be written now: all is kept for the next turn."""
        now = self._clock.monotonic()
        try:
            committed = self._ledger.write(
                self._run,
                self._epoch,
                self._started,
                commits,
                self._story,
                self._published,
                self._dropped,
                self._stores,
            )
        except FencedError:
            self._fenced = True
            raise
        except LedgerAwayError as error:
            self._unwritten_since = now if self._unwritten_since is None else self._unwritten_since
            self.ledger_away = str(error)
            if now - self._unwritten_since > run_outputs.PATIENCE_S:
                raise FinalError(f"for {run_outputs.PATIENCE_S:g} s {error}") from error
            return None
        self._unwritten_since, self.ledger_away = None, ""
        return committed

    def _listen(self, fleet: Fleet) -> None:
        """To what nodes of `fleet` tell, before the first step is sent there."""
        self._maps.listen(fleet)
        if fleet.cluster not in self._listening:
            self._listening.add(fleet.cluster)
            fleet.listen(stores.topic(self._run), lambda url: self.post(_Stores(url)))

    def _told(self, outcome: Outcome) -> None:
        self._work.pop(outcome.step, None)
        if outcome.lease is not None:
            where = f"{outcome.lease.node} of {outcome.lease.cluster}"
            facts = {"attempt": outcome.attempt, "fence": outcome.lease.fence}
            self.tell(Chapter.COMMIT, f"attempt {outcome.attempt} on {where} committed", facts, outcome.step)

    def _on_done(self, start: Start, answer: StartAnswer | None, why: str | None) -> None:
        self._inbox.put(_Done(start, answer, why, self._clock.monotonic()))

    def _hear_begun(self, fleet: Fleet) -> None:
        """When the code of steps with a limit begins at the nodes of `fleet`; before the first of them is sent there."""
        if fleet.cluster in self._begun_heard:
            return
        self._begun_heard.add(fleet.cluster)

        def take(key: Any) -> None:
            self._inbox.put(_Begun(fleet.cluster, key, self._clock.monotonic()))

        fleet.listen(begun_topic(self._run), take)

    def _watch_fleets(self) -> None:
        for cluster in self._watch.look():
            for start in self._order.drop(cluster=cluster):
                self._take(flow.StepReturned(start.lease.step, start.lease.fence, "its Dask scheduler went away"))
            self._take(flow.ClusterLost(cluster, "its Dask scheduler went away"))

    def renew(self) -> None:
        """Renew the leases that are due, of which there are none after `close`; called again and again, also by who keeps `pump`
        waiting."""
        if self._closed:
            return
        self._watch.renew(lambda: (self._governor.leases(), self._maps.waiting))


def _elsewhere(ask: Ask, places: Iterable[flow.Place]) -> list[tuple[str, Refusal]]:
    text = f"it runs beside the step that asks for it, at {ask.cluster}"
    refusal = Refusal("flow.other_cluster", text, flow.BY)
    return [(place.cluster, refusal) for place in places if ask.cluster not in ("", place.cluster)]


def _own_process(ask: Ask) -> bool:
    return ask.effect is Effect.AT_MOST_ONCE and ask.capability == OWN_STEP


def _by_cluster(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    found: dict[str, list[Lease]] = {}
    for lease in leases:
        found.setdefault(lease.cluster, []).append(lease)
    return found


def _like(step: str) -> str:
    """Steps of one op, mapped over something, are taken to be alike."""
    return step.partition("[")[0]
