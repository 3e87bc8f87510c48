"""Clusters of a federation: negotiation goes through the gateway of their domain, and so does a call of a foreign block."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ioi_dagster.adapters.dask.client import DaskFleetClient
from ioi_dagster.adapters.dask.run_scope import tear_down
from ioi_dagster.adapters.http.client import Asked, GatewayClient
from ioi_dagster.adapters.http.protocol import Invoked
from ioi_dagster.clock import SystemClock
from ioi_dagster.compound.invocation import answering
from ioi_dagster.compound.pieces import Tally, topic
from ioi_dagster.errors import (
    BadInputError,
    FinalError,
    GatewayFullError,
    GatewayRefusedError,
    IoiError,
    RetryableError,
)
from ioi_dagster.framing import encode_payload
from ioi_dagster.host import step_runner, tags
from ioi_dagster.host.dask_starts import adopt, found, submit
from ioi_dagster.host.fleets import EarlierStart, OnDone, Start
from ioi_dagster.host.partial import Partial, Partials
from ioi_dagster.model.block import MAX_STREAM, NOBODY, Payload
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    ReleaseRequest,
    Renewed,
    RenewRequest,
)
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, Streaming
from ioi_dagster.signing import Signed, digest_bytes

Pieces = tuple[Payload, ...]
MANY = 1_000_000
IDLE_S = 300.0
"""A streamed call that gives nothing for so long is lost."""
INVOKE_S = 600.0
"""How long a foreign call may take where its step sets no limit."""
TORN_DOWN_S = 10.0
"""How long the end of a run waits for nodes to tear down what it kept there. Where they live on they go on with it after that."""


class _Negotiating:
    """What both kinds share: negotiation through the domain's gateway."""

    def __init__(self, domain: str, cluster: str, gateway: GatewayClient) -> None:
        self.domain, self.cluster, self._gateway = domain, cluster, gateway

    def at_once(self, node: str) -> int:
        """A lease is a slot: all that was sent runs."""
        return MANY

    def announce(self, announce: Announce) -> Bid:
        return self._gateway.announce(self.cluster, announce)

    def withdraw(self, run: str, round_: int) -> None:
        self._gateway.withdraw(self.cluster, run, round_)

    def award(self, award: Award) -> Awarded:
        return self._gateway.award(award)

    def begin(self, message: Announce | Award | ReleaseRequest) -> Asked[Any]:
        match message:
            case Announce():
                return self._gateway.announcing(self.cluster, message)
            case Award():
                return self._gateway.awarding(message)
            case ReleaseRequest():
                return self._gateway.releasing(self.cluster, message)

    def look_after(self, now: float) -> None:
        """Its own governor does."""

    def renew(self, renew: RenewRequest) -> Renewed:
        return self._gateway.renew(self.cluster, renew)

    def release(self, release: ReleaseRequest) -> None:
        self._gateway.release(self.cluster, release)

    def forget(self, run: str) -> None:
        """Values in memory are refused in a federation."""


class DaskFleet(_Negotiating):
    """A cluster of our own certificate authority: steps go to its Dask scheduler."""

    accepts = "step"

    def __init__(self, domain: str, cluster: str, gateway: GatewayClient, scheduler: str) -> None:
        super().__init__(domain, cluster, gateway)
        self._dask = DaskFleetClient(scheduler)
        self._lending = ThreadPoolExecutor(1, thread_name_prefix=f"lend-{cluster}")

    def start(self, starts: Sequence[Start], on_done: OnDone) -> None:
        for start in starts:
            submit(self._dask, [start], on_done)

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        self._dask.listen(topic, take)

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        self._dask.tell(worker, function, *arguments)

    def tear_down(self, its_run: str) -> list[str]:
        return [text for texts in self._dask.tell_all(tear_down, its_run, patience_s=TORN_DOWN_S) for text in texts]

    def waits(self, lease: Lease, waits: bool) -> None:
        self._lending.submit(self._lend, RenewRequest(lease.run, (lease.id,), (lease.id,) if waits else ()))

    def _lend(self, renew: RenewRequest) -> None:
        # One that is not answered is made up for by the next renewal of all leases.
        with contextlib.suppress(RetryableError):
            self.renew(renew)

    def find(self, wanted: Sequence[EarlierStart]) -> list[Lease]:
        return found(self._dask, self, wanted)

    def adopt(self, start: Start, on_done: OnDone) -> None:
        adopt(self._dask, start, on_done)

    def alive(self) -> bool:
        return self._dask.alive()

    def recover(self) -> bool:
        return self._dask.reconnect()

    def cancel(self, keys: list[str]) -> None:
        self._dask.cancel(keys)

    def close(self) -> None:
        self._lending.shutdown(wait=False, cancel_futures=True)
        self._dask.close()


class InvokeFleet(_Negotiating):
    """A foreign domain: its gateway takes a block invocation with typed data, never our code.

    The Dagster step itself runs here, in the run process, and gets the foreign answer at its block call.
    """

    accepts = "block"

    def __init__(
        self, domain: str, cluster: str, gateway: GatewayClient, partials: Partials | None = None, threads: int = 8
    ) -> None:
        """`partials`: what came of calls that broke, of all fleets of the run."""
        super().__init__(domain, cluster, gateway)
        self._partials = partials or Partials()
        self._takes: dict[str, Callable[[Any], None]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"invoke-{cluster}")
        self._clock = SystemClock()

    def start(self, starts: Sequence[Start], on_done: OnDone) -> None:
        for start in starts:
            self._pool.submit(self._invoke, start, on_done)

    def _invoke(self, start: Start, on_done: OnDone) -> None:
        began = self._clock.wall()
        answer: tuple[Payload | Pieces, Invoked] | Refusal | FinalError
        try:
            assert start.payload is not None and start.permit is not None
            if start.streams is not Streaming.NO:
                answer = self._streamed(start, start.permit, start.payload)
            else:
                answer = self._gateway.invoke(
                    start.lease, start.permit, start.capability, start.payload, timeout=start.timeout_s or INVOKE_S
                )
        except GatewayRefusedError as error:
            answer = Refusal("gateway.refused", str(error), self.domain)
        except GatewayFullError as error:
            answer = Refusal(error.code, str(error), self.domain)
        except BadInputError as error:
            return on_done(start, None, f"{self.domain} answered a call with something else: {error}")
        except FinalError as error:
            # The block's own: its step raises it, as it would at home.
            answer = error
        except RetryableError as error:
            return on_done(start, None, str(error))
        except Exception as error:
            return on_done(start, None, f"{type(error).__name__}: {error}")
        if isinstance(answer, Refusal):
            return on_done(start, StartAnswer("", start.lease.node, 0.0, 0.0, refusal=answer), None)
        if isinstance(answer, FinalError):
            its, meta = answer, Invoked(False, None, start.lease.node, uuid.uuid4().hex, began, self._clock.wall())
        else:
            its, meta = answer
        try:
            result = run_shell(start.work, its)
        except IoiError as error:
            return on_done(start, None, str(error))
        except BaseException as error:  # an answer is owed, or the step would be in flight for ever
            return on_done(start, None, f"{type(error).__name__}: {error}")
        on_done(start, StartAnswer(meta.attempt, meta.node, meta.started, meta.ended, result=result), None)

    def _streamed(self, start: Start, permit: Signed, payload: Payload) -> tuple[Pieces, Invoked] | Refusal:
        """All pieces, also those that an earlier call of the step has left."""
        step, digest = start.lease.step, digest_bytes(encode_payload(payload))
        earlier = self._partials.of(step, digest) or Partial(NOBODY, digest, (), 0)
        stream = self._gateway.stream(
            start.lease,
            permit,
            start.capability,
            payload,
            timeout=start.timeout_s or INVOKE_S,
            idle_s=IDLE_S,
            after=len(earlier.pieces),
            made=earlier.made,
        )
        if isinstance(stream, Refusal):
            return stream
        pieces = list(earlier.pieces[: stream.first])
        before = earlier.size if pieces else 0
        tally = Tally(start.key, self._takes.get(topic(start.lease.run_key), _nobody), stream.first)
        try:
            for piece in stream:
                pieces.append(piece)
                tally.came(len(encode_payload(piece)))
                if before + tally.bytes > MAX_STREAM:
                    raise BadInputError(f"{len(pieces)} pieces have more than {MAX_STREAM} bytes together")
        except FinalError:
            tally.broke()
            raise
        except RetryableError as error:
            tally.broke()
            if start.streams is Streaming.RESUMES and stream.made.block:
                self._partials.keep(step, Partial(stream.made, digest, tuple(pieces), before + tally.bytes))
            raise RetryableError(f"{error}; {len(pieces)} pieces had come, which are no result") from error
        finally:
            stream.close()
        self._partials.drop(step)
        assert stream.end is not None
        return tuple(pieces), stream.end

    def find(self, wanted: Sequence[EarlierStart]) -> list[Lease]:
        """A foreign call is the connection of who made it."""
        return []

    def adopt(self, start: Start, on_done: OnDone) -> None:
        raise NotImplementedError("nothing was found here")

    def alive(self) -> bool:
        return True

    def recover(self) -> bool:
        return True

    def cancel(self, keys: list[str]) -> None:
        """The other side is hung up on, and stops what it runs; an answer that is under way is discarded by its fence."""
        for key in keys:
            self._gateway.hang_up(key)

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        """Steps run in the run process, and their maps with them; how far their calls have come is told from here."""
        self._takes[topic] = take

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        raise NotImplementedError("nobody was heard here")

    def tear_down(self, its_run: str) -> list[str]:
        """No node keeps any."""
        return []

    def waits(self, lease: Lease, waits: bool) -> None:
        raise NotImplementedError("nobody was heard here")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _nobody(_told: Any) -> None:
    """Hears it."""


def run_shell(work: bytes, answer: Payload | Pieces | Refusal | FinalError) -> bytes:
    """Run a Dagster step here whose block call is already answered, or raises the error that it ended with."""

    def streamer(_block: BlockSpec, _payload: Payload, _keeps: bool = False) -> Iterator[Payload] | Refusal:
        if isinstance(answer, FinalError):
            raise answer
        if isinstance(answer, Refusal):
            return answer
        return iter((answer,) if isinstance(answer, Payload) else answer)

    def invoker(block: BlockSpec, payload: Payload) -> Payload | Refusal:
        if isinstance(answer, tuple):
            raise FinalError(f"{block.name} was called in pieces, as the tag {tags.STREAMS} says: call `stream`")
        whole = streamer(block, payload)
        return whole if isinstance(whole, Refusal) else next(whole)

    with answering(invoker, streamer):
        return step_runner.run(work)
