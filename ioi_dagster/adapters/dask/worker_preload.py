"""`dask worker --preload`: puts a node governor and warm replicas into a worker.

Environment: `IOI_DOMAIN_HOME` (absent: alone, ungoverned), `IOI_CLUSTER`, `IOI_NODE`, `IOI_STEP_RUNNER`,
`IOI_MEMORY_LIMIT` (bytes; absent: none).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
from distributed import Worker
from tornado.ioloop import PeriodicCallback

from ioi_dagster.adapters.dask.forks import guard_forks, ports_of
from ioi_dagster.adapters.dask.memory import trim, watch_memory
from ioi_dagster.adapters.dask.node import NodeHost, install
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import DomainHome
from ioi_dagster.governors.cluster import EVERYTHING
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartRequest
from ioi_dagster.policy.permits import check_step_permit, from_plain
from ioi_dagster.signing import digest_bytes

log = logging.getLogger("ioi.node")
RELIEVE_MS = 1_000


def dask_setup(worker: Worker) -> None:
    """Called by Dask when the worker starts."""
    root = os.environ.get("IOI_DOMAIN_HOME")
    home = DomainHome(Path(root)) if root else None
    runner = os.environ.get("IOI_STEP_RUNNER", "")
    node = os.environ.get("IOI_NODE") or str(worker.name)
    cluster = os.environ.get("IOI_CLUSTER", "alone")
    clock = SystemClock()
    blocks = read_blocks(home)
    offers = frozenset(block.capability for block in blocks) | ({OWN_STEP} if runner else frozenset())
    host = NodeHost(
        node=node,
        governor=NodeGovernor(node, cluster, EVERYTHING if home is None else offers, governed=home is not None),
        replicas=ReplicaHost(blocks, node, clock),
        check_permit=_permit_check(home) if home is not None else lambda request: None,
        clock=clock,
        step_runner=runner,
        memory=_memory_of(worker),
    )
    install(host)
    guard_forks(lambda: ports_of(worker))
    limit = int(os.environ.get("IOI_MEMORY_LIMIT", "0"))
    if limit:
        watch_memory(host.running, limit)
    beat = PeriodicCallback(lambda: _relieve(worker, host), RELIEVE_MS)
    worker.loop.add_callback(beat.start)

    async def report(_worker: Worker) -> dict[str, Any]:
        return {"warm": sorted(host.replicas.warm())}

    worker.metrics["ioi"] = report


def _memory_of(worker: Worker) -> Callable[[], float]:
    """Resident memory over the worker's limit; 0 where it has none."""
    process, limit = psutil.Process(), worker.memory_manager.memory_limit
    return (lambda: process.memory_info().rss / limit) if limit else lambda: 0.0


async def _relieve(worker: Worker, host: NodeHost) -> None:
    """An idle node that is too full for any start empties itself, and when that does not help makes way for a new process.

    The supervisor starts it again; leaked memory would otherwise keep the node out of work for good.
    """
    if not host.idle or host.memory() <= host.governor.max_memory:
        return
    while host.replicas.free_memory():
        continue
    trim()
    if host.idle and host.memory() > host.governor.max_memory:
        log.warning("memory is full with nothing running: the worker ends and is started anew")
        await worker.close(reason="ioi-memory")


def read_blocks(home: DomainHome | None) -> list[BlockSpec]:
    """The blocks that the domain offers, from its `blocks.json`."""
    if home is None:
        return []
    path = home.root / "blocks.json"
    return msgspec.json.decode(path.read_bytes(), type=list[BlockSpec]) if path.exists() else []


def _permit_check(home: DomainHome) -> Any:
    trusted = home.trusted()

    def check(request: StartRequest) -> StepPermit | Refusal | None:
        if request.permit is None:
            return None
        signed = from_plain(request.permit)
        if isinstance(signed, Refusal):
            return signed
        payload = digest_bytes(request.payload)
        return check_step_permit(
            signed, trusted, lease=request.lease, payload=payload, audience=home.name, now=SystemClock().wall()
        )

    return check
