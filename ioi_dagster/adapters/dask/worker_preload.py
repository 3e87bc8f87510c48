"""`dask worker --preload`: puts a node governor and warm replicas into a worker.

Environment: `IOI_DOMAIN_HOME` (absent: alone, ungoverned), `IOI_CLUSTER`, `IOI_NODE`, `IOI_STEP_RUNNER`,
`IOI_MEMORY_LIMIT` (bytes; absent: none).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec
from distributed import Worker

from ioi_dagster.adapters.dask.forks import guard_forks, ports_of
from ioi_dagster.adapters.dask.machine import Machine
from ioi_dagster.adapters.dask.memory import watch_memory
from ioi_dagster.adapters.dask.node import NodeHost, install, load_runner
from ioi_dagster.adapters.dask.node_beat import look_after, memory_of, replica_memory, stay_in_contact
from ioi_dagster.adapters.dask.profiling import can_freeze, stop_profile
from ioi_dagster.adapters.dask.project_code import project_code
from ioi_dagster.adapters.dask.replacing import Outdated, replaces_itself, turn_at
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.adapters.dask.run_scope import end_with
from ioi_dagster.adapters.dask.versions import own_versions
from ioi_dagster.adapters.files.blocks import read_blocks
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.cluster import EVERYTHING, LEASE_TTL_S
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartRequest
from ioi_dagster.policy.permits import check_step_permit, from_plain
from ioi_dagster.signing import digest_bytes

log = logging.getLogger("ioi.node")


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
        governor=NodeGovernor(
            node,
            cluster,
            EVERYTHING if home is None else offers,
            governed=home is not None,
            versions=own_versions(),
            contact_ttl_s=LEASE_TTL_S if home is not None else None,
        ),
        replicas=ReplicaHost(blocks, node, clock, replica_memory(worker)),
        check_permit=_permit_check(home) if home is not None else lambda request: None,
        clock=clock,
        step_runner=runner,
        memory=memory_of(worker),
        # Who starts workers this way starts them again.
        outdated=Outdated(node),
    )
    install(host)
    if home is not None and runner:
        # Before it joins: a step that was lost elsewhere is not to wait for it here.
        load_runner(runner)
    project_code.watch()
    replaces_itself(worker, host, turn_at(worker) if home is not None else None)
    guard_forks(lambda: ports_of(worker))
    if can_freeze():
        stop_profile(worker)
    limit = int(os.environ.get("IOI_MEMORY_LIMIT", "0"))
    if limit:
        watch_memory(host.running, limit, host.replicas.free_memory)
    look_after(
        worker,
        host,
        newer=NewerBlocks(home, blocks) if home is not None else list,
        machine=Machine(allotted=limit).look if home is not None else None,
    )
    if home is not None:
        stay_in_contact(worker, host)


async def dask_teardown(worker: Worker) -> None:
    """Called by Dask when the worker ends."""
    await end_with(worker)


class NewerBlocks:
    """What the domain's owner has written into `blocks.json` since the node last looked."""

    def __init__(self, home: DomainHome, known: list[BlockSpec]) -> None:
        self._home, self._known, self._seen = home, {block.capability: block for block in known}, _changed_at(home)

    def __call__(self) -> list[BlockSpec]:
        """New versions of blocks that were offered here before; a file that is being written, or is wrong, changes nothing."""
        changed_at = _changed_at(self._home)
        if changed_at == self._seen:
            return []
        self._seen = changed_at
        try:
            blocks = read_blocks(self._home)
        except (msgspec.MsgspecError, BadInputError, OSError) as error:
            log.warning("blocks.json is not taken: %s", error)
            return []
        newer = [block for block in blocks if self._known.get(block.capability) not in (None, block)]
        self._known |= {block.capability: block for block in newer}
        return newer


def _changed_at(home: DomainHome) -> int:
    path = home.root / "blocks.json"
    return path.stat().st_mtime_ns if path.exists() else 0


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
