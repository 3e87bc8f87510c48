"""Keeps the domains' supervisors alive, as these keep their processes: a domain whose supervisor was killed, or stands still,
comes back."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ioi_dagster.adapters.dask.witness import Stillness, end
from ioi_dagster.domain import DomainHome

log = logging.getLogger("ioi.keeper")
POLL_S = 0.2
GRACE_S = 10.0
TRIES = 3
WINDOW_S = 60.0
"""A supervisor that ends more than `TRIES` times in so many seconds is left alone: it cannot be meant to run."""


class Keeper:
    """`start(domain)` starts the supervisor of one domain. All of them run from `open` to `close`."""

    def __init__(self, domains: Sequence[str], start: Callable[[str], subprocess.Popen[bytes]]) -> None:
        self._domains, self._start = domains, start
        self._supervisors: dict[str, subprocess.Popen[bytes]] = {}
        self._ends: dict[str, list[float]] = {}
        self._still = Stillness()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def open(self) -> None:
        for domain in self._domains:
            self._supervisors[domain] = self._start(domain)
        self._thread.start()

    def close(self) -> None:
        """End every supervisor, and so its children. Returns when none is left."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for process in self._supervisors.values():
            process.terminate()
            # One that was stopped would not hear of it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        for process in self._supervisors.values():
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._supervisors.clear()

    def pids(self) -> dict[str, int]:
        """Domain → its supervisor's process."""
        return {domain: process.pid for domain, process in self._supervisors.items()}

    def dead(self) -> list[str]:
        """Domains whose supervisor is not started again: nobody restarts what dies there."""
        return [domain for domain, ends in self._ends.items() if len(ends) > TRIES]

    def _watch(self) -> None:
        while not self._closing.wait(POLL_S):
            for domain, process in list(self._supervisors.items()):
                if process.poll() is None:
                    self._end_if_still(domain, process.pid)
                elif domain not in self.dead():
                    self._again(domain, time.monotonic())

    def _end_if_still(self, domain: str, pid: int) -> None:
        """Nobody restarts what dies there while it does nothing. What it keeps is ended with it and comes back with the next."""
        if self._still.look(domain, pid, time.monotonic()):
            log.warning("the supervisor of %s stood still and is ended", domain)
            end(pid)

    def _again(self, domain: str, now: float) -> None:
        ends = [at for at in self._ends.get(domain, []) if now - at < WINDOW_S] + [now]
        try:
            if len(ends) <= TRIES:
                self._supervisors[domain] = self._start(domain)
        except OSError:
            return  # what the machine lacks for the moment (processes, disk) is waited for
        self._ends[domain] = ends


def start_supervisor(home: DomainHome) -> subprocess.Popen[bytes]:
    """That of one domain, as a child of this process, without which it ends. What it says is in `supervisor.log`."""
    with (home.root / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ioi_dagster.local.supervisor", str(home.root), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": python_path()},
            start_new_session=True,
        )


def python_path() -> str:
    """Children import what this process imports."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(dict.fromkeys([here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
