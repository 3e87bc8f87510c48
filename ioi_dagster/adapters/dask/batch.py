"""Several short starts in one Dask task, one after the other: a task costs Dask more than a short step does.

Each start keeps its own request, permit, admission and answer; only the way there and back is shared. What was not begun after
`BATCH_S` seconds is given back, and who asks for the answers that are there already gets them while the batch goes on. When
another process of the run takes over, it gets what was begun, and the rest never begins: it is placed anew.
"""

from __future__ import annotations

import threading
import time

import msgspec

from ioi_dagster.adapters.dask import node
from ioi_dagster.adapters.dask.flights import awaited, flights
from ioi_dagster.decoding import from_msgpack

BATCH_S = 0.2


class Batch(msgspec.Struct, frozen=True):
    """Requests by key; on the wire msgpack, as each request is."""

    starts: dict[str, bytes]


class Answers(msgspec.Struct, frozen=True):
    """Answers by key. A key without one was not begun, and never will be."""

    answers: dict[str, bytes]


def start_batch(data: bytes) -> bytes:
    """Run by Dask: `Batch` in, `Answers` out."""
    batch = from_msgpack(data, Batch)
    until = time.monotonic() + BATCH_S
    try:
        for key, request in batch.starts.items():
            if time.monotonic() > until or not awaited() or flights.any_claimed(batch.starts):
                node.take_back_here([key])
                continue
            with flights.flight(key) as flight:
                flight.answer = node.start_here(request)
            with _lock:
                _answered[key] = flight.answer
        with _lock:
            there = {key: _answered[key] for key in batch.starts if key in _answered}
        return msgspec.msgpack.encode(Answers(there))
    finally:
        with _lock:
            for key in batch.starts:
                _answered.pop(key, None)


def answered(keys: list[str]) -> dict[str, bytes]:
    """The answers to `keys` that are there, of batches that go on. Run by Dask on a worker, beside the steps."""
    with _lock:
        return {key: _answered[key] for key in keys if key in _answered}


_answered: dict[str, bytes] = {}
_lock = threading.Lock()
