"""The table of calls: what is kept of those that have ended, how much of it, and what looking at it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ioi_dagster.adapters.http import calls
from ioi_dagster.adapters.http.calls import KEPT_S, REJOIN_S, Call, Calls
from ioi_dagster.clock import ManualClock
from ioi_dagster.model.block import Begun


async def answers(data: bytes) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
    yield data


async def ended(table: Calls, names: range, data: bytes = b"done") -> None:
    for name in names:
        await table.begin((str(name),), "invoke", answers(data)).result()


def kept(table: Calls, names: range) -> list[int]:
    return [name for name in names if table.get((str(name),)) is not None]


def test_looking_for_a_call_looks_at_no_other_however_many_are_kept(monkeypatch):
    looked_at: set[int] = set()

    def note(call: Call, name: str) -> Any:
        looked_at.add(id(call))
        return object.__getattribute__(call, name)

    async def others(many: int) -> int:
        table = Calls(ManualClock().monotonic)
        await ended(table, range(many))
        its = table.get(("0",))
        looked_at.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Call, "__getattribute__", note)
            assert table.get(("0",)) is its
        return len(looked_at - {id(its)})

    assert [asyncio.run(others(many)) for many in (20, 2_000)] == [0, 0]


def test_a_call_that_has_ended_is_answered_again_for_a_while_and_as_long_as_it_is_read():
    async def play() -> None:
        clock = ManualClock()
        table = Calls(clock.monotonic)
        await ended(table, range(2))
        clock.advance(KEPT_S / 2)
        await ended(table, range(2, 3))
        its = table.get(("0",))
        assert its is not None
        with its.reading():
            clock.advance(KEPT_S / 2)
            assert kept(table, range(3)) == [0, 2]
            assert await its.result() == b"done"
        clock.advance(REJOIN_S)
        assert kept(table, range(3)) == [2]
        clock.advance(KEPT_S)
        assert kept(table, range(3)) == []

    asyncio.run(play())


@pytest.mark.parametrize(("limit", "value"), [("KEPT", 10 * 100), ("KEPT_CALLS", 10)])
def test_of_more_bytes_or_calls_than_are_kept_the_oldest_go_again_and_again(monkeypatch, limit, value):
    monkeypatch.setattr(calls, limit, value)

    async def play() -> None:
        clock = ManualClock()
        table = Calls(clock.monotonic)
        for first in (0, 100):
            await ended(table, range(first, first + 50), b"x" * 100)
            assert kept(table, range(200)) == list(range(first + 40, first + 50))
            clock.advance(KEPT_S)
            assert kept(table, range(200)) == []

    asyncio.run(play())


def test_who_is_reading_is_not_forgotten_for_room(monkeypatch):
    monkeypatch.setattr(calls, "KEPT_CALLS", 3)

    async def play() -> None:
        table = Calls(ManualClock().monotonic)
        await ended(table, range(1))
        its = table.get(("0",))
        assert its is not None
        with its.reading():
            await ended(table, range(1, 10))
            assert kept(table, range(10)) == [0, 8, 9]
        await ended(table, range(10, 11))
        assert kept(table, range(11)) == [8, 9, 10]

    asyncio.run(play())
