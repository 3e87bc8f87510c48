"""Streamed results that the gateway fetches from this worker, piece by piece: no faster than it can pass them on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ioi_dagster.compound.pieces import Pieces

PATIENCE_S = 60.0
"""A gateway that has neither fetched anything nor said that it still reads for so long is gone."""

_outgoing: dict[str, Pieces] = {}


@contextmanager
def offered(stream: str) -> Iterator[Pieces]:
    """What is given to these pieces is fetched under the name `stream`."""
    pieces = _outgoing[stream] = Pieces(PATIENCE_S)
    try:
        yield pieces
    finally:
        _outgoing.pop(stream, None)


async def still_read(stream: str) -> None:
    """Whoever fetches it will fetch more of it, when those before him have got what there was."""
    pieces = _outgoing.get(stream)
    if pieces is not None:
        pieces.still_read()


async def fetch(stream: str, fetched: int, wait_s: float, most: int) -> list[bytes] | None:
    """The next pieces, when there are some or `wait_s` seconds are over; None where there is no such stream, or not yet. Run by
    Dask beside the steps. `fetched`: how many were before; where more were taken, some were lost on their way: `RuntimeError`."""
    pieces = _outgoing.get(stream)
    if pieces is None:
        return None
    if pieces.taken != fetched:
        raise RuntimeError(f"{pieces.taken - fetched} pieces were lost on their way")
    return await asyncio.to_thread(pieces.take, wait_s, most)
