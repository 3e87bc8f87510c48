"""A node whose machine is crowded offers fewer slots in its cluster, and all of them again later; a run hears of what it gives
up. A real scheduler and worker."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from distributed import Client, Scheduler, Worker

from ioi_dagster.adapters.dask import node as node_module
from ioi_dagster.adapters.dask.cluster_watch import BEAT_OP
from ioi_dagster.adapters.dask.node import NodeHost, shed_topic
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.adapters.dask.scheduler_preload import ClusterPlugin
from ioi_dagster.clock import ManualClock
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.domain import ClusterAddress, DomainConfig, DomainHome
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.liveness import BEAT_S
from ioi_dagster.governors.load import MachineSeen
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.negotiation import OWN_STEP, Lease
from ioi_dagster.model.start import StartAnswer, StartRequest
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


at_work, heard = threading.Event(), list[str]()


def goes_on_until_it_is_heard(_: bytes) -> bytes:
    """Code that does not stop before its run has heard that it is given up."""
    at_work.set()
    try:
        while True:
            threading.Event().wait(0.01)
    finally:
        for _ in range(3_000):
            if heard:
                break
            threading.Event().wait(0.001)


def test_a_run_hears_that_its_step_is_given_up_before_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work.clear()
    heard.clear()
    clock = ManualClock()
    governor = NodeGovernor("n", "c", frozenset({OWN_STEP}), governed=False)
    runner = f"{__name__}:{goes_on_until_it_is_heard.__name__}"
    host = NodeHost("n", governor, ReplicaHost([], "n", clock), lambda _: None, clock, runner)
    monkeypatch.setattr(node_module, "_host", host)
    lease = Lease("l", "r", "s", 1, 0, OWN_STEP, "c", "d", "n", 1)

    async def played() -> StartAnswer:
        async with (
            Scheduler(dashboard=False, dashboard_address=None, port=0) as scheduler,
            Worker(scheduler.address, nthreads=1, dashboard=False),
            Client(scheduler.address, asynchronous=True, set_as_default=False) as client,
        ):
            client.subscribe_topic(shed_topic(lease.run_key), lambda event: heard.append(event[1]))
            request = msgspec.msgpack.encode(StartRequest("step", lease, None, OWN_STEP, b""))
            answer = client.submit(node_module.start, request, key=lease.key)
            await until(at_work.is_set)
            for _ in range(20):
                clock.advance(1.0)
                await asyncio.to_thread(host.seen, MachineSeen(0.0, 0.99))
            return from_msgpack(await answer, StartAnswer)

    answer = asyncio.run(played())
    assert (answer.cause, heard) == (Cause.SHED, [lease.key])
