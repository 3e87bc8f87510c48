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
    """Looks whether the clock of `server`'s machine has been set, and has Dask's own periodic work begin anew then."""

    def __init__(self, server: Server) -> None:
        self._server, self._offset = server, time.time() - time.monotonic()

    def look(self) -> None:
        """Called every now and then."""
        offset = time.time() - time.monotonic()
        if abs(offset - self._offset) > SET_S:
            log.warning("the clock was set by %.0f s", offset - self._offset)
            for callback in self._server.periodic_callbacks.values():
                if callback.is_running():
                    callback.stop()
                    callback.start()
        self._offset = offset
