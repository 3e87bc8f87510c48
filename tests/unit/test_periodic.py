"""What is done again and again goes on whatever becomes of the time of day, and of one call."""

from __future__ import annotations

import asyncio
import time

import pytest

from ioi_dagster.adapters.dask.periodic import Periodic


def calls(seconds: float, call, wanted: int) -> int:
    """How many calls came, once `wanted` did or ten seconds have passed."""
    count = 0

    async def main() -> None:
        enough = asyncio.Event()

        def counted():
            nonlocal count
            count += 1
            if count >= wanted:
                enough.set()
            return call()

        periodic = Periodic(counted, seconds)
        periodic.start()
        await asyncio.wait_for(enough.wait(), 10)
        periodic.stop()

    asyncio.run(main())
    return count


def test_a_clock_that_is_set_back_by_an_hour_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    real, moved = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + moved[0])

    def set_back() -> None:
        moved[0] -= 3_600

    assert calls(0.01, set_back, 5) >= 5


def test_a_call_that_fails_is_followed_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise ValueError("no")

    assert calls(0.01, fails, 3) >= 3
    assert "ValueError: no" in caplog.text


def test_calls_that_wait_do_not_overlap() -> None:
    under_way = 0

    async def slow() -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        await asyncio.sleep(0.02)
        under_way -= 1

    assert calls(0.001, slow, 5) >= 5
