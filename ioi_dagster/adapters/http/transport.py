"""How gateways and their clients send requests: aiohttp, behind a small interface of our own where there are many, behind httpx's
elsewhere.

What a negotiation costs is mostly its requests, and httpx's own transport takes twice as much processor for each.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx

from ioi_dagster.errors import RetryableError

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
ALERT_S = 0.5
MAX_ANSWER = 16 * 2**20


class Pool:
    """Kept connections to the gateway at `url`, `connections` at most; more requests than that wait.

    Belongs to the event loop of the first request. Redirects and proxies are not followed, cookies not kept. With `tls` the other
    side must show a certificate for `name`, whatever its address."""

    def __init__(self, url: str, connections: int, tls: ssl.SSLContext | None = None, name: str | None = None) -> None:
        self._url, self._connections, self._tls = url, connections, tls
        self._name = name if tls is not None else None
        self._session: aiohttp.ClientSession | None = None
        self._under_way, self._retired = 0, False

    async def exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], most: int = MAX_ANSWER
    ) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) of the answer. The caller limits the time: when this is cancelled, the connection is closed.
        Raises `OSError` where no answer comes, and `RetryableError` on one of more than `most` bytes."""
        self._under_way += 1
        try:
            return await self._exchange(method, path, body, headers, most)
        finally:
            await self._over()

    async def open(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """An answer that is read as it comes, and no faster than it is read. Who opens it closes it. Raises as `exchange`."""
        self._under_way += 1
        opened: Answer | None = None
        try:
            opened = Answer(await _raising(self._request(method, path, body, headers)), self._over)
            return opened
        finally:
            if opened is None:
                await self._over()

    def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """As aiohttp gives it: awaited or entered."""
        session = self._session = self._session or self._opened()
        return session.request(
            method,
            self._url + path,
            data=body or None,
            headers=headers,
            allow_redirects=False,
            server_hostname=self._name,
        )

    async def _over(self) -> None:
        self._under_way -= 1
        if self._retired and not self._under_way:
            await self.close()

    async def retire(self) -> None:
        """Nothing more is asked; it is closed when the last answer has come."""
        self._retired = True
        if not self._under_way:
            await self.close()

    async def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], most: int
    ) -> tuple[int, Mapping[str, str], bytes]:
        import aiohttp

        parts, size = [], 0
        try:
            async with self._request(method, path, body, headers) as answer:
                async for part in answer.content.iter_any():
                    size += len(part)
                    if size > most:
                        raise RetryableError(f"{self._url} answered with more than {most} bytes")
                    parts.append(part)
                return answer.status, answer.headers, b"".join(parts)
        except aiohttp.ClientError as error:
            cut_off = self._tls is not None and not isinstance(
                error, aiohttp.ClientConnectorError | aiohttp.ServerDisconnectedError
            )
            raise ConnectionError(f"{type(error).__name__}: {error}"[:500]) from (
                await self._alert() if cut_off else None
            ) or error

    async def _alert(self) -> OSError | None:
        """Why the other side cuts off who has just connected. Its alert is lost where it comes before the request is written."""
        where = urlsplit(self._url)
        try:
            async with asyncio.timeout(ALERT_S):
                reader, writer = await asyncio.open_connection(
                    where.hostname, where.port, ssl=self._tls, server_hostname=self._name
                )
                try:
                    await reader.read(1)
                finally:
                    writer.close()
        except OSError as error:  # a timeout is one
            return error if isinstance(error, ssl.SSLError) else None
        return None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        # Without a context of ours the system's list of public authorities would count, which nothing here trusts.
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._tls or False)
        # Each request has a deadline of its own over the whole of it, which no per-read timeout gives.
        none = aiohttp.ClientTimeout(total=None, sock_connect=None)
        jar = aiohttp.DummyCookieJar()
        return aiohttp.ClientSession(connector=connector, timeout=none, cookie_jar=jar, auto_decompress=False)


class Answer:
    """One that is being read."""

    def __init__(self, answer: aiohttp.ClientResponse, over: Callable[[], Awaitable[None]]) -> None:
        self._answer, self._over = answer, over
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    async def read(self) -> bytes:
        """What has come; empty at its end. Raises `OSError` where the connection breaks."""
        return await _raising(self._answer.content.readany())

    async def close(self) -> None:
        """The connection is closed where not all was read. Again is no error."""
        over, self._over = self._over, _nothing
        self._answer.close()
        await over()


async def _nothing() -> None: ...


async def _raising(asked: Awaitable[T]) -> T:
    import aiohttp

    try:
        return await asked
    except aiohttp.ClientError as error:
        raise ConnectionError(f"{type(error).__name__}: {error}"[:500]) from error


def over_aiohttp(
    limits: httpx.Limits, tls: ssl.SSLContext | None = None, name: str | None = None
) -> httpx.AsyncBaseTransport:
    """Its connections belong to the event loop of the first request. Raises httpx's errors alone, as
    `httpx.AsyncClient` does.

    With `tls` the other side must show a certificate for `name`, whatever its address."""
    import aiohttp
    import httpx_aiohttp

    class Transport(httpx_aiohttp.AiohttpTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if name is not None:
                request.extensions["sni_hostname"] = name
            try:
                return await super().handle_async_request(request)
            except aiohttp.ClientError as error:  # those that have no counterpart there
                raise httpx.RemoteProtocolError(f"{type(error).__name__}: {error}"[:500], request=request) from error

    # Without a context of ours httpx would read a list of public authorities, which nothing here trusts.
    return Transport(limits=limits, trust_env=False, verify=tls or False)
