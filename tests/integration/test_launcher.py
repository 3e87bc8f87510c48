"""Under plain `dagster dev`: a run whose process is gone goes on in another, and one that is told to stop does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRun, RunsFilter
from distributed import LocalCluster

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host import tags
from ioi_dagster.host.launcher import process_of
from ioi_dagster.host.run_process import RunProcess
from ioi_dagster.local.home import PROJECT
from ioi_dagster.ports import free_ports
from tests.conftest import eventually
from tests.integration.launcher_defs import PARTS
from tests.integration.resume_defs import FREE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

YAML = """
telemetry: {enabled: false}
nux: {enabled: false}
run_launcher:
  module: ioi_dagster.host.launcher
  class: GovernedRunLauncher
  config: {terminate_grace_seconds: 3}
run_monitoring: {enabled: true, poll_interval_seconds: 1, max_resume_run_attempts: 3}
event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}
"""
STEPS = {"some", "total", *(f"same[n{number}]" for number in range(8))}


@dataclass
class Dev:
    """`dagster dev` and a Dask cluster of several runs."""

    url: str
    home: Path
    instance: DagsterInstance
    address: str

    def launch(self, job: str, ops: dict[str, Any], execution: dict[str, Any] | None = None) -> str:
        query = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
        selector = {
            "repositoryLocationName": "tests.integration.launcher_defs",
            "repositoryName": "__repository__",
            "jobName": job,
        }
        config = {"ops": ops, "execution": {"config": {"address": self.address} if execution is None else execution}}
        answer = self.ask(query, params={"selector": selector, "runConfigData": config})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def stop(self, run_id: str) -> None:
        query = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"
        assert self.ask(query, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def process(self, run_id: str) -> RunProcess | None:
        return process_of(self.run(run_id))

    def ends(self, run_id: str) -> str:
        eventually(lambda: self.run(run_id).is_finished, 120, "the run's end")
        return self.run(run_id).status.value

    def told(self, run_id: str) -> list[str]:
        return [entry.message for entry in self.instance.all_logs(run_id)]

    def steps(self, run_id: str, kind: str) -> Counter[str]:
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id)]
        return Counter(str(event.step_key) for event in events if event and event.event_type_value == kind)

    def classes(self, run_id: str) -> dict[str, str]:
        """The data class of each step, by the event that says where it ran."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id)]
        placed = [event for event in events if event and event.step_key and event.is_engine_event]
        return {str(event.step_key): event.engine_event_data.metadata["ioi/data_class"].text for event in placed}

    def commits(self, run_id: str) -> dict[str, int]:
        ledger = Ledger(self.home / "storage" / "ioi" / "ledger.sqlite")
        try:
            return {row.step: row.commits for row in ledger.steps(run_id)}
        finally:
            ledger.close()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(YAML)
    log = home / "dev.log"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("IOI_", "DAGSTER_"))}
    environment = {**kept, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "yes", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "dagster", "dev", "-m", "tests.integration.launcher_defs", "-h", "127.0.0.1"]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,  # pyright: ignore
        log.open("wb") as output,
    ):
        (port,) = free_ports(1)  # asked for none, `dagster dev` takes 3000
        process = subprocess.Popen(
            [*command, "-p", str(port)],
            cwd=PROJECT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Where tests run in a shell's background it would be deaf to it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            found = eventually(
                lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()) or process.poll() is not None, 120, "dev"
            )
            assert not isinstance(found, bool), log.read_text()
            # Its log names the address a moment before it can be asked there.
            eventually(lambda: _answers(found.group()), 60, "the web server")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DAGSTER_HOME", str(home))
                with DagsterInstance.get() as instance:
                    yield Dev(found.group(), home, instance, cluster.scheduler_address)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def gated(folder: Path) -> dict[str, Any]:
    where = {"config": {"folder": str(folder)}}
    return {"some": where, "same": where}


def in_the_middle(dev: Dev, folder: Path) -> tuple[str, RunProcess]:
    """A run of which some steps are done and two are under way, with its process."""
    run_id = dev.launch("gated", gated(folder))
    # Which two it is depends on how fast things go, and one that does not wait may stand behind them.
    waiting = range(FREE, 8)
    eventually(lambda: sum(bool(list(folder.glob(f"same?n{n}? *"))) for n in waiting) == 2, 120, "two steps that wait")
    eventually(lambda: dev.steps(run_id, "STEP_SUCCESS")["some"], 60, "a step that is done")
    process = dev.process(run_id)
    assert process is not None
    assert process.alive
    return run_id, process


def test_a_run_whose_process_is_killed_goes_on(dev: Dev, tmp_path: Path) -> None:
    run_id, process = in_the_middle(dev, tmp_path)
    assert process.send(signal.SIGKILL)
    eventually(lambda: dev.process(run_id) not in (None, process), 60, "another process")
    (tmp_path / "go").touch()
    assert dev.ends(run_id) == "SUCCESS"
    for number in range(8):
        assert len(list(tmp_path.glob(f"same?n{number}? *"))) == 1, "what was done or under way is done once"
    assert dev.commits(run_id) == dict.fromkeys(STEPS, 1)
    # More than the two may have been sent ahead; of those none had begun.
    assert any(re.search(r"\d steps? in flight, 2 of them are so still", text) for text in dev.told(run_id))
    assert dev.steps(run_id, "STEP_START") == dev.steps(run_id, "STEP_SUCCESS") == Counter(STEPS)
    assert dev.classes(run_id) == dict.fromkeys(STEPS, "internal"), "what outputs are is known in the new process"


def test_an_older_process_that_was_only_frozen_is_fenced(dev: Dev, tmp_path: Path) -> None:
    run_id, old = in_the_middle(dev, tmp_path)
    assert old.send(signal.SIGSTOP)
    # As if it were gone: another process that had its number.
    dev.instance.add_run_tags(
        run_id, {tags.RUN_PROCESS: RunProcess(old.host, old.boot, old.pid, old.started - 1).text()}
    )
    eventually(lambda: (new := dev.process(run_id)) is not None and new.alive, 60, "another process")
    (tmp_path / "go").touch()
    assert dev.ends(run_id) == "SUCCESS"
    new = dev.process(run_id)
    assert new is not None
    eventually(lambda: not new.alive, 60, "the end of the newer process")
    told = dev.told(run_id)
    assert old.send(signal.SIGCONT)
    eventually(lambda: not old.alive, 60, "the end of the older process")
    # Dagster's command around the run tells of its own end, whoever owns the run.
    exited = f"Process for run exited (pid: {old.pid})."
    assert [text for text in dev.told(run_id)[len(told) :] if exited not in text] == []
    assert dev.run(run_id).status.value == "SUCCESS"
    assert dev.commits(run_id) == dict.fromkeys(STEPS, 1)
    assert dev.steps(run_id, "STEP_START") == dev.steps(run_id, "STEP_SUCCESS") == Counter(STEPS)


def under_way(dev: Dev, job: str, folder: Path) -> tuple[str, RunProcess]:
    """A run of one step, which waits, on workers of its own."""
    run_id = dev.launch(job, {"waits": {"config": {"folder": str(folder)}}}, {})
    eventually(lambda: list(folder.glob("waits *")), 120, "the step")
    process = dev.process(run_id)
    assert process is not None
    return run_id, process


def children(process: RunProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_run_that_is_told_to_stop_stops_with_all_its_processes(dev: Dev, tmp_path: Path) -> None:
    run_id, process = under_way(dev, "alone", tmp_path)
    its = children(process)
    dev.stop(run_id)
    assert dev.ends(run_id) == "CANCELED"
    eventually(lambda: not process.alive and not any(map(lives, its)), 60, "the end of its processes")
    assert dev.steps(run_id, "STEP_FAILURE") == Counter(["waits"])


def test_a_process_that_does_not_stop_is_killed(dev: Dev, tmp_path: Path) -> None:
    run_id, process = under_way(dev, "alone", tmp_path)
    assert process.send(signal.SIGSTOP)
    its = children(process)
    dev.stop(run_id)
    assert dev.ends(run_id) == "CANCELED"
    assert any("did not stop within 3 s and was killed" in text for text in dev.told(run_id))
    eventually(lambda: not process.alive and not any(map(lives, its)), 60, "the end of its processes")


@pytest.mark.slow
def test_a_run_of_another_executor_fails_with_its_process(dev: Dev, tmp_path: Path) -> None:
    run_id, process = under_way(dev, "stock", tmp_path)
    process.kill_group()
    assert dev.ends(run_id) == "FAILURE"
    assert any("cannot go on where it ended" in text for text in dev.told(run_id))
    assert len(list(tmp_path.glob("waits *"))) == 1


def test_run_processes_are_forked_of_a_warm_one(dev: Dev, tmp_path: Path) -> None:
    """Once there is one; what the run does, and what it prints, is as always."""

    def forked() -> RunProcess | None:
        folder = tmp_path / os.urandom(4).hex()
        folder.mkdir()
        run_id, process = under_way(dev, "stock", folder)
        command = psutil.Process(process.pid).cmdline()
        (folder / "go").touch()
        assert dev.ends(run_id) == "SUCCESS"
        assert "RUN_SUCCESS" in (dev.home / "run_processes" / f"{run_id}.log").read_text()
        return process if "ioi_dagster.host.warm_main" in command else None

    process = eventually(forked, 120, "a run process that was forked")
    eventually(lambda: not process.alive, 60, "its end")


@pytest.mark.slow  # the daemon looks at backfills and sensors every half minute
def test_the_daemons_backfill_and_an_asset_sensor_see_what_governed_runs_made(dev: Dev) -> None:
    query = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
        __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
    repository = {"repositoryLocationName": "tests.integration.launcher_defs", "repositoryName": "__repository__"}
    params = {
        "selector": {"repositorySelector": repository, "partitionSetName": "parts_partition_set"},
        "partitionNames": list(PARTS),
    }
    answer = dev.ask(query, params=params)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    backfill = answer["backfillId"]
    state = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"

    def status() -> str:
        return dev.ask(state, id=backfill)["partitionBackfillOrError"]["status"]

    eventually(lambda: status() not in ("REQUESTED", "CANCELING"), 180, "the backfill's end")
    assert status() == "COMPLETED_SUCCESS"
    runs = dev.instance.get_runs(RunsFilter(tags={"dagster/backfill": backfill}))
    assert sorted((run.tags["dagster/partition"], run.status.value) for run in runs) == sorted(
        (name, "SUCCESS") for name in PARTS
    )
    assert dev.instance.get_materialized_partitions(AssetKey("part")) == set(PARTS)
    of_sensor = RunsFilter(tags={"dagster/sensor_name": "on_part"})
    eventually(lambda: dev.instance.get_runs(of_sensor), 60, "a run that the sensor asked for")
    eventually(lambda: all(run.is_finished for run in dev.instance.get_runs(of_sensor)), 120, "its end")
    assert {run.status.value for run in dev.instance.get_runs(of_sensor)} == {"SUCCESS"}
