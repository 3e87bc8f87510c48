"""An event log that cannot be written for a while, or not at all: it is said, nothing is done twice, and a resume finishes."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from dagster import DagsterInstance, DagsterRun

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.private import execute_run_iterator
from ioi_dagster.host.runs import job_of
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_databases, eventually
from tests.contract.postgres import new_database, restart, server
from tests.crash.loop import SQLITE, postgres
from tests.integration.resume_defs import FREE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170), pytest.mark.usefixtures("clean_environment")]

MODULE = "tests.integration.resume_defs"
STEPS = {"some", "total", *(f"same[n{number}]" for number in range(8))}
_CHILD = f"""
import sys
from pathlib import Path
from dagster import DagsterInstance
from ioi_dagster.host import event_groups, run_outputs
from ioi_dagster.host.private import execute_run
from ioi_dagster.host.runs import job_of
event_groups.PATIENCE_S = run_outputs.PATIENCE_S = float(sys.argv[2])
with DagsterInstance.get() as instance:
    run = instance.get_run_by_id(sys.argv[1])
    execute_run(job_of("{MODULE}", "gated", Path.cwd()), run, instance, raise_on_error=False)
"""
LONG, SHORT = 100.0, 2.0


class Gated:
    """A run of `gated` in a process of its own, on the instance in `home`; half of its steps wait until `go`."""

    def __init__(self, home: Path, storage: str, marks: Path) -> None:
        self.home, self._marks = home, marks
        os.environ["DAGSTER_HOME"] = str(home)
        shutil.copytree(dagster_databases(), home, dirs_exist_ok=True)
        (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{storage}")
        self.instance = DagsterInstance.get()
        self._job = job_of(MODULE, "gated", PROJECT)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, patience_s: float) -> DagsterRun:
        """Returns when the steps that do not wait are done, and some that do have begun."""
        where = {"config": {"folder": str(self._marks)}}
        self.run = self.instance.create_run_for_job(
            self._job.get_definition(),
            run_config={
                "ops": {"some": where, "same": where},
                "execution": {"config": {"workers": 2}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            job_code_origin=self._job.get_python_origin(),
        )
        command = [sys.executable, "-W", "ignore", "-c", _CHILD, self.run.run_id, str(patience_s)]
        with self.errors.open("wb") as errors:
            self._processes.append(subprocess.Popen(command, cwd=PROJECT, env={**os.environ}, stderr=errors))
        eventually(lambda: self.told("STEP_SUCCESS").total() == 1 + FREE, what="the steps that do not wait")
        eventually(lambda: len(list(self._marks.glob("same*"))) >= FREE + 2, what="two that wait")
        return self.run

    @property
    def errors(self) -> Path:
        return self._marks / "errors"

    def go(self) -> None:
        (self._marks / "go").touch()

    def waits_for_the_log(self) -> bool:
        return "it is tried again for" in self.errors.read_text()

    def ended(self) -> int:
        return self._processes[-1].wait(120)

    def freeze(self) -> None:
        self._processes[-1].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._processes[-1].send_signal(signal.SIGCONT)

    def resume(self) -> None:
        run = self.instance.get_run_by_id(self.run.run_id)
        assert run is not None
        for _ in execute_run_iterator(self._job, run, self.instance, resume_from_failure=True):
            pass

    def told(self, kind: str) -> Counter[str]:
        events = [entry.dagster_event for entry in self.instance.all_logs(self.run.run_id)]
        return Counter(event.step_key or "" for event in events if event and event.event_type_value == kind)

    def status(self) -> str:
        run = self.instance.get_run_by_id(self.run.run_id)
        assert run is not None
        return run.status.value

    def messages(self) -> list[str]:
        return [entry.message for entry in self.instance.all_logs(self.run.run_id)]

    def all_is_there_once(self) -> None:
        assert self.status() == "SUCCESS"
        assert self.told("STEP_SUCCESS") == self.told("STEP_START") == Counter(STEPS)
        assert self.told("PIPELINE_SUCCESS") == Counter([""])
        assert not self.told("STEP_FAILURE")
        ledger = Ledger(ledger_path())
        assert {row.step: row.commits for row in ledger.steps(self.run.run_id)} == dict.fromkeys(STEPS, 1)
        ledger.close()

    def no_step_ran_twice(self) -> None:
        assert max(Counter(path.name.split()[0] for path in self._marks.glob("same*")).values()) == 1

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self.instance.dispose()


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Callable[..., Gated]]:
    made: list[Gated] = []

    def make(home: Path, storage: str = SQLITE) -> Gated:
        marks = tmp_path / "marks"
        marks.mkdir()
        made.append(Gated(home, storage, marks))
        return made[-1]

    yield make
    for its in made:
        its.close()


# SQLite -----------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """As by a backup or another program that writes for long."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def _folder(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.mark.parametrize("seconds", [0, pytest.param(35, marks=pytest.mark.slow)])
@pytest.mark.parametrize("which", ["run", "index"])
def test_a_locked_log_is_waited_for(tmp_path: Path, gated: Callable[..., Gated], which: str, seconds: int) -> None:
    its = gated(_folder(tmp_path))
    run = its.start(LONG)
    name = run.run_id if which == "run" else "index"
    with locked(its.home / "history" / "runs" / f"{name}.db"):
        its.go()
        if which == "run":
            eventually(its.waits_for_the_log, what="a process that waits")
        # The others' steps go on meanwhile: what runs is not stopped for want of a lease.
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            its.instance.get_run_by_id(run.run_id)
    assert its.ended() == 0
    its.all_is_there_once()
    its.no_step_ran_twice()
    if which == "run":
        assert any(text.startswith("Waited ") and "database is locked" in text for text in its.messages())


def test_a_log_that_stays_locked_ends_the_process_and_a_resume_finishes(
    tmp_path: Path, gated: Callable[..., Gated]
) -> None:
    its = gated(_folder(tmp_path))
    run = its.start(SHORT)
    path = its.home / "history" / "runs" / f"{run.run_id}.db"
    with locked(path):
        its.go()
        assert its.ended() == 1
    said = its.errors.read_text()
    assert f"the event log of run {run.run_id} was not written: {path}: database is locked — free the disk" in said
    assert its.status() == "STARTED"
    its.resume()
    its.all_is_there_once()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 64 MB; to mount one takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert shutil.disk_usage(disk).free == 0
    return filler


@pytest.mark.parametrize("stays", [False, True])
def test_a_full_disk_is_waited_for_and_then_told(
    tmp_path: Path, small_disk: Path, gated: Callable[..., Gated], stays: bool
) -> None:
    its = gated(_folder(tmp_path), SQLITE.replace("}", f", config: {{base_dir: {small_disk}}}}}"))
    run = its.start(SHORT if stays else LONG)
    filler = fill(small_disk)
    its.go()
    if stays:
        assert its.ended() == 1
        said = its.errors.read_text()
        assert f"the event log of run {run.run_id} was not written: {small_disk}" in said
        assert "free the disk or end what holds the file, then resume the run" in said
        assert its.status() == "STARTED"
        filler.unlink()
        its.resume()
    else:
        eventually(its.waits_for_the_log, what="a process that waits")
        filler.unlink()
        assert its.ended() == 0
        its.no_step_ran_twice()
    its.all_is_there_once()


# PostgreSQL -------------------------------------------------------------------------------------------------------------


def test_a_lost_session_is_made_anew(tmp_path: Path, gated: Callable[..., Gated]) -> None:
    with server() as socket:
        its = gated(_folder(tmp_path), postgres(new_database(socket, "lost")))
        try:
            its.start(LONG)
            connection = psycopg2.connect(host=str(socket), user="postgres", dbname="postgres")
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'lost'")
            connection.close()
            its.go()
            assert its.ended() == 0
            its.all_is_there_once()
            its.no_step_ran_twice()
        finally:
            its.close()


def test_a_server_that_is_started_again_is_waited_for(tmp_path: Path, gated: Callable[..., Gated]) -> None:
    with server() as socket:
        its = gated(_folder(tmp_path), postgres(new_database(socket, "again")))
        try:
            its.start(LONG)
            with restart(socket):
                its.go()
                eventually(its.waits_for_the_log, what="a process that waits")
            assert its.ended() == 0
            its.all_is_there_once()
            its.no_step_ran_twice()
            assert any(text.startswith("Waited ") for text in its.messages())
        finally:
            its.close()


def test_a_frozen_process_writes_nothing_after_a_takeover(tmp_path: Path, gated: Callable[..., Gated]) -> None:
    with server() as socket:
        its = gated(_folder(tmp_path), postgres(new_database(socket, "frozen")))
        try:
            its.start(LONG)
            its.freeze()
            its.go()
            its.resume()
            its.all_is_there_once()
            told = its.messages()
            its.thaw()
            its.ended()
            assert its.messages() == told
            its.all_is_there_once()
        finally:
            its.close()


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_process_and_a_resume_finishes(
    tmp_path: Path, gated: Callable[..., Gated]
) -> None:
    with server() as socket:
        its = gated(_folder(tmp_path), postgres(new_database(socket, "away")))
        try:
            its.start(SHORT)
            with restart(socket):
                its.go()
                assert its.ended() == 1
            said = its.errors.read_text()
            assert "set the database right, then resume the run" in said
            its.resume()
            its.all_is_there_once()
        finally:
            its.close()
