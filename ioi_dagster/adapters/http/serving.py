"""uvicorn's side of a gateway: whose certificate a connection was opened with, and how long anybody is waited for.

A gateway has room for so many connections. None is kept for who sends a byte a second or reads no answer, and no domain has more
than are left for others: of however many that take all they get, as many are left as each has. Whose a connection is, is what its
certificate proves, not what it says: any member's authority can make certificates with any name in them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from ioi_dagster.adapters.http.protocol import Problem, ProblemAnswer
from ioi_dagster.adapters.http.tls import STAMPS, Peers

MAX_CONNECTIONS = 768
"""A run opens up to 96: alone a domain has three or four of those that wait for all their places at once."""
MAX_TOLD = 16
"""Connections, of those, that are there to tell who has too many that it has, and who is nobody here that it is; what comes
beyond that is hung up on."""
HEAD_S = 10.0
"""So long after a connection was opened, or its first byte came, a request's head must be there."""
UNREAD_S = 30.0
"""So long an answer may lie that is not read."""


def serving_protocol(peers: Peers | None, most: int | None = None, marks: Mapping[str, Any] | None = None) -> type:
    """For one listener: uvicorn's protocol, with that. `peers`: whose certificates are whose; None where nobody shows one, and
    connections are counted by address. `most`: connections in all; None: `MAX_CONNECTIONS`. `marks` go into the scope of each
    request."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    open_, told = Counter[str](), set[Any]()

    class Serving(AutoHTTPProtocol):  # pyright: ignore[reportGeneralTypeIssues]
        transport: asyncio.Transport
        loop: asyncio.AbstractEventLoop
        app: Any
        cycle: Any
        _whose = ""
        _counted = False
        _late: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connection = transport.get_extra_info("ssl_object")
            shown = connection.getpeercert(binary_form=True) if connection is not None else None
            stamp, app = ssl.DER_cert_to_PEM_cert(shown) if shown else "", self.app
            self._whose = _address(transport) if peers is None else peers.proven(stamp)
            many = open_[self._whose] >= (most or MAX_CONNECTIONS) - MAX_TOLD - open_.total() - 1
            if many or not self._whose:
                if len(told) >= MAX_TOLD:
                    transport.abort()
                    return
                told.add(self)
                # Who is nobody is refused by the gateway, which says why.
                app = _too_many if self._whose else app
            else:
                open_[self._whose] += 1
                self._counted = True

            async def stamped(scope: Any, receive: Any, send: Any) -> None:
                self._hurry(None)
                scope[STAMPS] = stamp
                scope.update(marks or {})
                await app(scope, receive, send)

            self.app = stamped
            self._hurry(HEAD_S)

        def data_received(self, data: bytes) -> None:
            if self._late is None and (self.cycle is None or self.cycle.response_complete):
                self._hurry(HEAD_S)
            super().data_received(data)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self._unread or self.loop.call_later(UNREAD_S, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()  # pyright: ignore[reportAttributeAccessIssue]
            if self.transport.get_write_buffer_size():
                # It would be open until the rest of the answer is read.
                self._unread = self._unread or self.loop.call_later(UNREAD_S, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._hurry(None)
            told.discard(self)
            if self._counted:
                open_[self._whose] -= 1
                if not open_[self._whose]:
                    del open_[self._whose]
            super().connection_lost(exc)
            if self._unread is not None:
                self._unread.cancel()

        def _hurry(self, within_s: float | None) -> None:
            if self._late is not None:
                self._late.cancel()
            self._late = None if within_s is None else self.loop.call_later(within_s, self.transport.abort)

    return cast(type, Serving)


def _address(transport: Any) -> str:
    return str((transport.get_extra_info("peername") or ("somebody",))[0])


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    """The answer to who has more connections open than anybody may."""
    text = "more connections of one domain than are left for others"
    body = msgspec.json.encode(ProblemAnswer(Problem("gateway.too_many", text, "close some, or wait")))
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
