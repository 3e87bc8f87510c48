"""Calls of blocks that are under way, or have just ended, by the permit that each stands on.

A call is begun once. Who sends it again, since his connection broke or his process came back, gets what is there of it: a call
under way is joined, an ended one is answered again. All on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from ioi_dagster.errors import UnreachableError
from ioi_dagster.model.block import Begun

WINDOW = 512 * 2**10
"""So many bytes beyond what its fastest reader has are fetched."""
CHUNK = 256 * 2**10
KEPT_S = 60.0
"""So long an ended call is answered again."""
KEPT = 128 * 2**20
"""So many bytes of all calls together are kept for who comes again."""
KEPT_CALLS = 16_384
"""So many calls at most, together with those under way."""
REJOIN_S = 1.0
"""A streamed call that nobody reads is stopped so much later: who was cut off is back by then."""
OVERHEAD = 100

Source = AsyncGenerator[Begun | list[bytes] | bytes, None]
"""Who gives them and from where on, pieces as they come, and at the end the answer. Closed, it stops what it comes from."""


class ForgottenError(Exception):
    """What is asked for of the call is not kept any more."""


@dataclass(slots=True, eq=False)
class Call:
    """`door`: where it was asked for. `stays_s`: how long it goes on when nobody reads it. `begun`: known when it has."""

    door: str
    stays_s: float
    begun: Begun | None = None
    ended: bool = False
    ended_at: float = 0.0
    answer: bytes | None = None
    error: Exception | None = None
    task: asyncio.Task[None] | None = None
    counted: int = 0
    """Its size, as whoever keeps it has counted it last."""
    _log: list[bytes] = field(default_factory=list)
    _upto: list[int] = field(default_factory=list)
    """Bytes of all pieces up to each of those in the log."""
    _dropped: int = 0
    _upto_dropped: int = 0
    _readers: dict[object, int] = field(default_factory=dict)
    """How many pieces each has got, counted from number 0."""
    _read: int = 0
    """The most of them that any reader ever had."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: asyncio.TimerHandle | None = None

    @property
    def first(self) -> int:
        """The number of its first piece."""
        return self.begun.number if self.begun is not None else 0

    @property
    def count(self) -> int:
        """Pieces there have been, counted from number 0."""
        return self.first + self._dropped + len(self._log)

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return (self._upto[-1] - self._upto_dropped if self._upto else 0) + len(self.answer or b"")

    @contextlib.contextmanager
    def reading(self) -> Iterator[object]:
        """Whoever reads it does so within this; when the last one leaves before its end, it is stopped."""
        reader = object()
        self._readers[reader] = 0
        if self._leaving is not None:
            self._leaving.cancel()
        try:
            yield reader
        finally:
            del self._readers[reader]
            if not self._readers and not self.ended and self.task is not None:
                self._leaving = asyncio.get_running_loop().call_later(self.stays_s, self.task.cancel)

    async def beginning(self) -> Begun | None:
        """Waits for it; None where it ended before."""
        while self.begun is None and not self.ended:
            await self._changed.wait()
        return self.begun

    async def pieces(self, reader: object, after: int) -> AsyncIterator[tuple[int, list[bytes]]]:
        """(number of the first, framed pieces) from number `after` on as they come, for who is `reading`. Raises
        `ForgottenError`."""
        self._readers[reader] = after
        while True:
            at = self._readers[reader] - self.first - self._dropped
            if at < 0:
                raise ForgottenError
            chunk, size = [], 0
            while at + len(chunk) < len(self._log) and size < CHUNK:
                chunk.append(self._log[at + len(chunk)])
                size += len(chunk[-1])
            if chunk:
                number = self._readers[reader]
                yield number, chunk
                self._readers[reader] = number + len(chunk)
                self._read = max(self._read, number + len(chunk))
                self._tell()
            elif self.ended:
                return
            else:
                await self._changed.wait()

    async def result(self) -> bytes:
        """The answer; raises what the call ended with."""
        while not self.ended:
            await self._changed.wait()
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer

    async def follow(self, source: Source, now: Callable[[], float], grown: Callable[[], None]) -> None:
        """Take what comes, as long as it is read."""
        try:
            async with contextlib.aclosing(source):
                async for came in source:
                    if isinstance(came, bytes):
                        self.answer = came
                        continue
                    if isinstance(came, Begun):
                        self.begun = came
                        self._tell()
                        continue
                    for frame in came:
                        self._log.append(frame)
                        self._upto.append(
                            (self._upto[-1] if self._upto else self._upto_dropped) + len(frame) + OVERHEAD
                        )
                    self._tell()
                    grown()
                    while self._unread() > WINDOW:
                        await self._changed.wait()
        except asyncio.CancelledError:
            self.error = UnreachableError("the call", "it was stopped, since nobody waited for it")
            raise
        except Exception as error:
            self.error = error
        finally:
            self.ended, self.ended_at = True, now()
            self._tell()

    def drop_read(self) -> None:
        """Forget what all who read it have got."""
        read = min([*self._readers.values(), self._read]) - self.first - self._dropped
        if read > 0:
            self._upto_dropped = self._upto[read - 1]
            del self._log[:read], self._upto[:read]
            self._dropped += read

    @property
    def wanted(self) -> bool:
        return bool(self._readers)

    def _unread(self) -> int:
        """Bytes that nobody has got yet."""
        at = self._read - self.first - self._dropped
        if at >= len(self._log):
            return 0
        return self._upto[-1] - (self._upto[at - 1] if at > 0 else self._upto_dropped)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Calls:
    """`now`: monotonic seconds. What one call costs here does not rise with how many are kept."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._calls: dict[tuple[str, ...], Call] = {}
        self._under_way: dict[tuple[str, ...], Call] = {}
        self._ended: list[tuple[float, int, tuple[str, ...]]] = []
        """A heap of the others: (when it may be forgotten, how many were put here before, key)."""
        self._numbers = count()
        self._size = 0
        """Bytes of all, as far as they are `counted`."""

    def get(self, key: tuple[str, ...]) -> Call | None:
        """The call of that key, where it is under way or is kept."""
        self._forget_old()
        return self._calls.get(key)

    def begin(self, key: tuple[str, ...], door: str, source: Source, stays_s: float = 0.0) -> Call:
        """A new one, which goes on by itself as far as it is read."""
        call = self._calls[key] = self._under_way[key] = Call(door, stays_s)
        call.task = asyncio.get_running_loop().create_task(self._follow(key, call, source))
        return call

    async def _follow(self, key: tuple[str, ...], call: Call, source: Source) -> None:
        try:
            await call.follow(source, self._now, lambda: self._changed(call))
        finally:
            del self._under_way[key]
            self._may_be_forgotten(key, call.ended_at + KEPT_S)
            self._changed(call)

    def _changed(self, call: Call) -> None:
        self._count(call)
        self._forget_old()
        self._make_room()

    def _count(self, call: Call) -> None:
        self._size += call.size - call.counted
        call.counted = call.size

    def _may_be_forgotten(self, key: tuple[str, ...], at: float) -> None:
        heapq.heappush(self._ended, (at, next(self._numbers), key))

    def _forget(self, key: tuple[str, ...]) -> None:
        self._size -= self._calls.pop(key).counted

    def _forget_old(self) -> None:
        now = self._now()
        while self._ended and self._ended[0][0] <= now:
            _, _, key = heapq.heappop(self._ended)
            if self._calls[key].wanted:
                self._may_be_forgotten(key, now + REJOIN_S)
            else:
                self._forget(key)

    def _make_room(self) -> None:
        """Of ended calls the oldest go first; of those that are read or under way, what their readers have."""
        read: list[tuple[float, int, tuple[str, ...]]] = []
        while self._ended and (self._size > KEPT or len(self._calls) > KEPT_CALLS):
            entry = heapq.heappop(self._ended)
            if self._calls[entry[2]].wanted:
                read.append(entry)
            else:
                self._forget(entry[2])
        for entry in read:
            heapq.heappush(self._ended, entry)
        for call in [*(self._calls[key] for _, _, key in read), *self._under_way.values()]:
            if self._size <= KEPT:
                return
            call.drop_read()
            self._count(call)
