"""The caller's side of a streamed call: its pieces in order, bounded in time, number and size; cut off, it is gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from ioi_dagster.adapters.http.protocol import Invocation, Invoked, Streamed, Word
from ioi_dagster.adapters.http.streaming import FrameReader
from ioi_dagster.errors import BadInputError, FinalError, RetryableError, UnreachableError
from ioi_dagster.framing import encode_payload
from ioi_dagster.model.block import MAX_PIECES, MAX_STREAM, NOBODY, Made, Payload
from ioi_dagster.model.refusal import Refusal

DRAIN_S = 0.5
REJOINS = 3
"""So often a call whose connection breaks after it was taken is gone on with, if a piece has come in between."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer that is waited for and then read. All may be called from any thread; `close` hangs up, and nothing comes after
    it."""

    wait: Callable[[], None]
    """Until the answer has begun. Raises what the gateway says instead, `OSError` and `CancelledError`."""
    read: Callable[[float], bytes]
    """Waits so many seconds for more; empty at the end. Raises `OSError` and `CancelledError`."""
    close: Callable[[], None]


class Stream:
    """Iterates over the pieces, once. `first` is the number of the first, `made` says who gives them; `end` is there at the end.

    Raises `RetryableError` where the call is lost or takes too long, `FinalError` for an error of the block, and `BadInputError`
    for what is no stream. Closed before its end, the other side is hung up on and stops its block. `open_`: asks the
    gateway, which has so many seconds to answer."""

    def __init__(
        self,
        domain: str,
        invocation: Invocation,
        parts: Mapping[str, bytes],
        open_: Callable[[bytes, float], Opened],
        idle_s: float,
    ) -> None:
        self._domain, self._invocation, self._parts, self._open = domain, invocation, parts, open_
        self._until, self._idle_s = time.monotonic() + invocation.timeout_s, idle_s
        self.closed: Future[None] = Future()
        """Cancelled by who wants no more of it."""
        self.closed.add_done_callback(lambda _: self._hang_up())
        self._answer: Opened | None = None
        self._taken = False
        self._rejoins = 0
        self._size = 0
        self._frames = self._read(invocation)
        self.number = self.first = 0
        """`number`: how many pieces there are by now, with those before the first."""
        self.made, self.begun = NOBODY, False
        self.end: Invoked | None = None

    def begin(self) -> Refusal | None:
        """Wait until it has begun; a refusal where it does not."""
        frame, _ = self._next()
        if frame.word is Word.ENDED:
            return self._ended(frame)
        if frame.word is not Word.BEGUN or not 0 <= frame.number <= self._invocation.after:
            raise BadInputError(f"{self._domain} begins a stream with {frame.word} {frame.number}")
        self.number = self.first = frame.number
        self.made, self.begun = Made(frame.block, frame.version), True
        return None

    def __iter__(self) -> Iterator[Payload]:
        try:
            while self.end is None:
                frame, parts = self._next()
                if frame.word is Word.ENDED:
                    refusal = self._ended(frame)
                    if refusal is not None:
                        raise RetryableError(f"{self._domain} gives no more of it: {refusal}")
                elif frame.word is Word.PIECE and frame.number == self.number and frame.payload is not None:
                    self.number += 1
                    self._rejoins = 0
                    yield Payload(frame.payload, parts)
                else:
                    raise BadInputError(
                        f"{self._domain} sends {frame.word} {frame.number} where piece {self.number} is to come"
                    )
        finally:
            self.close()

    def close(self) -> None:
        """Nothing more is wanted of it; at its end, no error."""
        self.closed.cancel()

    def _next(self) -> tuple[Streamed, Mapping[str, bytes]]:
        while True:
            try:
                return next(self._frames)
            except (OSError, StopIteration) as error:
                self._rejoins += 1
                if self._rejoins > REJOINS or not self._taken or self.closed.done():
                    why = f"cut off after {self.number} pieces: {error or 'the answer has no end'}"
                    raise UnreachableError(f"gateway of {self._domain}", why) from error
                self._frames = self._rejoined()

    def _rejoined(self) -> Iterator[tuple[Streamed, Mapping[str, bytes]]]:
        self._hang_up()  # what is left of the answer that broke
        again = replace(self._invocation, rejoin=True)
        if not self.begun:
            yield from self._read(again)
            return
        frames = self._read(replace(again, after=self.number, block=self.made.block, version=self.made.version))
        for frame, parts in frames:
            if frame.word is Word.BEGUN and frame.number == self.number:
                yield from frames
            else:
                yield frame, parts

    def _read(self, invocation: Invocation) -> Iterator[tuple[Streamed, Mapping[str, bytes]]]:
        """The frames of one answer. Raises `ConnectionError` where it is cut off."""
        body = encode_payload(Payload(msgspec.to_builtins(invocation), self._parts))
        frames, since = FrameReader(), time.monotonic()
        try:
            self._answer = answer = self._open(body, min(self._idle_s, self._left()))
            if self.closed.done():
                self._hang_up()
            answer.wait()
            self._taken = True
            while data := answer.read(self._patience(since)):
                self._size += len(data)
                if self._size > 2 * MAX_STREAM or self.number > MAX_PIECES:
                    raise BadInputError(f"{self._domain} streams more than {MAX_STREAM} bytes or {MAX_PIECES} pieces")
                for frame in frames.feed(data):
                    yield frame
                    # Counted from when it was read here: a slow reader is nobody's fault but his own.
                    since = time.monotonic()
        except TimeoutError as error:
            raise self._late() from error
        except CancelledError as error:
            raise RetryableError(f"nobody waits for {self._domain} to answer any longer") from error

    def _left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def _patience(self, since: float) -> float:
        left = min(self._left(), since + self._idle_s - time.monotonic())
        if left <= 0:
            raise TimeoutError
        return left

    def _late(self) -> UnreachableError:
        much = f"within {self._invocation.timeout_s:g} s" if not self._left() else f"for {self._idle_s:g} s"
        return UnreachableError(f"gateway of {self._domain}", f"no end of {self.number} pieces {much}")

    def _ended(self, frame: Streamed) -> Refusal | None:
        end = frame.end
        if end is None:
            raise BadInputError(f"{self._domain} ends a stream without saying how")
        if end.refusal is not None:
            return end.refusal
        if not end.ok:
            text = f"{self._domain}: {end.error or 'no further word'}"
            raise RetryableError(text) if end.infrastructure else FinalError(text)
        if frame.number != self.number:
            raise BadInputError(f"{self._domain} ends a stream of {frame.number} pieces after {self.number}")
        self.end = end
        # Read to its end, the connection is of use for others.
        with suppress(OSError, CancelledError):
            assert self._answer is not None
            self._answer.read(DRAIN_S)
        return None

    def _hang_up(self) -> None:
        if self._answer is not None:
            self._answer.close()
