"""Calls of other domains whose gateway has gone: nobody waits for their answers any more, so their nodes stop them.

A gateway that lives has what it gives up stopped itself. One that was killed says nothing, but its connection to the scheduler
closes, and Dask lets go of what it wanted: of a task that runs it tells the worker, which runs on. The starts of a run process
are not meant here: its next process adopts them, as long as their leases hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

_CALL = re.compile(r"(.+/\d+/\d+)/invoke(?:/stream)?/[^/]+")


def key_of_call(lease: str, call: str) -> str:
    """Under which Dask has a gateway's call. `lease`: the key of its lease, which ends in fence and copy; `call`: its door and
    what tells it apart under that lease."""
    return f"{lease}/{call}"


def lease_of_call(key: str) -> str:
    """The other way round; empty for the key of anything else."""
    found = _CALL.fullmatch(key)
    return found[1] if found else ""


class OrphanedCalls(SchedulerPlugin):
    """`stop`: has a node stop what runs there under the key of a lease; said of what has stopped by then too."""

    name = "ioi-orphaned-calls"

    def __init__(self, scheduler: Scheduler, stop: Callable[[str, str], object]) -> None:
        self._scheduler, self._stop = scheduler, stop

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Called by Dask for each change of any task, so what costs something comes last."""
        if start != "processing" or finish != "released":
            return
        task = self._scheduler.tasks.get(key)
        lease = lease_of_call(str(key)) if task is not None and not task.who_wants else ""
        if lease and task is not None:
            for resource in task.resource_restrictions or ():
                if resource.startswith("node:"):
                    self._stop(resource.removeprefix("node:"), lease)
