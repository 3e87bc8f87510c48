"""Starts run processes quickly: a process that has imported everything forks one for each line that it is given.

Started by `Hatchery`; a line is JSON, the answer the process id, and later the id with the exit status. It has no threads of
its own before it forks.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ioi_dagster.local.home import PROJECT

MODULE = "tests.crash.jobs"


class Hatchery:
    """Give it a folder, and run processes with `DAGSTER_HOME` there."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            env={**os.environ, **environment},
        )
        self._born: queue.Queue[int] = queue.Queue()
        self._ended: dict[int, int] = {}
        self._told = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, run_id: str, job: str, resume: bool, page: Path, die: tuple[int, str], log: Path) -> int:
        """The process id of a run process. `die`: see `Phases`."""
        line = json.dumps([run_id, job, resume, str(page), *die, str(log)])
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return self._born.get(timeout=60)

    def ended(self, pid: int, wait_s: float) -> int | None:
        """Its return code (negative: the signal), None where it has not ended within `wait_s` seconds."""
        with self._told:
            self._told.wait_for(lambda: pid in self._ended, wait_s)
            return self._ended.get(pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, pid, status = json.loads(line)
            if kind == "born":
                self._born.put(pid)
            else:
                with self._told:
                    self._ended[pid] = os.waitstatus_to_exitcode(status)
                    self._told.notify_all()


def main() -> None:
    import distributed  # noqa: F401 -- imported once for all
    from dagster import DagsterInstance  # noqa: F401

    from ioi_dagster.adapters.dask import client, local_cluster  # noqa: F401
    from ioi_dagster.host import executor, network, resume, runs, storage, storage_postgres  # noqa: F401
    from tests.crash import jobs

    for name in jobs.JOBS:
        runs.job_of(MODULE, name, PROJECT).get_definition()
    _serve()


def _serve() -> None:
    """One line after the other; ended children are told between them."""
    buffered, over, children = b"", False, set()
    while not over or children:
        readable, _, _ = select.select([] if over else [0], [], [], 0.01)
        if readable:
            data = os.read(0, 65_536)
            over = not data
            buffered += data
        while b"\n" in buffered:
            line, _, buffered = buffered.partition(b"\n")
            pid = os.fork()
            if pid == 0:
                _run(*json.loads(line))
            children.add(pid)
            _say("born", pid, 0)
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.discard(pid)
                _say("ended", pid, status)


def _say(kind: str, pid: int, status: int) -> None:
    os.write(1, json.dumps([kind, pid, status]).encode() + b"\n")


def _run(run_id: str, job: str, resume: bool, page: str, die_at: int, die_in: str, log: str) -> Any:
    """In the run process."""
    from dagster import DagsterInstance

    from ioi_dagster.host.private import execute_as_launched
    from tests.crash.phases import Phases

    status = 1
    try:
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        with DagsterInstance.get() as instance:
            Phases(Path(page), die_at, die_in).install(instance)
            execute_as_launched(run_id, instance, resume)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
