"""Runs that are interrupted, started twice or share a cluster: each gives back what it holds, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun
from distributed import LocalCluster

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.runs import job_of
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]

_CHILD = """
import sys
from pathlib import Path
from dagster import DagsterInstance
from ioi_dagster.host.private import execute_run
from ioi_dagster.host.runs import job_of
with DagsterInstance.get() as instance:
    run = instance.get_run_by_id(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    execute_run(job_of("tests.integration.bad_runs", sys.argv[2], Path.cwd()), run, instance, raise_on_error=False)
"""
POOL = "one_at_a_time"
MONITORED = (
    "run_launcher: {module: ioi_dagster.host.launcher, class: GovernedRunLauncher}\n"
    "run_monitoring: {enabled: true, max_resume_run_attempts: 3}\n"
)
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv("IOI_TEST_FOLDER", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "concurrency: {pools: {default_limit: 1}}\n"
        "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
        + getattr(request, "param", "")
    )
    with DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def start(instance: DagsterInstance, tmp_path: Path) -> Iterator[Start]:
    """A process for a run, which waits for a line before it begins; what it says of errors is in the file `errors`."""
    processes: list[subprocess.Popen[bytes]] = []
    errors = (tmp_path / "errors").open("ab")

    def start(run: DagsterRun) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "ignore", "-c", _CHILD, run.run_id, run.job_name]
        process = subprocess.Popen(
            command, cwd=PROJECT, env={**os.environ}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
    errors.close()


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def create(instance: DagsterInstance, job: str, **config: Any) -> DagsterRun:
    found = job_of("tests.integration.bad_runs", job, PROJECT)
    return instance.create_run_for_job(
        found.get_definition(),
        run_config={**config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        job_code_origin=found.get_python_origin(),
    )


def happened(folder: Path) -> Counter[str]:
    return Counter(path.name.split(".")[0] for path in folder.glob("*.*") if path.suffix[1:].isdigit())


def kinds(instance: DagsterInstance, run: DagsterRun) -> Counter[tuple[str, str]]:
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
    return Counter((e.event_type_value, e.step_key or "") for e in events if e is not None)


def status(instance: DagsterInstance, run: DagsterRun) -> str:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status.value


def commits(run: DagsterRun) -> dict[str, int]:
    ledger = Ledger(ledger_path())
    try:
        return {row.step: row.commits for row in ledger.steps(run.run_id)}
    finally:
        ledger.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_tears_down_and_gives_its_pool_slots_back(
    instance: DagsterInstance, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    run = create(instance, "endless", execution={"config": {"workers": 2}})
    process = start(run)
    go(process)
    eventually(lambda: happened(tmp_path)["began"], what="a step that holds a resource and a slot")
    assert instance.event_log_storage.get_concurrency_info(POOL).active_slot_count == 1
    process.send_signal(number)
    assert process.wait(60) == 0
    marks = happened(tmp_path)
    assert (marks["began"], marks["held"], marks["let-go"]) == (1, 1, 1)
    info = instance.event_log_storage.get_concurrency_info(POOL)
    assert (info.active_slot_count, info.pending_step_count, info.assigned_step_count) == (0, 0, 0)
    (failed,) = [step for kind, step in kinds(instance, run) if kind == "STEP_FAILURE"]
    assert failed in ("waits_for_ever", "too")
    assert status(instance, run) == "FAILURE"


@pytest.mark.parametrize("instance", [MONITORED], indirect=True)
def test_an_interrupted_run_that_goes_on_later_tears_down_and_has_not_failed(
    instance: DagsterInstance, start: Start, tmp_path: Path
) -> None:
    """Its steps end with the workers that it had started."""
    run = create(instance, "endless", execution={"config": {"workers": 2}})
    process = start(run)
    go(process)
    eventually(lambda: happened(tmp_path)["began"], what="a step that holds a resource and a slot")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    marks = happened(tmp_path)
    assert (marks["began"], marks["held"], marks["let-go"]) == (1, 1, 1)
    assert instance.event_log_storage.get_concurrency_info(POOL).active_slot_count == 0
    assert [step for kind, step in kinds(instance, run) if kind == "STEP_FAILURE"] == []
    assert status(instance, run) == "STARTED"


def test_a_step_that_returns_after_it_was_cancelled_is_not_committed(
    instance: DagsterInstance, start: Start, tmp_path: Path
) -> None:
    run = create(instance, "stubborn", execution={"config": {"workers": 1}})
    process = start(run)
    go(process)
    eventually(lambda: happened(tmp_path)["began"], what="the step")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    marks = happened(tmp_path)
    assert (marks["began"], marks["cancelled"], marks["came-after"]) == (1, 1, 0)
    told = kinds(instance, run)
    assert told["STEP_FAILURE", "returns_after_it_was_cancelled"] == 1
    assert not [step for kind, step in told if kind == "STEP_SUCCESS"]
    assert commits(run) == {"returns_after_it_was_cancelled": 0}


def test_a_run_that_ends_with_an_error_of_its_own_gives_its_pool_slots_back(
    instance: DagsterInstance, start: Start, tmp_path: Path
) -> None:
    run = create(instance, "endless", execution={"config": {"workers": 1}})
    process = start(run)
    go(process)
    eventually(lambda: happened(tmp_path)["began"], what="a step that holds a slot")
    ledger = ledger_path()
    ledger.rename(ledger.with_suffix(".gone"))
    for leftover in ledger.parent.glob("ledger.sqlite-*"):
        leftover.unlink()
    ledger.mkdir()
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == 1
    said = (tmp_path / "errors").read_text()
    assert f"the ledger {ledger} cannot be written: unable to open database file — free the disk" in said
    assert instance.event_log_storage.get_concurrency_info(POOL).active_slot_count == 0
    assert status(instance, run) == "STARTED", "it can be resumed"


def test_of_two_processes_started_for_one_run_at_once_one_does_the_work(
    instance: DagsterInstance, start: Start, tmp_path: Path
) -> None:
    steps = 12
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:  # pyright: ignore
        run = create(
            instance,
            "sharing",
            execution={"config": {"address": cluster.scheduler_address}},
            ops={"many": {"config": {"steps": steps}}},
        )
        both = [start(run), start(run)]
        for process in both:
            go(process)
        for process in both:
            process.wait(100)
    told = kinds(instance, run)
    wanted = {"many", "adds", *(f"takes_a_while[{number}]" for number in range(steps))}
    assert status(instance, run) == "SUCCESS"
    assert {step: told["STEP_SUCCESS", step] for step in wanted} == dict.fromkeys(wanted, 1)
    assert {step: told["STEP_START", step] for step in wanted} == dict.fromkeys(wanted, 1)
    assert commits(run) == dict.fromkeys(wanted, 1)
    assert told["PIPELINE_SUCCESS", ""] == 1
    assert told["PIPELINE_FAILURE", ""] == 0


def test_two_runs_at_once_on_one_cluster_both_end_well(instance: DagsterInstance, start: Start, tmp_path: Path) -> None:
    steps = 30
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:  # pyright: ignore
        runs = [
            create(
                instance,
                "sharing",
                execution={"config": {"address": cluster.scheduler_address}},
                ops={"many": {"config": {"steps": steps}}},
            )
            for _ in range(2)
        ]
        both = [start(run) for run in runs]
        for process in both:
            go(process)
        assert [process.wait(100) for process in both] == [0, 0]
    marks = happened(tmp_path)
    for run in runs:
        told = kinds(instance, run)
        assert status(instance, run) == "SUCCESS"
        for number in range(steps):
            assert told["STEP_SUCCESS", f"takes_a_while[{number}]"] == 1
            assert marks[f"{run.run_id}-{number}"] == 1
