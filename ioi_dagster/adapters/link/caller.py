"""The gateway's side of the line: one kept connection to a cluster governor, many requests on it at a time."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeVar, cast

import msgspec

from ioi_dagster.adapters.link.frames import CANCEL, ERROR, HELLO, VERSION, Frames, Hello, Trouble, address_of, pack
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError, IoiError, UnreachableError

T = TypeVar("T")
CONNECT_S = 1.0
MAX_ASKED = 1_024
"""Requests on a line that are not answered: the governor has stopped, and more would only lie in memory."""
MAX_UNREAD = 8 * 2**20
MAX_ANSWER = 64 * 2**20
_NUMBERS = 2**32 - 1


class RefusedError(IoiError):
    """The governor answered that it will not, by `code`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} [{code}]")
        self.code = code


class ClusterLine:
    """To the governor of `cluster` at `address`; opened when it is needed, and again when it was lost.

    Belongs to the event loop of the first request.
    """

    def __init__(self, cluster: str, address: str, token: str) -> None:
        self._cluster, self._where, self._token = cluster, address_of(address), token
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None

    async def ask(self, door: str, message: Any, kind: type[T], timeout_s: float) -> T:
        """Raises `UnreachableError` where no answer comes in time, `RefusedError` on one that says no, and
        `msgspec.ValidationError` on one that is not of `kind`. One that is not waited for any longer is cancelled there."""
        body = b"" if message is None else msgspec.json.encode(message)
        try:
            async with asyncio.timeout(timeout_s):
                line = self._line
                if line is None or line.lost:
                    line = await self._opened()
                word, answer = await line.ask(door, body)
        except TimeoutError:
            raise UnreachableError(self._cluster, f"no answer within {timeout_s:g} s") from None
        except ConnectionError as error:
            raise UnreachableError(self._cluster, str(error)) from error
        if word == ERROR:
            trouble = from_json(answer, Trouble)
            raise RefusedError(trouble.code, trouble.text)
        return from_json(answer, kind)

    def close(self) -> None:
        """On its loop."""
        if self._line is not None:
            self._line.end()

    async def _opened(self) -> _Line:
        """One attempt for all who wait for it; it goes on when some of them wait no longer."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Line:
        loop, line = asyncio.get_running_loop(), None
        try:
            async with asyncio.timeout(CONNECT_S):
                if isinstance(self._where, tuple):
                    _, line = await loop.create_connection(_Line, *self._where)
                else:
                    _, line = await loop.create_unix_connection(_Line, self._where)
                await line.greet(self._token)
        except BaseException as error:
            if line is not None:
                # It may be taken up when the governor goes on, and would count as one of its lines.
                line.end()
            if isinstance(error, OSError):  # a timeout is one
                raise UnreachableError(self._cluster, str(error) or type(error).__name__) from error
            raise
        self._line = line
        return line


def status_of(cluster: str, address: str, token: str, timeout_s: float) -> dict[str, Any]:
    """What a governor tells of itself, over a line for this alone. Raises as `ClusterLine.ask` does."""

    async def asked() -> dict[str, Any]:
        line = ClusterLine(cluster, address, token)
        try:
            return await line.ask("status", None, dict, timeout_s)
        finally:
            line.close()

    return asyncio.run(asked())


class _Line(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._frames = Frames(MAX_ANSWER)
        self._asked: dict[int, asyncio.Future[tuple[str, bytes]]] = {}
        self._numbers = itertools.count(1)
        self.lost = False

    async def greet(self, token: str) -> None:
        word, answer = await self._answer(0, pack(0, HELLO, msgspec.json.encode(Hello(VERSION, token))))
        if word != HELLO:
            self.end()
            raise ConnectionRefusedError(answer.decode(errors="replace")[:300])

    async def ask(self, door: str, body: bytes) -> tuple[str, bytes]:
        """(word, body) of the answer. Raises `ConnectionError`."""
        if self.lost or len(self._asked) >= MAX_ASKED:
            raise ConnectionError("closed" if self.lost else f"{MAX_ASKED} requests wait for their answers there")
        if self._transport.get_write_buffer_size() > MAX_UNREAD:
            raise ConnectionError(f"it has not read the last {MAX_UNREAD} bytes that it was sent")
        number = next(self._numbers) % _NUMBERS + 1
        try:
            return await self._answer(number, pack(number, door, body))
        except asyncio.CancelledError:
            if not self.lost:
                self._transport.write(pack(number, CANCEL, b""))
            raise

    def end(self) -> None:
        self.lost = True
        self._transport.abort()

    async def _answer(self, number: int, frame: bytes) -> tuple[str, bytes]:
        future = self._asked[number] = self._loop.create_future()
        try:
            self._transport.write(frame)
            return await future
        finally:
            self._asked.pop(number, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        try:
            for number, word, body in self._frames.feed(data):
                future = self._asked.get(number)
                if future is not None and not future.done():
                    future.set_result((word, body))
        except BadInputError:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionError(str(exc) if exc else "it has closed the connection"))
