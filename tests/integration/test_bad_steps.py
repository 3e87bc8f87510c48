"""Bad steps on real clusters: each ends in one clear event of its own, harms no other, and nothing is committed twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterEventType, DagsterInstance, execute_job, reconstructable

from ioi_dagster.adapters.dask import local_cluster
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home
from tests.integration import bad_steps

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]

EIGHT = {f"harmless[{number}]" for number in range(8)} | {"eight"}


def alone(workers: int = 2, **more) -> dict:
    return {"execution": {"config": {"workers": workers, **more}}}


@pytest.fixture
def instance(tmp_path: Path, clean_environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv("IOI_TEST_FOLDER", str(tmp_path))
    with DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def happened(tmp_path: Path):
    """How often what the steps marked has happened."""
    return lambda: Counter(path.name.split(".")[0] for path in tmp_path.glob("*.*") if path.suffix[1:].isdigit())


def failures(result) -> dict[str, str]:
    """Failed step → its error and what that came from."""
    said = {}
    for event in result.all_events:
        if event.event_type == DagsterEventType.STEP_FAILURE:
            error, texts = event.step_failure_data.error, []
            while error is not None:
                texts.append(error.message)
                error = error.cause
            said[event.step_key] = " <- ".join(texts)
    return said


def succeeded(result) -> set[str]:
    """Steps that succeeded; none did so twice."""
    steps = [event.step_key for event in result.all_events if event.is_step_success]
    assert len(steps) == len(set(steps))
    return set(steps)


def retries(result) -> Counter:
    return Counter(e.step_key for e in result.all_events if e.event_type == DagsterEventType.STEP_UP_FOR_RETRY)


def nothing_runs_of(folder: Path) -> bool:
    """No process has this test's folder in its environment, except this one."""
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("IOI_TEST_FOLDER") == str(folder)
            if mine and process.pid != psutil.Process().pid and process.status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.Error:
            continue
    return True


def test_values_that_cannot_travel_say_so_and_odd_ones_arrive(instance):
    with execute_job(reconstructable(bad_steps.odd_values), instance, run_config=alone()) as result:
        failed = failures(result)
        assert failed.keys() == {"unpicklable", "large", "nested", "exits_politely"}
        assert "type lock can neither be written as JSON nor pickled" in failed["unpicklable"]
        assert "has 3.0 MiB" in failed["large"]
        assert "FilesystemIOManager" in failed["large"]
        assert "nested too deeply" in failed["nested"]
        assert "SystemExit: 3" in failed["exits_politely"]
        assert succeeded(result) == EIGHT | {"odd", "takes_odd"}
        assert result.output_for_node("takes_odd") == "'\\ud800' ['b', 'a']"


def test_crashes_of_the_process_are_named_and_cost_no_sibling(instance, happened):
    with execute_job(reconstructable(bad_steps.crashes), instance, run_config=alone()) as result:
        failed = failures(result)
        assert failed.keys() == {"segfaults", "exits"}
        for step, how in (("segfaults", "by SIGSEGV"), ("exits", "with exit status 7")):
            assert "[flow.poison_step]" in failed[step]
            assert f"the worker died {how}" in failed[step]
            assert "alone-1" in failed[step]
        assert succeeded(result) == EIGHT
        assert not retries(result), "three nodes are enough: it is no try of the user's policy"


def test_what_a_step_forks_neither_answers_nor_keeps_the_worker_alive(instance, happened, tmp_path):
    with execute_job(reconstructable(bad_steps.forking), instance, run_config=alone()) as result:
        assert result.success, failures(result)
        assert result.output_for_node("forks") == "the worker's"
        assert result.output_for_node("forks_and_dies") == "again"
        assert succeeded(result) == EIGHT | {"forks", "forks_and_dies"}
    assert happened()["copy"] == 1
    assert nothing_runs_of(tmp_path)


def test_a_step_that_leaks_is_stopped_and_named(instance, happened):
    with execute_job(reconstructable(bad_steps.leaking), instance, run_config=alone(memory_limit="500 MiB")) as result:
        failed = failures(result)
        assert failed.keys() == {"leaks", "leaks_and_will_not_stop"}
        assert "held more memory than its node has" in failed["leaks"]
        assert "its limit is 0.49 GiB" in failed["leaks_and_will_not_stop"]
        assert succeeded(result) == EIGHT


@pytest.mark.parametrize("mib", [64, pytest.param(2048, marks=pytest.mark.slow)])
def test_a_large_output_arrives_by_files(instance, mib):
    config = {**alone(), "ops": {"makes": {"config": {"mib": mib}}}}
    with execute_job(reconstructable(bad_steps.making_files), instance, run_config=config) as result:
        assert result.success, failures(result)
        assert result.output_for_node("measures") == mib * 2**20
        assert succeeded(result) == EIGHT | {"makes", "measures"}


@pytest.mark.slow
def test_a_very_large_output_does_not_travel_with_the_step(instance):
    config = {**alone(), "ops": {"makes": {"config": {"mib": 2048}}}}
    with execute_job(reconstructable(bad_steps.making), instance, run_config=config) as result:
        failed = failures(result)
        assert failed.keys() == {"makes"}
        assert "2,048.0 MiB" in failed["makes"] or "2048.0 MiB" in failed["makes"]
        assert "FilesystemIOManager" in failed["makes"]
        assert succeeded(result) == EIGHT


@pytest.mark.parametrize("mib", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_what_a_step_prints_goes_to_its_file_and_not_to_memory(instance, mib):
    config = {**alone(1), "ops": {"prints": {"config": {"mib": mib}}}}
    with execute_job(reconstructable(bad_steps.printing), instance, run_config=config) as result:
        assert result.success, failures(result)
        assert result.output_for_node("prints") < 8
        assert succeeded(result) == EIGHT | {"prints"}
        captured = [
            event.logs_captured_data
            for event in result.all_events
            if event.event_type == DagsterEventType.LOGS_CAPTURED
        ]
    (file_key,) = [logs.file_key for logs in captured if logs.step_keys == ["prints"]]
    log_key = [result.run_id, "compute_logs", file_key]
    path = instance.compute_log_manager.get_captured_local_path(log_key, "out")
    assert Path(path).stat().st_size == mib * 2**20


def test_outputs_that_do_not_fit_on_the_disk_fail_their_own_steps(tmp_path: Path):
    """`full_store.py` says how that is told."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*alone, sys.executable, "-m", "tests.integration.full_store", str(tmp_path)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("IOI_", "DAGSTER_"))}
    told = subprocess.run(command, cwd=PROJECT, env=kept, capture_output=True, text=True, timeout=160)
    assert told.returncode == 0, told.stdout + told.stderr[-3_000:]


def test_limits_of_time_and_bad_tags_are_the_steps_own(instance, happened):
    with execute_job(reconstructable(bad_steps.out_of_time), instance, run_config=alone()) as result:
        failed = failures(result)
        assert failed.keys() == {
            *("swallows_its_timeout", "never_returns", "bad_timeout", "bad_effect", "bad_class"),
        }
        assert "[flow.timeout]" in failed["swallows_its_timeout"]
        assert "[flow.timeout]" in failed["never_returns"]
        assert "the tag ioi/timeout_s says 'soon' — give a number of seconds" in failed["bad_timeout"]
        assert "use one of: pure, idempotent, at_most_once" in failed["bad_effect"]
        assert "use one of: public, internal, restricted" in failed["bad_class"]
        assert succeeded(result) == EIGHT
        assert retries(result) == {"never_returns": 1}, "a limit is the user's, and so is the policy"
    assert (happened()["swallowed"], happened()["never-returns"]) == (1, 2)


@pytest.mark.slow
def test_resources_that_raise_do_what_they_do_under_multiprocess(instance, happened):
    def run(job, config=None) -> tuple:
        before = happened()
        result = execute_job(job, instance, run_config=config)
        failed, marks = failures(result), happened()
        assert config is None or "no such server" in failed["needs_unable"]
        return (
            failed.keys(),
            succeeded(result),
            retries(result),
            {name: marks[name] - before[name] for name in ("setup", "teardown")},
        )

    governed = run(reconstructable(bad_steps.governed_resources), alone())
    assert governed == run(reconstructable(bad_steps.stock_resources))
    assert governed[0] == {"needs_unable"}
    assert governed[2] == {"needs_unable": 1}


def test_a_step_that_may_run_once_does_so_whatever_its_neighbours_do(instance, happened):
    with execute_job(reconstructable(bad_steps.at_most_once), instance, run_config=alone(1)) as result:
        failed = failures(result)
        assert failed.keys() == {"once_and_crashes", "once_and_never_returns"}
        assert "[flow.at_most_once]" in failed["once_and_crashes"]
        assert "its process ended by SIGSEGV" in failed["once_and_crashes"]
        assert "ran longer" in failed["once_and_never_returns"]
        assert succeeded(result) == EIGHT | {"dies_once", "once", "once_more_if_told"}
        assert retries(result) == {"once_more_if_told": 1}
    marks = happened()
    once = ("once", "once-and-crashes", "once-more", "once-and-never-returns")
    assert {name: marks[name] for name in once} == {**dict.fromkeys(once, 1), "once-more": 2}


def test_a_step_that_may_run_once_waits_for_a_node_that_starts_slowly(instance, happened, monkeypatch):
    """As on a machine under load. It is sent when its node is there, so that nobody has to ask whether it ran."""
    at_once = local_cluster._start

    def later(command, environment, folder, name):
        slow = command if name == "scheduler" else ["sh", "-c", 'sleep 4; exec "$@"', "worker", *command]
        return at_once(slow, environment, folder, name)

    monkeypatch.setattr(local_cluster, "_start", later)
    with execute_job(reconstructable(bad_steps.only_once), instance, run_config=alone(1)) as result:
        assert result.success, failures(result)
    assert happened()["once"] == 1
