"""The pieces of a streamed result, on their way from who makes them to who reads them in the same process.

They are framed bytes: what is made in a thread, in a process and in another domain is the same to its reader, and nobody can
change what another has.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ioi_dagster.errors import FinalError, RetryableError
from ioi_dagster.framing import encode_payload
from ioi_dagster.model.block import MAX_PIECE, MAX_PIECES, MAX_STREAM, Begun, Payload

WINDOW = 1 * 2**20
"""Bytes that lie unread before their maker has to wait."""
OVERHEAD = 256
"""A piece counts for so many bytes more, so that tiny ones are bounded too."""
WAIT_S = 0.01
LOOK_S = 0.2
"""Who waits comes back to the interpreter so often, to be stopped if somebody wants that."""


TOLD_S = 2.0
"""It is told so often how far a stream has come."""


def topic(its_run: str) -> str:
    """`its_run`: the run's key. Under it is told how far streamed calls of the run have come, see `Tally`."""
    return f"ioi-pieces-{its_run}"


@dataclass(slots=True)
class Tally:
    """Counts what comes of the stream of the start under `key`, after `first` pieces that were there, and tells it from time to
    time: a mapping of `key`, `first`, `pieces` (with the first), `bytes` and `broke`."""

    key: str
    tell: Callable[[dict[str, Any]], object]
    first: int = 0
    bytes: int = 0
    pieces: int = 0
    clock: Callable[[], float] = time.monotonic
    _next: float | None = None

    def came(self, size: int) -> None:
        self.pieces, self.bytes = self.pieces + 1, self.bytes + size
        now = self.clock()
        if self._next is None:
            self._next = now + TOLD_S / 2
        elif now >= self._next:
            self._next = now + TOLD_S
            self.tell(self.facts(False))

    def broke(self) -> None:
        if self.pieces:
            self.tell(self.facts(True))

    def facts(self, broke: bool) -> dict[str, Any]:
        count = self.first + self.pieces
        return {"key": self.key, "first": self.first, "pieces": count, "bytes": self.bytes, "broke": broke}


class StreamClosedError(RetryableError):
    """Nobody reads the stream any more."""


def framed(pieces: Iterable[Payload], after: int = 0) -> Iterator[bytes]:
    """Each as bytes; the first is number `after`. Raises `FinalError` for what is beyond the bounds, also of `encode_payload`."""
    total = 0
    for number, piece in enumerate(pieces, after):
        frame = encode_payload(piece)
        total += len(frame)
        for much, most, what in (
            (len(frame), MAX_PIECE, f"piece {number} has {len(frame)} bytes, and may have {MAX_PIECE}"),
            (number + 1, MAX_PIECES, f"more than {MAX_PIECES} pieces"),
            (total, MAX_STREAM, f"its pieces have more than {MAX_STREAM} bytes together"),
        ):
            if much > most:
                raise FinalError(f"a stream is out of bounds: {what} — give what is large by reference")
        yield frame


class Pieces:
    """From one thread that gives to one that takes; `end` and `close` may be called from any. `give` waits while more than
    `WINDOW` is unread, for `patience_s` seconds at most since the last `take` or `still_read`.

    Without locks of Python's: one of the two may be stopped by an exception between any two instructions, and a lock that it had
    would never be free again."""

    def __init__(self, patience_s: float = float("inf"), clock: Callable[[], float] = time.monotonic) -> None:
        self._frames: queue.SimpleQueue[bytes | _End] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._patience_s, self._clock, self._taken_at = patience_s, clock, clock()
        self._given_bytes = self._taken_bytes = 0
        self._end: _End | None = None
        self._closed = ""
        self.taken = 0
        """How many were."""
        self.begun: Begun | None = None
        """Set by who makes them, before the first."""

    # For who makes them ------------------------------------------------------------------------------------------

    def give(self, frame: bytes) -> None:
        """Raises `StreamClosedError` where nobody reads on."""
        while self.full and not self._closed:
            if self._clock() - self._taken_at > self._patience_s:
                self._closed = f"nobody has read it for {self._patience_s:g} s"
            with contextlib.suppress(queue.Empty):
                self._room.get(timeout=LOOK_S)
        if self._closed:
            raise StreamClosedError(f"the stream is not wanted any more: {self._closed}")
        self._given_bytes += len(frame) + OVERHEAD
        self._frames.put(frame)

    def end(self, error: BaseException | None = None) -> None:
        """All were given; or `error` is why no more come."""
        self._frames.put(_End(error))

    @property
    def full(self) -> bool:
        """So much of it is unread that who gives has to wait."""
        return self._given_bytes - self._taken_bytes >= WINDOW

    # For who reads them ------------------------------------------------------------------------------------------

    def take(self, wait_s: float = LOOK_S, most: int = WINDOW) -> list[bytes]:
        """What is there by now, about `most` bytes at most; waits up to `wait_s` seconds for it."""
        self._taken_at = self._clock()
        frames: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            size = 0
            while self._end is None and size < most:
                frame = self._frames.get_nowait() if frames or wait_s <= 0 else self._frames.get(timeout=wait_s)
                if isinstance(frame, _End):
                    self._end = frame
                    break
                frames.append(frame)
                size += len(frame) + OVERHEAD
        self.taken += len(frames)
        self._taken_bytes += sum(len(frame) + OVERHEAD for frame in frames)
        self._taken_at = self._clock()
        if self._room.empty():
            self._room.put(None)
        return frames

    def still_read(self) -> None:
        """More will be taken, which `patience_s` goes by."""
        self._taken_at = self._clock()

    def close(self, why: str) -> None:
        """Nothing more is read; who makes more of it hears that."""
        self._closed = self._closed or why
        self._room.put(None)

    def wait(self) -> None:
        """For who neither gives nor takes: returns when it is over. Raises what it ended with, and `StreamClosedError` where
        nobody has taken anything for `patience_s` seconds."""
        while self._end is None:
            if self._clock() - self._taken_at > self._patience_s:
                self.close(f"nobody has read it for {self._patience_s:g} s")
                raise StreamClosedError(f"the stream is not wanted any more: {self._closed}")
            time.sleep(WAIT_S)
        if self._end.error is not None:
            raise self._end.error

    @property
    def over(self) -> bool:
        """It has ended, and nothing of it is unread."""
        return self._end is not None

    def __iter__(self) -> Iterator[bytes]:
        """Each, in order. Raises at the end what it ended with."""
        while self._end is None:
            yield from self.take()
        if self._end.error is not None:
            raise self._end.error


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None
