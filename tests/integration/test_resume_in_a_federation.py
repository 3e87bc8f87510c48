"""A run in a federation whose process is killed: that of `ioi run`, and that of a launched run. `ioi up` goes on with both."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from dagster import DagsterInstance

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.launcher import process_of
from ioi_dagster.host.run_process import RunProcess
from ioi_dagster.local.home import PROJECT
from tests.conftest import eventually

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(420)]


def ioi(log: Path, *arguments: object) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "ioi_dagster.cli", *map(str, arguments)],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


class Home:
    """What the home domain's ledger and Dagster's storage say of the one run."""

    def __init__(self, root: Path, instance: DagsterInstance) -> None:
        self.instance = instance
        self._ledger = root / "domains" / "library.example" / "ledger.sqlite"

    def steps(self) -> list:
        if not self._ledger.exists():
            return []
        ledger = Ledger(self._ledger)
        try:
            runs = ledger.runs()
            return ledger.steps(runs[0][0]) if runs else []
        finally:
            ledger.close()

    def reading(self, since: Iterable[tuple[str, int]] = ()) -> bool:
        """A page is read at a node that a later process can reach, and was not begun by `since`."""
        return any(
            step.state == "RUN" and step.capability.startswith("page.") and step.domain != "cloud.example"
            for step in self.steps()
            if (step.step, step.fence) not in since
        )

    def done(self) -> set[str]:
        return {step.step for step in self.steps() if step.state == "DONE"}

    def process(self) -> RunProcess | None:
        (run,) = self.instance.get_runs()
        return process_of(run)

    def told(self) -> list[str]:
        (run,) = self.instance.get_runs()
        return [entry.message for entry in self.instance.all_logs(run.run_id)]

    def resumed(self) -> list[str]:
        return [text for text in self.told() if text.startswith("Resumed:")]

    def succeeded(self) -> Counter[str | None]:
        (run,) = self.instance.get_runs()
        entries = self.instance.all_logs(run.run_id)
        return Counter(e.step_key for e in entries if e.dagster_event and e.dagster_event.is_step_success)


def test_a_killed_command_and_a_killed_run_process_cost_nothing_that_was_done(
    small_pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "home", tmp_path / "out"
    command = ioi(tmp_path / "run.log", "run", "documents", "--input", small_pile, "--out", out, "--home", root)
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster"))
    try:
        eventually(lambda: _is_there(root) and command.poll() is None, 120, "the storage of Dagster")
        with DagsterInstance.get() as instance:
            home = Home(root, instance)
            eventually(home.reading, 120, "a page that is read")
            first = home.process()
            assert first is not None
            assert first.pid == command.pid
            command.kill()
            command.wait()
            done, begun = home.done(), {(step.step, step.fence) for step in home.steps()}
            up = ioi(tmp_path / "up.log", "up", "--port", 0, "--home", root)
            try:
                eventually(lambda: home.done() > done, 180, "a process of `ioi up` that goes on with the run")
                eventually(lambda: home.reading(begun), 120, "a page that is read")
                second = home.process()
                assert second is not None
                assert second.send(signal.SIGKILL)
                eventually(lambda: home.process() != second, 60, "another process")
                eventually(lambda: instance.get_runs()[0].is_finished, 180, "the end of the run")
                up.send_signal(signal.SIGINT)
                assert up.wait(60) == 0, (tmp_path / "up.log").read_text()
            finally:
                up.kill()
                up.wait()
            (run,) = instance.get_runs()
            assert run.status.value == "SUCCESS", home.told()[-5:]
            assert set(home.succeeded().values()) == {1}
            assert done <= set(home.succeeded()), "what was committed by then was not run again"
            first_time, second_time = home.resumed()
            # Domains end with the command that started them; under `ioi up` they live on, and so do the steps.
            assert "0 of them are so still" in first_time
            assert re.search(r"[1-9]\d* of them are so still", second_time), second_time
            assert {step.state for step in home.steps()} == {"DONE"}
            assert (out / "index.sqlite").exists()
    finally:
        command.kill()
        command.wait()


def _is_there(root: Path) -> bool:
    time.sleep(0.1)
    return (root / "domains" / "library.example" / "ledger.sqlite").exists()
