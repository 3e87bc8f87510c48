"""A step that is stopped while it ends is over: it leaves nothing behind that would end its worker, or stop another step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from ioi_dagster.adapters.dask import running
from ioi_dagster.adapters.dask.running import Running, raise_if_stopped
from ioi_dagster.errors import RetryableError, StepStoppedError, StepTimeoutError


def in_another_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What would end its process as it does not stop."""
    ended: list[dict[str, int]] = []
    monkeypatch.setattr(Running, "_end", lambda _self, ran, _error: ended.append(ran))
    return ended


def test_a_step_that_is_stopped_while_it_ends_is_over(
    monkeypatch: pytest.MonkeyPatch, ended: list[dict[str, int]]
) -> None:
    steps = Running()
    cancel = running._Limit.cancel

    def stopped_here(limit: running._Limit) -> None:
        in_another_thread(lambda: steps.stop(["k"], StepStoppedError))
        cancel(limit)

    monkeypatch.setattr(running._Limit, "cancel", stopped_here)
    with pytest.raises(StepStoppedError), steps.step("k"):
        pass
    assert steps.only() is None
    assert steps.stop(["k"], StepStoppedError) == [], "nobody waits for its end"
    raise_if_stopped(True)


def test_a_step_that_is_stopped_while_it_begins_is_over(
    monkeypatch: pytest.MonkeyPatch, ended: list[dict[str, int]]
) -> None:
    steps = Running()
    make = running._Limit.__init__

    def stopped_here(limit: running._Limit, *arguments: Any) -> None:
        in_another_thread(lambda: steps.stop(["k"], StepTimeoutError))
        make(limit, *arguments)

    monkeypatch.setattr(running._Limit, "__init__", stopped_here)
    with pytest.raises((StepTimeoutError, RetryableError)), steps.step("k"):
        raise AssertionError("it was stopped before")
    assert steps.only() is None
    raise_if_stopped(True)


def test_a_step_that_was_taken_back_does_not_run(ended: list[dict[str, int]]) -> None:
    steps = Running()
    assert steps.take_back(["k"]) == ["k"]
    with pytest.raises(RetryableError), steps.step("k"):
        raise AssertionError("it was taken back")
    assert steps.only() is None


def test_it_is_told_that_a_steps_time_is_up(ended: list[dict[str, int]]) -> None:
    steps, told = Running(), threading.Event()

    def never_ends() -> None:
        with steps.step("k", 0.01, over=told.set):
            running.code_begins()
            while True:
                told.wait(0.01)

    with pytest.raises(StepTimeoutError):
        never_ends()
    assert told.is_set()
    assert steps.only() is None
