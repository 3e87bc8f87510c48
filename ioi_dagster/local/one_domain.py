"""The processes of one domain alone, as children of a command."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import IoiError, UnreachableError
from ioi_dagster.local.federation import START_S, python_path

READY_S = 60.0
STOP_S = 10.0


@contextlib.contextmanager
def running(home: DomainHome, stopped: Callable[[], bool]) -> Iterator[bool]:
    """The domain's supervisor and what it keeps alive; ended with the block. True once the gateway answers and every
    node has joined, False when `stopped()` came first. Raises `UnreachableError` when nothing comes for a minute."""
    with (home.root / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ioi_dagster.local.supervisor", str(home.root), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": python_path()},
            start_new_session=True,
        )
    try:
        yield _wait(home, process, stopped)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(home: DomainHome, process: subprocess.Popen[bytes], stopped: Callable[[], bool]) -> bool:
    clusters = home.config().spec.clusters
    wanted = {f"node/{c.name}/{node.name}" for c in clusters for node in c.always} | {
        f"cluster/{c.name}" for c in clusters
    }
    client, seen, until = own_gateway(home), -1, time.monotonic() + READY_S
    try:
        while not stopped():
            if process.poll() is not None:
                raise UnreachableError(
                    f"the supervisor of {home.name}", f"it ended; see {home.root / 'supervisor.log'}"
                )
            there: set[str] = set()
            with contextlib.suppress(IoiError):
                there = set(client.state(START_S)) & wanted
            if there == wanted:
                return True
            if len(there) > seen:
                seen, until = len(there), time.monotonic() + READY_S
            if time.monotonic() > until:
                todo = f"see the logs in {home.logs}"
                missing = ", ".join(sorted(wanted - there))
                raise UnreachableError(f"{missing} of {home.name}", f"nothing has joined for {READY_S:g} s — {todo}")
            time.sleep(0.1)
        return False
    finally:
        client.close()
