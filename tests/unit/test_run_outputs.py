"""Outputs that cannot be stored for a while."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from ioi_dagster.errors import FinalError
from ioi_dagster.host import run_outputs
from ioi_dagster.host.run_outputs import RunOutputs


class Disk:
    """Is full for so many writes, and forever where that is None."""

    def __init__(self, full_for: int | None) -> None:
        self.left, self.kept = full_for, dict[str, bytes]()

    def put(self, name: str, data: bytes) -> str:
        if self.left is None or self.left > 0:
            self.left = None if self.left is None else self.left - 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        self.kept[name] = data
        return name


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Disk], RunOutputs]:
    clock = Clock()

    def passes(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(run_outputs.time, "sleep", passes)
    made: Any = RunOutputs
    return lambda disk: made("r", disk, clock, lambda: None)


def test_what_had_to_wait_for_the_disk_is_told_once(outputs, caplog) -> None:
    its = outputs(Disk(10))
    assert its._put("a", b"data") == "a"
    assert its.waited() == [
        "Waited 2.0 s until what steps made could be stored: [Errno 28] No space left on device: 'a'"
    ]
    assert its._put("b", b"data") == "b"
    assert its.waited() == []
    assert [record.getMessage() for record in caplog.records] == [
        "what a step made cannot be stored: [Errno 28] No space left on device: 'a'; it is tried for 60 s"
    ]


def test_a_disk_that_stays_full_ends_the_run_with_the_reason(outputs) -> None:
    with pytest.raises(FinalError, match=r"for 60 s the outputs of this run could not be stored: .*No space left"):
        outputs(Disk(None))._put("a", b"data")
