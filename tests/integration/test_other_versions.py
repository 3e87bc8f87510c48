"""A Dask cluster of other versions is told at once which they are, also one whose scheduler a client cannot talk to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ioi_dagster.errors import FinalError, UnreachableError
from ioi_dagster.host.fleets import RUNNER, AddressFleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_SCHEDULER = """
import asyncio, sys
from distributed import Scheduler

stock = Scheduler.versions
package, version, identity = sys.argv[1:]

class Other(Scheduler):
    def __init__(self, **more):
        super().__init__(**more)
        self.handlers["versions"] = self.others
        if identity == "of another signature":
            self.handlers["identity"] = lambda: Scheduler.identity(self)

    def others(self, packages=None):
        told = stock(self, packages=packages)
        told["packages"][package] = version
        return told

async def main():
    async with Other(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        print(scheduler.address, flush=True)
        await scheduler.finished()

asyncio.run(main())
"""


@pytest.fixture
def scheduler() -> Iterator[Callable[..., str]]:
    processes: list[subprocess.Popen[str]] = []

    def start(package: str, version: str, identity: str = "") -> str:
        command = [sys.executable, "-W", "ignore", "-c", _SCHEDULER, package, version, identity]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        assert processes[-1].stdout is not None
        return processes[-1].stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_scheduler_of_an_older_dask_names_both_versions(scheduler: Callable[..., str]) -> None:
    """As distributed 2024.8 does: it does not know what a client of today asks it first."""
    address = scheduler("distributed", "2024.8.0", "of another signature")
    with pytest.raises(
        FinalError, match=r"distributed is 2024\.8\.0 there and .* here \(its scheduler\).* install the same"
    ):
        AddressFleet(address, RUNNER)


def test_a_scheduler_of_another_python_names_both_versions(scheduler: Callable[..., str]) -> None:
    with pytest.raises(FinalError, match=r"python is 3\.9\.1\.final\.0 there and .* here \(its scheduler\)"):
        AddressFleet(scheduler("python", "3.9.1.final.0"), RUNNER)


def test_where_nobody_answers_that_is_said() -> None:
    with pytest.raises(UnreachableError, match="no Dask scheduler answers"):
        AddressFleet("tcp://127.0.0.1:9", RUNNER)
