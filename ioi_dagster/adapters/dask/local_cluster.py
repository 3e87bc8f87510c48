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
from dataclasses import dataclass
from pathlib import Path

from ioi_dagster.errors import UnreachableError


@dataclass(slots=True)
class LocalCluster:
    address: str
    nodes: tuple[str, ...]
    processes: list[subprocess.Popen[bytes]]

    def close(self) -> None:
        """End every process; nothing is left."""
        for process in self.processes:
            process.terminate()
        until = time.monotonic() + 3.0
        for process in self.processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
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
    processes = [_start([*command, "--no-dashboard", "--no-show"], environment, folder, "scheduler")]
    nodes = tuple(f"alone-{number + 1}" for number in range(workers))
    for node in nodes:
        worker = [
            *(sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--host", "127.0.0.1"),
            *("--nthreads", "1", "--name", node, "--no-dashboard", "--resources", f"node:{node}=1"),
            *("--local-directory", str(Path(folder) / node), "--death-timeout", "30"),
            *("--preload", "ioi_dagster.adapters.dask.worker_preload"),
        ]
        processes.append(_start(worker, {**environment, "IOI_NODE": node}, folder, node))
    cluster = LocalCluster(address, nodes, processes)
    try:
        _wait(port, processes)
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
