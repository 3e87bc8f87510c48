"""A worker whose process has loaded code that has changed since: it takes nothing new, and its process is replaced.

Nothing in it can be loaded anew with certainty: what was imported refers to what was imported before. What runs goes on to its
end, and so do the maps inside it, which need this very node; all else is refused and placed again. When nothing runs any more
the process ends, and its nanny or its domain's supervisor starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from distributed import Worker

from ioi_dagster.adapters.dask.project_code import ProjectCode, project_code
from ioi_dagster.governors.node import REPLACED
from ioi_dagster.model.intervention import PART
from ioi_dagster.model.refusal import Refusal

if TYPE_CHECKING:
    from ioi_dagster.adapters.dask.node import NodeHost

log = logging.getLogger("ioi.node")
RUNS = 1_000
"""So many runs are known to have been here; one that is forgotten is looked at once more."""
LOOK_S = 0.1
TOLD_S = 1.2
"""From saying that it leaves to leaving: run processes look at their nodes twice in that time."""
FETCHED_S = 30.0
RETIRED_S = 30.0
_HERE = frozenset({"executing", "long-running", "cancelled", "resumed"})


class Outdated:
    """Whether a node may start something with the code that its process has loaded. Not thread-safe.

    `restarts`: somebody starts the process again when it ends. `replace` is called once, when it is to be replaced.
    """

    def __init__(self, node: str, restarts: bool = True, code: ProjectCode = project_code) -> None:
        self._by, self._restarts, self._code = f"node {node}", restarts, code
        self.replace: Callable[[], None] = lambda: None
        self.file = ""
        """What has changed, where the process is being replaced."""
        self.leaving = False
        """Nothing runs any more, and nothing ever will."""
        self._runs: OrderedDict[str, None] = OrderedDict()
        self._here: Counter[tuple[str, str]] = Counter()

    def refusal(self, run: str, step: str) -> Refusal | None:
        """Why this start cannot be: the code is looked at when its run comes here first."""
        if not self.file:
            if run in self._runs:
                return None
            changed = self._code.changed()
            if not changed:
                self._runs[run] = None
                if len(self._runs) > RUNS:
                    self._runs.popitem(last=False)
                return None
            if not self._restarts:
                text = f"{changed} has changed since this worker loaded it, and nobody starts this worker again"
                return Refusal("node.old_code", text, self._by, "restart the workers of the cluster")
            self.file = changed
            self.replace()
        if not self.leaving and self.awaits(run, step):
            return None
        text = f"the worker is restarted, since {self.file} has changed since it was loaded there"
        return Refusal(REPLACED, text, self._by, "it is placed again")

    def awaits(self, run: str, step: str) -> bool:
        """A step that runs here waits for it, and may be able to have it run nowhere else."""
        return PART in step and self._here[run, _root(step)] > 0

    def begins(self, run: str, step: str) -> None:
        self._here[run, _root(step)] += 1

    def ends(self, run: str, step: str) -> None:
        its = (run, _root(step))
        self._here[its] -= 1
        if not self._here[its]:
            del self._here[its]

    def leave(self) -> bool:
        """If nothing runs here, nothing will any more."""
        self.leaving = self.leaving or not self._here
        return self.leaving


def _root(step: str) -> str:
    """The step of Dagster's plan that a chunk of a map is for."""
    return step.partition(PART)[0]


def replaces_itself(worker: Worker, host: NodeHost) -> None:
    """From now on the process of `worker` is replaced when it is outdated."""
    host.outdated.replace = lambda: worker.loop.add_callback(_replace, worker, host)


async def _replace(worker: Worker, host: NodeHost) -> None:
    log.warning(
        "%s has changed since it was loaded: the worker is restarted when what it runs has ended", host.outdated.file
    )
    while not host.leave():
        await asyncio.sleep(LOOK_S)
    with contextlib.suppress(OSError):
        await worker.heartbeat()
    await asyncio.sleep(TOLD_S)
    # An answer that nobody has fetched yet would go with the process.
    await _until(lambda: not _answers(worker), FETCHED_S)
    with contextlib.suppress(Exception):
        # What others keep here is moved, where there is somewhere else; from then on Dask begins nothing here.
        retired = worker.scheduler.retire_workers(workers=[worker.address], close_workers=False, remove=False)
        await asyncio.wait_for(retired, RETIRED_S)
    await _until(lambda: not any(task.state in _HERE for task in worker.state.tasks.values()), None)
    await worker.close(nanny=False, reason="ioi-code")


async def _until(over: Callable[[], bool], patience_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while not over():
                await asyncio.sleep(LOOK_S)


def _answers(worker: Worker) -> bool:
    """Starts of ours are known by being pinned to a node."""
    return any(
        name.startswith("node:") for task in worker.state.tasks.values() for name in task.resource_restrictions or ()
    )
