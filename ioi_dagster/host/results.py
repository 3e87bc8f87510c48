"""What attempts brought, made into commits: outputs stored under the attempt's name, events owed, and the step's outcome."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ioi_dagster.adapters.sql.ledger import Commit, Started
from ioi_dagster.clock import Clock
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.host.commits import RunLedger
from ioi_dagster.host.exchange import Owed, StepResult
from ioi_dagster.host.federated_fleets import run_shell
from ioi_dagster.host.run_outputs import RunOutputs
from ioi_dagster.host.starts import Starts
from ioi_dagster.host.work import Network, Outcome, Work
from ioi_dagster.model.intervention import CANCELLED
from ioi_dagster.model.negotiation import Lease
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer


@dataclass(frozen=True, slots=True)
class Shell:
    """A refused block step was run here: its `result`, or the `error` that it ended with."""

    step: str
    result: bytes | None
    error: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Follower:
    """A step of a chain that ran in one task after the one of `lease`, on `node`."""

    work: Work
    result: StepResult
    lease: Lease
    node: str


class Results:
    """`work`: what was submitted, by step. `post` takes `Shell`, from any thread."""

    def __init__(
        self,
        work: dict[str, Work],
        network: Network,
        outputs: RunOutputs,
        ledger: RunLedger,
        starts: Starts,
        pool: Executor,
        clock: Clock,
        post: Callable[[Any], None],
    ) -> None:
        self._work, self._network, self._outputs, self._ledger = work, network, outputs, ledger
        self._starts, self._pool, self._clock, self._post = starts, pool, clock, post
        self._answers: dict[tuple[str, int, str], tuple[StartAnswer, Lease]] = {}

    def answered(self, lease: Lease, answer: StartAnswer) -> None:
        """Kept until it is committed or discarded."""
        self._answers[lease.step, lease.fence, answer.attempt] = (answer, lease)

    def discard(self, step: str, fence: int, attempt: str) -> None:
        self._answers.pop((step, fence, attempt), None)

    def commit(self, step: str, fence: int, attempt: str) -> Iterator[Follower]:
        """It goes into the turn's commits. What else ran in its task follows."""
        answer, lease = self._answers.pop((step, fence, attempt))
        assert answer.result is not None
        result = from_msgpack(answer.result, StepResult)
        work = self._work[step]
        abroad = work.payload is not None and self._network.fleet(lease.cluster).accepts == "block"
        # What ran here of a foreign block's call is its step around the answer.
        ran = (answer.started, answer.ended) if abroad else (result.started, result.ended or answer.ended)
        self._stage(step, fence, attempt, result, lease, answer.node, *ran)
        for follower, its_result in zip(work.then, result.then, strict=False):
            yield Follower(follower, its_result, lease, answer.node)

    def commit_follower(self, follower: Follower, fence: int, attempt: str) -> None:
        work, result, lease, node = follower.work, follower.result, follower.lease, follower.node
        ask = work.ask
        its_lease = replace(lease, step=ask.step, fence=fence)
        self._ledger.started(
            Started(ask.step, fence, lease.domain, lease.cluster, node, ask.capability, ask.data_class)
        )
        self._stage(
            ask.step, fence, attempt, result, its_lease, node, result.started, result.ended, fused_after=lease.step
        )

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
        stored = self._outputs.store(attempt, decoded, work.ask.data_class, work.assigns_class)
        self._starts.learn(step, ended - started)
        owed = msgspec.msgpack.encode(Owed(decoded.events, stored.links, None if work.chunk else decoded.failure))
        its = stored.references, owed, stored.classes
        commit = Commit(step, fence, attempt, node, started, ended, *its, sizes=stored.sizes)
        if lease is not None and lease.copy:
            commit = replace(commit, cluster=lease.cluster, domain=lease.domain)
        outcome = Outcome(
            step,
            events=decoded.events,
            lease=lease,
            attempt=attempt,
            permit=self._starts.permit(lease.key) if lease is not None else "",
            data_class=work.ask.data_class,
            failure=decoded.failure,
            fused_after=fused_after,
            chunk=work.chunk,
            seconds=ended - started,
            story=self._ledger.take_story(step),
        )
        self._ledger.commit(commit, outcome, stored.links)

    # Refused ----------------------------------------------------------------------------------------------------

    def refused(self, step: str, refusal: Refusal) -> Outcome | None:
        """Its outcome; None of a block call, whose step is run here first: its own code says what becomes of the input."""
        work = self._work[step]
        if work.payload is None or refusal.code == CANCELLED:
            return self._outcome(step, refusal, work.chunk)

        def run() -> None:
            try:
                self._post(Shell(step, run_shell(work.encoded(), refusal), "", refusal))
            except BaseException as error:  # an outcome is owed, whatever the step's code raises
                self._post(Shell(step, None, f"{type(error).__name__}: {error}", refusal))

        self._pool.submit(run)
        return None

    def shell_ended(self, event: Shell, new_fence: Callable[[str], int]) -> Outcome | None:
        """What its step made of the refusal is committed under a new fence; an outcome where that is not known."""
        if event.result is None:
            text = f"{event.refusal.text}; what its step makes of that is not known, since it ended with {event.error}"
            return self._outcome(event.step, replace(event.refusal, text=text))
        ask = self._work[event.step].ask
        fence, now = new_fence(event.step), self._clock.wall()
        result = from_msgpack(event.result, StepResult)
        self._ledger.started(Started(event.step, fence, "", "", "", ask.capability, ask.data_class))
        self._stage(event.step, fence, f"refused-{uuid.uuid4().hex}", result, None, "", now, now)
        return None

    def _outcome(self, step: str, refusal: Refusal, chunk: bool = False) -> Outcome:
        return Outcome(step, refusal=refusal, chunk=chunk, story=self._ledger.take_story(step))
