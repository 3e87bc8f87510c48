"""A step whose run is gone is stopped when its lease has run out, and then its slot is free: a real scheduler and worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from distributed import Client, Scheduler, Worker

from ioi_dagster.adapters.dask import node, scheduler_preload
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.adapters.dask.scheduler_preload import ClusterPlugin
from ioi_dagster.clock import SystemClock
from ioi_dagster.governors.cluster import ClusterGovernor
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Award, LeaseRequest
from ioi_dagster.model.start import StartRequest
from tests.integration.test_crowded_machine import beat, until, with_one_node

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]
TTL_S = 1.0
begun, may_end = threading.Event(), threading.Event()
ended: list[tuple[str, int]] = []
"""How steps ended, and how many slots were free then."""
free = {"slots": lambda: 0}


def runs_on(payload: bytes) -> bytes:
    """A step of an hour, which takes a moment to stop."""
    begun.set()
    try:
        while not may_end.is_set():
            time.sleep(0.01)
    except BaseException as error:
        time.sleep(0.3)
        ended.append((type(error).__name__, free["slots"]()))
        raise
    return b""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("IOI_STEP_RUNNER", f"{__name__}:runs_on")
    monkeypatch.setattr(scheduler_preload, "ClusterGovernor", partial(ClusterGovernor, ttl_s=TTL_S))
    clock = SystemClock()
    governor = NodeGovernor("lab-1", "lab-c", frozenset({OWN_STEP}), governed=False)
    its = ReplicaHost([], "lab-1", clock)
    host = NodeHost("lab-1", governor, its, lambda _: None, clock, f"{__name__}:runs_on")
    monkeypatch.setattr(node, "_host", host)
    begun.clear(), may_end.clear(), ended.clear()
    yield
    may_end.set()


def test_a_step_of_a_run_that_is_gone_gives_its_slot_back(tmp_path: Path, fresh: None) -> None:
    home = with_one_node(tmp_path)

    async def played() -> None:
        async with Scheduler(dashboard=False, dashboard_address=None, port=0) as scheduler:
            plugin = ClusterPlugin(scheduler, home, "lab-c")
            scheduler.add_plugin(plugin)
            await plugin.start(scheduler)
            has = {"node:lab-1": 4}
            async with Worker(scheduler.address, name="lab-1", nthreads=4, resources=has, dashboard=False) as worker:
                beats = asyncio.create_task(beat(worker))
                free["slots"] = lambda: sum(one["free"] for one in plugin.governor.snapshot().nodes.values())
                await until(lambda: free["slots"]() == 4)
                # What may run once only is stopped too: nobody hears how it ends.
                asked = LeaseRequest("run", "step", 1, OWN_STEP, DataClass.INTERNAL, preemptible=False)
                (lease,) = plugin.request(Award("lab-c", "run", 1, "lab", (asked,))).leases
                start = msgspec.msgpack.encode(StartRequest("step", lease, None, OWN_STEP, b""))
                async with Client(scheduler.address, asynchronous=True) as client:
                    future = client.submit(node.start, start, key=lease.key, resources={"node:lab-1": 1}, pure=False)
                    await until(begun.is_set)
                    del future
                await until(lambda: free["slots"]() == 4)
                assert ended == [("StepRevokedError", 3)]
                plugin.governor.validate()
                beats.cancel()

    asyncio.run(played())
