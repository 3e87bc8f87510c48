"""A run's process is told from whoever has its number later, and ends with what it started."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ioi_dagster.host.run_process import RunProcess, last_words, log_of, start_run_process
from tests.conftest import eventually

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_of(tmp_path, "run")


def test_it_is_known_while_it_lives_and_not_after(log: Path) -> None:
    child = start_run_process(SLEEP, log, os.environ)
    process = RunProcess.of(child.pid)
    assert process.alive
    assert RunProcess.parse(process.text()) == process
    eventually(lambda: last_words(log) == "here", 30, "what it prints")
    assert process.send(signal.SIGKILL)
    eventually(lambda: not process.alive, 30, "its end, while nobody has waited for it")
    assert child.wait(30) == -signal.SIGKILL
    assert not process.send(signal.SIGKILL)


def test_whoever_has_its_number_is_not_it(log: Path) -> None:
    child = start_run_process(SLEEP, log, os.environ)
    process = RunProcess.of(child.pid)
    try:
        others = (
            replace(process, started=process.started - 1),
            replace(process, boot="another boot"),
            replace(process, host="another machine"),
        )
        for other in others:
            assert not other.alive
            assert not other.send(signal.SIGKILL)
            other.kill_group()
        assert [other.elsewhere for other in others] == [False, False, True]
        assert process.alive
    finally:
        child.kill()
        child.wait()


def test_what_it_started_ends_with_it(log: Path) -> None:
    code = f"import subprocess, sys; print(subprocess.Popen({SLEEP!r}).pid, flush=True); sys.stdin.read()"
    child = start_run_process([sys.executable, "-c", code + "; import time; time.sleep(600)"], log, os.environ)
    grandchild = int(eventually(lambda: last_words(log).split("\n")[0], 30, "its child"))
    RunProcess.of(child.pid).kill_group()
    assert child.wait(30) == -signal.SIGKILL
    eventually(lambda: not psutil.pid_exists(grandchild) or _zombie(grandchild), 30, "the end of its child")


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("text", ["", "{}", "null", "[1]", '{"host": "a", "boot": "b", "pid": "x", "started": 1}'])
def test_other_texts_name_no_process(text: str) -> None:
    assert RunProcess.parse(text) is None
