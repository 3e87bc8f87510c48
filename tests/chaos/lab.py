"""A living federation on a disk of its own, with a node on another machine, and runs in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from dagster import DagsterInstance

from benchmarks.far_cluster import FarNode
from benchmarks.netns import FarMachine, possible
from ioi_dagster.adapters.link.caller import ClusterLine, status_of
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import UnreachableError
from ioi_dagster.host.private import DagsterRun
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES, PROJECT, prepare_dagster
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Renewed, RenewRequest
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

T = TypeVar("T")
DOMAIN, FAR, FAR_NODE, LIAR = "chaos.example", "far", "far-1", "other"
NEAR_NODES = ("near-1", "near-2")
CLUSTERS = (
    ClusterSpec("near", tuple(NodeSpec(name, slots=2, resources=(("press", 2.0),)) for name in NEAR_NODES), price=0.5),
    ClusterSpec("other", (NodeSpec("other-1", slots=2),)),
)
TOPOLOGY = Topology(
    "book", DOMAIN, (DomainSpec(DOMAIN, "own", (*CLUSTERS, ClusterSpec(FAR, (), price=0.1)), DataClass.RESTRICTED),)
)
DISK = "192m"
STEPS, SECONDS = 16, 0.6
PATIENCE_S = 150.0


class DidNotBite(Exception):
    """The fault met nothing: the run is not counted."""


@dataclass(frozen=True, slots=True)
class Found:
    """`recovered_s`: from the fault until the last of what it hit ran again or was whole, see the rows; None where nothing was
    lost. `happened`: what was seen, in words. `in_doubt`: so many steps that may be called once were hit, and say so."""

    wrong: list[str]
    recovered_s: float | None = None
    happened: str = ""
    in_doubt: int = 0


def until(look: Callable[[], T | None], what: str, patience_s: float = PATIENCE_S) -> T:
    end = time.monotonic() + patience_s
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {patience_s:g} s")
        time.sleep(0.005)
    return found


@dataclass(frozen=True, slots=True)
class Began:
    """A start of a step, as it says itself."""

    step: str
    fence: int
    attempt: str
    node: str
    pid: int
    at: float
    ended: bool


class Run:
    """A run and the process that it began in."""

    def __init__(self, lab: Lab, process: subprocess.Popen[bytes], log: Path) -> None:
        self.lab, self.process, self.log = lab, process, log
        self.id = until(self._id, "the run")
        self.folder = lab.starts / self.id

    def began(self) -> list[Began]:
        found = []
        for path in self.folder.glob("began *"):
            _, step, fence, attempt, node, pid = path.name.split(" ")
            ended = path.with_name(path.name.replace("began", "ended", 1)).exists()
            found.append(Began(step, int(fence), attempt, node, int(pid), float(path.read_text()), ended))
        return found

    def working(self, where: Callable[[Began], bool] = lambda _: True) -> Began:
        """A mapped step that runs now, at one of the nodes that are meant."""

        def look() -> Began | None:
            if self.over:
                raise DidNotBite("the run was over before")
            running = (one for one in self.began() if not one.ended and "[" in one.step and where(one))
            return next((one for one in running if psutil.pid_exists(one.pid)), None)

        return until(look, "a step that runs there", 60.0)

    @property
    def over(self) -> bool:
        return self.now().is_finished

    @property
    def pays(self) -> bool:
        """Has it a step that may be called once?"""
        return self.now().job_name == "paying"

    def failures(self) -> dict[str, str]:
        """What Dagster's log says of each step that failed."""
        return {
            str(entry.step_key): entry.user_message + str(entry.dagster_event.event_specific_data)
            for entry in self.lab.instance.all_logs(self.id)
            if entry.dagster_event and entry.dagster_event.is_step_failure
        }

    def now(self) -> DagsterRun:
        run = self.lab.instance.get_run_by_id(self.id)
        assert run is not None
        return run

    def story(self, chapter: str) -> list[Any]:
        return [entry for entry in self.lab.ledger.story(self.id) if entry.chapter == chapter]

    def told_at(self, step: str) -> float:
        """When its success was in Dagster's log (Unix s); 0 where it is not."""
        told = [
            entry.timestamp
            for entry in self.lab.instance.all_logs(self.id)
            if entry.step_key == step and entry.dagster_event and entry.dagster_event.is_step_success
        ]
        return max(told, default=0.0)

    def lost_at(self, node: str) -> bool:
        return any(f"lost on {node} " in entry.text for entry in self.story("loss"))

    def end(self, patience_s: float = PATIENCE_S) -> None:
        until(lambda: self.over, f"the end of run {self.id}", patience_s)

    def _id(self) -> str | None:
        path = self.lab.starts / f"run {self.process.pid}"
        if self.process.poll() not in (None, 0):
            raise RuntimeError(f"no run began:\n{self.log.read_text()[-2_000:]}")
        return path.read_text() if path.exists() and path.stat().st_size else None


class Lab:
    """`home` is made a disk of its own where this process may mount one."""

    def __init__(self, home: Path) -> None:
        self.home, self.starts = home, home.with_name(f"{home.name}-starts")
        self.clock = home.with_name(f"{home.name}-clock")
        self._lies = home.with_name(f"{home.name}-lies")
        self.far: FarMachine | None = None
        self.mounted = self.moves_clocks = False
        self._waiting: list[subprocess.Popen[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Lab:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        for folder in (self.home, self.starts):
            folder.mkdir(parents=True)
        self.move_clock(0)
        environment = {"IOI_CHAOS_FOLDER": str(self.starts), **self._liar_environment(), **self._clock_environment()}
        if possible():
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.home], check=True)
            self._stack.callback(subprocess.run, ["umount", "--lazy", self.home], check=False)
            self.mounted = True
            self.far = self._stack.enter_context(FarMachine())
        federation = self.federation = Federation(TOPOLOGY, self.home, POLICIES, [])
        self._stack.callback(federation.stop)
        federation.prepare()
        far = FarNode(self.far, self.domain, FAR, FAR_NODE) if self.far is not None else None
        if far is not None:
            far.listen()
        environment |= {**federation.environment(), "DAGSTER_HOME": str(prepare_dagster(self.home))}
        self._stack.enter_context(set_environment(environment))
        federation.start()
        federation.wait_ready(180)
        self._stack.callback(self._end_processes)
        if far is not None:
            self._start(far)
        self.instance = self._stack.enter_context(DagsterInstance.get())
        self.ledger = Ledger(self.domain.ledger)
        self._stack.callback(self.ledger.close)
        self.whole()

    @property
    def domain(self) -> DomainHome:
        return self.federation.home_domain

    # Runs -------------------------------------------------------------------------------------------------------------

    def run(self, job: str = "spread", steps: int = STEPS, seconds: float = SECONDS) -> Run:
        process, log = self.process({"job": job, "steps": steps, "seconds": seconds})
        return Run(self, process, log)

    def process(self, asked: dict[str, Any]) -> tuple[subprocess.Popen[bytes], Path]:
        """A process for a run, told what it is asked. One more is kept that has imported everything."""
        process = self._waiting.pop(0) if self._waiting else self._new_process()
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.close()
        if not self._waiting:
            self._waiting.append(self._new_process())
        return process, self._log(process)

    def stand_by(self, count: int) -> None:
        """Wait until so many processes have imported everything, so that the next ones begin at once."""
        while len(self._waiting) < count:
            self._waiting.append(self._new_process())
        for process in self._waiting[:count]:
            until((self.starts / f"ready {process.pid}").exists, "a process that has imported everything")

    def _new_process(self) -> subprocess.Popen[bytes]:
        log = self.starts / "process.log.new"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.chaos.jobs", str(self.starts)],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        log.replace(self._log_of(process.pid))
        self._processes.append(process)
        return process

    def _log(self, process: subprocess.Popen[bytes]) -> Path:
        return self._log_of(process.pid)

    def _log_of(self, pid: int) -> Path:
        return self.starts / f"process-{pid}.log"

    def _end_processes(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    # The federation ---------------------------------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        return until(lambda: {one.name: one.pid for one in self.federation.processes()}.get(name), f"process {name}")

    def status(self, cluster: str) -> dict[str, Any] | None:
        """What the cluster's governor says; None where it does not answer."""
        address = next(item for item in self.domain.config().clusters if item.name == cluster)
        with contextlib.suppress(UnreachableError):
            return status_of(cluster, address.governor, self.domain.token(), 2.0)
        return None

    def holds(self, cluster: str, run: str, lease: str) -> bool:
        """Does its governor renew that lease of the run?"""
        address = next(item for item in self.domain.config().clusters if item.name == cluster)

        async def asked() -> Renewed:
            line = ClusterLine(cluster, address.governor, self.domain.token())
            try:
                return await line.ask("renew", RenewRequest(run, (lease,)), Renewed, 5.0)
            finally:
                line.close()

        return lease not in asyncio.run(asked()).lost

    def leases(self) -> list[dict[str, Any]]:
        found = []
        for cluster in self.clusters:
            found += (self.status(cluster) or {"leases": ["the governor does not answer"]})["leases"]
        return found

    @property
    def clusters(self) -> list[str]:
        return ["near", "other"] + ([FAR] if self.far is not None else [])

    def whole(self) -> None:
        """Wait until every node is there and takes steps."""
        wanted = {"near-1", "near-2", "other-1"} | ({FAR_NODE} if self.far is not None else set())
        said: dict[str, Any] = {}

        def there() -> bool:
            for cluster in self.clusters:
                said[cluster] = (self.status(cluster) or {"nodes": {}})["nodes"]
            return wanted <= {name for nodes in said.values() for name, node in nodes.items() if node["free"]}

        try:
            until(there, "all nodes")
        except TimeoutError as error:
            there_now = {one.name: one.pid for one in self.federation.processes()}
            logs = {name: self.log(name)[-2_000:] for name in (*wanted, *(f"scheduler-{one}" for one in self.clusters))}
            logs["far"] = (self.starts / "far.log").read_text(errors="replace")[-2_000:] if self.far is not None else ""
            told = "\n".join(f"--- {name}\n{text}" for name, text in logs.items() if text)
            raise TimeoutError(f"{error}; nodes: {said}; processes: {there_now}\n{told}") from None

    def log(self, name: str) -> str:
        path = self.domain.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def move_clock(self, seconds: int) -> None:
        """Of every process of the lab, but not of this one."""
        self.clock.touch()
        with self.clock.open("r+b") as file:
            file.write(struct.pack("q", seconds))

    def lie(self, how: str) -> None:
        """The governor of `LIAR` lies in that way from now on (`lies.py`); empty: it is honest again."""
        self._lies.with_suffix(".new").write_text(how)
        self._lies.with_suffix(".new").replace(self._lies)

    def lies_told(self, run: str) -> int:
        """How often an award of that run was answered by a lie."""
        told = self._lies.with_suffix(".told")
        return sum(line.split(" ")[0] == run for line in told.read_text().splitlines()) if told.exists() else 0

    def _liar_environment(self) -> dict[str, str]:
        path = os.pathsep.join((str(PROJECT), str(Path(__file__).with_name("liar"))))
        return {"PYTHONPATH": path, "IOI_CHAOS_LIAR": LIAR, "IOI_CHAOS_LIES": str(self._lies)}

    def _clock_environment(self) -> dict[str, str]:
        library, compiler = self.clock.with_suffix(".so"), shutil.which("cc")
        if compiler is None:
            return {}
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
        self.moves_clocks = True
        return {"LD_PRELOAD": str(library), "IOI_CHAOS_CLOCK": str(self.clock)}

    def _start(self, far: FarNode) -> None:
        with (self.starts / "far.log").open("wb") as log:
            nanny = subprocess.Popen(
                far.command(self.starts),
                env=far.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        self._stack.callback(_end_with_children, nanny)


def die_with_parent() -> None:
    """Between fork and exec: nothing of a lab outlives who opened it (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _end_with_children(process: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for one in (*children, process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


@contextlib.contextmanager
def set_environment(more: dict[str, str]) -> Iterator[None]:
    """In this process too, which starts the others; what is preloaded is not loaded here."""
    before = {name: os.environ.get(name) for name in more}
    os.environ |= more
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
