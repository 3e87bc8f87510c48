"""What a node does beside its steps.

Once a second it takes newer blocks, lets go of what runs left behind, and makes room. Twice a second the node of a domain says to
its cluster governor that it lives, and hears whether it is still counted on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import psutil
from distributed import Worker

from ioi_dagster.adapters.dask.cluster_watch import BEAT_OP
from ioi_dagster.adapters.dask.memory import trim
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.periodic import Periodic, TimeOfDay
from ioi_dagster.adapters.dask.run_scope import scope
from ioi_dagster.governors.liveness import BEAT_S
from ioi_dagster.governors.load import MachineSeen
from ioi_dagster.model.capability import BlockSpec

log = logging.getLogger("ioi.node")
LOOK_AFTER_S = 1.0
FOR_REPLICAS = 0.8
"""The part of a worker's memory that replicas may take together."""
ACK_S = 2.0
GIVEN_UP_STATUS = 72


def look_after(
    worker: Worker,
    host: NodeHost,
    newer: Callable[[], Sequence[BlockSpec]] = list,
    machine: Callable[[], MachineSeen] | None = None,
) -> None:
    """Start the beat of a node. `newer` gives the blocks that its owner changed since it was last asked, `machine` what others do
    on its machine (None: that is nobody's business)."""

    clock = TimeOfDay(worker)

    async def beat() -> None:
        clock.look()
        for block in newer():
            host.replicas.offer(block)
        if machine is not None:
            await asyncio.to_thread(host.seen, machine())
        if scope.idle():
            await asyncio.to_thread(scope.end_idle)
        await _relieve(worker, host)

    async def report(_worker: Worker) -> dict[str, Any]:
        told = {"warm": sorted(host.replicas.warm()), "blocks": host.replicas.report()}
        if host.governor.load.level:
            load = host.governor.load
            told |= {"slots": load.slots(worker.state.nthreads), "crowded": load.why, "overloaded": load.over}
        if host.outdated.closed:
            told |= {"replaced": True, "leaving": host.outdated.leaving}
        return told

    worker.metrics["ioi"] = report
    worker.loop.add_callback(Periodic(beat, LOOK_AFTER_S).start)


def stay_in_contact(worker: Worker, host: NodeHost) -> None:
    """Start to beat. What the answers say goes to the node governor, which fences the node off when they stay away."""
    heard = Contact(worker, host)
    worker.loop.add_callback(Periodic(heard.beat, BEAT_S).start)


class Contact:
    """A node's contact to its cluster governor."""

    def __init__(self, worker: Worker, host: NodeHost) -> None:
        self._worker, self._host = worker, host

    async def beat(self) -> None:
        """Says that it lives, and waits for the answer. One beat is on its way at a time."""
        sent = self._host.clock.monotonic()
        try:
            question = getattr(self._worker.scheduler, BEAT_OP)(
                node=str(self._worker.name), life=self._worker.contact_address, pid=os.getpid()
            )
            told = await asyncio.wait_for(question, ACK_S)
        except Exception:  # whatever became of it, nobody is known to have heard it
            self._host.fence()
            return
        if self._worker.status.name != "running":
            return
        if not told.get("known"):
            give_up(self._host.node)
        # Heard no later than it was answered and no earlier than it was sent.
        self._host.in_contact(sent)
        self._host.fence()


def give_up(node: str) -> None:
    """End this process: its cluster has given it up, and runs elsewhere what ran here. Whoever keeps it starts another."""
    sys.stderr.write(f"{node} was given up by its cluster: the process ends and is started anew\n")
    sys.stderr.flush()
    os._exit(GIVEN_UP_STATUS)


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
