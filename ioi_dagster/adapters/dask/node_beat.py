"""What a node does once a second beside its steps: it takes newer blocks, lets go of what runs left behind, and makes room. And
what it reports of itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import psutil
from distributed import Worker
from tornado.ioloop import PeriodicCallback

from ioi_dagster.adapters.dask.memory import trim
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.run_scope import scope
from ioi_dagster.model.capability import BlockSpec

log = logging.getLogger("ioi.node")
BEAT_MS = 1_000
FOR_REPLICAS = 0.8
"""The part of a worker's memory that replicas may take together."""


def look_after(worker: Worker, host: NodeHost, newer: Callable[[], Sequence[BlockSpec]] = list) -> None:
    """Start the beat of a node. `newer` gives the blocks that its owner changed since it was last asked."""

    async def beat() -> None:
        for block in newer():
            host.replicas.offer(block)
        if scope.idle():
            await asyncio.to_thread(scope.end_idle)
        await _relieve(worker, host)

    async def report(_worker: Worker) -> dict[str, Any]:
        told = {"warm": sorted(host.replicas.warm()), "blocks": host.replicas.report()}
        if host.outdated.file:
            told |= {"replaced": True, "leaving": host.outdated.leaving}
        return told

    worker.metrics["ioi"] = report
    worker.loop.add_callback(PeriodicCallback(beat, BEAT_MS).start)


def replica_memory(worker: Worker) -> int:
    """Bytes that the replicas of a worker may take together; 0 where it has no limit."""
    return int(FOR_REPLICAS * (worker.memory_manager.memory_limit or 0))


def memory_of(worker: Worker) -> Callable[[], float]:
    """Resident memory over the worker's limit; 0 where it has none."""
    process, limit = psutil.Process(), worker.memory_manager.memory_limit
    return (lambda: process.memory_info().rss / limit) if limit else lambda: 0.0


async def _relieve(worker: Worker, host: NodeHost) -> None:
    """An idle node that is too full for any start empties itself, and when that does not help makes way for a new process.

    The supervisor starts it again; leaked memory would otherwise keep the node out of work for good.
    """
    if not host.idle or host.memory() <= host.governor.max_memory:
        return
    # In a thread: an `unload` may take its time, and this loop answers for the whole worker.
    while await asyncio.to_thread(host.replicas.free_memory):
        continue
    trim()
    if host.idle and host.memory() > host.governor.max_memory:
        log.warning("memory is full with nothing running: the worker ends and is started anew")
        await worker.close(reason="ioi-memory")
