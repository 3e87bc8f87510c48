"""Bytes that one worker process keeps for others: they fetch them, or leave some, from worker to worker.

The transfer is Dask's own connection between workers. The bytes are ours and are not unpickled on the way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from distributed import Worker, get_worker
from distributed.protocol.serialize import to_serialize

from ioi_dagster.errors import RetryableError

POLL_S = 0.2
"""An exception that stops a step is raised between two instructions, so nothing waits for longer at a stretch."""
TRANSFER_S = 300.0


class Shelf:
    """One per process. Thread-safe. Names are `owner/rest`; an owner that is not open takes nothing."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, bytes]] = {}
        self._lock = threading.Lock()

    def open(self, owner: str) -> None:
        with self._lock:
            self._values.setdefault(owner, {})

    def close(self, owner: str) -> None:
        """Forget all that is kept for `owner`."""
        with self._lock:
            self._values.pop(owner, None)

    def put(self, owner: str, name: str, data: bytes) -> bool:
        with self._lock:
            if owner not in self._values:
                return False
            self._values[owner][name] = data
            return True

    def get(self, owner: str, name: str) -> bytes | None:
        with self._lock:
            return self._values.get(owner, {}).get(name)

    def pop(self, owner: str, name: str) -> bytes | None:
        with self._lock:
            return self._values.get(owner, {}).pop(name, None)

    @property
    def owners(self) -> list[str]:
        with self._lock:
            return list(self._values)


shelf = Shelf()


def serve(worker: Worker) -> str:
    """Let other workers reach this process's shelf; returns under which address."""
    worker.handlers.setdefault("ioi_shelf_get", _get)
    worker.handlers.setdefault("ioi_shelf_put", _put)
    return worker.address


def fetch(address: str, owner: str, name: str) -> bytes:
    """From the shelf of the worker at `address`. Raises `RetryableError` where it is not there, or the worker is not."""
    worker = get_worker()
    if address == worker.address:
        data = shelf.get(owner, name)
    else:
        data = _call(worker, worker.rpc(address).ioi_shelf_get(owner=owner, name=name), address)
    if data is None:
        raise RetryableError(f"{address} does not keep {name} of {owner} any more")
    return bytes(data)


def leave(address: str, owner: str, name: str, data: bytes) -> None:
    """On the shelf of the worker at `address`. Raises `RetryableError` where nobody waits for it."""
    worker = get_worker()
    if address == worker.address:
        taken = shelf.put(owner, name, data)
    else:
        call = worker.rpc(address).ioi_shelf_put(owner=owner, name=name, data=to_serialize(data))
        taken = _call(worker, call, address)
    if not taken:
        raise RetryableError(f"nobody at {address} waits for {name} of {owner} any more")


def on_loop(worker: Worker, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
    """Run it in the worker's event loop and wait for it in this thread."""
    future = asyncio.run_coroutine_threadsafe(coroutine, worker.loop.asyncio_loop)  # pyright: ignore
    left = timeout_s
    while True:
        try:
            return future.result(POLL_S)
        except TimeoutError:
            left -= POLL_S
            if future.done() or left <= 0:
                future.cancel()
                raise


def _call(worker: Worker, call: Coroutine[Any, Any, Any], address: str) -> Any:
    try:
        return on_loop(worker, call, TRANSFER_S)
    except (OSError, TimeoutError) as error:
        raise RetryableError(f"the worker at {address} does not answer: {error}") from error


async def _get(owner: str, name: str) -> Any:
    data = shelf.get(owner, name)
    return None if data is None else to_serialize(data)


async def _put(owner: str, name: str, data: Any) -> bool:
    return shelf.put(owner, name, bytes(data))
