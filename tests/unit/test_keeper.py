"""A keeper starts again what ends, until that cannot be meant to run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from ioi_dagster.local.keeper import Keeper
from tests.conftest import eventually

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def keep() -> Iterator[Callable[[list[str]], Keeper]]:
    kept: list[Keeper] = []

    def keeper(command: list[str]) -> Keeper:
        kept.append(Keeper(["lab"], lambda _: subprocess.Popen(command)))
        kept[-1].open()
        return kept[-1]

    yield keeper
    for one in kept:
        one.close()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_killed_or_stands_still_is_replaced(keep, sent):
    keeper = keep(SLEEPS)
    before = keeper.pids()["lab"]
    os.kill(before, sent)
    eventually(lambda: keeper.pids()["lab"] != before, 30, "another")
    assert not psutil.pid_exists(before)
    assert psutil.pid_exists(keeper.pids()["lab"])
    assert keeper.dead() == []


def test_one_that_ends_again_and_again_is_given_up(keep):
    keeper = keep([sys.executable, "-c", "pass"])
    eventually(keeper.dead, 30, "the end of all tries")
    assert keeper.dead() == ["lab"]


def test_nothing_is_left_where_one_stands_still_as_all_end(keep):
    keeper = keep(SLEEPS)
    pid = keeper.pids()["lab"]
    os.kill(pid, signal.SIGSTOP)
    keeper.close()
    assert not psutil.pid_exists(pid)
