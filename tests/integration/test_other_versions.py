"""A Dask cluster of other versions is told at once which they are, also one whose scheduler a client cannot talk to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterInstance, execute_job
from distributed import LocalCluster

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.errors import FinalError, UnreachableError
from ioi_dagster.host.alone_fleets import RUNNER, AddressFleet
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.runs import job_of
from ioi_dagster.local.home import PROJECT
from ioi_dagster.model.story import Chapter
from tests.conftest import dagster_home, eventually

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
_WORKER = """
import asyncio, sys
from ioi_dagster.adapters.dask import versions

ours = versions.own_versions()
versions.own_versions = lambda: {**ours, "dagster": "1.0.0"}
from distributed import Worker

async def main():
    async with Worker(sys.argv[1], nthreads=1, name="other") as worker:
        await worker.finished()

asyncio.run(main())
"""


@pytest.fixture
def instance(tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with DagsterInstance.get() as instance:
        yield instance


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


def test_a_run_on_such_a_cluster_fails_and_its_log_says_what_to_do(
    scheduler: Callable[..., str], instance: DagsterInstance
) -> None:
    address = scheduler("python", "3.9.1.final.0")
    config = {"execution": {"config": {"address": address}}}
    job = job_of("tests.integration.versions_defs", "joined", PROJECT)
    result = execute_job(job, instance, run_config=config, raise_on_error=False)
    assert not result.success
    (failed,) = instance.get_records_for_run(result.run_id, of_type=DagsterEventType.RUN_FAILURE).records
    event = failed.event_log_entry.dagster_event
    assert event is not None
    ours = ".".join(map(str, sys.version_info))
    assert (
        f"the Dask cluster at {address} cannot take steps of this run: python is 3.9.1.final.0 there and {ours} here "
        "(its scheduler) — install the same versions on both sides, or leave out `address`"
    ) in str(event.job_failure_data.error)
    assert [entry for entry in instance.all_logs(result.run_id) if entry.step_key] == []


def test_a_worker_of_another_dagster_that_joins_later_gets_no_step(instance: DagsterInstance, tmp_path: Path) -> None:
    job = job_of("tests.integration.versions_defs", "joined", PROJECT)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:  # pyright: ignore
        AddressFleet(cluster.scheduler_address, RUNNER).close()
        other = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _WORKER, cluster.scheduler_address], cwd=PROJECT
        )
        try:
            workers = cluster.scheduler.workers
            eventually(
                lambda: any(name.startswith("node:other") for one in list(workers.values()) for name in one.resources),
                what="the other worker, a node by now",
            )
            config = {"execution": {"config": {"address": cluster.scheduler_address}}}
            result = execute_job(job, instance, run_config=config, raise_on_error=False)
        finally:
            other.kill()
            other.wait()
    assert result.success
    ledger = Ledger(ledger_path())
    try:
        refused = [entry.text for entry in ledger.story(result.run_id) if entry.chapter is Chapter.REFUSED]
        nodes = {row.node.partition("-")[0] for row in ledger.steps(result.run_id)}
    finally:
        ledger.close()
    assert all("it cannot take steps of this run: dagster is 1.0.0 there and" in text for text in refused)
    assert refused
    assert nodes == {"0"}
