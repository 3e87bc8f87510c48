"""Ctrl-C and kill -9 of `ioi run documents`, at its own command: it ends at once, says so, and leaves nothing running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus

from definitions.documents.command import SHIPPED
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host import tags
from ioi_dagster.local.home import PROJECT
from tests.conftest import eventually

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(240)]

HOME = "library.example"
SLOW = pytest.mark.slow


def starts(home: Path) -> bool:
    return (home / "domains" / HOME / "supervisor.json").exists()


def permitted(home: Path) -> bool:
    """Its run is there, and the domains still start: a worker takes seconds."""
    # Opened as an instance it would be migrated, which its maker does just then.
    path = home / "dagster" / "history" / "runs.db"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("SELECT 1 FROM run_tags WHERE key = ?", (tags.PERMIT,)).fetchone())
    except sqlite3.OperationalError:
        return False


def reads(home: Path) -> bool:
    path = home / "domains" / HOME / "ledger.sqlite"
    if not path.exists():
        return False
    ledger = Ledger(path)
    try:
        runs = ledger.runs()
        return (
            any(step.state == "RUN" and step.capability == "page.upright" for step in ledger.steps(runs[0][0]))
            if runs
            else False
        )
    finally:
        ledger.close()


def processes(home: Path) -> set[int]:
    """Everything that was started for the federation in `home`."""
    found = set()
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join(process.cmdline()) or str(home) in process.environ().get("IOI_DOMAIN_HOME", ""):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def command(tmp_path: Path):
    (tmp_path / "pile").mkdir()
    shutil.copy(SHIPPED / "pages" / "phototest.tif", tmp_path / "pile")
    (tmp_path / "pile" / "manifest.yaml").write_text("pages: {phototest.tif: restricted}")
    folders = ["--input", tmp_path / "pile", "--out", tmp_path / "out", "--home", tmp_path / "home"]
    text = "from ioi_dagster.cli import main; main()"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", text, "run", "documents", *map(str, folders)],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("phase", "times"), [pytest.param(starts, 2, marks=SLOW), pytest.param(permitted, 1, marks=SLOW), (reads, 2)]
)
def test_ctrl_c_ends_it_cleanly(command, tmp_path, monkeypatch, phase: Callable[[Path], bool], times: int):
    home = tmp_path / "home"
    eventually(lambda: phase(home), 120, "the moment to interrupt it")
    for _ in range(times):
        command.send_signal(signal.SIGINT)
    assert command.wait(60) == 130, (tmp_path / "log").read_text()
    assert processes(home) == set()
    log = (tmp_path / "log").read_text()
    assert "stopped" in log
    assert "Traceback" not in log
    if phase is reads:
        assert json.loads((tmp_path / "out" / "run.json").read_text())["run"]["status"] == "interrupted"
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    with DagsterInstance.get() as instance:
        statuses = [run.status for run in instance.get_runs()]
    assert statuses == [DagsterRunStatus.CANCELED] or (phase is starts and statuses == [])


def test_a_command_that_is_killed_takes_everything_along(command, tmp_path):
    home = tmp_path / "home"
    eventually(lambda: reads(home), 120, "a step under way")
    command.kill()
    command.wait()
    eventually(lambda: not processes(home), 20, "the end of everything")
