"""`ioi gc` over real ledgers, stores and Dagster instances: what lost goes, what was committed or may go on stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, execute_job, job, op
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ioi_dagster import tidying_schedule
from ioi_dagster.adapters.sql.ledger import Commit, Ledger, Started
from ioi_dagster.host.exchange import handle_text
from ioi_dagster.host.io_manager import ObjectStore, default_folder, ledger_path, run_name
from ioi_dagster.host.run_process import log_of
from ioi_dagster.host.runs import job_of
from ioi_dagster.host.tidying import sweep
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

YAML = "telemetry: {enabled: false}\n"
HANDLE = ("s", "result", "")


@op
def nothing() -> None: ...


@job
def empty() -> None:
    nothing()


@pytest.fixture
def instance(tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    (tmp_path / "dagster.yaml").write_text(YAML)
    with DagsterInstance.get() as instance:
        yield instance


def leave(instance: DagsterInstance, status: DagsterRunStatus, at: float = 1.0) -> str:
    """A run with a committed output, one of an attempt that lost, and a log; its process ended at `at`."""
    run = instance.create_run_for_job(empty, status=status).run_id
    objects, ledger = ObjectStore(default_folder()), Ledger(ledger_path())
    epoch = ledger.take_over(run, "empty", at)
    won = objects.put(run_name(run, HANDLE, "won"), b"won")
    objects.put(run_name(run, HANDLE, "lost"), b"lost")
    objects.link(won, run_name(run, HANDLE))
    ledger.write(run, epoch, [Started("s", 1, "d", "c", "n", "x", "public")], [], [])
    ledger.write(run, epoch, [], [Commit("s", 1, "won", "n", at, at, {handle_text(HANDLE): won}, b"")], [])
    ledger.end(run, epoch, at)
    ledger.close()
    log = log_of(Path(instance.root_directory), run)
    log.parent.mkdir(exist_ok=True)
    log.write_text("words")
    os.utime(log, (at, at))
    return run


def left(instance: DagsterInstance, run: str) -> dict[str, Any]:
    objects, ledger = ObjectStore(default_folder()), Ledger(ledger_path())
    try:
        return {
            "rows": len(ledger.steps(run)),
            "committed": objects.get(run_name(run, HANDLE)),
            "lost": objects.get(run_name(run, HANDLE, "lost")),
            "log": log_of(Path(instance.root_directory), run).exists(),
        }
    finally:
        ledger.close()


ALL = {"rows": 1, "committed": b"won", "lost": b"lost", "log": True}
TIDY = {"rows": 0, "committed": b"won", "lost": None, "log": False}


def test_what_is_over_is_tidied_and_its_outputs_stay(instance: DagsterInstance) -> None:
    over, goes_on = leave(instance, DagsterRunStatus.FAILURE), leave(instance, DagsterRunStatus.STARTED)
    assert sweep(instance, 60.0, dry_run=True).runs == [over]
    assert left(instance, over) == left(instance, goes_on) == ALL
    swept = sweep(instance, 60.0)
    assert (swept.runs, swept.values, swept.logs) == ([over], 1, 1), "the value of the attempt that lost"
    assert (left(instance, over), left(instance, goes_on)) == (TIDY, ALL)
    assert sweep(instance, 60.0).runs == []


def test_what_a_run_that_goes_on_was_made_from_stays(instance: DagsterInstance) -> None:
    parent = leave(instance, DagsterRunStatus.FAILURE)
    child = instance.create_run_for_job(
        empty, status=DagsterRunStatus.NOT_STARTED, parent_run_id=parent, root_run_id=parent
    )
    assert sweep(instance, 60.0).runs == []
    instance.delete_run(child.run_id)
    assert sweep(instance, 60.0).runs == [parent]


statuses = st.sampled_from([status for status in DagsterRunStatus if status is not DagsterRunStatus.QUEUED])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=st.lists(st.tuples(statuses, st.integers(0, 100)), max_size=3), age=st.integers(0, 100))
def test_no_run_that_may_go_on_loses_anything(
    made: list[tuple[DagsterRunStatus, int]], age: int, instance: DagsterInstance
) -> None:
    now = 2e9
    runs = [(leave(instance, status, now - its_age), status, its_age) for status, its_age in made]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ioi_dagster.host.tidying.time.time", lambda: now)
        sweep(instance, float(age))
    for run, status, its_age in runs:
        found = instance.get_run_by_id(run)
        assert found is not None
        assert left(instance, run) == (TIDY if found.is_finished and its_age >= age else ALL), status


def test_the_command_and_the_schedule(instance: DagsterInstance, tmp_path: Path) -> None:
    run = leave(instance, DagsterRunStatus.SUCCESS)
    command = [sys.executable, "-m", "ioi_dagster.cli", "gc", "--older-than", "1d", "--json"]
    told = [
        json.loads(subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, check=True).stdout)
        for more in (["--dry-run"], [])
    ]
    assert [(answer["runs"], answer["dry_run"]) for answer in told] == [([run], True), ([run], False)]
    another = leave(instance, DagsterRunStatus.CANCELED)
    assert tidying_schedule(older_than="1d").job.execute_in_process(instance=instance).success
    assert left(instance, another) == TIDY


def staging(folder: Path) -> dict[str, Any]:
    return {
        "ops": {"writes": {"config": {"folder": str(folder)}}},
        "resources": {"io_manager": {"config": {"folder": str(folder / "values")}}},
        "execution": {"config": {"workers": 1}},
    }


@pytest.mark.parametrize("name", ["dies", "dies_with_its_memory", "dies_apart"])
def test_attempts_of_which_nothing_was_heard_leave_nothing_in_a_store(
    instance: DagsterInstance, tmp_path: Path, name: str
) -> None:
    values = tmp_path / "values"
    found = job_of("tests.integration.staging_defs", name, PROJECT)
    with execute_job(found, instance, run_config=staging(tmp_path)) as result:
        assert not result.success
    assert (values / "staged").is_dir(), "it had written there"
    assert list((values / "staged").iterdir()) == []


def test_what_a_run_process_that_was_killed_left_in_a_store_goes_with_its_run(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    values, ledger = tmp_path / "values", Ledger(ledger_path())
    command = [sys.executable, "-m", "tests.integration.governed_run", "tests.integration.staging_defs", "stands"]
    with (tmp_path / "stands.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, json.dumps(staging(tmp_path)), "{}"], cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: list(values.glob("staged/*/*/*")), what="a value")
        (run,) = instance.get_runs()
        eventually(lambda: ledger.stores(run.run_id) == {str(values)}, what="where it lies, in the ledger")
    finally:
        process.kill()
        process.wait()
        ledger.close()
    assert list(values.glob("staged/*/*/*"))
    instance.report_run_failed(run)
    assert sweep(instance, 0.0, dry_run=True).runs == [run.run_id]
    assert list(values.glob("staged/*/*/*"))
    assert sweep(instance, 0.0).values == 1
    assert list((values / "staged").iterdir()) == []
