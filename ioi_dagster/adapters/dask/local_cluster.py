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
from dataclasses import dataclass
from pathlib import Path

from ioi_dagster.errors import UnreachableError


@dataclass(slots=True)
class LocalCluster:
    """`start_worker(name)` starts one more process under that node name."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: dict[str, subprocess.Popen[bytes]]
    start_worker: Callable[[str], subprocess.Popen[bytes]]
    start_scheduler: Callable[[], subprocess.Popen[bytes]]
    closed: bool = False

    def revive(self) -> list[str]:
        """Start a dead scheduler and dead workers again, under their names; returns which they were. None once it is closed."""
        if self.closed:
            return []
        if self.scheduler.poll() is not None:
            self.scheduler = self.start_scheduler()
            for process in self.workers.values():
                # They would notice by themselves, but later, and come back as others.
                process.kill()
                process.wait()
        dead = [name for name, process in self.workers.items() if process.poll() is not None]
        for name in dead:
            self.workers[name] = self.start_worker(name)
        return dead

    def close(self) -> None:
        """Kill every process: the cluster served one run, which is over, so there is nothing to wind down."""
        self.closed = True
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
            process.wait()


def start_local_cluster(workers: int, folder: str) -> LocalCluster:
    """Start `workers` single-threaded workers under one scheduler; they take steps of the run that started them."""
    port = _free_port()
    address = f"tcp://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "IOI_STEP_RUNNER": "ioi_dagster.host.step_runner:run",
        "IOI_CLUSTER": "alone",
        "OMP_NUM_THREADS": "1",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
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
        address, scheduler, {name: start_worker(name) for name in names}, start_worker, start_scheduler
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
        )


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


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
