"""Calls on a real scheduler whose gateway goes: without a word, as one that is killed, or after it has given them up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import LocalCluster

from ioi_dagster.adapters.dask import client as module
from ioi_dagster.adapters.dask.client import DaskRunner, connect
from ioi_dagster.adapters.dask.orphans import OrphanedCalls, key_of_call, lease_of_call
from ioi_dagster.errors import UnreachableError
from tests.conftest import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
LEASE = "library/r/s#1.1/0/2/0"


class Site:
    """A cluster of one node in this process, whose calls begin and end when a test says so. `stopped`: what was to be stopped."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.stopped: list[tuple[str, str]] = []


BEGUN, GO = threading.Event(), threading.Event()


def works(_request: bytes) -> bytes:
    """Stands for a node. Dask sends it by its name."""
    BEGUN.set()
    GO.wait(30)
    return b"answer"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    its = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "resources": {"node:n": 2}}
    cluster: Any = LocalCluster(**its, dashboard_address=None)  # pyright: ignore
    with cluster:
        site = Site(cluster.scheduler_address)
        orphans = OrphanedCalls(cluster.scheduler, lambda node, key: site.stopped.append((node, key)))
        cluster.loop.add_callback(cluster.scheduler.add_plugin, orphans)
        monkeypatch.setattr(module, "start_here", works)
        BEGUN.clear()
        GO.clear()
        try:
            yield site
        finally:
            GO.set()


async def begun() -> None:
    assert await asyncio.to_thread(BEGUN.wait, 30)


@pytest.mark.parametrize("call", ["invoke/n1", "invoke/stream/n1"])
def test_what_runs_for_a_gateway_that_is_gone_is_stopped_at_its_node(site, call):
    async def killed() -> None:
        runner = DaskRunner(site.address)
        asked = asyncio.ensure_future(runner.run(b"", LEASE, call, "n", 60.0))
        await begun()
        assert site.stopped == []
        runner._client.scheduler_comm.comm.abort()  # pyright: ignore
        with pytest.raises(UnreachableError):
            await asked
        await runner.close()

    asyncio.run(killed())
    eventually(lambda: site.stopped == [("n", LEASE)], 20, "the stop")


def test_what_has_ended_is_not_stopped(site):
    async def ended() -> bytes:
        GO.set()
        runner = DaskRunner(site.address)
        answer = await runner.run(b"", LEASE, "invoke/n1", "n", 60.0)
        await runner.close()
        return answer

    assert asyncio.run(ended()) == b"answer"
    assert site.stopped == []


def test_what_a_run_process_has_started_goes_on_for_the_next_one(site):
    async def gone() -> None:
        client = await connect(site.address)
        client.submit(works, b"", key=LEASE, resources={"node:n": 1}, pure=False)
        await begun()
        client.scheduler_comm.comm.abort()  # pyright: ignore
        await client.close(timeout=5)  # pyright: ignore

    asyncio.run(gone())

    async def call_after_it() -> None:
        """What the scheduler hears later is looked at later."""
        BEGUN.clear()
        runner = DaskRunner(site.address)
        asked = asyncio.ensure_future(runner.run(b"", "library/r/other/1/0", "invoke/n2", "n", 60.0))
        await begun()
        runner._client.scheduler_comm.comm.abort()  # pyright: ignore
        with pytest.raises(UnreachableError):
            await asked
        await runner.close()

    asyncio.run(call_after_it())
    eventually(lambda: site.stopped, 20, "the stop of the call")
    assert site.stopped == [("n", "library/r/other/1/0")]


@pytest.mark.parametrize(
    ("key", "lease"),
    [
        (key_of_call(LEASE, "invoke/n1"), LEASE),
        (key_of_call(LEASE, "invoke/stream/n1"), LEASE),
        (LEASE, ""),
        ("library/r/invoke/x/1/0", ""),
        ("library/r/s/invoke/1/0", ""),
        (key_of_call("library/r/s/invoke/x/1/0", "invoke/n1"), "library/r/s/invoke/x/1/0"),
        (f"{LEASE}/batch", ""),
        ("anything", ""),
    ],
)
def test_a_call_is_told_from_a_start_by_its_key(key, lease):
    assert lease_of_call(key) == lease
