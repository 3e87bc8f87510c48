"""A node whose machine is crowded offers fewer slots in its cluster, and all of them again later: a real scheduler and worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler, Worker

from ioi_dagster.adapters.dask.cluster_watch import BEAT_OP
from ioi_dagster.adapters.dask.scheduler_preload import ClusterPlugin
from ioi_dagster.domain import ClusterAddress, DomainConfig, DomainHome
from ioi_dagster.governors.liveness import BEAT_S
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec
from tests.realms import owned

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def beat(worker: Worker) -> None:
    """As the preload of a node does it."""
    while True:
        its = {"node": "lab-1", "life": worker.contact_address, "pid": os.getpid()}
        await getattr(worker.scheduler, BEAT_OP)(**its)
        await asyncio.sleep(BEAT_S)


def with_one_node(folder: Path) -> DomainHome:
    """Of a domain with the cluster `lab-c`, which has `lab-1` with four slots."""
    realm = owned(folder, "lab")
    spec = DomainSpec("lab", realm.spec.authority, (ClusterSpec("lab-c", (NodeSpec("lab-1", slots=4),)),))
    address = ClusterAddress("lab-c", "tcp://127.0.0.1:1", f"unix:{folder}/governor.sock")
    its = {"lab": spec.authority}, {"lab": spec.handles}
    realm.home.save_config(DomainConfig("n", "lab", spec, "https://127.0.0.1:1", (address,), {}, "", (), *its))
    return realm.home


def test_slots_and_admission_follow_what_a_node_says_of_its_machine(tmp_path: Path) -> None:
    home = with_one_node(tmp_path)
    told: dict[str, Any] = {}

    async def report(_worker: Worker) -> dict[str, Any]:
        return dict(told)

    async def played() -> None:
        async with Scheduler(dashboard=False, dashboard_address=None, port=0) as scheduler:
            plugin = ClusterPlugin(scheduler, home, "lab-c")
            scheduler.add_plugin(plugin)
            await plugin.start(scheduler)
            async with Worker(scheduler.address, name="lab-1", nthreads=4, dashboard=False) as worker:
                worker.metrics["ioi"] = report
                beats = asyncio.create_task(beat(worker))

                def node() -> dict[str, Any]:
                    return plugin.status().nodes.get("lab-1", {})

                await until(lambda: node().get("free") == 4)
                told.update(slots=2, crowded="others have 9 tasks", overloaded=False)
                await until(lambda: node()["free"] == 2)
                assert (node()["slots"], node()["crowded"]) == (2, "others have 9 tasks")
                told.update(slots=1, overloaded=True)
                await until(lambda: node()["free"] == 0)
                told.clear()
                await until(lambda: (node()["slots"], node()["free"]) == (4, 4))
                assert node()["crowded"] == ""
                plugin.governor.validate()
                beats.cancel()

    asyncio.run(played())
