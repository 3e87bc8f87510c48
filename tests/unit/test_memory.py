"""A step that takes more than its node may hold is stopped; what nobody uses goes first."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil
import pytest

from ioi_dagster.adapters.dask.memory import watch_memory
from ioi_dagster.adapters.dask.running import Running
from ioi_dagster.errors import StepMemoryError

MIB = 2**20


class Pile:
    """What nobody uses: parts of `mib` MiB each, really held."""

    def __init__(self, parts: int, mib: int) -> None:
        self.parts = [bytearray(b"x") * (mib * MIB) for _ in range(parts)]

    def unload(self) -> bool:
        return bool(self.parts) and self.parts.pop() is not None


def held() -> int:
    return psutil.Process().memory_info().rss


def grows(limit: int, pile: Pile, until: Callable[[], bool]) -> None:
    """A step that takes 4 MiB after the other, 400 at most."""
    running, mine = Running(), []
    watch_memory(running, limit, pile.unload)
    with running.step("k"):
        while not until() and len(mine) < 400:
            mine.append(bytearray(b"x") * (4 * MIB))
            threading.Event().wait(0.02)


def test_what_nobody_uses_goes_before_the_step_is_stopped():
    pile = Pile(parts=2, mib=100)
    grows(held() + 20 * MIB, pile, until=lambda: len(pile.parts) == 1)
    assert len(pile.parts) == 1  # no more than is needed


def test_a_step_that_holds_too_much_where_nothing_is_left_to_unload_is_stopped():
    pile = Pile(parts=1, mib=40)
    with pytest.raises(StepMemoryError):
        grows(held(), pile, until=lambda: False)
    assert pile.parts == []
