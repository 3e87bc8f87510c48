"""A run whose process is killed goes on in another: nothing that was done is done again, nothing is lost or told twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from distributed import LocalCluster

from ioi_dagster.host.private import execute_run_iterator
from ioi_dagster.host.runs import job_of
from ioi_dagster.local.home import PROJECT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
STEPS = 60

_RUN = """
import os, sys
from pathlib import Path
from dagster import DagsterInstance
from ioi_dagster.host import storage
from ioi_dagster.host.private import execute_run
from ioi_dagster.host.runs import job_of

after, where = int(sys.argv[2]), sys.argv[3]
write, seen = storage.GroupCommitEventLogStorage.store_event_batch, 0

def dying(self, events):
    global seen
    done = sum(e.is_dagster_event and e.dagster_event.is_step_success for e in events)
    seen += done
    if done and seen >= after and where == "before":
        os.kill(os.getpid(), 9)
    write(self, events)
    if done and seen >= after:
        os.kill(os.getpid(), 9)

storage.GroupCommitEventLogStorage.store_event_batch = dying
job = job_of("benchmarks.executor_defs", "fan_out__governed", Path.cwd())
with DagsterInstance.get() as instance:
    execute_run(job, instance.get_run_by_id(sys.argv[1]), instance)
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
    )
    with DagsterInstance.get() as instance:
        yield instance


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_killed_run_is_resumed(where: str, instance: DagsterInstance) -> None:
    """Killed just before or just after the log is written: in the first case the ledger alone knows of the commits."""
    job = job_of("benchmarks.executor_defs", "fan_out__governed", PROJECT)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:  # pyright: ignore[reportArgumentType]
        config = {
            "ops": {"some": {"config": {"count": STEPS}}},
            "execution": {"config": {"address": cluster.scheduler_address}},
        }
        run = instance.create_run_for_job(
            job.get_definition(), run_config=config, job_code_origin=job.get_python_origin()
        )
        command = [sys.executable, "-c", _RUN, run.run_id, "20", where]
        killed = subprocess.run(command, cwd=PROJECT, env={**os.environ}, capture_output=True, timeout=120)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2_000:]
        before = _successes(instance, run.run_id)
        assert 0 < len(before) < STEPS
        run = instance.get_run_by_id(run.run_id)
        assert run is not None
        for _ in execute_run_iterator(job, run, instance, resume_from_failure=True):
            pass
    after = _successes(instance, run.run_id)
    wanted = {"some", "total", *(f"same[n{number}]" for number in range(STEPS))}
    assert after == Counter(wanted)
    assert before <= after
    starts = Counter(_keys(instance, run.run_id, "STEP_START"))
    assert starts == Counter(wanted)
    run = instance.get_run_by_id(run.run_id)
    assert run is not None
    assert run.status.value == "SUCCESS"


def _successes(instance: DagsterInstance, run_id: str) -> Counter[str]:
    return Counter(_keys(instance, run_id, "STEP_SUCCESS"))


def _keys(instance: DagsterInstance, run_id: str, kind: str) -> list[str]:
    events = [entry.dagster_event for entry in instance.all_logs(run_id)]
    return [str(event.step_key) for event in events if event is not None and event.event_type_value == kind]


def test_what_the_log_did_not_take_stays_owed(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log cannot be written (a full disk): the run ends, and its commits are still there to be told."""
    from ioi_dagster.adapters.sql.ledger import Ledger
    from ioi_dagster.host.io_manager import default_folder
    from ioi_dagster.host.private import execute_run
    from ioi_dagster.host.storage import GroupCommitEventLogStorage

    write = GroupCommitEventLogStorage.store_event_batch

    def full(self: GroupCommitEventLogStorage, events: list) -> None:
        if any(e.is_dagster_event and e.dagster_event.is_step_success for e in events):
            raise OSError(28, "No space left on device")
        write(self, events)

    monkeypatch.setattr(GroupCommitEventLogStorage, "store_event_batch", full)
    job = job_of("benchmarks.executor_defs", "fan_out__governed", PROJECT)
    config = {"execution": {"config": {"workers": 1}}}
    run = instance.create_run_for_job(job.get_definition(), run_config=config, job_code_origin=job.get_python_origin())
    assert not execute_run(job, run, instance).success
    ledger = Ledger(default_folder() / "ledger.sqlite")
    assert [(step, bool(events)) for step, _, events in ledger.pending(run.run_id)] == [("some", True)]
    ledger.close()
