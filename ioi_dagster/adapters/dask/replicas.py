"""Warm replicas of AI blocks in one process, under the block governor's rules.

One thread owns the governor: an exception that stops a step in its own thread can then never reach the books.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from ioi_dagster.adapters.dask.replica_thread import Ran, ReplicaThread, Stream
from ioi_dagster.clock import Clock
from ioi_dagster.compound.kept_pieces import KeptPieces
from ioi_dagster.compound.pieces import Pieces
from ioi_dagster.errors import RetryableError
from ioi_dagster.framing import decode_payload
from ioi_dagster.governors.block import BlockGovernor
from ioi_dagster.governors.block_messages import (
    Answer,
    BatchEnd,
    BatchEnded,
    BlockReport,
    CallAsked,
    CallGivenUp,
    Load,
    LoadFailed,
    MemoryShort,
    Offered,
    RefuseCall,
    ReplicaUnloaded,
    RunBatch,
    StopBatch,
    StopLoad,
    Tick,
    Unload,
)
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.model.refusal import Refusal

log = logging.getLogger("ioi.blocks")
LOOK_S = 0.2
"""A caller comes back to the interpreter so often, to be stopped if somebody wants that."""
FREE_S = 30.0


class BlockRefusedError(RetryableError):
    """The call has not run: this node does not take it now. `refusal` says why."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(str(refusal))


@dataclass(frozen=True, slots=True)
class _Call:
    number: int
    block: str
    payload: Payload
    stream: Stream | None = None
    answer: queue.SimpleQueue[Payload | BaseException] = field(default_factory=queue.SimpleQueue)

    def told(self, answer: Payload | BaseException) -> None:
        if self.stream is not None:
            self.stream.pieces.end(answer if isinstance(answer, BaseException) else None)
        else:
            self.answer.put(answer)


@dataclass(frozen=True, slots=True)
class _Freeing:
    answer: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)


class ReplicaHost:
    """One per process, with which its replicas go. `memory`: bytes that they may take together, by their specs (0: no limit).
    Thread-safe."""

    def __init__(self, blocks: Sequence[BlockSpec], node: str, clock: Clock, memory: int = 0) -> None:
        self._clock = clock
        self._governor = BlockGovernor(node, memory)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._batches: dict[int, tuple[int, ...]] = {}
        self._ran: dict[int, Ran] = {}
        self._replicas: dict[str, ReplicaThread] = {}
        self._freeing: dict[str, _Freeing] = {}
        self._own: set[str] = set()
        self._once: set[str] = set()
        """Capabilities of which a call may have its effect once only."""
        self._report: tuple[BlockReport, ...] = ()
        self._warm: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        for block in blocks:
            self.offer(block)

    def offer(self, spec: BlockSpec) -> None:
        """From now on calls of its capability go to this version; those in flight end on the one before."""
        once = spec.contract.effect == Effect.AT_MOST_ONCE
        (self._once.add if once else self._once.discard)(spec.capability)
        self._inbox.put(Offered(spec.capability, spec))

    def once(self, capability: str) -> bool:
        """May a call of it have its effect once only, by the contract of what is offered here now?"""
        return capability in self._once

    def invoke(self, capability: str, payload: Payload) -> Payload:
        """Call the block that this node offers for `capability`.

        Raises `BlockRefusedError` when the governor refuses, `ReplicaLostError` when the replica was lost during the call,
        and whatever the block raises (from a process of its own as `BlockFailedError`).
        """
        return self._invoke(capability, payload)

    def invoke_own(self, spec: BlockSpec, payload: Payload) -> Payload:
        """Call exactly this version of a block, which nobody registered here. As `invoke`."""
        return self._invoke(self._own_name(spec), payload)

    def stream(
        self,
        capability: str,
        payload: Payload,
        came: Callable[[int], object] = lambda _: None,
        kept: KeptPieces | None = None,
    ) -> Generator[Payload, None, None]:
        """As `invoke`, in pieces as they come: one where the block does not stream. Closed before its end, the block is
        stopped. `came` hears of each how many bytes it had. `kept`: pieces that are there already, after which the block goes
        on if it can, and which keeps those that come."""
        pieces = Pieces()
        stream = Stream(pieces, kept.after, kept.made) if kept is not None else Stream(pieces)
        with self.streaming(capability, payload, stream):
            for frame in kept.read(pieces, came) if kept is not None else _told(pieces, came):
                yield decode_payload(frame)

    def stream_own(
        self,
        spec: BlockSpec,
        payload: Payload,
        came: Callable[[int], object] = lambda _: None,
        kept: KeptPieces | None = None,
    ) -> Generator[Payload, None, None]:
        """As `stream`, of exactly this version of a block."""
        return self.stream(self._own_name(spec), payload, came, kept)

    @contextmanager
    def streaming(self, capability: str, payload: Payload, stream: Stream) -> Iterator[None]:
        """The call's result goes into the pieces of `stream`, and so does what it ends with. It is not wanted beyond this."""
        pieces = stream.pieces
        call = _Call(next(self._numbers), capability, payload, stream)
        self._start()
        self._inbox.put(call)
        try:
            yield
        finally:
            # In this order: what ends since nobody reads it says nothing about its block.
            if not pieces.over:
                self._inbox.put(CallGivenUp(call.number))
                pieces.close("nobody reads it")

    def _own_name(self, spec: BlockSpec) -> str:
        name = f"{spec.capability} {hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:16]}"
        if name not in self._own:
            self._own.add(name)
            self._inbox.put(Offered(name, spec))
        return name

    def free_memory(self) -> bool:
        """Unload the least recently used idle replica; False when none is idle."""
        if self._thread is None:
            return False
        freeing = _Freeing()
        self._inbox.put(freeing)
        try:
            return freeing.answer.get(timeout=FREE_S)
        except queue.Empty:
            return False

    def warm(self) -> frozenset[str]:
        """The capabilities of which a replica is loaded."""
        return self._warm

    def report(self) -> list[dict[str, Any]]:
        """Each version of each block: replicas by state, queue, breaker."""
        return [asdict(one) for one in self._report]

    def _invoke(self, block: str, payload: Payload) -> Payload:
        call = _Call(next(self._numbers), block, payload)
        self._start()
        self._inbox.put(call)
        try:
            answer = _wait(call.answer)
        except BaseException:
            self._inbox.put(CallGivenUp(call.number))
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _start(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._decide, name="block governor", daemon=True)
                    self._thread.start()

    # In the governor's thread -----------------------------------------------------------------------------------

    def _decide(self) -> None:
        while True:
            now = self._clock.monotonic()
            due = self._governor.next_wake(now)
            try:
                item = self._inbox.get(timeout=None if due is None else max(0.001, due - now))
            except queue.Empty:
                item = Tick()
            try:
                self._take(item)
            except Exception:
                # A defect of this code. Nobody may wait for ever because of it.
                log.exception("the block governor failed at %r", type(item).__name__)
                for number in list(self._calls):
                    self._answer(number, _defect())

    def _take(self, item: Any) -> None:
        match item:
            case _Call():
                self._calls[item.number] = item
                event = CallAsked(item.number, item.block, item.stream is not None)
            case Ran():
                self._ran[item.batch] = item
                event = BatchEnded(item.batch, item.end, item.unread)
            case _Freeing():
                event = MemoryShort()
            case _:
                event = item
        if isinstance(event, LoadFailed | ReplicaUnloaded):
            self._replicas.pop(event.replica, None)
        if isinstance(event, CallGivenUp):
            self._calls.pop(event.call, None)
        instructions = self._governor.handle(event, self._clock.monotonic())
        self._report, self._warm = self._governor.snapshot(), self._governor.warm()
        for instruction in instructions:
            try:
                self._perform(instruction)
            except Exception as error:
                log.exception("the block governor's %r failed", instruction)
                self._make_up_for(instruction, error)
        if isinstance(item, _Freeing):
            self._promise(item, instructions)
        elif isinstance(item, ReplicaUnloaded) and item.replica in self._freeing:
            self._freeing.pop(item.replica).answer.put(True)
        elif isinstance(item, Ran):
            self._ran.pop(item.batch, None)
            self._batches.pop(item.batch, None)

    def _promise(self, freeing: _Freeing, instructions: list[Any]) -> None:
        """Memory is free when the replica that the governor chose has unloaded."""
        for instruction in instructions:
            if isinstance(instruction, Unload):
                self._freeing[instruction.replica] = freeing
                return
        freeing.answer.put(False)

    def _perform(self, instruction: Any) -> None:
        match instruction:
            case Load(name, spec):
                self._replicas[name] = ReplicaThread(name, spec, self._inbox.put)
            case Unload(name):
                self._replicas[name].unload()
            case RunBatch(batch, name, calls):
                self._batches[batch] = calls
                asked = [self._calls[call] for call in calls]
                self._replicas[name].run(batch, [call.payload for call in asked], asked[0].stream)
            case StopBatch(batch, name, why):
                self._replicas[name].stop(batch, why)
            case StopLoad(name, why):
                self._replicas[name].stop(None, why)
            case Answer(call, batch):
                ran = self._ran[batch]
                at = self._batches[batch].index(call)
                self._answer(call, ran.error if ran.error is not None else ran.results[at])
            case RefuseCall(call, refusal):
                self._answer(call, BlockRefusedError(refusal))

    def _make_up_for(self, instruction: Any, error: Exception) -> None:
        """What could not be done ends all the same: it costs those whom it was for, and nobody else."""
        match instruction:
            case Load(name, _):
                self._inbox.put(LoadFailed(name, f"{type(error).__name__}: {error}"))
            case Unload(name):
                self._inbox.put(ReplicaUnloaded(name))
            case RunBatch(batch, _, _):
                self._inbox.put(Ran(batch, BatchEnd.DIED, error=_defect()))
            case Answer(call, _) | RefuseCall(call, _):
                self._answer(call, _defect())

    def _answer(self, number: int, answer: Payload | BaseException) -> None:
        call = self._calls.pop(number, None)
        if call is not None:
            call.told(answer)


def _defect() -> RetryableError:
    return RetryableError("the node's block governor failed; see its log")


def _told(pieces: Pieces, came: Callable[[int], object]) -> Iterator[bytes]:
    for frame in pieces:
        came(len(frame))
        yield frame


def _wait(answer: queue.SimpleQueue[Any]) -> Any:
    while True:
        try:
            return answer.get(timeout=LOOK_S)
        except queue.Empty:
            continue
