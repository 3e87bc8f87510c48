"""A Dask cluster of one run's own: a scheduler and workers as child processes that end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ioi_dagster.adapters.dask.apart import ended_how
from ioi_dagster.adapters.dask.memory import too_large
from ioi_dagster.adapters.dask.profiling import QUIET
from ioi_dagster.adapters.dask.running import MEMORY_STATUS
from ioi_dagster.adapters.dask.witness import Stillness
from ioi_dagster.errors import UnreachableError
from ioi_dagster.ports import free_ports

MEMORY = "for its memory"
"""So begins what `how_it_ended` says of a worker that was ended by `end_too_large`."""


@dataclass(slots=True)
class LocalCluster:
    """`start_worker(name)` starts one more process under that node name."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: dict[str, subprocess.Popen[bytes]]
    start_worker: Callable[[str], subprocess.Popen[bytes]]
    start_scheduler: Callable[[], subprocess.Popen[bytes]]
    memory_limit: int = 0
    """Bytes that a worker may hold; 0: what the machine has."""
    closed: bool = False
    _ends: dict[str, str] = field(default_factory=dict)
    _still: Stillness = field(default_factory=Stillness)

    def how_it_ended(self, node: str, ends_s: float = 0.2) -> str:
        """How the last process of that name ended that has; empty where none has. One that is ending has `ends_s` seconds."""
        process = self.workers.get(node)
        if process is not None:
            # Its connection is closed a little before it has ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(ends_s)
                how = f"{MEMORY}: it did not stop" if status == MEMORY_STATUS else ended_how(status)
                self._ends.setdefault(f"{node} {process.pid}", how)
        # Asked in the client's thread while the run's own looks after the processes.
        mine = [how for key, how in list(self._ends.items()) if key.startswith(f"{node} ")]
        return mine[-1] if mine else ""

    def end_too_large(self) -> None:
        """End workers that hold too much memory."""
        living = {name: process.pid for name, process in self.workers.items() if process.poll() is None}
        for name, why in too_large(living, self.memory_limit).items():
            self._ends[f"{name} {living[name]}"] = f"{MEMORY}: {why}"
            _kill(self.workers[name])

    def end_stopped(self, now: float) -> None:
        """End processes that stand still: their sockets are open, so Dask would wait for minutes."""
        for name, process in {**self.workers, "scheduler": self.scheduler}.items():
            if process.poll() is None and self._still.look(name, process.pid, now):
                self._ends[f"{name} {process.pid}"] = "after it stood still"
                _kill(process)

    def revive(self) -> list[str]:
        """Start a dead scheduler and dead workers again, under their names; returns which they were. None once it is closed."""
        if self.closed:
            return []
        if self.scheduler.poll() is not None:
            self.scheduler = self.start_scheduler()
            for process in self.workers.values():
                # They would notice by themselves, but later, and come back as others.
                _kill(process)
        dead = [name for name, process in self.workers.items() if process.poll() is not None]
        for name in dead:
            self.how_it_ended(name)
            _kill(self.workers[name])
            self.workers[name] = self.start_worker(name)
        return dead

    def close(self) -> None:
        """Kill every process: the cluster served one run, which is over, so there is nothing to wind down."""
        self.closed = True
        for process in (*self.workers.values(), self.scheduler):
            _kill(process)


def start_local_cluster(workers: int, folder: str, memory_limit: int = 0) -> LocalCluster:
    """Start `workers` single-threaded workers under one scheduler; they take steps of the run that started them.

    `memory_limit`: bytes that each may hold, 0 for what the machine has.
    """
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "IOI_STEP_RUNNER": "ioi_dagster.host.step_runner:run",
        "IOI_CLUSTER": "alone",
        "IOI_MEMORY_LIMIT": str(memory_limit),
        "OMP_NUM_THREADS": "1",
        # The stack of a crash in native code goes to the step's own log.
        "PYTHONFAULTHANDLER": "1",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        **QUIET,
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path])),
    }
    environment.pop("IOI_DOMAIN_HOME", None)
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]

    def start_scheduler() -> subprocess.Popen[bytes]:
        return _start([*command, "--no-dashboard", "--no-show"], environment, folder, "scheduler")

    scheduler = start_scheduler()

    def start_worker(node: str) -> subprocess.Popen[bytes]:
        worker = [
            *(sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--host", "127.0.0.1"),
            # Without a limit: a worker that Dask pauses for memory would sit on its steps for ever.
            *(
                "--nthreads",
                "1",
                "--memory-limit",
                "0",
                "--name",
                node,
                "--no-dashboard",
                "--resources",
                f"node:{node}=1",
            ),
            *("--local-directory", str(Path(folder) / node), "--death-timeout", "30"),
            *("--preload", "ioi_dagster.adapters.dask.worker_preload"),
        ]
        return _start(worker, {**environment, "IOI_NODE": node}, folder, node)

    names = [f"alone-{number + 1}" for number in range(workers)]
    cluster = LocalCluster(
        address, scheduler, {name: start_worker(name) for name in names}, start_worker, start_scheduler, memory_limit
    )
    try:
        _wait(port, [scheduler, *cluster.workers.values()])
    except BaseException:
        cluster.close()
        raise
    return cluster


def _start(command: list[str], environment: dict[str, str], folder: str, name: str) -> subprocess.Popen[bytes]:
    with (Path(folder) / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
            start_new_session=True,
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process, and what its steps started and left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_parent() -> None:
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait(port: int, processes: list[subprocess.Popen[bytes]], timeout_s: float = 30.0) -> None:
    """Until the scheduler's port is open; workers join when they are ready, and steps wait for them in its queue."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if any(process.poll() is not None for process in processes):
            raise UnreachableError("embedded Dask cluster", "one of its processes ended while starting")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise UnreachableError("embedded Dask cluster", f"its scheduler did not open port {port} in {timeout_s:g} s")
