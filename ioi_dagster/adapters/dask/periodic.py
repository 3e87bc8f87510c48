"""Something done again and again in an event loop, by the loop's own clock.

Tornado's `PeriodicCallback` goes by the time of day: when that is set back by an hour, it waits for an hour.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

from distributed import Client
from distributed.batched import BatchedSend
from distributed.core import Server

log = logging.getLogger("ioi.dask")
SET_S = 1.0
"""A clock that is off by more than this since the last look was set."""


class Periodic:
    """`call` is called every `seconds`, or as soon as the last one is done; what it raises is logged. A coroutine is awaited."""

    def __init__(self, call: Callable[[], Any], seconds: float) -> None:
        self._call, self._seconds = call, seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """In the event loop; the first call comes after `seconds`."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._seconds
        while True:
            await asyncio.sleep(due - loop.time())
            try:
                done = self._call()
                if inspect.isawaitable(done):
                    await done
            except Exception:  # the next call may do better, and somebody relies on it
                log.exception("%s failed", self._call)
            due = max(due + self._seconds, loop.time())


class TimeOfDay:
    """Looks whether the clock of the machine of `server` has been set. Then it has Dask's own periodic work begin anew, and sends
    what waits until a time of day that may be hours away now: Dask sends messages in batches some milliseconds apart by the time
    of day (`distributed.batched.BatchedSend`), so that one which was sent right before never left."""

    def __init__(self, server: Server | Client) -> None:
        self._server, self._offset = server, time.time() - time.monotonic()

    def look(self) -> None:
        """Called every now and then."""
        offset = time.time() - time.monotonic()
        if abs(offset - self._offset) > SET_S:
            log.warning("the clock was set by %.0f s", offset - self._offset)
            for callback in getattr(self._server, "periodic_callbacks", {}).values():
                if callback.is_running():
                    callback.stop()
                    callback.start()
            for stream in _streams(self._server):
                if stream.next_deadline is not None:
                    stream.next_deadline = None
                    stream.waker.set()
        self._offset = offset


def _streams(server: Server | Client) -> list[BatchedSend]:
    """Those of a scheduler to its workers and clients, of a worker and of a client to their scheduler."""
    found = [getattr(server, name, None) for name in ("batched_stream", "scheduler_comm")]
    found += [one for name in ("stream_comms", "client_comms") for one in getattr(server, name, {}).values()]
    return [one for one in found if isinstance(one, BatchedSend)]
