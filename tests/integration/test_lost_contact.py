"""A worker that cannot be started for a while costs its nanny nothing: it is started as soon as that can be."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from distributed import Nanny, Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol.pickle import dumps

from ioi_dagster.adapters.dask.nanny_plugin import WitnessPlugin

pytestmark = pytest.mark.integration
PATIENCE_S = 100.0


class NameTaken(SchedulerPlugin):
    """As after a line was cut: the scheduler still counts on a process under that name."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        scheduler.aliases["n1"] = "tcp://the-one-before"


class _Heard(logging.Handler):
    def __init__(self, word: str, heard: asyncio.Event) -> None:
        super().__init__()
        self._word, self._heard, self._loop = word, heard, asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        if self._word in record.getMessage():
            self._loop.call_soon_threadsafe(self._heard.set)


@contextmanager
def listening(logger: str, word: str) -> Iterator[asyncio.Event]:
    heard = asyncio.Event()
    handler = _Heard(word, heard)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield heard
    finally:
        logging.getLogger(logger).removeHandler(handler)


def test_a_worker_whose_name_is_still_taken_is_started_once_it_is_free():
    async def story() -> None:
        async with Scheduler(port=0, dashboard=False) as scheduler:
            plugin = dumps(WitnessPlugin())
            await scheduler.register_nanny_plugin(comm=None, plugin=plugin, name=WitnessPlugin.name, idempotent=True)
            async with Nanny(scheduler.address, nthreads=1, name="n1") as nanny, asyncio.timeout(PATIENCE_S):
                scheduler.add_plugin(NameTaken(scheduler), name="taken")
                assert nanny.pid is not None
                with listening("ioi.witness", "could not be started") as refused:
                    os.kill(nanny.pid, signal.SIGKILL)
                    await refused.wait()
                scheduler.remove_plugin("taken")
                del scheduler.aliases["n1"]
                while not any(worker.name == "n1" for worker in scheduler.workers.values()):
                    await asyncio.sleep(0.05)
                assert nanny.status is Status.running

    asyncio.run(story())


def test_a_nanny_whose_first_worker_cannot_be_started_says_so_and_ends():
    async def story() -> None:
        async with Scheduler(port=0, dashboard=False) as scheduler:
            plugin = dumps(WitnessPlugin())
            await scheduler.register_nanny_plugin(comm=None, plugin=plugin, name=WitnessPlugin.name, idempotent=True)
            scheduler.aliases["n1"] = "tcp://the-one-before"
            async with asyncio.timeout(PATIENCE_S):
                nanny = Nanny(scheduler.address, nthreads=1, name="n1")
                with pytest.raises(RuntimeError):
                    await nanny
                assert nanny.status is Status.closed or nanny.status is Status.failed

    asyncio.run(story())
