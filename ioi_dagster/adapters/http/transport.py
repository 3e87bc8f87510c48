"""How gateways and their clients send requests: HTTP/1.1 over kept connections, and no more of it than a gateway speaks.

What a negotiation costs is mostly its requests: one by a general client takes five to ten times as much processor. Every
connection to a gateway is opened here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

MAX_ANSWER = 16 * 2**20
MAX_HEAD = 64 * 2**10
KEPT_S = 30.0
"""An idle connection is used again for so long; the other side keeps it for longer."""


class BrokenAnswerError(ConnectionError):
    """What came is no answer in HTTP/1.1, ended in the middle of one, or was larger than allowed."""


class _StaleError(ConnectionError):
    """A kept connection was closed before anything of the answer came: the request was not taken."""


class Pool:
    """Kept connections to the gateway at `url`, `connections` at most; more requests than that wait.

    Belongs to the event loop of the first request. Redirects and proxies are not followed. To an https address `tls` is
    spoken, and the other side must show a certificate for `name`, whatever its address.
    """

    def __init__(self, url: str, *, connections: int = 32, name: str = "", tls: ssl.SSLContext | None = None) -> None:
        its = urlsplit(url)
        if its.scheme not in ("http", "https") or its.hostname is None:
            raise ValueError(f"{url!r} is no http address")
        self._host, self._port = its.hostname, its.port or (443 if its.scheme == "https" else 80)
        if (its.scheme == "https") != (tls is not None):
            raise ValueError(f"{url!r} and a context for TLS go together")
        self._tls, self._name = tls, (name or its.hostname) if tls is not None else None
        self._fixed = f"host: {its.netloc.rpartition('@')[2]}\r\n"
        self._slots = asyncio.Semaphore(connections)
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []

    async def exchange(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        most: int = MAX_ANSWER,
    ) -> tuple[int, bytes]:
        """(status, body) of the answer, which has `most` bytes at most. The caller limits the time: when this is cancelled, the
        connection is closed, and the other side sees that. Raises `OSError`, of which `BrokenAnswerError` is one."""
        told = "".join([f"{name}: {value}\r\n" for name, value in (headers or {}).items()])
        if "\n" in path or "\r" in path or " " in path or told.count("\n") != len(headers or {}):
            raise ValueError("a header or a path with line breaks in it")
        head = f"{method} {path} HTTP/1.1\r\n{self._fixed}{told}content-length: {len(body)}\r\n\r\n".encode("latin-1")
        async with self._slots:
            while (kept := self._kept()) is not None:
                try:
                    return await kept.exchange(head + body, most)
                except _StaleError:
                    continue
            return await (await self._connect()).exchange(head + body, most)

    def close(self) -> None:
        """On the loop of the requests."""
        for connection in list(self._open):
            connection.abort()

    def _kept(self) -> _Connection | None:
        oldest = asyncio.get_running_loop().time() - KEPT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self), self._host, self._port, ssl=self._tls, server_hostname=self._name
        )
        return connection

    def made(self, connection: _Connection) -> None:
        self._open.add(connection)

    def free(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)


class _Connection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: Any = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._used = False
        """It has carried an answer, and may carry more."""
        self.idle_since = 0.0
        self._begin(0)

    def _begin(self, most: int) -> None:
        self._most, self._size, self._head_size = most, 0, 0
        self._parts: list[bytes] = []
        self._bounded = self._begun = self._headed = False

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    async def exchange(self, request: bytes, most: int) -> tuple[int, bytes]:
        self._begin(most)
        self._answer = self._loop.create_future()
        self._transport.write(request)
        try:
            answer = await self._answer
        except BaseException:
            self.abort()
            raise
        if self._used and not self._transport.is_closing():
            self.idle_since = self._loop.time()
            self._pool.free(self)
        return answer

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            return self.abort()  # nobody has asked
        self._begun = True
        if not self._headed:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(BrokenAnswerError(f"no HTTP/1.1: {error}"[:200]))
        if not self._headed and self._head_size > MAX_HEAD:
            self._fail(BrokenAnswerError(f"a head of more than {MAX_HEAD} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        if self._headed and not self._bounded and exc is None:
            self._done(False)  # such a body ends with the connection (RFC 9112, section 6.3)
        elif self._used and not self._begun:
            self._fail(_StaleError("closed by the other side"))
        else:
            broken = BrokenAnswerError(str(exc) if exc else "closed before the answer was complete")
            broken.__cause__ = exc
            self._fail(broken)
        self._parser = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._bounded = True

    def on_headers_complete(self) -> None:
        self._headed = self._parser.get_status_code() >= 200

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._most:
            self._fail(BrokenAnswerError(f"an answer of more than {self._most} bytes"))
        else:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._headed:
            self._done(self._parser.should_keep_alive())

    def _done(self, more: bool) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            parts = self._parts
            answer.set_result((self._parser.get_status_code(), parts[0] if len(parts) == 1 else b"".join(parts)))
        self._used, self._parts = more, []
        if not more:
            self._transport.close()

    def _fail(self, error: ConnectionError) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        self._transport.abort()
