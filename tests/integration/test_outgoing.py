"""Pieces on their way from a worker to the gateway that fetches them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from distributed import LocalCluster

from ioi_dagster.adapters.dask import client as module
from ioi_dagster.adapters.dask import outgoing
from ioi_dagster.adapters.dask.client import DaskRunner
from ioi_dagster.compound.pieces import WINDOW
from ioi_dagster.model.block import Begun, Made

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
BEGUN = Begun(Made("telling", "1"), 0)
FRAMES = [bytes([number]) * (WINDOW // 2) for number in range(6)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Its worker is a thread of this process, so what it calls can be replaced."""
    its = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "resources": {"node:n": 1}}
    cluster: Any = LocalCluster(**its, dashboard_address=None)  # pyright: ignore
    with cluster:
        yield cluster.scheduler_address


def tells(stream: bytes) -> bytes:
    """Stands for a node whose block gives `FRAMES`."""
    with outgoing.offered(stream.decode()) as pieces, ThreadPoolExecutor(1) as block:

        def give() -> None:
            pieces.begun = BEGUN
            for frame in FRAMES:
                pieces.give(frame)
            pieces.end()

        made = block.submit(give)
        pieces.wait()
        made.result()
    return b"answer"


def test_streams_that_give_nothing_yet_hold_no_thread():
    async def fetched() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(_NoThreads())
        names = [f"quiet-{number}" for number in range(100)]
        with ExitStack() as offers:
            made = [offers.enter_context(outgoing.offered(name)) for name in names]
            asked = [asyncio.ensure_future(outgoing.fetch(name, 0, 60.0, 1)) for name in names]
            await asyncio.sleep(0)
            assert not any(one.done() for one in asked)
            for pieces in made:
                pieces.give(b"x")
            return await asyncio.gather(*asked)

    assert asyncio.run(fetched()) == [(None, [b"x"])] * 100


class _NoThreads(ThreadPoolExecutor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a thread is asked for")


def test_of_two_who_fetch_the_same_none_gets_a_gap():
    async def fetched() -> list[Any]:
        with outgoing.offered("twice") as pieces:
            asked = [asyncio.ensure_future(outgoing.fetch("twice", 0, 60.0, 1)) for _ in range(2)]
            await asyncio.sleep(0)
            pieces.give(b"0")
            pieces.give(b"1")
            return await asyncio.gather(*asked, return_exceptions=True)

    first, second = asyncio.run(fetched())
    assert first == (None, [b"0"])
    assert isinstance(second, RuntimeError)


def test_who_reads_slowly_is_no_gateway_that_is_gone(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "start_here", tells)
    monkeypatch.setattr(outgoing, "PATIENCE_S", 1.0)
    monkeypatch.setattr(module, "READS_ON_S", 0.1)

    async def read() -> list[Any]:
        runner = DaskRunner(address)
        came = []
        async for pieces in runner.stream(b"slow", "slow", "k", "c", "n", 60.0):
            came.append(pieces)
            if len(came) == 2:
                await asyncio.sleep(2.0)  # its reader is what takes so long
        await runner.close()
        return came

    begun, *pieces, answer = asyncio.run(read())
    assert begun == BEGUN
    assert [frame for some in pieces for frame in some] == FRAMES
    assert answer == b"answer"
