"""More runs ask one cluster governor than anybody could serve: what it keeps of them is bounded, and others are answered."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from ioi_dagster.adapters.link.caller import ClusterLine
from ioi_dagster.adapters.link.frames import HELLO, OK, VERSION, Frames, Hello, address_of, pack
from ioi_dagster.governors.parked import MAX_ASKED, MAX_PARKED
from ioi_dagster.local.home import PROJECT
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Announce, AskGroup, Award, Awarded, Bid, LeaseRequest, ReleaseRequest

pytestmark = [pytest.mark.integration]

MOST_BYTES = 72 * 2**20
"""What the process of the governor may grow by, whatever is asked: 3.6 KB for each of 20,000 runs that are remembered, half of
which wait. Half of that was measured, for 22,000 asks and for 100,000."""
AT_ONCE = 500


def asks(first: int, count: int) -> bytes:
    """So many announcements, each of another run, that would all wait for a minute."""
    found = bytearray()
    for number in range(first, first + count):
        announce = Announce(
            f"run-{number}", 1, "library", (AskGroup("echo", DataClass.PUBLIC, 1, f"tenant-{number % 50}"),), 1.0, 60.0
        )
        found += pack(number + 1, "announce", msgspec.json.encode(announce))
    return bytes(found)


class Flood:
    """On a line of its own: it sends as fast as it is read, and reads what is answered."""

    def __init__(self) -> None:
        self.answered = 0
        self.words: Counter[str] = Counter()
        self._frames = Frames()

    async def open(self, address: str) -> None:
        where = address_of(address)
        assert isinstance(where, str)
        self._reader, self._writer = await asyncio.open_unix_connection(where)
        self._writer.write(pack(0, HELLO, msgspec.json.encode(Hello(VERSION, "own"))))
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while data := await self._reader.read(2**18):
            for _, word, _ in self._frames.feed(data):
                self.words[word] += 1

    async def send(self, first: int, count: int) -> None:
        for at in range(first, first + count, AT_ONCE):
            self._writer.write(asks(at, min(AT_ONCE, first + count - at)))
            await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        await self._reading


@pytest.fixture
def governor(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    address = f"unix:{tmp_path}/g.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.flooded_door", address],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield address, psutil.Process(process.pid)
    process.communicate("", timeout=30)


def flood(governor: tuple[str, psutil.Process], count: int) -> None:
    address, process = governor

    async def played() -> None:
        line, one = ClusterLine("lab-c", address, "own"), Flood()
        # The one slot is taken, so that nothing that is asked for is there.
        award = Award("lab-c", "held", 1, "library", (LeaseRequest("held", "s", 1, "echo", DataClass.PUBLIC),))
        (lease,) = (await line.ask("award", award, Awarded, 10.0)).leases
        before = process.memory_info().rss
        await one.open(address)
        sending = asyncio.create_task(one.send(0, count))
        # While it goes on others are answered: by what is counted there, before the flood is over.
        answered = 0
        while not sending.done():
            mine = Announce(f"mine-{answered}", 1, "lab", (AskGroup("echo", DataClass.PUBLIC, 1, "mine"),), 1.0)
            bid = await line.ask("announce", mine, Bid, 30.0)
            assert bid.points == ()
            answered += 1
        await sending
        assert answered >= 10, "others had to wait for the whole flood"
        status = await line.ask("status", None, dict, 30.0)
        while sum(its["rounds"] for its in status["asked"].values()) < count + answered:
            status = await line.ask("status", None, dict, 30.0)
        assert status["parked"] <= MAX_PARKED
        assert process.memory_info().rss - before < MOST_BYTES
        # Whoever is beyond the bound was answered at once, and nobody with an error.
        while one.words[OK] < count - MAX_PARKED:
            await asyncio.sleep(0.01)
        assert one.words.keys() <= {HELLO, OK}
        # What is free goes to somebody who waits, and when the flood hangs up nothing of it is left.
        await line.ask("release", ReleaseRequest("held", (lease.id,)), dict, 30.0)
        await one.close()
        while status["parked"]:
            status = await line.ask("status", None, dict, 30.0)
        line.close()

    asyncio.run(played())


@pytest.mark.timeout(120)
def test_a_flood_waits_in_bounded_memory_and_others_are_answered_meanwhile(governor):
    flood(governor, MAX_ASKED + 2_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_do_too(governor):
    flood(governor, 100_000)
