"""A worker whose process has loaded code that has changed since: it takes nothing new, and its process is replaced.

Nothing in it can be loaded anew with certainty: what was imported refers to what was imported before. What runs goes on to its
end, and so do the maps inside it, which need this very node; all else is refused and placed again. When nothing runs any more
the process ends, and its nanny or its domain's supervisor starts another.

In a domain's cluster nodes take turns (`governors.turns`): until it has its own, a node goes on with the runs that it knows,
which had begun before the code changed, and takes no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import psutil
from dask import config as dask_config
from dask.utils import parse_timedelta
from distributed import Worker

from ioi_dagster.adapters.dask.project_code import ProjectCode, project_code
from ioi_dagster.governors.node import REPLACED
from ioi_dagster.governors.turns import STILL_S
from ioi_dagster.model.intervention import PART
from ioi_dagster.model.refusal import Refusal

if TYPE_CHECKING:
    from ioi_dagster.adapters.dask.node import NodeHost

log = logging.getLogger("ioi.node")
RUNS = 1_000
"""So many runs are known to have been here; one that is forgotten is looked at once more."""
LOOK_S = 0.1
TURN_S = 0.25
TURN_OP = "ioi_turn"
Turn = Callable[[int, bool], Awaitable[bool]]
"""(steps that run here, is it quiet?) → may it be replaced now? See `Turns.asks`."""
TOLD_S = 1.2
"""From saying that it leaves to leaving: run processes look at their nodes twice in that time."""
TURN_ANSWER_S = 2.0
FETCHED_S = 30.0
RETIRED_S = 30.0
CLOSED_S = 40.0
LOOKED_S = 1.0
AWAY_S = 60.0
"""No worker is away for so long, from its leaving until its successor is there."""
END_S = 5.0
"""A process that has closed is ended from outside the interpreter when threads or exit handlers keep it for so long."""
_HERE = frozenset({"executing", "long-running", "cancelled", "resumed"})


class Outdated:
    """Whether a node may start something with the code that its process has loaded. Not thread-safe.

    `restarts`: somebody starts the process again when it ends. `replace` is called once, when it is to be replaced.
    """

    def __init__(
        self,
        node: str,
        restarts: bool = True,
        code: ProjectCode = project_code,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._by, self._restarts, self._code, self._monotonic = f"node {node}", restarts, code, monotonic
        self.replace: Callable[[], None] = lambda: None
        self.turns = False
        """It waits for its turn before it is replaced."""
        self.its_turn = False
        self._used_at = float("-inf")
        self.file = ""
        """What has changed, where the process is being replaced."""
        self.leaving = False
        """Nothing runs any more, and nothing ever will."""
        self._runs: OrderedDict[str, None] = OrderedDict()
        self._here: Counter[tuple[str, str]] = Counter()

    def refusal(self, run: str, step: str) -> Refusal | None:
        """Why this start cannot be: the code is looked at when its run comes here first."""
        refusal = self._refusal(run, step)
        if refusal is None:
            self._used_at = self._monotonic()
        return refusal

    def _refusal(self, run: str, step: str) -> Refusal | None:
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
        if not self.closed and run in self._runs:
            return None
        if not self.leaving and self.awaits(run, step):
            return None
        text = f"the worker is restarted, since {self.file} has changed since it was loaded there"
        return Refusal(REPLACED, text, self._by, "it is placed again")

    @property
    def closed(self) -> bool:
        """It takes nothing new, whichever run it is of."""
        return bool(self.file) and (self.its_turn or not self.turns)

    @property
    def busy(self) -> int:
        """So many steps run here."""
        return self._here.total()

    @property
    def quiet(self) -> bool:
        """No run has done anything here for a while."""
        return not self._here and self._monotonic() - self._used_at > STILL_S

    def awaits(self, run: str, step: str) -> bool:
        """A step that runs here waits for it, and may be able to have it run nowhere else."""
        return PART in step and self._here[run, _root(step)] > 0

    def begins(self, run: str, step: str) -> None:
        self._here[run, _root(step)] += 1

    def ends(self, run: str, step: str) -> None:
        its, self._used_at = (run, _root(step)), self._monotonic()
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


def replaces_itself(worker: Worker, host: NodeHost, turn: Turn | None = None) -> None:
    """From now on the process of `worker` is replaced when it is outdated, and has its `turn` (None: at once)."""
    host.outdated.turns = turn is not None
    host.outdated.replace = lambda: worker.loop.add_callback(_replace, worker, host, turn)


def turn_at(worker: Worker) -> Turn:
    """Asks the scheduler of the worker's cluster. Who hears nothing has no turn."""

    async def turn(busy: int, quiet: bool) -> bool:
        ask = getattr(worker.scheduler, TURN_OP)
        try:
            question = ask(node=str(worker.name), life=worker.contact_address, busy=busy, quiet=quiet)
            return bool(await asyncio.wait_for(question, TURN_ANSWER_S))
        except Exception:  # whatever became of it, the scheduler is away, and nothing is placed anywhere meanwhile
            return False

    return turn


async def _replace(worker: Worker, host: NodeHost, turn: Turn | None) -> None:
    log.warning(
        "%s has changed since it was loaded: the worker is restarted when what it runs has ended", host.outdated.file
    )
    if worker.nanny is not None:
        await asyncio.sleep(looked_for_s(time.time() - psutil.Process().create_time()))
    while not await _may_leave(host, turn):
        await asyncio.sleep(LOOK_S if turn is None else TURN_S)
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
    try:
        async with asyncio.timeout(CLOSED_S):
            await worker.close(nanny=False, reason="ioi-code")
    finally:
        # Whoever starts it again waits for its end; the log then shows what each thread did.
        faulthandler.dump_traceback_later(END_S, exit=True)


def looked_for_s(age_s: float) -> float:
    """Seconds in which a worker that is `age_s` old may not be away, lest it be given up for good.

    Dask's `SpecCluster` looks once, so long after a worker left it, whether one of that name is there, and closes its nanny
    otherwise; that another process has come and gone in between it does not ask (`SpecCluster._update_worker_status`).
    """
    patience, age_s = parse_timedelta(dask_config.get("distributed.deploy.lost-worker-timeout")), max(0.0, age_s)
    # Where it is long, another is there again before that.
    return max(0.0, patience + LOOKED_S - age_s) if age_s > patience - AWAY_S else 0.0


async def _may_leave(host: NodeHost, turn: Turn | None) -> bool:
    if turn is None:
        return host.leave()
    # Who said that something runs here may have its turn taken back, and so does not go by that answer.
    busy = host.outdated.busy
    host.outdated.its_turn = await turn(busy, host.outdated.quiet)
    return host.outdated.its_turn and not busy and host.leave()


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
