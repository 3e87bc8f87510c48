"""Connections to a gateway that are to be given up: not before the last answer has come."""

from __future__ import annotations

import asyncio

import pytest

from ioi_dagster.adapters.http.transport import MAX_ANSWER, Pool
from ioi_dagster.errors import RetryableError

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer:
    """Answers each request when it may, and sees connections come and go."""

    def __init__(self) -> None:
        self.asked, self.may, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        await self.may.wait()
        try:
            writer.write(ANSWER)
            await reader.read(1)
        except ConnectionError:  # it was cut off before the answer
            pass
        self.gone.set()
        writer.close()


async def _retired(under_way: bool, cancelled: bool = False) -> None:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 2)
    call = asyncio.ensure_future(pool.exchange("GET", "/", b"", {}))
    await peer.asked.wait()
    if not under_way:
        peer.may.set()
        await call
    await pool.retire()
    assert not (under_way and peer.gone.is_set())
    if cancelled:
        call.cancel()
    peer.may.set()
    answer = (await asyncio.gather(call, return_exceptions=True))[0]
    assert isinstance(answer, asyncio.CancelledError) if cancelled else (answer[0], answer[2]) == (200, b"ok")
    await asyncio.wait_for(peer.gone.wait(), 10)
    server.close()


def test_connections_that_nobody_uses_are_closed_at_once() -> None:
    asyncio.run(_retired(under_way=False))


def test_connections_under_way_are_closed_after_the_last_answer() -> None:
    asyncio.run(_retired(under_way=True))


def test_connections_under_way_are_closed_when_nobody_waits_for_the_answer() -> None:
    asyncio.run(_retired(under_way=True, cancelled=True))


async def _oversized() -> None:
    """A peer that never stops answering."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        try:
            while True:
                writer.write(bytes(2**16))
                await writer.drain()
        except ConnectionError:
            gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 1)
    with pytest.raises(RetryableError, match=f"answered with more than {MAX_ANSWER} bytes"):
        await asyncio.wait_for(pool.exchange("GET", "/", b"", {}), 20)
    await asyncio.wait_for(gone.wait(), 10)
    await pool.close()
    server.close()


def test_an_answer_that_is_too_large_is_given_up_and_its_connection_closed() -> None:
    asyncio.run(_oversized())
