"""The thread (or threads) in which one replica lives: loads it, gives it its batches, unloads it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ioi_dagster.adapters.dask import replica_child
from ioi_dagster.adapters.dask.replica_process import ProcessReplica, ReplicaGoneError
from ioi_dagster.adapters.dask.running import Running
from ioi_dagster.compound.pieces import Pieces, StreamClosedError
from ioi_dagster.errors import RetryableError, StepStoppedError
from ioi_dagster.governors.block_messages import (
    BatchEnd,
    LoadFailed,
    ReaderAwaited,
    ReaderBack,
    ReplicaLoaded,
    ReplicaUnloaded,
)
from ioi_dagster.model.block import NOBODY, Begun, Block, Made, Payload, StreamingBlock
from ioi_dagster.model.capability import BlockSpec, Isolate


@dataclass(frozen=True, slots=True)
class Stream:
    """A call whose result comes in `pieces`, of which `after` are there already, given by `made`."""

    pieces: Pieces
    after: int = 0
    made: Made = NOBODY

    def begin(self, spec: BlockSpec) -> int:
        """Who gives the pieces is told here, where he is known: which version takes a call, nobody knows before. Returns how
        many he need not make."""
        its = Made(spec.name, spec.version)
        first = self.after if spec.contract.resumes and its == self.made else 0
        self.pieces.begun = Begun(its, first)
        return first


class ReplicaLostError(RetryableError):
    """The replica went away during the call, which may or may not have had its effect."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a batch ended: with `results`, or with `error`; `unread` as in `BatchEnded`."""

    batch: int
    end: BatchEnd
    results: Sequence[Payload] = ()
    error: BaseException | None = None
    unread: bool = False


class _Where(Protocol):
    """Where a replica lives. `stop` may be called from any thread, the others are called by the replica's own."""

    def load(self) -> None: ...

    def invoke(self, batch: Sequence[Payload]) -> Sequence[Payload]: ...

    def stream(self, payload: Payload, after: int, give: Callable[[bytes], None]) -> None: ...

    def stop(self, why: str) -> None: ...

    def unload(self) -> None: ...


class _InThread:
    """In this process. What runs is stopped by an exception in its thread, see `running`."""

    def __init__(self, spec: BlockSpec) -> None:
        self._entrypoint = spec.entrypoint
        self._block: Block | StreamingBlock | None = None

    def load(self) -> None:
        block = replica_child.make(self._entrypoint)
        block.load()
        self._block = block

    def invoke(self, batch: Sequence[Payload]) -> Sequence[Payload]:
        assert self._block is not None
        return replica_child.invoke(self._block, batch)

    def stream(self, payload: Payload, after: int, give: Callable[[bytes], None]) -> None:
        assert self._block is not None
        with contextlib.closing(replica_child.pieces(self._block, payload, after)) as pieces:
            for piece in pieces:
                give(piece)

    def stop(self, why: str) -> None:
        """The exception does it."""

    def unload(self) -> None:
        assert self._block is not None
        self._block.unload()


_PLACES: dict[Isolate, Callable[[BlockSpec], _Where]] = {Isolate.THREAD: _InThread, Isolate.PROCESS: ProcessReplica}


class ReplicaThread:
    """Starts to load at once. What happens is told to `post`: the governor's events, and `Ran` for each batch."""

    def __init__(self, name: str, spec: BlockSpec, post: Callable[[Any], None]) -> None:
        self._name, self._spec, self._post = name, spec, post
        self._where = _PLACES[spec.isolate](spec)
        self._interrupts = spec.isolate is Isolate.THREAD
        self._running = Running()
        self._why: dict[str, str] = {}
        self._batches: queue.SimpleQueue[tuple[int, Sequence[Payload], Stream | None] | None] = queue.SimpleQueue()
        self._streams: dict[int, Stream] = {}
        threading.Thread(target=self._live, name=f"replica {name}", daemon=True).start()

    def run(self, batch: int, payloads: Sequence[Payload], stream: Stream | None = None) -> None:
        """`stream`: the one call of the batch is streamed; its result is an empty payload."""
        if stream is not None:
            self._streams[batch] = stream
        self._batches.put((batch, payloads, stream))

    def stop(self, batch: int | None, why: str) -> None:
        """Break off a batch, or (None) the loading."""
        key = self._key(batch)
        self._why[key] = why
        stream = self._streams.get(batch) if batch is not None else None
        if stream is not None:
            stream.pieces.close(why)
        self._where.stop(why)
        if self._interrupts:
            self._running.stop([key], StepStoppedError)

    def unload(self) -> None:
        """When nothing runs any more."""
        self._batches.put(None)

    def _key(self, batch: int | None) -> str:
        return f"{self._name}, {'loading' if batch is None else f'batch {batch}'}"

    def _live(self) -> None:
        key = self._key(None)
        try:
            with self._running.step(key):
                self._where.load()
        except BaseException as error:  # whatever it was, nothing is loaded and the callers must hear of it
            return self._post(LoadFailed(self._name, self._why.get(key) or f"{type(error).__name__}: {error}"))
        self._post(ReplicaLoaded(self._name))
        for number in range(1, self._spec.concurrency):
            threading.Thread(target=self._work, name=f"replica {self._name} {number}", daemon=True).start()
        self._work()
        try:
            self._where.unload()
        except Exception as error:
            print(f"{self._name} did not unload: {type(error).__name__}: {error}", flush=True)
        self._post(ReplicaUnloaded(self._name))

    def _work(self) -> None:
        while (work := self._batches.get()) is not None:
            self._post(self._ran(*work))
        self._batches.put(None)

    def _ran(self, batch: int, payloads: Sequence[Payload], stream: Stream | None) -> Ran:
        key = self._key(batch)
        try:
            with self._running.step(key):
                results = self._results(batch, payloads, stream)
            return Ran(batch, BatchEnd.DONE, results)
        except ReplicaGoneError as gone:
            end = BatchEnd.UNTOUCHED if gone.untouched else BatchEnd.DIED
            return Ran(batch, end, error=self._lost(str(gone)), unread=gone.unread and key not in self._why)
        except BaseException as error:
            if key not in self._why and isinstance(error, Exception):
                unread = stream is not None and isinstance(error, StreamClosedError)
                return Ran(batch, BatchEnd.FAILED, error=error, unread=unread)
            why = self._why.get(key, f"it raised {type(error).__name__}")
            return Ran(batch, BatchEnd.DIED, error=self._lost(why))
        finally:
            self._why.pop(key, None)
            self._streams.pop(batch, None)

    def _results(self, batch: int, payloads: Sequence[Payload], stream: Stream | None) -> Sequence[Payload]:
        if stream is None:
            return self._where.invoke(payloads)
        (payload,) = payloads
        self._where.stream(payload, stream.begin(self._spec), partial(self._give, batch, stream.pieces))
        return [Payload({})]

    def _give(self, batch: int, pieces: Pieces, frame: bytes) -> None:
        if not pieces.full:
            return pieces.give(frame)
        self._post(ReaderAwaited(batch))
        pieces.give(frame)
        self._post(ReaderBack(batch))

    def _lost(self, why: str) -> ReplicaLostError:
        return ReplicaLostError(f"the replica of {self._spec.name} {self._spec.version} was lost during a call: {why}")
