"""A supervisor keeps what it was given alive, whatever one of them does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ioi_dagster.adapters.dask.profiling import QUIET
from ioi_dagster.local.supervisor import CRASH_LOOP, CRASH_WINDOW_S, ProcessSpec, Supervisor, specs_of
from tests.conftest import eventually

SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")
ENDS = (sys.executable, "-c", "pass")


def spec(name: str, command: tuple[str, ...], after: str = "") -> ProcessSpec:
    return ProcessSpec(name, "worker", command, {}, after)


@pytest.fixture
def make(tmp_path: Path) -> Iterator:
    made: list[Supervisor] = []

    def supervisor(*specs: ProcessSpec) -> Supervisor:
        made.append(Supervisor(list(specs), tmp_path))
        return made[-1]

    yield supervisor
    for one in made:
        one.stop()


def report(folder: Path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((folder / "supervisor.json").read_text())["processes"]}


def test_one_that_cannot_be_started_ends_nobody_else(make, tmp_path):
    supervisor = make(spec("absent", ("/no/such/program",)), spec("good", SLEEPS))
    supervisor.tick(0.0)
    rows = report(tmp_path)
    assert rows["absent"]["pid"] is None
    assert psutil.pid_exists(rows["good"]["pid"])


def test_a_crash_loop_is_told_and_told_to_be_over(make, tmp_path):
    supervisor = make(spec("ends", ENDS))
    now = 0.0
    supervisor.tick(now)

    def looping() -> bool:
        nonlocal now
        # Time passes only where the next start is waited for, however long a process takes to end.
        now += 6.0 if report(tmp_path)["ends"]["pid"] is None else 0.0
        supervisor.tick(now)
        return report(tmp_path)["ends"]["crash_loop"]

    eventually(looping, 30, "a crash loop")
    assert now <= 6.0 * CRASH_LOOP
    supervisor.tick(now + CRASH_WINDOW_S)
    assert not report(tmp_path)["ends"]["crash_loop"]


def test_workers_go_with_their_scheduler_and_come_back(make, tmp_path):
    supervisor = make(spec("scheduler", SLEEPS), spec("worker", SLEEPS, after="scheduler"))
    supervisor.tick(0.0)
    before = report(tmp_path)
    psutil.Process(before["scheduler"]["pid"]).kill()

    def renewed() -> bool:
        supervisor.tick(1e6)
        rows = report(tmp_path)
        return all(rows[name]["pid"] not in (None, before[name]["pid"]) for name in rows)

    eventually(renewed, 30, "both again")


def test_one_that_has_read_a_file_is_started_anew_when_that_says_something_else(make, tmp_path):
    """Nothing is to be seen of a crash, and a file that is written again as it was, or away, changes nothing."""
    path = tmp_path / "file"
    path.write_text("one")
    supervisor = make(replace(spec("reads", SLEEPS), reads="file"), spec("other", SLEEPS))
    supervisor.tick(0.0)
    before = report(tmp_path)

    def pid() -> int | None:
        supervisor.tick(1.0)
        return report(tmp_path)["reads"]["pid"]

    path.write_text("one")
    assert pid() == before["reads"]["pid"]
    path.unlink()
    assert pid() == before["reads"]["pid"]
    path.write_text("two")
    eventually(lambda: pid() not in (None, before["reads"]["pid"]), 30, "another")
    after = report(tmp_path)
    assert (after["reads"]["restarts"], after["other"]) == (0, before["other"])
    assert pid() == after["reads"]["pid"]


def start_supervisor(folder: Path, parent: int, log: str = "log") -> subprocess.Popen[bytes]:
    config = {
        "spec": {"authority": "x", "clusters": []},
        "authorities": {"a": "x"},
        "home": "a",
        "clusters": [],
    }
    (folder / "domain.json").write_text(json.dumps(config))
    with (folder / log).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "ioi_dagster.local.supervisor", str(folder), str(parent)],
            env={**os.environ, "IOI_DOMAIN_HOME": str(folder)},
            stderr=output,
        )


def test_a_supervisor_whose_parent_is_gone_before_it_looks_ends(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    assert start_supervisor(tmp_path, gone.pid).wait(30) == 0


def test_a_supervisor_waits_for_the_one_before_it(tmp_path):
    def reported() -> int:
        path = tmp_path / "supervisor.json"
        return json.loads(path.read_text())["pid"] if path.exists() else 0

    first = start_supervisor(tmp_path, os.getpid())
    eventually(lambda: reported() == first.pid, 30, "the first one's report")
    second = start_supervisor(tmp_path, os.getpid(), "second")
    third = start_supervisor(tmp_path, os.getpid(), "third")
    for name in ("second", "third"):
        eventually(lambda name=name: "is waited for" in (tmp_path / name).read_text(), 30, f"the {name} one")
    third.terminate()
    assert third.wait(30) == 0
    assert reported() == first.pid
    first.terminate()
    first.wait(30)
    eventually(lambda: reported() == second.pid, 30, "the second one's report")
    second.terminate()
    second.wait(30)


def dask_processes(folder: Path) -> dict[str, ProcessSpec]:
    """Of a domain with two nodes, of which the owner has said what memory the second has."""
    nodes = [{"name": f"n{one}", "slots": 1, "memory": 2 * 10**9, "limited": one == 2} for one in (1, 2)]
    config = {
        "spec": {"authority": "a", "clusters": [{"name": "main", "nodes": nodes}]},
        "home": "us",
        "authorities": {"us": "a"},
        "clusters": [{"name": "main", "scheduler": "tcp://127.0.0.1:1"}],
    }
    (folder / "domain.json").write_text(json.dumps(config))
    return {spec.name: spec for spec in specs_of(folder) if spec.role in ("scheduler", "worker")}


def test_every_dask_process_of_a_domain_is_started_without_the_profiler_and_its_other_beats(tmp_path):
    quiet = {name for name, its in dask_processes(tmp_path).items() if QUIET.items() <= its.environment.items()}
    assert quiet == {"scheduler-main", "n1", "n2"}


def test_a_worker_is_told_its_limit_where_its_memory_is_stated(tmp_path):
    told = {name: its.environment.get("IOI_MEMORY_LIMIT") for name, its in dask_processes(tmp_path).items()}
    assert told == {"scheduler-main": None, "n1": "0", "n2": "2000000000"}
