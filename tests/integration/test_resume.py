"""A run whose process is killed goes on in another: nothing that was done is done again, nothing is lost or told twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun
from distributed import LocalCluster

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host import tags
from ioi_dagster.host.event_groups import kind_of
from ioi_dagster.host.io_manager import default_folder, ledger_path
from ioi_dagster.host.launcher import end_run_processes
from ioi_dagster.host.network import AloneNetwork
from ioi_dagster.host.private import ActiveExecution, DagsterEventType, execute_run, execute_run_iterator
from ioi_dagster.host.run_process import RunProcess
from ioi_dagster.host.runs import job_of
from ioi_dagster.host.storage import GroupCommitEventLogStorage
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home, eventually
from tests.integration.resume_defs import FREE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
STEPS = 60
MONITORED = (
    "run_launcher: {module: ioi_dagster.host.launcher, class: GovernedRunLauncher}\n"
    "run_monitoring: {enabled: true, max_resume_run_attempts: 3}\n"
)
ENDS = (DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_UP_FOR_RETRY, DagsterEventType.STEP_FAILURE)

_RUN = """
import os, sys
from pathlib import Path
from dagster import DagsterInstance, DagsterRun
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

_WAITING = """
import sys
from pathlib import Path
from dagster import DagsterInstance, DagsterRun
from ioi_dagster.host.private import execute_run
from ioi_dagster.host.runs import job_of

job = job_of("tests.integration.resume_defs", sys.argv[2], Path.cwd())
with DagsterInstance.get() as instance:
    execute_run(job, instance.get_run_by_id(sys.argv[1]), instance, raise_on_error=False)
"""


_COMMITS = """
import os, sys
from pathlib import Path
from dagster import DagsterInstance
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.private import execute_run
from ioi_dagster.host.runs import job_of

write = Ledger.write

def dying(self, *arguments):
    committed = write(self, *arguments)
    if committed:
        os.kill(os.getpid(), 9)
    return committed

Ledger.write = dying
job = job_of("tests.integration.resume_defs", sys.argv[2], Path.cwd())
with DagsterInstance.get() as instance:
    execute_run(job, instance.get_run_by_id(sys.argv[1]), instance)
"""


@pytest.fixture
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    dagster_home(tmp_path, monkeypatch)
    (tmp_path / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "concurrency: {pools: {default_limit: 1}}\n"
        "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
        + getattr(request, "param", "")
    )
    with DagsterInstance.get() as instance:
        yield instance


@pytest.mark.parametrize("where", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_a_killed_run_is_resumed(where: str, instance: DagsterInstance, cluster: LocalCluster) -> None:
    """Killed just before or just after the log is written: in the first case the ledger alone knows of the commits."""
    job = job_of("benchmarks.executor_defs", "fan_out__governed", PROJECT)
    config = {
        "ops": {"some": {"config": {"count": STEPS}}},
        "execution": {"config": {"address": cluster.scheduler_address}},
    }
    run = instance.create_run_for_job(job.get_definition(), run_config=config, job_code_origin=job.get_python_origin())
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


Start = Callable[..., tuple[DagsterRun, "subprocess.Popen[bytes]"]]


def two_workers() -> LocalCluster:
    return LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with two_workers() as cluster:
        yield cluster


@pytest.fixture
def start(instance: DagsterInstance, cluster: LocalCluster) -> Iterator[Start]:
    """Starts a run of a job of `resume_defs` in a process of its own."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(
        name: str, ops: dict[str, Any], code: str = _WAITING, at: LocalCluster = cluster
    ) -> tuple[DagsterRun, subprocess.Popen[bytes]]:
        job = job_of("tests.integration.resume_defs", name, PROJECT)
        config = {"ops": ops, "execution": {"config": {"address": at.scheduler_address}}}
        run = instance.create_run_for_job(
            job.get_definition(), run_config=config, job_code_origin=job.get_python_origin()
        )
        command = [sys.executable, "-c", code, run.run_id, name]
        processes.append(subprocess.Popen(command, cwd=PROJECT, env={**os.environ}))
        return run, processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def going_on(instance: DagsterInstance, name: str, run_id: str) -> Iterator[Any]:
    job = job_of("tests.integration.resume_defs", name, PROJECT)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    yield from execute_run_iterator(job, run, instance, resume_from_failure=True)


def slots(instance: DagsterInstance) -> list[str]:
    """The steps that hold one of the pool."""
    return [slot.step_key for slot in instance.event_log_storage.get_concurrency_info("few").claimed_slots]


def go_on(instance: DagsterInstance, name: str, run_id: str) -> DagsterRun:
    for _ in going_on(instance, name, run_id):
        pass
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def gated_config(folder: Path) -> dict[str, Any]:
    where = {"config": {"folder": str(folder)}}
    return {"some": where, "same": where}


def commits(run_id: str) -> dict[str, int]:
    ledger = Ledger(default_folder() / "ledger.sqlite")
    try:
        return {row.step: row.commits for row in ledger.steps(run_id)}
    finally:
        ledger.close()


def two_wait(instance: DagsterInstance, run: DagsterRun, folder: Path) -> None:
    """Some steps are done, and two are under way. Which depends on how fast things go: one that is free may stand behind them."""
    waits = range(FREE, 8)
    eventually(lambda: sum(bool(list(folder.glob(f"same?n{n}? *"))) for n in waits) == 2, what="two steps that wait")
    # Both nodes are taken by then, so that no other one begins. What has run is written down first: else it runs once more.
    came = {f"same[n{n}]" for n in range(FREE) if list(folder.glob(f"same?n{n}? *"))} | {"some"}
    eventually(lambda: came <= set(_keys(instance, run.run_id, "STEP_SUCCESS")), what="what has run is done")


GATED = {"some", "total", *(f"same[n{number}]" for number in range(8))}


def test_a_frozen_process_that_wakes_after_a_takeover_falls_silent(
    start: Start, instance: DagsterInstance, tmp_path: Path
) -> None:
    run, old = start("gated", gated_config(tmp_path))
    two_wait(instance, run, tmp_path)
    old.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    assert go_on(instance, "gated", run.run_id).status.value == "SUCCESS"
    told = [(entry.timestamp, entry.user_message) for entry in instance.all_logs(run.run_id)]
    old.send_signal(signal.SIGCONT)
    assert old.wait(60) == 0
    assert [(entry.timestamp, entry.user_message) for entry in instance.all_logs(run.run_id)] == told
    assert Counter(_keys(instance, run.run_id, "STEP_START")) == Counter(GATED)
    assert Counter(_keys(instance, run.run_id, "STEP_SUCCESS")) == Counter(GATED)
    assert commits(run.run_id) == dict.fromkeys(GATED, 1)
    for number in range(FREE):
        assert len(list(tmp_path.glob(f"same?n{number}? *"))) == 1, "what was done is done once"


def test_of_two_processes_that_run_at_once_the_older_one_falls_silent(
    start: Start, instance: DagsterInstance, tmp_path: Path
) -> None:
    run, old = start("gated", gated_config(tmp_path))
    two_wait(instance, run, tmp_path)
    resumed = instance.get_run_by_id(run.run_id)
    assert resumed is not None
    job = job_of("tests.integration.resume_defs", "gated", PROJECT)
    for event in execute_run_iterator(job, resumed, instance, resume_from_failure=True):
        if event.message and event.message.startswith("Resumed"):
            (tmp_path / "go").touch()
    assert old.wait(60) == 0
    assert Counter(_keys(instance, run.run_id, "STEP_SUCCESS")) == Counter(GATED)
    assert Counter(_keys(instance, run.run_id, "STEP_START")) == Counter(GATED)
    assert commits(run.run_id) == dict.fromkeys(GATED, 1)
    assert len(_events(instance, run.run_id, "PIPELINE_SUCCESS")) == 1
    assert _events(instance, run.run_id, "PIPELINE_FAILURE") == []


def test_skips_retries_and_failures_of_an_earlier_process_are_not_told_again(
    start: Start, instance: DagsterInstance, tmp_path: Path
) -> None:
    run, old = start("odd", {"again_later": {"config": {"folder": str(tmp_path)}}})
    wanted = {"again_at_once", "again_later"}
    eventually(lambda: set(_keys(instance, run.run_id, "STEP_UP_FOR_RETRY")) == wanted, what="two retries")
    old.kill()
    old.wait()
    assert go_on(instance, "odd", run.run_id).status.value == "FAILURE"
    told = {
        kind: Counter(_keys(instance, run.run_id, kind))
        for kind in ("STEP_SKIPPED", "STEP_UP_FOR_RETRY", "STEP_RESTARTED", "STEP_SUCCESS", "STEP_FAILURE")
    }
    assert told == {
        "STEP_SKIPPED": Counter(["skipped", "skipped_first"]),
        "STEP_UP_FOR_RETRY": Counter(["again_at_once", "again_later"]),
        "STEP_RESTARTED": Counter(["again_at_once", "again_later"]),
        "STEP_SUCCESS": Counter(["one_of_two", "again_at_once", "again_later"]),
        "STEP_FAILURE": Counter(["fails"]),
    }
    assert len(list(tmp_path.glob("again_later *"))) == 2
    (failed,) = _events(instance, run.run_id, "PIPELINE_FAILURE")
    assert failed.message.endswith("Steps failed: ['fails'].")


@pytest.mark.parametrize("alive", [True, False])
def test_what_may_run_once_is_waited_for_or_fails(
    alive: bool, start: Start, instance: DagsterInstance, cluster: LocalCluster, tmp_path: Path
) -> None:
    """Where it is under way still its end is known; where it died with its worker, nobody knows."""
    with nullcontext(cluster) if alive else two_workers() as its:
        run, old = start("careful", {"once": {"config": {"folder": str(tmp_path)}}}, at=its)
        eventually(lambda: list(tmp_path.glob("once *")), what="the step")
        old.kill()
        old.wait()
        if not alive:
            for nanny in its.workers.values():
                os.kill(nanny.pid, signal.SIGKILL)
        (tmp_path / "go").touch()
        assert go_on(instance, "careful", run.run_id).status.value == ("SUCCESS" if alive else "FAILURE")
    assert len(list(tmp_path.glob("once *"))) == 1
    failed = [event.step_failure_data.error.message for event in _events(instance, run.run_id, "STEP_FAILURE")]
    assert ["flow.at_most_once" in message for message in failed] == ([] if alive else [True])


def _events(instance: DagsterInstance, run_id: str, kind: str) -> list[Any]:
    events = [entry.dagster_event for entry in instance.all_logs(run_id)]
    return [event for event in events if event is not None and event.event_type_value == kind]


def _successes(instance: DagsterInstance, run_id: str) -> Counter[str]:
    return Counter(_keys(instance, run_id, "STEP_SUCCESS"))


def _keys(instance: DagsterInstance, run_id: str, kind: str) -> list[str]:
    events = [entry.dagster_event for entry in instance.all_logs(run_id)]
    return [str(event.step_key) for event in events if event is not None and event.event_type_value == kind]


def test_what_the_log_did_not_take_stays_owed(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log cannot be written (a full disk): the run ends, and its commits are still there to be told."""
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


def test_a_failed_try_is_owed_until_it_is_told_also_where_the_next_one_follows_at_once(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process is killed as it writes the log, the next one tells what the ledger has as owed."""
    write, ledger = GroupCommitEventLogStorage.store_event_batch, Ledger(ledger_path())
    seen: list[tuple[str, str, bool]] = []

    def looking(self: GroupCommitEventLogStorage, events: list) -> None:
        owed = {step for step, _, _ in ledger.pending(run.run_id)}
        ends = [event.get_dagster_event() for event in events if kind_of(event) in ENDS]
        seen.extend((event.event_type_value, event.step_key, event.step_key in owed) for event in ends)
        write(self, events)

    job = job_of("tests.integration.resume_defs", "chain", PROJECT)
    config = {"execution": {"config": {"workers": 1}}}
    run = instance.create_run_for_job(job.get_definition(), run_config=config, job_code_origin=job.get_python_origin())
    monkeypatch.setattr(GroupCommitEventLogStorage, "store_event_batch", looking)
    assert execute_run(job, run, instance).success
    ledger.close()
    assert seen == [
        ("STEP_SUCCESS", "first", True),
        ("STEP_UP_FOR_RETRY", "fails_once", True),
        ("STEP_SUCCESS", "fails_once", True),
    ]


def test_a_pool_slot_of_a_step_that_was_committed_and_not_told_is_given_back(
    start: Start, instance: DagsterInstance
) -> None:
    run, old = start("pooled", {}, _COMMITS)
    assert old.wait(120) == -signal.SIGKILL
    assert slots(instance) == ["takes_a_slot"]
    assert _keys(instance, run.run_id, "STEP_SUCCESS") == []
    for event in going_on(instance, "pooled", run.run_id):
        if event.message and event.message.startswith("Resumed"):
            assert slots(instance) == []
    assert _successes(instance, run.run_id) == Counter(["takes_a_slot", "takes_it_then"])
    assert commits(run.run_id) == {"takes_a_slot": 1, "takes_it_then": 1}
    assert slots(instance) == []


@pytest.mark.parametrize("instance", [MONITORED], indirect=True)
def test_a_run_whose_process_is_ended_with_everything_else_goes_on(
    start: Start, instance: DagsterInstance, tmp_path: Path
) -> None:
    """As by the end of `ioi up`: nobody ended the run, so its step goes on and keeps its slot."""
    run, old = start("held", {"holds_a_slot": {"config": {"folder": str(tmp_path)}}})
    eventually(lambda: list(tmp_path.glob("holds_a_slot *")), what="the step")
    instance.add_run_tags(run.run_id, {tags.RUN_PROCESS: RunProcess.of(old.pid).text()})
    assert end_run_processes() == [run.run_id]
    assert old.wait(60) == 0, "it was not killed"
    left = instance.get_run_by_id(run.run_id)
    assert left is not None
    assert left.status.value == "STARTED"
    assert slots(instance) == ["holds_a_slot"]
    (tmp_path / "go").touch()
    assert go_on(instance, "held", run.run_id).status.value == "SUCCESS"
    assert len(list(tmp_path.glob("holds_a_slot *"))) == 1, "it was adopted"
    assert _keys(instance, run.run_id, "STEP_FAILURE") == []
    assert Counter(_keys(instance, run.run_id, "STEP_START")) == Counter(["holds_a_slot", "takes_it_then"])
    assert slots(instance) == []


def test_a_run_that_is_interrupted_between_two_steps_is_not_taken_for_complete(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before the plan has the steps that a step's dynamic outputs make; with nodes of other owners, which fuse none."""
    monkeypatch.setattr(AloneNetwork, "shares_storage", False)
    monkeypatch.setattr(ActiveExecution, "check_for_interrupts", lambda active: "some" in active._success)
    job = job_of("tests.integration.resume_defs", "gated", PROJECT)
    run = instance.create_run_for_job(
        job.get_definition(),
        run_config={"ops": gated_config(tmp_path), "execution": {"config": {"workers": 1}}},
        job_code_origin=job.get_python_origin(),
    )
    assert not execute_run(job, run, instance, raise_on_error=False).success
    assert _keys(instance, run.run_id, "STEP_SUCCESS") == ["some"]
    left = instance.get_run_by_id(run.run_id)
    assert left is not None
    assert left.status.value == "FAILURE"
