"""A ledger that cannot be written: the run says so and waits, or fails with the reason; nothing is committed twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from dagster import DagsterInstance

from ioi_dagster.adapters.sql.ledger import Ledger, LedgerAwayError
from ioi_dagster.host import run_outputs
from ioi_dagster.host.private import execute_run_iterator
from ioi_dagster.host.runs import job_of, why_failed
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home, eventually
from tests.integration.resume_defs import FREE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

GATED = {"some", "total", *(f"same[n{number}]" for number in range(8))}
YAML = """
telemetry: {enabled: false}
event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}
"""
RUN = """
import sys
from pathlib import Path
from dagster import DagsterInstance
from ioi_dagster.host.private import execute_run
from ioi_dagster.host.runs import job_of, why_failed

job = job_of("tests.integration.resume_defs", "gated", Path.cwd())
with DagsterInstance.get() as instance:
    execute_run(job, instance.get_run_by_id(sys.argv[1]), instance, raise_on_error=False)
"""
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def create_gated(instance: DagsterInstance, folder: Path) -> str:
    job = job_of("tests.integration.resume_defs", "gated", PROJECT)
    where = {"config": {"folder": str(folder)}}
    config = {"ops": {"some": where, "same": where}, "execution": {"config": {"workers": 2}}}
    return instance.create_run_for_job(
        job.get_definition(), run_config=config, job_code_origin=job.get_python_origin()
    ).run_id


def start_gated(instance: DagsterInstance, folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    run = create_gated(instance, folder)
    return run, subprocess.Popen([sys.executable, "-c", RUN, run], cwd=PROJECT, env={**os.environ})


def count(instance: DagsterInstance, run: str, kind: str) -> Counter[str]:
    events = [entry.dagster_event for entry in instance.all_logs(run)]
    return Counter(str(event.step_key) for event in events if event and event.event_type_value == kind)


def said(instance: DagsterInstance, run: str, text: str) -> bool:
    return any(text in entry.message for entry in instance.all_logs(run))


def commits(home: Path, run: str) -> dict[str, int]:
    ledger = Ledger(home / "storage" / "ioi" / "ledger.sqlite")
    try:
        return {row.step: row.commits for row in ledger.steps(run)}
    finally:
        ledger.close()


@pytest.fixture
def instance(tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    (tmp_path / "dagster.yaml").write_text(YAML)
    with DagsterInstance.get() as instance:
        yield instance


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process has the ledger's write lock."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.communicate()


def test_a_locked_ledger_is_waited_for(instance: DagsterInstance, tmp_path: Path) -> None:
    run, process = start_gated(instance, tmp_path)
    try:
        eventually(lambda: count(instance, run, "STEP_SUCCESS").total() == 1 + FREE, what="the steps that do not wait")
        before = count(instance, run, "STEP_SUCCESS")
        with held(tmp_path / "storage" / "ioi" / "ledger.sqlite"):
            (tmp_path / "go").touch()
            eventually(lambda: said(instance, run, "cannot be written"), what="an event that says so")
            assert count(instance, run, "STEP_SUCCESS") == before, "nothing is told that is not committed"
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert said(instance, run, "can be written again")
    assert count(instance, run, "STEP_SUCCESS") == Counter(GATED)
    assert commits(tmp_path, run) == dict.fromkeys(GATED, 1)
    for number in range(8):
        assert len(list(tmp_path.glob(f"same?n{number}? *"))) == 1, "no step ran again"


def test_a_ledger_that_stays_locked_fails_the_run(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_outputs, "PATIENCE_S", 3.0)
    run = create_gated(instance, tmp_path)
    job, found = job_of("tests.integration.resume_defs", "gated", PROJECT), instance.get_run_by_id(run)
    assert found is not None
    succeeded: set[str] = set()
    with ExitStack() as lock:
        for event in execute_run_iterator(job, found, instance):
            if event.is_step_success:
                succeeded.add(str(event.step_key))
            if len(succeeded) == 1 + FREE and not (tmp_path / "go").exists():
                lock.enter_context(held(tmp_path / "storage" / "ioi" / "ledger.sqlite"))
                (tmp_path / "go").touch()
    assert any(
        re.search(r"for 3 s the ledger .* cannot be written: database is locked", why)
        for why in why_failed(instance, run)
    )
    assert count(instance, run, "STEP_SUCCESS") == Counter(succeeded)
    assert {step for step, times in commits(tmp_path, run).items() if times} == succeeded
    failed = instance.get_run_by_id(run)
    assert failed is not None and failed.status.value == "FAILURE"


@pytest.mark.slow
def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(YAML)
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*alone, sys.executable, "-m", "tests.integration.full_disk", str(tmp_path)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("IOI_", "DAGSTER_"))}
    told = subprocess.run(command, cwd=PROJECT, env=kept, capture_output=True, text=True, timeout=200)
    assert told.returncode == 0, told.stdout + told.stderr[-3_000:]


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(LedgerAwayError, match="cannot be written: unable to open database file"):
        Ledger(tmp_path / "ledger.sqlite")
