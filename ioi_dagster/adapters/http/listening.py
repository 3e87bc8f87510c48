"""Takes connections for uvicorn and makes the handshake of TLS on each.

Nobody needs a certificate to begin one. So it takes no longer than it may, and no address, nor all of them together, has more
under way than it may have.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial

import uvicorn

HANDSHAKE_S = 5.0
"""So long a handshake may take."""
MAX_HANDSHAKES = 128
"""Those of one address that have not ended."""
MAX_ALL_HANDSHAKES = 512
"""Those of all addresses together: whoever has many must not have the files of all others."""
AGAIN_S = 0.1
"""After a connection could not be taken, as where no file may be opened any more."""
log = logging.getLogger("ioi.gateway")


@dataclass(frozen=True, slots=True)
class Listener:
    """Another one of the same server: `protocol` is uvicorn's for its connections."""

    listens: socket.socket
    tls: ssl.SSLContext
    protocol: type


class TlsServer(uvicorn.Server):
    """uvicorn's, which takes connections on the sockets that it is run with, and on those of `also`. `config` says nothing of
    TLS."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext, also: Sequence[Listener] = ()) -> None:
        super().__init__(config)
        self._tls, self._also = tls, also
        self._shaking: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        made = self.config.http_protocol_class
        own = [Listener(listens, self._tls, made) for listens in sockets or []]  # pyright: ignore[reportArgumentType]
        for listener in (*own, *self._also):
            listener.listens.setblocking(False)
            self._begin(self._accept(listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().shutdown(sockets)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, (address, *_) = await loop.sock_accept(listener.listens)
            except OSError as error:
                log.warning("a connection cannot be taken: %s", error)
                await asyncio.sleep(AGAIN_S)
                continue
            if self._shaking[address] >= MAX_HANDSHAKES or self._shaking.total() >= MAX_ALL_HANDSHAKES:
                connection.close()
                continue
            self._shaking[address] += 1
            self._begin(self._shake(listener, connection, address))

    async def _shake(self, listener: Listener, connection: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                partial(self._protocol, listener.protocol),
                connection,
                ssl=listener.tls,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except OSError as error:
            log.debug("a handshake of %s came to nothing: %s", address, error)
        finally:
            self._shaking[address] -= 1
            if not self._shaking[address]:
                del self._shaking[address]

    def _protocol(self, made: type) -> asyncio.Protocol:
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # pyright: ignore
