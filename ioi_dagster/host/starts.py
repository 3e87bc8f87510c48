"""Starts on their way to nodes and back: made, sent in order, and what became of each in the flow governor's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from ioi_dagster.adapters.dask import client
from ioi_dagster.adapters.dask.client import NEVER_THERE, TAKEN_BACK
from ioi_dagster.adapters.dask.node import begun_topic, over_topic, shed_topic
from ioi_dagster.clock import Clock
from ioi_dagster.compound.pieces import topic
from ioi_dagster.decoding import converted
from ioi_dagster.framing import encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow_messages import Event, StartRefused, StepEnded, StepLost, StepReturned
from ioi_dagster.governors.node import REPLACED
from ioi_dagster.host.fleets import Fleet, Start
from ioi_dagster.host.losses import SendingOrder, cause_of_loss
from ioi_dagster.host.work import Network, Work
from ioi_dagster.model.negotiation import OWN_STEP, Ask, Effect, Lease
from ioi_dagster.model.start import StartAnswer, Streaming

BRIEF_S = 0.03
"""A step whose like took no longer than this may share a task with others."""
ADOPTED = "as it was started by an earlier process of the run"


@dataclass(frozen=True, slots=True)
class Done:
    """A start is over. `at`: when that came, monotonic."""

    start: Start
    answer: StartAnswer | None
    why: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Begun:
    """A node of `cluster` said, at monotonic time `at`, that the code of the start under `key` begins."""

    cluster: str
    key: Any
    at: float


SHED_WHY = "its node gave it up, since its machine had no memory left, and it did not stop"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A node of `cluster` has said so of the start under `key`."""

    cluster: str
    key: Any


@dataclass(frozen=True, slots=True)
class TimeUp:
    """A node of `cluster` said that the time of the start under `key` is up: it is asked to stop, else its
    process ends."""

    cluster: str
    key: Any


@dataclass(frozen=True, slots=True)
class Told:
    """What was told of a streamed call at a node of `cluster`, which is whatever it says."""

    cluster: str
    facts: Any


class Came(msgspec.Struct, frozen=True):
    """How far the streamed call of a start has come: `pieces` are there, with the `first` ones that were there before; the others
    have `bytes`. `broke`: no more of them come."""

    key: str
    first: Annotated[int, msgspec.Meta(ge=0)]
    pieces: Annotated[int, msgspec.Meta(ge=0)]
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    broke: bool

    def __str__(self) -> str:
        after = f", after {self.first} that were there" if self.first else ""
        much = f"{self.pieces - self.first} pieces ({self.bytes:,} bytes){after}"
        return f"its call broke when {much} had come, which are no result" if self.broke else f"{much} have come"


@dataclass(frozen=True, slots=True)
class _Death:
    """The loss of a node: the keys of all starts that were there, and of those among them that were running."""

    there: frozenset[str]
    running: frozenset[str]


class Starts:
    """`its_run`: the run's key. `waiting()`: keys of starts that wait for their items, and so do nothing at their nodes. `post`
    takes `Done`, `Begun`, `TimeUp` and events of the flow governor, from any thread."""

    def __init__(
        self,
        its_run: str,
        network: Network,
        waiting: Callable[[], frozenset[str]],
        clock: Clock,
        post: Callable[[Any], None],
    ) -> None:
        self._run_key = its_run
        self._network, self._waiting, self._clock, self._post = network, waiting, clock, post
        self._ready: list[Start] = []
        self._sent: dict[str, dict[str, Start]] = {}
        """Node → key → start, of all that are out."""
        self._order = SendingOrder(self._sent)
        self._permits: dict[str, str] = {}
        self._code_since: dict[str, float | None] = {}
        """Of starts with a limit of time: since when their code runs, None where it is not known to."""
        self._time_up: set[str] = set()
        self._shed: set[str] = set()
        """Starts that their nodes have said that they give up."""
        self._heard: set[str] = set()
        """Clusters whose nodes are listened to."""
        self._heard_pieces: set[str] = set()
        self._deaths: dict[str, _Death] = {}
        self._took: dict[str, float] = {}
        self._replaced: dict[str, str] = {}
        """Node → what is to be told of its being replaced, empty where that was told."""

    # Out --------------------------------------------------------------------------------------------------------

    def make(self, work: Work, lease: Lease, alone: bool = False) -> None:
        """It goes with the next `send`; `alone`: without the steps that could run in its task. Raises `FinalError` where an input
        is gone, and `OSError` where one cannot be read."""
        ask, fleet = work.ask, self._network.fleet(lease.cluster)
        payload = None
        if fleet.accepts == "block" and work.payload is not None:
            payload = work.payload()
            data = work.encoded()
        elif work.fused is not None and lease.fence == 1 and not lease.copy and not alone:
            # Only once: a loss must name the step that caused it.
            data = work.fused()
        else:
            data = work.encoded()
        permit = self._network.step_permit(lease, ask.data_class, data if payload is None else encode_payload(payload))
        self._permits[lease.key] = permit.key_id if permit else ""
        self._ready.append(
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
                ask.effect is not Effect.AT_MOST_ONCE,
                work.streams,
            )
        )

    def adopt(self, work: Work, lease: Lease) -> None:
        """Wait for what an earlier process of the run has started."""
        ask = work.ask
        self._permits[lease.key] = ADOPTED
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
            self._hear(self._network.fleet(lease.cluster))
        self._sent.setdefault(lease.node, {})[start.key] = start
        self._network.fleet(lease.cluster).adopt(start, self._on_done)

    def send(self, wanted: Callable[[Lease], bool], listen: Callable[[Fleet], None]) -> None:
        """What was made and is `wanted` still. `listen`: called before anything is sent to a cluster."""
        starts, self._ready = self._ready, []
        by_cluster: dict[str, list[Start]] = {}
        for start in starts:
            self._order.add(start)
        for start in self._order.take():
            if not wanted(start.lease):
                continue
            self._sent.setdefault(start.lease.node, {})[start.key] = start.without_work()
            if start.timeout_s:
                self._code_since[start.key] = None
            by_cluster.setdefault(start.lease.cluster, []).append(start)
        for cluster, its_starts in by_cluster.items():
            fleet = self._network.fleet(cluster)
            listen(fleet)
            if any(start.timeout_s for start in its_starts):
                self._hear(fleet)
            if any(start.streams is not Streaming.NO for start in its_starts):
                self._hear_pieces(fleet)
            fleet.start(its_starts, self._on_done)

    def learn(self, step: str, seconds: float) -> None:
        """It ran for so long."""
        its_like = _like(step)
        self._took[its_like] = max(seconds, 0.8 * self._took.get(its_like, 0.0), 0.001)

    def permit(self, key: str) -> str:
        """The id of the key that signed the permit of the start under `key`. Asked once."""
        return self._permits.pop(key, "")

    def _brief(self, work: Work, lease: Lease) -> float:
        """See `Start.brief_s`. Never for what was lost before, or may run once only: a shared task's end names nobody."""
        alone = work.payload is not None or work.fused is not None or work.chunk or work.timeout_s
        if alone or lease.fence > 1 or lease.copy or work.ask.effect is Effect.AT_MOST_ONCE:
            return 0.0
        seconds = self._took.get(_like(work.ask.step), float("inf"))
        return seconds if seconds <= BRIEF_S else 0.0

    def _on_done(self, start: Start, answer: StartAnswer | None, why: str | None) -> None:
        self._post(Done(start, answer, why, self._clock.monotonic()))

    def _hear(self, fleet: Fleet) -> None:
        """When the code of steps with a limit begins at the nodes of `fleet`, and when their time is up; before the first of them
        is sent there."""
        if fleet.cluster in self._heard:
            return
        self._heard.add(fleet.cluster)
        begun = lambda key: self._post(Begun(fleet.cluster, key, self._clock.monotonic()))
        fleet.listen(begun_topic(self._run_key), begun)
        fleet.listen(over_topic(self._run_key), lambda key: self._post(TimeUp(fleet.cluster, key)))

    def hear_shed(self, fleet: Fleet) -> None:
        """What nodes of `fleet` give up; once, before the first step is sent there."""
        fleet.listen(shed_topic(self._run_key), lambda key: self._post(GivenUp(fleet.cluster, key)))

    def _hear_pieces(self, fleet: Fleet) -> None:
        if fleet.cluster not in self._heard_pieces:
            self._heard_pieces.add(fleet.cluster)
            fleet.listen(topic(self._run_key), lambda facts: self._post(Told(fleet.cluster, facts)))

    # Out there ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(map(len, self._sent.values()))

    def running(self) -> Iterable[str]:
        """Steps, and chunks, that nodes run now, as far as can be told from here: with those that wait for the items of their
        maps, without those that wait at a node."""
        for node, sent in self._sent.items():
            begun = self._waiting().union(self._first(node))
            yield from (start.lease.step for key, start in sent.items() if key in begun)

    def begun(self, event: Begun) -> None:
        """Told by whoever runs the cluster: what is no start there says nothing."""
        if self._has_limit(event.cluster, event.key):
            self._code_since[event.key] = event.at

    def time_up(self, event: TimeUp) -> None:
        """Told as `begun` is."""
        if self._has_limit(event.cluster, event.key):
            self._time_up.add(event.key)

    def given_up(self, event: GivenUp) -> None:
        """Told as `begun` is."""
        if self._is_out(event.cluster, event.key):
            self._shed.add(event.key)

    def came(self, told: Told) -> tuple[Lease, Came] | None:
        """Of which start, and what; None of what is no start of ours there."""
        try:
            came = converted(told.facts, Came)
        except msgspec.ValidationError:
            return None
        sent = (start for node in self._sent.values() for start in node.values())
        its = next((one for one in sent if one.key == came.key and one.lease.cluster == told.cluster), None)
        return (its.lease, came) if its is not None and came.first <= came.pieces else None

    def _has_limit(self, cluster: str, key: Any) -> bool:
        """It is out at `cluster`, with a limit of time."""
        return self._is_out(cluster, key) and key in self._code_since

    def _is_out(self, cluster: str, key: Any) -> bool:
        its = (start for node in self._sent.values() for start in node.values())
        return any(start.key == key and start.lease.cluster == cluster for start in its)

    def replaced(self) -> list[str]:
        """What is to be told of nodes whose processes are being replaced, since the last call."""
        texts = [text for text in self._replaced.values() if text]
        if texts:
            self._replaced = dict.fromkeys(self._replaced, "")
        return texts

    # Back -------------------------------------------------------------------------------------------------------

    def unsent(self, cluster: str, why: str) -> list[StepReturned]:
        """What waits for nodes of `cluster`, which is gone."""
        leases = [start.lease for start in self._order.drop(cluster=cluster)]
        return [StepReturned(lease.step, lease.fence, why, lease.copy) for lease in leases]

    def ended(self, done: Done) -> Event:
        """What its end is to the flow governor."""
        lease, answer = done.start.lease, done.answer
        since, up = self._code_since.pop(done.start.key, None), done.start.key in self._time_up
        shed = done.start.key in self._shed
        self._time_up.discard(done.start.key)
        self._shed.discard(done.start.key)
        if answer is None:
            return self._without_answer(done, 0.0 if since is None else done.at - since, up, shed)
        self._sent.get(lease.node, {}).pop(done.start.key, None)
        self._deaths.pop(lease.node, None)
        if answer.refusal is not None:
            if answer.refusal.code == REPLACED and lease.node not in self._replaced:
                self._replaced[lease.node] = f"{lease.node} of {lease.cluster}: {answer.refusal.text}"
            return StartRefused(lease.step, lease.fence, lease.node, answer.refusal, lease.copy)
        if answer.error is not None or answer.result is None:
            error = answer.error or "the node returned nothing"
            return StepLost(lease.step, lease.fence, lease.node, error, Cause.said(answer.cause), lease.copy)
        seconds = max(0.0, answer.ended - answer.started)
        return StepEnded(lease.step, lease.fence, answer.attempt, seconds, lease.copy)

    def _without_answer(self, done: Done, ran_s: float, up: bool, shed: bool) -> Event:
        lease, why = done.start.lease, done.why or "no answer"
        if why in (TAKEN_BACK, client.REPLACED):
            self._sent.get(lease.node, {}).pop(done.start.key, None)
            waited = "it waited behind a long step" if why == TAKEN_BACK else why
            return StepReturned(lease.step, lease.fence, waited, lease.copy)
        ran = why != NEVER_THERE and self._may_have_caused(done.start)
        death = self._deaths.get(lease.node)
        alone = death is not None and len(death.there) == 1
        cause = cause_of_loss(why, ran, alone, done.start.timeout_s, ran_s, up)
        if shed and cause is not Cause.SCHEDULER_LOST:
            cause, why = Cause.SHED, f"{SHED_WHY}: {why}"
        self._sent.get(lease.node, {}).pop(done.start.key, None)
        for start in self._order.drop(node=lease.node):
            its = start.lease
            self._post(StepReturned(its.step, its.fence, f"its node was lost: {why}", its.copy))
        return StepLost(lease.step, lease.fence, lease.node, why, cause, lease.copy)

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
        sent, waiting = self._sent.get(node, {}), self._waiting()
        order = sorted((key for key in sent if key not in waiting), key=lambda key: -sent[key].priority)
        return order[: self._network.fleet(next(iter(sent.values())).lease.cluster).at_once(node)] if sent else []


def _own_process(ask: Ask) -> bool:
    return ask.effect is Effect.AT_MOST_ONCE and ask.capability == OWN_STEP


def _like(step: str) -> str:
    """Steps of one op, mapped over something, are taken to be alike."""
    return step.partition("[")[0]
