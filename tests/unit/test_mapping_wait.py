"""A step that waits for the items of its map, on a clock that moves only while it waits."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest

from ioi_dagster.adapters.dask import mapping
from ioi_dagster.adapters.dask.mapping import Answer
from ioi_dagster.clock import ManualClock
from ioi_dagster.compound.attempt import Attempt
from ioi_dagster.errors import RetryableError
from ioi_dagster.host import event_groups, run_outputs

POLLED_S = 1.0


class Away(queue.Queue[list[Answer]]):
    """The run process is away for `seconds`, then it says that chunk 0 is done."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds

    def get(self, block: bool = True, timeout: float | None = None) -> list[Answer]:
        self._clock.advance(POLLED_S)
        if self._clock.monotonic() <= self._seconds:
            raise queue.Empty
        return [(0, "a", None)]


class Deaf:
    def log_event(self, topic: str, message: Any) -> None: ...


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[int]]:
    """Waits for one chunk of a run process that is away for so many seconds; returns the chunks that were answered."""
    clock = ManualClock()
    monkeypatch.setattr(mapping, "time", clock)

    def waits(seconds: float) -> list[int]:
        taken: list[int] = []

        def take(chunk: int, *_: Any) -> bool:
            taken.append(chunk)
            return True

        request = {"map": "m", "chunks": [1]}
        mapping._collect(Deaf(), Attempt(), request, Away(clock, seconds), take)  # pyright: ignore[reportArgumentType]
        return taken

    return waits


def test_a_run_process_that_waits_for_its_log_and_its_outputs_is_waited_for(waits) -> None:
    assert waits(event_groups.PATIENCE_S + run_outputs.PATIENCE_S + POLLED_S) == [0]


def test_one_that_is_gone_is_not(waits) -> None:
    with pytest.raises(RetryableError, match="is it still there"):
        waits(mapping.PATIENCE_S + 2 * POLLED_S)
