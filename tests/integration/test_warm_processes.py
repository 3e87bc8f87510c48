"""Run processes that a warm process forks are as those that are started the usual way; what is in its way costs no run."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioi_dagster.host import warm
from ioi_dagster.host.run_process import RunProcess
from ioi_dagster.host.warm import Forked, WarmProcess, Warmth
from tests.conftest import dagster_home, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CODE = """
import os, time
from dagster import job, op

print("imported by", os.getpid(), "of session", os.getsid(0), flush=True)

@op
def one():
    print("{word}", flush=True)

@job
def its_job():
    one()
"""


@pytest.fixture
def its(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmProcess]:
    """A warm process that has imported `sitecustomize` of `tmp_path` too."""
    (tmp_path / "sitecustomize.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    dagster_home(tmp_path, monkeypatch)
    process = WarmProcess(sys.executable, tmp_path / "warm.log")
    eventually(lambda: process.ready or process.failed, 90, "the warm process")
    assert process.ready, (tmp_path / "warm.log").read_text()
    yield process
    process.close()


def test_a_fork_is_a_process_of_its_own_that_reads_the_code_anew(its: WarmProcess, tmp_path: Path) -> None:
    """Its steps are processes of their own in turn: the executor is `multiprocess`."""
    file, log = tmp_path / "its_code.py", tmp_path / "logs" / "run.log"
    file.write_text(CODE.format(word="before"))
    first = _execute(its, file, log)
    assert (first.wait(), first.process.alive) == (0, False)
    told = log.read_text()
    assert f"imported by {first.pid} of session {first.pid}\n" in told
    assert len(re.findall(f"imported by [0-9]+ of session {first.pid}\n", told)) == 2
    # Two processes write into it: what one says may begin within a line of the other's.
    assert "before\n" in told
    file.write_text(CODE.format(word="afterwards"))
    assert _execute(its, file, log).wait() == 0
    assert log.read_text().startswith(told)
    assert "afterwards\n" in log.read_text()


def test_how_a_fork_ends_is_told(its: WarmProcess, tmp_path: Path) -> None:
    child = its.fork(["no-such-command"], tmp_path / "run.log")
    assert child is not None
    assert child.wait() == 2
    assert "No such command" in (tmp_path / "run.log").read_text()
    stopped = _that_stays(its, tmp_path)
    stopped.process.kill_group()
    assert stopped.wait() == -signal.SIGKILL


def test_many_are_forked_at_once(its: WarmProcess, tmp_path: Path) -> None:
    children = [its.fork(["--version"], tmp_path / f"{number}.log") for number in range(8)]
    assert [child.wait() for child in children if child is not None] == [0] * 8
    assert len({child.pid for child in children if child is not None}) == 8
    told = {(tmp_path / f"{number}.log").read_text() for number in range(8)}
    assert len(told) == 1 and "version" in told.pop()


def test_a_fork_that_is_told_nothing_does_nothing(
    its: WarmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gave up waiting for it starts the run another way, so it must never begin."""
    seen: list[RunProcess | None] = []
    parse = RunProcess.parse

    def unheard(text: str) -> RunProcess | None:
        seen.append(parse(text))
        return None

    monkeypatch.setattr(warm.RunProcess, "parse", unheard)
    assert its.fork(["--version"], tmp_path / "run.log") is None
    (fork,) = seen
    assert fork is not None
    eventually(lambda: not fork.alive, 30, "the end of the fork")
    assert not (tmp_path / "run.log").exists()


def test_what_changed_on_disk_is_not_run_out_of_memory(its: WarmProcess, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("changed = True\n")
    assert its.fork(["--version"], tmp_path / "run.log") is None
    eventually(lambda: not its.fits, 30, "the end of the warm process")
    assert not its.failed


def test_forks_outlive_the_warm_process(its: WarmProcess, tmp_path: Path) -> None:
    child = _that_stays(its, tmp_path)
    ended: list[int | None] = []
    waits = threading.Thread(target=lambda: ended.append(child.wait()))
    waits.start()
    its.close()
    eventually(lambda: not its.fits, 30, "the end of the warm process")
    assert child.process.alive
    child.process.kill_group()
    waits.join(30)
    assert ended == [None]


def test_another_environment_gets_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, log = [sys.executable, "-m", "dagster", "--version"], tmp_path / "run.log"
    warmth = Warmth()
    try:
        assert warmth.start(command, log) is None
        child = eventually(lambda: warmth.start(command, log), 90, "a warm process")
        assert child.wait() == 0
        monkeypatch.setenv("SOMETHING", "else")
        assert warmth.start(command, log) is None
        child = eventually(lambda: warmth.start(command, log), 90, "a warm process")
        assert child.wait() == 0
    finally:
        warmth.close()


def test_an_interpreter_without_this_package_and_other_commands_are_left_alone(tmp_path: Path) -> None:
    python, log = tmp_path / "python", tmp_path / "run.log"
    python.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\nexit 1\n")
    python.chmod(0o755)
    warmth = Warmth()
    try:
        assert warmth.start(["kubectl", "run"], log) is None
        assert warmth.start([str(python), "-m", "dagster", "--version"], log) is None
        eventually(lambda: warmth.start([str(python), "-m", "dagster", "--version"], log) is None and _gone(warmth), 30)
        assert warmth.start([str(python), "-m", "dagster", "--version"], log) is None
        assert (tmp_path / "starts").read_text() == "started\n"
    finally:
        warmth.close()


def _gone(warmth: Warmth) -> bool:
    return all(process.failed for process in warmth._by_python.values())


def _execute(of: WarmProcess, file: Path, log: Path) -> Forked:
    child = of.fork(["job", "execute", "-f", str(file), "-j", "its_job"], log)
    assert child is not None
    return child


def _that_stays(of: WarmProcess, folder: Path) -> Forked:
    """A fork that is in code of its user's."""
    file, log = folder / "stays.py", folder / f"{os.urandom(4).hex()}.log"
    file.write_text(CODE.format(word="") + "time.sleep(600)\n")
    child = _execute(of, file, log)
    eventually(lambda: log.exists() and f"imported by {child.pid}" in log.read_text(), 60, "its code")
    return child
