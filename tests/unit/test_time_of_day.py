"""What Dask sends when the clock of its machine is set."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from distributed.batched import BatchedSend
from distributed.metrics import time

from ioi_dagster.adapters.dask.periodic import TimeOfDay

HOUR = 3_600


class Comm:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.came = asyncio.Event()

    def closed(self) -> bool:
        return False

    def write(self, messages: list[Any], **_: Any) -> Any:
        async def written() -> int:
            self.sent += messages
            self.came.set()
            return 1

        return written()


@pytest.mark.parametrize("name", ["batched_stream", "scheduler_comm", "stream_comms", "client_comms"])
def test_what_was_sent_right_before_the_clock_was_set_back_leaves(name: str) -> None:
    async def sent() -> list[Any]:
        stream, comm = BatchedSend(interval="10ms"), Comm()
        stream.start(cast(Any, comm))
        server: Any = SimpleNamespace(**{name: stream if name[-1] == "m" else {"there": stream}})
        clock = TimeOfDay(server)
        stream.send("first")
        await asyncio.wait_for(comm.came.wait(), 10)
        comm.came.clear()
        stream.next_deadline = time() + HOUR  # as it is when the clock is set back by an hour
        stream.send("second")
        clock._offset += HOUR
        clock.look()
        await asyncio.wait_for(comm.came.wait(), 10)
        stream.please_stop = True
        stream.waker.set()
        return comm.sent

    assert asyncio.run(sent()) == ["first", "second"]
