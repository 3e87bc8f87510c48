"""`python -m ioi_dagster.local.supervisor DOMAIN_HOME [PARENT_PID]`: starts one domain's processes and restarts what
dies.

Light on purpose: standard library only at run time, so that it is the last to run short of anything. It ends when told
(SIGTERM) or when its parent is gone, and takes its children with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from ioi_dagster.adapters.dask.profiling import QUIET
from ioi_dagster.adapters.dask.witness import MAX_MESSAGE, WITNESS_FD, Stillness, end, look_at

POLL_S = 0.1
GRACE_S = 3.0
BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 5.0)
CRASH_WINDOW_S = 60.0
CRASH_LOOP = 5
MAX_LOG = 20 * 2**20
AUTHORITY = "keys/authority.pem"
"""Whose certificates Dask takes. Its processes read it once, at their start."""
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "536870912"}
"""Models allocate and free the same large tensors on each call. Kept in the heap instead of mapped anew each time
(mallopt(3)), they cost no page faults: a quarter of the time of reading a page, measured, at the same peak memory."""

MEMORY = {f"DASK_DISTRIBUTED__WORKER__MEMORY__{what}": "False" for what in ("TARGET", "SPILL", "PAUSE")}
"""Who gets no more work for want of memory is the governors' to say: a worker that Dask pauses would sit on its
steps."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to keep alive. `after` names the one whose death takes this one along (workers need their
    scheduler). One of `wanted`, a file of which nodes are, runs only while that names it under `group`. One that has taken in
    the file `reads` at its start is started anew where that says something else."""

    name: str
    role: str
    command: tuple[str, ...]
    environment: dict[str, str]
    after: str = ""
    wanted: str = ""
    group: str = ""
    reads: str = ""


@dataclass(slots=True)
class _Child:
    spec: ProcessSpec
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    crashes: list[float] = field(default_factory=list)
    restarts: int = 0
    last_exit: int | None = None
    ends_at: float | None = None
    """It is wanted no longer, has been asked to end, and is ended then."""
    read: bytes | None = None
    """What its file said when it was started."""
    asks: socket.socket | None = None
    """Where a scheduler asks what is seen of its workers."""

    def hang_up(self) -> None:
        if self.asks is not None:
            self.asks.close()
            self.asks = None


class Supervisor:
    """Keeps `specs` alive; `tick` is called often with the monotonic time."""

    def __init__(self, specs: list[ProcessSpec], folder: Path) -> None:
        self._children = {spec.name: _Child(spec) for spec in specs}
        self._folder, self._still = folder, Stillness()
        self._wanted = _WantedFiles(folder)
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def tick(self, now: float) -> None:
        """Reap the dead, start what is due. What the machine lacks for the moment (processes, disk) is tried again."""
        changed = False
        self._wanted.look({child.spec.wanted for child in self._children.values()})
        read = {name: self._content(name) for name in {child.spec.reads for child in self._children.values()}}
        for child in self._children.values():
            if child.process is not None and child.process.poll() is not None:
                changed = True
                self._died(child, now)
            elif child.process is not None and not self._wanted.names(child.spec):
                self._retire(child, child.process, now, "is wanted no longer")
            elif child.process is not None and read[child.spec.reads] not in (None, child.read):
                self._retire(child, child.process, now, f"has read another {child.spec.reads}")
            elif child.process is not None:
                self._end_if_still(child.spec.name, child.process, now)
        for child in self._children.values():
            if child.process is None and now >= child.due and self._wanted.names(child.spec):
                changed = True
                try:
                    self._start(child, now)
                except OSError as error:
                    child.due = now + BACK_OFF_S[-1]
                    print(f"{child.spec.name} cannot be started: {error}", file=sys.stderr, flush=True)
            # A process that lived long enough is no longer in a crash loop, and the report says so.
            recent = [at for at in child.crashes if now - at < CRASH_WINDOW_S]
            changed = changed or len(recent) != len(child.crashes)
            child.crashes = recent
        if changed:
            with contextlib.suppress(OSError):  # a full disk ends no process; the next change is written
                self._write()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """SIGTERM all, SIGKILL what is left after `grace_s` seconds; nothing of ours stays."""
        running = [child.process for child in self._children.values() if child.process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + grace_s
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in self._children.values():
            child.process = None
            child.hang_up()
        self._write()

    def askers(self) -> list[socket.socket]:
        """What `answer` has something to do for when there is something to read."""
        return [child.asks for child in self._children.values() if child.asks is not None]

    def answer(self) -> None:
        """Say what is seen of processes to the schedulers that ask, and end those that they have given up."""
        for child in self._children.values():
            # One that has nothing more to ask, or reads nothing, is told nothing.
            with contextlib.suppress(OSError, ValueError, KeyError):
                while child.asks is not None:
                    message = child.asks.recv(MAX_MESSAGE)
                    if message:
                        child.asks.send(json.dumps(self._witness(json.loads(message))).encode())
                    else:
                        child.hang_up()

    def _witness(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`pid` 0 stands for whichever process has that name now."""
        child = self._children.get(asked["name"])
        process = child.process if child is not None else None
        pid = process.pid if process is not None and asked["pid"] in (0, process.pid) else 0
        if pid and asked["what"] == "end":
            print(f"{asked['name']} is ended: its cluster has given it up", file=sys.stderr, flush=True)
            end(pid)
        state, cpu_s = look_at(pid) if pid else ("", 0.0)
        return {"number": asked["number"], "pid": pid, "state": state, "cpu_s": cpu_s}

    def _end_if_still(self, name: str, process: subprocess.Popen[bytes], now: float) -> None:
        """Dask takes minutes to give up a worker whose sockets are open, and one that is busy looks the same to it. The
        kernel knows the difference."""
        if self._still.look(name, process.pid, now):
            print(f"{name} stood still and is ended", file=sys.stderr, flush=True)
            end(process.pid)

    def _content(self, file: str) -> bytes | None:
        """None where it cannot be read: nothing is done for that."""
        try:
            return (self._folder / file).read_bytes() if file else None
        except OSError:
            return None

    def _retire(self, child: _Child, process: subprocess.Popen[bytes], now: float, why: str) -> None:
        if child.ends_at is None:
            print(f"{child.spec.name} {why} and is ended", file=sys.stderr, flush=True)
            child.ends_at = now + GRACE_S
            process.terminate()
        elif now >= child.ends_at:
            process.kill()

    def _died(self, child: _Child, now: float) -> None:
        assert child.process is not None
        child.last_exit = child.process.returncode
        child.process = None
        child.hang_up()
        if child.ends_at is not None:
            child.ends_at, child.due, child.crashes = None, now, []
            return
        child.restarts += 1
        child.crashes = [at for at in child.crashes if now - at < CRASH_WINDOW_S] + [now]
        child.due = now + BACK_OFF_S[min(len(child.crashes), len(BACK_OFF_S)) - 1]
        for other in self._children.values():
            if other.spec.after == child.spec.name and other.process is not None:
                # It would notice by itself, but later; killed now, it is back sooner.
                other.process.kill()

    def _start(self, child: _Child, now: float) -> None:
        log = self._folder / "logs" / f"{child.spec.name}.log"
        if log.exists() and log.stat().st_size > MAX_LOG:
            log.replace(log.with_suffix(".log.1"))
        environment, theirs = {**os.environ, **child.spec.environment}, None
        if child.spec.role == "scheduler":
            # Messages, not a stream: each is read whole or not at all (unix(7)).
            child.asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            child.asks.setblocking(False)
            environment[WITNESS_FD] = str(theirs.fileno())
        child.read = self._content(child.spec.reads)
        try:
            with log.open("ab") as output:
                child.process = subprocess.Popen(
                    child.spec.command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_die_with_parent,
                    pass_fds=() if theirs is None else (theirs.fileno(),),
                )
        finally:
            if theirs is not None:
                theirs.close()
        child.started = now

    def _write(self) -> None:
        rows = [
            {
                "name": child.spec.name,
                "role": child.spec.role,
                "pid": child.process.pid if child.process else None,
                "restarts": child.restarts,
                "last_exit": child.last_exit,
                "crash_loop": len(child.crashes) >= CRASH_LOOP,
            }
            for child in self._children.values()
            if child.process is not None or self._wanted.names(child.spec)
        ]
        temporary = self._folder / ".supervisor.json.new"
        temporary.write_text(json.dumps({"pid": os.getpid(), "processes": rows}, indent=1))
        temporary.replace(self._folder / "supervisor.json")


class _WantedFiles:
    """What clusters want of their nodes that come and go, read when it was written anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[int, dict[str, set[str]]]] = {}

    def look(self, files: set[str]) -> None:
        """A file that cannot be read changes nothing."""
        for file in files - {""}:
            path = self._folder / file
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                changed = path.stat().st_mtime_ns
                if self._read.get(file, (0, {}))[0] != changed:
                    groups = json.loads(path.read_text())
                    self._read[file] = changed, {name: set(its["nodes"]) for name, its in groups.items()}

    def names(self, spec: ProcessSpec) -> bool:
        """Is it to run?"""
        return not spec.wanted or spec.name in self._read.get(spec.wanted, (0, {}))[1].get(spec.group, ())


def specs_of(folder: Path) -> list[ProcessSpec]:
    """The processes of the domain in `folder`, from its `domain.json`."""
    config: dict[str, Any] = json.loads((folder / "domain.json").read_text())
    spec, python = config["spec"], sys.executable
    common = {"IOI_DOMAIN_HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **QUIET}
    # Only where the authority is the home's may the run's own code go.
    if spec["authority"] == config["authorities"][config["home"]]:
        common["IOI_STEP_RUNNER"] = "ioi_dagster.host.step_runner:run"
    found = [ProcessSpec("gateway", "gateway", (python, "-m", "ioi_dagster.local.gateway_main"), common)]
    addresses = {item["name"]: item["scheduler"] for item in config["clusters"]}
    for cluster in spec["clusters"]:
        name, address = cluster["name"], addresses[cluster["name"]]
        parts = urlsplit(address)
        host, tls = parts.hostname or "127.0.0.1", dask_tls(folder) if parts.scheme == "tls" else {}
        reads = AUTHORITY if tls else ""
        protocol = ("--protocol", parts.scheme)
        scheduler = (
            *(python, "-m", "distributed.cli.dask_scheduler", "--host", host),
            *("--port", address.rpartition(":")[2], "--no-dashboard", "--no-show", *protocol),
            *("--preload", "ioi_dagster.adapters.dask.scheduler_preload"),
        )
        environment = {
            **common,
            **tls,
            "IOI_CLUSTER": name,
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
            # By the time of day, so that a clock that is set forward would end every worker. The cluster's watch does better.
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "None",
        }
        found.append(ProcessSpec(f"scheduler-{name}", "scheduler", scheduler, environment, reads=reads))
        for node in cluster["nodes"]:
            group, rules = node["name"], node.get("autoscale")
            if rules and rules["launcher"]:
                continue  # somebody else starts them
            wanted = (f"wanted-{name}.json", group) if rules else ("", "")
            for one in [f"{group}-{number}" for number in range(1, rules["max"] + 1)] if rules else [group]:
                command = _worker(folder, address, one, node)
                limit = str(node["memory"] if node["limited"] else 0)
                its = {"IOI_CLUSTER": name, "IOI_NODE": one, "IOI_MEMORY_LIMIT": limit}
                environment = {**common, **tls, **MALLOC, **MEMORY, **its}
                found.append(ProcessSpec(one, "worker", command, environment, f"scheduler-{name}", *wanted, reads))
    return found


def _worker(folder: Path, address: str, name: str, node: dict[str, Any]) -> tuple[str, ...]:
    parts = urlsplit(address)
    return (
        *(sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"),
        *("--host", parts.hostname or "127.0.0.1", "--nthreads", str(node["slots"]), "--name", name, "--no-dashboard"),
        *("--protocol", parts.scheme, "--resources", f"node:{name}={node['slots']}"),
        *("--memory-limit", str(node["memory"]), "--local-directory", str(folder / "work" / name)),
        *("--death-timeout", "60", "--preload", "ioi_dagster.adapters.dask.worker_preload"),
    )


def dask_tls(folder: Path) -> dict[str, str]:
    """Dask's settings (distributed.comm.tls) for a scheduler and its workers: nobody without a certificate of the
    domain's authority reaches them."""
    keys = folder / "keys"
    certificates = {f"{role}__CERT": str(keys / "node.pem") for role in ("SCHEDULER", "WORKER", "CLIENT")}
    tls = {"CA_FILE": str(folder / AUTHORITY), "MIN_VERSION": "1.3", **certificates}
    comm = {"REQUIRE_ENCRYPTION": "True", **{f"TLS__{name}": value for name, value in tls.items()}}
    return {f"DASK_DISTRIBUTED__COMM__{name}": value for name, value in comm.items()}


def _die_with_parent() -> None:
    """Between fork and exec: the kernel kills this child when its supervisor dies (prctl(2), PR_SET_PDEATHSIG)."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(supervisor: Supervisor, alive: Callable[[], bool]) -> None:
    """Tick until `alive` says no."""
    while alive():
        supervisor.tick(time.monotonic())
        until = time.monotonic() + POLL_S
        while (left := until - time.monotonic()) > 0:
            select.select(supervisor.askers(), [], [], left)
            supervisor.answer()


@contextlib.contextmanager
def alone(folder: Path, alive: Callable[[], bool]) -> Iterator[None]:
    """One supervisor a domain: one that still ends, since its parent was killed, is waited for while `alive` says
    so."""
    with (folder / "supervisor.lock").open("w") as lock:
        said = False
        while alive():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not said:
                    print("another supervisor of this domain is waited for", file=sys.stderr, flush=True)
                said = True
                time.sleep(POLL_S)
        yield


def main() -> None:
    # Told by the parent itself: one that is gone by now would be taken for process 1, which never goes.
    folder, parent = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else os.getppid()
    told: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    def alive() -> bool:
        return not told and os.getppid() == parent

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with alone(folder, alive):
        if not alive():
            return
        supervisor = Supervisor(specs_of(folder), folder)
        try:
            serve(supervisor, alive)
        finally:
            # Where the parent was killed, nobody waits for what is still being done.
            supervisor.stop(GRACE_S if told else 0.0)


if __name__ == "__main__":
    main()
