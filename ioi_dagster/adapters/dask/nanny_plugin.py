"""The witness of a worker that Dask's nanny keeps: on another machine, or in a cluster that is not ours.

It is asked over Dask's own wire. By itself it ends a worker that stands still, and sees to it that a worker that has lost its
scheduler is started again instead of taking the nanny with it, also where that cannot be for a while.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from distributed import Nanny
from distributed.core import Status
from distributed.diagnostics.plugin import NannyPlugin

from ioi_dagster.adapters.dask.periodic import Periodic, TimeOfDay
from ioi_dagster.adapters.dask.witness import Stillness, end, look_at

log = logging.getLogger("ioi.witness")
LOOK_S = 0.1
LOST_CONTACT = ("worker-handle-scheduler-connection-broken", "worker-heartbeat-missing")
"""Why a worker closes when its scheduler has given it up, or cannot be reached. Dask would have the nanny end too."""
NOT_STARTED = ("nanny-instantiate-failed", "nanny-instantiate-timeout")
"""Why Dask's nanny gives up for good: its scheduler may still hold the name for the process before, where a line was cut."""


class WitnessPlugin(NannyPlugin):
    """Registered with a cluster, it is set up at every nanny, also at those that join later."""

    name = "ioi-witness"

    def setup(self, nanny: Nanny) -> None:
        self._nanny, self._still, self._clock = nanny, Stillness(), TimeOfDay(nanny)
        nanny.handlers["ioi_look"] = self._look
        nanny.handlers["ioi_end"] = self._end
        self._close_gracefully = nanny.handlers["close_gracefully"]
        nanny.handlers["close_gracefully"] = self._leaves
        self._close = nanny.close
        nanny.close = self._closes
        self._beat = Periodic(self._tick, LOOK_S)
        nanny.loop.add_callback(self._beat.start)

    def teardown(self, nanny: Nanny) -> None:
        self._beat.stop()
        for name in ("ioi_look", "ioi_end"):
            nanny.handlers.pop(name, None)
        nanny.handlers["close_gracefully"] = self._close_gracefully
        nanny.close = self._close

    def _look(self, pid: int) -> dict[str, Any]:
        """What is seen of the worker's process, should it be `pid` still (0: whichever it is)."""
        its = self._nanny.pid or 0
        state, cpu_s = look_at(its) if its and pid in (0, its) else ("", 0.0)
        return {"pid": its, "state": state, "cpu_s": cpu_s}

    def _end(self, pid: int) -> None:
        """End the worker's process, should it be `pid` still (0: whichever it is); the nanny starts another."""
        its = self._nanny.pid
        if its and pid in (0, its):
            log.warning("the worker (process %s) is ended: its cluster has given it up", its)
            end(its)

    def _leaves(self, reason: str = "nanny-close-gracefully") -> None:
        if reason in LOST_CONTACT:
            log.warning("the worker has lost its scheduler and is started again")
        else:
            self._close_gracefully(reason=reason)

    async def _closes(self, timeout: float = 5, reason: str = "nanny-close") -> Any:
        """A worker that ran before is tried again by the end of its process, which Dask follows, however often. One that never
        ran may be wrong in itself, and who began it is to see that."""
        if reason in NOT_STARTED and self._nanny.status is Status.running:
            log.warning("the worker could not be started, and is tried again: see the line before")
            return None
        return await self._close(timeout=timeout, reason=reason)

    def _tick(self) -> None:
        self._clock.look()
        pid = self._nanny.pid
        if pid and self._still.look("worker", pid, time.monotonic()):
            log.warning("the worker (process %s) stood still and is ended", pid)
            end(pid)
