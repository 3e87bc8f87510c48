"""Work that is done for somebody who may hang up meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Gone = asyncio.Future[None]


class HungUpError(Exception):
    """Nobody waits for the answer any longer."""


@contextmanager
def hearing(receive: Callable[[], Awaitable[Any]]) -> Iterator[Gone]:
    """Done when the caller of a request whose body was read closes the connection; `receive` is ASGI's."""
    gone: Gone = asyncio.ensure_future(_hung_up(receive))
    try:
        yield gone
    finally:
        gone.cancel()


async def while_wanted(gone: Gone, work: Awaitable[T], cancel_s: float | None = None) -> T:
    """What comes of `work`. It is cancelled when the caller has gone, and may take `cancel_s` seconds to end then (None: as long
    as it takes). Raises `HungUpError`."""
    asked = asyncio.ensure_future(work)
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise HungUpError
        return asked.result()
    finally:
        if asked.cancel():
            await asyncio.wait({asked}, timeout=cancel_s)


async def _hung_up(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
