"""Step values that a worker keeps in memory, for itself and for other workers, until their run ends.

Each has a durable copy elsewhere, so what is too much is simply forgotten: the least recently used first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from distributed import Worker, get_worker
from distributed.protocol.serialize import to_serialize

from ioi_dagster.adapters.dask.shelf import on_loop

PEER_S = 10.0
"""A worker that has not sent a value by then is passed over: the durable copy is read."""


class Held:
    """One per process. Thread-safe."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, run: str, name: str, data: bytes, limit: int) -> None:
        """Keep it, and `limit` bytes at most in all."""
        with self._lock:
            self._drop((run, name))
            self._values[run, name] = data
            self._bytes += len(data)
            while self._bytes > limit:
                self._drop(next(iter(self._values)))

    def get(self, run: str, name: str) -> bytes | None:
        with self._lock:
            data = self._values.get((run, name))
            if data is not None:
                self._values.move_to_end((run, name))
            return data

    def drop_run(self, run: str) -> None:
        with self._lock:
            for key in [key for key in self._values if key[0] == run]:
                self._drop(key)

    def sizes(self) -> dict[str, int]:
        """Bytes by run."""
        with self._lock:
            sizes: dict[str, int] = {}
            for (run, _), data in self._values.items():
                sizes[run] = sizes.get(run, 0) + len(data)
            return sizes

    def _drop(self, key: tuple[str, str]) -> None:
        data = self._values.pop(key, None)
        self._bytes -= len(data) if data is not None else 0


held = Held()


def hold(run: str, name: str, data: bytes, limit: int) -> str:
    """Keep a value in this worker's memory; returns the address under which other workers get it."""
    worker = get_worker()
    worker.handlers.setdefault("ioi_held_get", _get)
    held.put(run, name, data, limit)
    return worker.address


def find(address: str, run: str, name: str, limit: int) -> bytes | None:
    """From this worker's memory, else from that of the worker at `address`, which is then kept here too. None where neither
    has it."""
    data = held.get(run, name)
    worker = get_worker()
    if data is not None or address == worker.address:
        return data
    data = _from_peer(worker, address, run, name)
    if data is not None:
        held.put(run, name, data, limit)
    return data


def drop_run(run: str) -> None:
    """Called on every worker when a run has ended."""
    held.drop_run(run)


def _from_peer(worker: Worker, address: str, run: str, name: str) -> bytes | None:
    try:
        data = on_loop(worker, worker.rpc(address).ioi_held_get(run=run, name=name), PEER_S)
    except Exception:  # dead, hung, or another process under its address: there is the durable copy
        return None
    return None if data is None else bytes(data)


async def _get(run: str, name: str) -> Any:
    data = held.get(run, name)
    return None if data is None else to_serialize(data)
