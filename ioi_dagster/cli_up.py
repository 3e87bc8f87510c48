"""`ioi up`: the web UI, the daemon and the federation as children of one process, ended together with the runs' processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType

from ioi_dagster.errors import BadInputError, UnreachableError
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import PROJECT, prepare_dagster

READY_S = 60.0
RUN_GRACE_S = 15.0


def code_locations(workspaces: Sequence[Path], modules: Sequence[str], folder: Path) -> list[str]:
    """Dagster's options for the code locations that are meant, of the shipped workspace where none is. Modules are found from
    `folder`. Raises `BadInputError` for both at once, which Dagster does not take, and for a file that is not there."""
    if workspaces and modules:
        todo = "give one of them; a workspace file may name modules"
        raise BadInputError("--workspace and --module-name at once", todo=todo)
    missing = next((file for file in workspaces if not file.is_file()), None)
    if missing is not None:
        raise BadInputError("there is no such workspace file", where=str(missing), todo="give Dagster's workspace.yaml")
    if modules:
        return [*(part for module in modules for part in ("-m", module)), "-d", str(folder.resolve())]
    return [part for file in workspaces or [PROJECT / "workspace.yaml"] for part in ("-w", str(file.resolve()))]


def serve(federation: Federation, home: Path, port: int, say: Callable[[str], None], code: Sequence[str]) -> None:
    """Start everything, say the address, and wait until told to stop. Nothing is left running. `code`: see `code_locations`."""
    if port and not _free(port):
        raise BadInputError(f"port {port} is taken", todo="give another --port, or 0 for a free one")
    told: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    # A shell that starts this in the background has it ignore SIGINT; asked for, it listens again.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    begun = time.monotonic()
    say("starting domains, Dagster's web UI and its daemon; on a small machine that takes half a minute")
    port = port or _any_port()
    children: list[subprocess.Popen[bytes]] = []
    with federation:
        environment = {**os.environ, **federation.environment(), "DAGSTER_HOME": str(prepare_dagster(home))}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
        logs = home / "dagster"
        server = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *code]
        daemon = [sys.executable, "-m", "dagster._daemon", "run", *code]
        _make_storage(environment, logs)
        try:
            children.append(_start(server, environment, logs / "webserver.log"))
            children.append(_start(daemon, environment, logs / "daemon.log"))
            federation.wait_ready(READY_S, stopped=lambda: told)
            _wait_for(f"http://127.0.0.1:{port}/server_info", children, told)
            if not told:
                say(f"ready in {time.monotonic() - begun:.0f} s: http://127.0.0.1:{port}  (Ctrl-C stops everything)")
            while not told:
                time.sleep(0.2)
                dead = next((child for child in children if child.poll() is not None), None)
                if dead is not None:
                    raise UnreachableError("a Dagster process", f"it ended with {dead.returncode}; see {logs}")
                for name in federation.dead():
                    raise UnreachableError(f"supervisor of {name}", f"it ended; see {federation.domain(name).root}")
        finally:
            _end(children)
            # They are in sessions of their own. Nobody is left who would resume them before the next `ioi up`.
            subprocess.run([sys.executable, "-c", _END_RUNS], cwd=PROJECT, env=environment, capture_output=True)
    say("stopped")


_END_RUNS = f"from ioi_dagster.host.launcher import end_run_processes as end; end({RUN_GRACE_S})"
_STORAGE = (
    "from dagster import DagsterInstance as D; i = D.get(); i.get_runs(limit=1);"
    "i.all_instigator_state(); i.get_asset_keys()"
)


def _make_storage(environment: dict[str, str], logs: Path) -> None:
    """Make Dagster's databases before three processes try to at once: their migrations do not lock each other out."""
    result = subprocess.run(
        [sys.executable, "-c", _STORAGE], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    if result.returncode != 0:
        (logs / "storage.log").write_text(result.stderr)
        raise UnreachableError("Dagster's storage", f"it could not be made; see {logs / 'storage.log'}")


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_default_signals,
        )


def _default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Should this process be killed outright, the kernel tells its children (prctl(2), PR_SET_PDEATHSIG).
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """Terminate politely, then the whole group: code servers are grandchildren."""
    for child in children:
        child.terminate()
    until = time.monotonic() + 8.0
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for child in children:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _wait_for(url: str, children: list[subprocess.Popen[bytes]], told: list[int]) -> None:
    until = time.monotonic() + READY_S
    while not told:
        if any(child.poll() is not None for child in children):
            return
        try:
            with urllib.request.urlopen(url, timeout=2.0):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                raise UnreachableError("the web UI", f"it did not answer within {READY_S:g} s") from None
            time.sleep(0.2)


def _free(port: int) -> bool:
    with closing(socket.socket()) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
