"""Streamed results that the gateway fetches from this worker, piece by piece: no faster than it can pass them on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ioi_dagster.compound.pieces import Pieces
from ioi_dagster.model.block import Begun

PATIENCE_S = 60.0
"""A gateway that has neither fetched anything nor said that it still reads for so long is gone."""

LOOK_S, SELDOM_S = 0.002, 0.02
"""Pieces that are to come are looked for so often: at first, and after a while. No thread is held meanwhile: a worker may have as
many streams as steps, and Dask needs its threads for other things."""

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


async def fetch(stream: str, fetched: int, wait_s: float, most: int) -> tuple[Begun | None, list[bytes]] | None:
    """Whether it has begun, and the next pieces, when there are some or `wait_s` seconds are over; None where there is no such
    stream, or not yet. Run by Dask beside the steps. `fetched`: how many were before; where more were taken, some were lost on
    their way: `RuntimeError`."""
    clock, look_s = asyncio.get_running_loop().time, LOOK_S
    until = clock() + wait_s
    while (pieces := _outgoing.get(stream)) is not None:
        if pieces.taken != fetched:
            raise RuntimeError(f"{pieces.taken - fetched} pieces were lost on their way")
        frames = pieces.take(0.0, most)
        if frames or pieces.over or clock() >= until:
            return pieces.begun, frames
        await asyncio.sleep(look_s)
        look_s = min(2 * look_s, SELDOM_S)
    return None
