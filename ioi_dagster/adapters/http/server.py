"""HTTP/1.1 (RFC 9112) for a gateway: what a connection may cost is bounded in time, bytes and number.

llhttp parses (by httptools). Nothing of a body is kept before the site has admitted its head; a message that drips is refused
when its time is over; and when there are too many connections, the one that has been idle or incomplete for longest makes room:
a slow peer never slows the others. A request costs a third of what it costs under an ASGI server, which has no such limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools

log = logging.getLogger("ioi.gateway")
SWEEP_S = 1.0
DROPPED = 4 * 2**20
"""So much of a refused body is read and dropped, so that its sender hears why; beyond that the connection is closed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`head_s`: seconds for a head, and for a body beside what it takes at `bytes_per_s`; the same for reading an answer.
    `held_bytes`: of all bodies together that are being received or answered."""

    connections: int = 256
    head_bytes: int = 64 * 2**10
    head_s: float = 10.0
    bytes_per_s: float = 2**17
    idle_s: float = 75.0
    held_bytes: int = 256 * 2**20
    pipelined: int = 16


@dataclass(frozen=True, slots=True)
class Head:
    """Of a request: `headers` by lower-case name, the last of a name; `certificate`: the one that the connection was opened
    with (PEM), empty without TLS."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    kind: str = "application/json"


class Line(Protocol):
    """To whoever asked."""

    def hung_up(self) -> asyncio.Future[None]:
        """Done when nobody waits for the answer any longer."""
        ...


@dataclass(frozen=True, slots=True)
class Reception:
    """A request that is admitted: `take` gets its body, of up to `limit` bytes."""

    limit: int
    take: Callable[[bytes, Line], Awaitable[Answer]]


class Site(Protocol):
    """What is served. Neither call waits."""

    def admit(self, head: Head) -> Reception | Answer:
        """By its head alone: what to do with a request, or the answer that spares its body."""
        ...

    def refuse(self, status: int, code: str, text: str) -> Answer:
        """The answer to what is no good request, which is counted."""
        ...


class Server:
    """Serves `site` on the running loop, from `listen` to `close`."""

    def __init__(self, site: Site, limits: Limits | None = None) -> None:
        self.site, self.limits = site, limits or Limits()
        self.held = 0
        """Bytes of bodies that are being received or answered."""
        self._loop = asyncio.get_running_loop()
        self._connections: dict[_Connection, None] = {}
        self._listener: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Returns the port, which `port` 0 leaves to the system."""
        self._listener = await self._loop.create_server(lambda: _Connection(self), host, port, ssl=tls, backlog=1_024)
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)
        return self._listener.sockets[0].getsockname()[1]

    async def close(self, grace_s: float = 1.0) -> None:
        """Take nothing new; what is being answered has `grace_s` seconds."""
        if self._listener is not None:
            self._listener.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        until = self._loop.time() + grace_s
        while any(one.busy for one in self._connections) and self._loop.time() < until:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()

    def made(self, connection: _Connection) -> None:
        """A connection that is one too many takes the place of the idlest; where all are busy, it is refused."""
        if len(self._connections) >= self.limits.connections:
            idlest = min((one for one in self._connections if not one.busy), key=lambda one: one.since, default=None)
            if idlest is None:
                connection.end(self.site.refuse(503, "gateway.full", "all connections are in use: ask again later"))
            else:
                idlest.abort()
                self._connections.pop(idlest, None)
        self._connections[connection] = None

    def lost(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in [one for one in self._connections if one.due <= now]:
            connection.out_of_time()
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)


class _StopError(Exception):
    """Nothing more is read of this connection."""


class _Connection(asyncio.Protocol):
    """Requests are answered one after the other, in the order in which they came."""

    def __init__(self, server: Server) -> None:
        self._server, self._site, self._limits = server, server.site, server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Reception | Answer, list[bytes], bool]] = deque()
        self._certificate = ""
        self._in_message = self._in_head = self._paused = self._clogged = self._ending = False
        self._gone: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.busy = False
        """A request is being answered."""
        self.since = self._loop.time()
        """Of the last byte that completed something."""
        self.due = self.since + self._limits.head_s
        """When whoever is at the other end has to have done the next thing."""
        self._begin()

    def _begin(self) -> None:
        self._url, self._head_size, self._raw = b"", 0, 0
        self._headers: dict[str, str] = {}
        self._found: Reception | Answer | None = None
        self._parts: list[bytes] = []
        self._size = self._held = 0

    # From the transport -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        shown = transport.get_extra_info("ssl_object")
        if shown is not None and (der := shown.getpeercert(binary_form=True)):
            self._certificate = ssl.DER_cert_to_PEM_cert(der)
        self._server.made(self)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        try:
            self._parser.feed_data(data)
            self._raw += len(data)
            if self._in_head and self._raw > self._limits.head_bytes:
                self._too_long()
        except httptools.HttpParserUpgrade:
            self._end(400, "http.upgrade", "this is HTTP/1.1 and stays it")
        except httptools.HttpParserError as error:
            if not self._ending:
                self._end(400, "http.malformed", f"no HTTP/1.1: {error}"[:200])

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = True
        self._server.lost(self)
        self._server.held -= self._held + sum(len(part) for _, parts, _ in self._queue for part in parts)
        self._held = 0
        self._queue.clear()
        self._parser = None
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._clogged = True

    def resume_writing(self) -> None:
        self._clogged = False
        self._next()

    # From the parser --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begin()
        self._in_message = self._in_head = True
        self.due = self._loop.time() + self._limits.head_s

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_head = False
        path, _, query = self._url.decode("latin-1").partition("?")
        head = Head(self._parser.get_method().decode(), path, query, self._headers, self._certificate)
        try:
            found = self._site.admit(head)
        except Exception:  # a defect must not take the listener along
            found = self._failed()
        if isinstance(found, Reception):
            # llhttp has seen to it that this is a number.
            size = int(head.headers.get("content-length", "0") or 0)
            if size > found.limit:
                found = self._too_large(found.limit)
            elif head.headers.get("expect", "").lower() == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.due = self._loop.time() + self._limits.head_s + size / self._limits.bytes_per_s
        self._found = found

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        found = self._found
        if isinstance(found, Reception):
            self._parts.append(part)
            self._held += len(part)
            self._server.held += len(part)
            if self._size > found.limit:
                self._refuse_body(self._too_large(found.limit))
            elif self._server.held > self._limits.held_bytes:
                text = f"bodies of {self._limits.held_bytes} bytes are being received already: ask again later"
                self._refuse_body(self._site.refuse(503, "gateway.busy", text))
        elif self._size > DROPPED:
            assert found is not None
            self.end(found)
            raise _StopError

    def on_message_complete(self) -> None:
        assert self._found is not None
        self._queue.append((self._found, self._parts, self._parser.should_keep_alive()))
        self._begin()
        self._in_message = False
        self.since = self._loop.time()
        self.due = self.since + self._limits.idle_s
        if len(self._queue) > self._limits.pipelined:
            text = f"more than {self._limits.pipelined} requests wait for their answers on one connection"
            self._end(429, "http.pipelined", text)
            raise _StopError
        self._next()

    # Refusing ---------------------------------------------------------------------------------------------------

    def out_of_time(self) -> None:
        """The other end has not done what was due."""
        if self._in_message and not self._ending:
            self._end(408, "gateway.too_slow", "the request was not complete when its time was over")
            self.due = self._loop.time() + SWEEP_S
        elif not self.busy:
            self.abort()

    def end(self, answer: Answer) -> None:
        """The last word on this connection."""
        self._ending = True
        self._queue.append((answer, [], False))
        self._next()

    def abort(self) -> None:
        self._transport.abort()

    def _end(self, status: int, code: str, text: str) -> None:
        self.end(self._site.refuse(status, code, text))

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._limits.head_bytes:
            self._too_long()
            raise _StopError

    def _too_long(self) -> None:
        self._end(431, "http.head_too_large", f"a head may have {self._limits.head_bytes} bytes at most")

    def _too_large(self, limit: int) -> Answer:
        return self._site.refuse(413, "gateway.too_large", f"a message here may have {limit} bytes at most")

    def _refuse_body(self, answer: Answer) -> None:
        self._server.held -= self._held
        self._parts, self._held, self._found = [], 0, answer

    def _failed(self) -> Answer:
        log.exception("a request could not be answered")
        return self._site.refuse(
            500, "gateway.failed", "this request could not be answered; the gateway's log says why"
        )

    # Answering --------------------------------------------------------------------------------------------------

    def hung_up(self) -> asyncio.Future[None]:
        """See `Line`."""
        if self._gone is None:
            self._gone = self._loop.create_future()
            if self._transport.is_closing():
                self._gone.set_result(None)
        return self._gone

    def _next(self) -> None:
        while self._queue and not self.busy and not self._clogged and not self._transport.is_closing():
            found, parts, more = self._queue.popleft()
            if isinstance(found, Answer):
                self._write(found, more)
            else:
                self.busy = True
                self._task = self._loop.create_task(self._take(found, parts, more))
        # Whoever sends ahead waits until what he has sent is answered.
        if bool(self._queue) != self._paused and not self._transport.is_closing():
            self._paused = bool(self._queue)
            (self._transport.pause_reading if self._paused else self._transport.resume_reading)()

    async def _take(self, reception: Reception, parts: list[bytes], more: bool) -> None:
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        try:
            answer = await reception.take(body, self)
        except Exception:  # as above
            answer = self._failed()
        finally:
            self._server.held -= len(body)
            self.busy = False
        if not self._transport.is_closing():
            self._write(answer, more)
            self._next()

    def _write(self, answer: Answer, more: bool) -> None:
        closing = "" if more else "connection: close\r\n"
        head = (
            f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, '')}\r\ncontent-type: {answer.kind}\r\n"
            f"content-length: {len(answer.body)}\r\n{closing}\r\n"
        ).encode()
        self._transport.write(head + answer.body)
        self.since = self._loop.time()
        if not self._in_message:
            self.due = self.since + self._limits.idle_s + len(answer.body) / self._limits.bytes_per_s
        if not more:
            self._ending = True
            with contextlib.suppress(OSError):
                self._transport.close()


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
