"""Resources that live as long as their run on a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, JobExecutionResult, execute_job
from distributed import LocalCluster

from ioi_dagster.host.runs import job_of
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home, eventually
from tests.integration import scoped_defs

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(240)]

NAMES = ["connection", "inner", "model", "pool"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """One worker with two threads, and the folder in which its resources leave notes."""
    folder = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(scoped_defs.FOLDER, str(folder))
        with LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:  # pyright: ignore
            yield folder, cluster.scheduler_address


@pytest.fixture
def folder(place) -> Iterator[Path]:
    folder, _ = place
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def instance(tmp_path: Path, folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv(scoped_defs.FOLDER, str(folder))
    with DagsterInstance.get() as instance:
        yield instance


def execute(name: str, instance, address: str = "", config: dict | None = None) -> JobExecutionResult:
    where = {"execution": {"config": {"address": address}}} if address else {}
    # Not entered: the result would set the resources up to load outputs.
    return execute_job(job_of(scoped_defs.__name__, name, PROJECT), instance, run_config={**where, **(config or {})})


def notes(folder: Path, beginning: str = "") -> list[str]:
    return [line for line in (folder / "notes").read_text().splitlines() if line.startswith(beginning)]


def opened_and_closed(folder: Path, run: str) -> tuple[list[str], list[str]]:
    """Names, each as often as it was."""
    lines = [line.split() for line in notes(folder) if line.endswith(run)]
    return tuple(sorted(words[1] for words in lines if words[0] == kind) for kind in ("open", "close"))  # pyright: ignore


def test_what_is_set_up_once_serves_all_steps_of_a_run_and_ends_with_it(place, instance, folder):
    runs = [execute("governed", instance, place[1], scoped_defs.CONFIG) for _ in range(2)]
    assert all(run.success for run in runs)
    for run in runs:
        assert opened_and_closed(folder, run.run_id) == (NAMES, NAMES)
        used = [line.split()[1] for line in notes(folder, "use") if line.endswith(run.run_id)]
        assert Counter(used).most_common() == [(used[0], 6)]
    last = [line.split() for line in notes(folder) if line.endswith(runs[0].run_id)]
    opened, closed = ([words[1] for words in last if words[0] == kind] for kind in ("open", "close"))
    assert closed == opened[::-1], "the last one first"


def test_two_runs_at_once_have_their_own(place, instance, folder):
    run_config = {
        **scoped_defs.CONFIG,
        "execution": {"config": {"address": place[1]}},
        "ops": {"begins": {"config": {"for_file": "go"}}},
    }
    arguments = ("tests.integration.scoped_defs", "governed", json.dumps(run_config), "{}")
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.governed_run", *arguments],
            cwd=PROJECT,
            env={**os.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    eventually(lambda: (folder / "notes").exists() and len(notes(folder, "begun")) == 2, what="both runs")
    (folder / "go").touch()
    assert [run.wait() for run in runs] == [0, 0]
    for record in instance.get_run_records():
        assert opened_and_closed(folder, record.dagster_run.run_id) == (NAMES, NAMES)


def test_the_next_step_tries_what_could_not_be_set_up(place, instance, folder):
    config = {"ops": {"begins": {"config": {}}}}
    result = execute("failing", instance, place[1], config)
    failed = {event.step_key for event in result.all_events if event.is_step_failure}
    done = {event.step_key for event in result.all_events if event.is_step_success}
    assert len(failed) == 1
    assert done == {"begins", "one", "two"} - failed
    assert (len(notes(folder, "try")), notes(folder, "use")) == (2, ["use there"])


def test_a_teardown_that_raises_is_told_and_fails_nothing(place, instance, folder):
    result = execute("not_closing", instance, place[1])
    assert result.success
    assert opened_and_closed(folder, result.run_id) == (["bad"], ["bad"])
    told = [entry.message for entry in instance.all_logs(result.run_id)]
    assert [text for text in told if "the resource odd was not torn down well: ValueError: it does not close" in text]


def test_what_needs_a_resource_of_a_step_says_so(place, instance, folder):
    result = execute("too_short", instance, place[1])
    failures = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    assert failures
    assert all("needs 'of_a_step'" in str(error) for error in failures)


def start_waiting(folder: Path, address: str) -> subprocess.Popen[bytes]:
    """A run of which one step has used what is shared, and another waits for ever."""
    run_config = {**scoped_defs.CONFIG, "execution": {"config": {"address": address}}}
    run_config |= {"ops": {"begins": {"config": {"for_file": "never"}}}}
    arguments = ("tests.integration.scoped_defs", "interrupted", json.dumps(run_config), "{}")
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.governed_run", *arguments],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    eventually(lambda: (folder / "notes").exists() and notes(folder, "use"), what="a step that uses it")
    eventually(lambda: notes(folder, "begun"), what="a step that waits")
    return run


def test_an_interrupted_run_leaves_nothing(place, instance, folder):
    run = start_waiting(folder, place[1])
    run.send_signal(signal.SIGINT)
    assert run.wait() != 0
    (record,) = instance.get_run_records()
    assert opened_and_closed(folder, record.dagster_run.run_id) == (NAMES, NAMES)


def test_a_worker_that_ends_in_good_order_tears_down(instance, folder):
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:  # pyright: ignore
        run = start_waiting(folder, cluster.scheduler_address)
    run.kill()
    run.wait()
    (record,) = instance.get_run_records()
    assert opened_and_closed(folder, record.dagster_run.run_id) == (NAMES, NAMES)


def test_workers_of_a_runs_own_tear_down_before_they_end(instance, folder):
    result = execute("governed", instance, config={**scoped_defs.CONFIG, "execution": {"config": {"workers": 1}}})
    assert result.success
    assert opened_and_closed(folder, result.run_id) == (NAMES, NAMES)


@pytest.mark.parametrize(("name", "times"), [("in_process", 1), ("multiprocess", 2)])
def test_under_other_executors_it_lives_as_it_does_there(instance, folder, name, times):
    result = execute(name, instance, config=scoped_defs.CONFIG)
    assert result.success
    assert opened_and_closed(folder, result.run_id) == (sorted(NAMES * times), sorted(NAMES * times))
