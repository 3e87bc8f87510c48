"""How soon a step runs elsewhere after its node, or its scheduler, was lost.

`p50_s@FAULT` and `worst_s@FAULT`: from the fault to the first line of the step's code on another node, as the step itself says.
The domain runs as `ioi up` runs it, with a cluster of two nodes and one of one, which have loaded the job's code; the run is one
process of Dagster's, whose steps wait one at a time on whichever node they were given. `link`: the node is a Dask worker with a
nanny in a network namespace of its own, and the link to it is cut (root only; without it the row is not measured). Nodes that
a fault has ended come anew and load the job's code with the next step that they get: that time is in the rows of nodes, whose
steps go to them, and not in those of schedulers, where the other cluster has run steps before and is not struck.
`evictions@gil`: nodes that were given up while a step held the interpreter for ten seconds, which must be none. The peer is plain
Dask, whose worker is stopped, with `worker-ttl: 5s`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import psutil
from distributed import Client, LocalCluster

from benchmarks.far_cluster import FarNode
from benchmarks.frame import Report, quick
from benchmarks.netns import FarMachine, possible
from ioi_dagster.adapters.link.caller import status_of
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import UnreachableError
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES, PROJECT, prepare_dagster
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

FULL = {"repeats": 7, "hold_s": 10.0, "peers": 3}
QUICK = {"repeats": 1, "hold_s": 3.0, "peers": 1}
T = TypeVar("T")
PATIENCE_S = 60.0
DOMAIN = "book.example"
NEAR, OTHER, FAR, FAR_NODE = "near", "other", "far", "far-1"
NODES = {(NEAR, "near-1"), (NEAR, "near-2"), (OTHER, "other-1")}
SPARE = 100
"""Steps that run while something is waited for."""
TOPOLOGY = Topology(
    "book",
    DOMAIN,
    (
        DomainSpec(
            DOMAIN,
            "own",
            (
                ClusterSpec(NEAR, (NodeSpec("near-1"), NodeSpec("near-2")), price=0.5),
                ClusterSpec(OTHER, (NodeSpec("other-1"),)),
                # Its node comes later; as the cheapest it then gets the step.
                ClusterSpec(FAR, (), price=0.1),
            ),
            handles=DataClass.RESTRICTED,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Begun:
    """A step's code began at wall time `at`."""

    number: int
    fence: int
    node: str
    pid: int
    at: float


class Steps:
    """The steps of the run, by the files that they leave in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begun(self) -> list[Begun]:
        found = []
        for path in self._folder.glob("begun *"):
            _, number, fence, node, pid = path.name.split(" ")
            found.append(Begun(int(number), int(fence), node, int(pid), float(path.read_text())))
        return found

    def now(self) -> Begun:
        """The step that waits now."""
        return until(lambda: max(self._open(), key=lambda one: one.fence, default=None), "a step that runs")

    def again(self, lost: Begun) -> Begun:
        """The next start of a step that was lost."""
        return until(
            lambda: next((one for one in self.begun() if one.number == lost.number and one.fence > lost.fence), None),
            f"step {lost.number} elsewhere",
        )

    def hold(self, step: Begun, seconds: float) -> None:
        """Returns when the step has held the interpreter for so long."""
        (self._folder / f"hold {step.number}").write_text(str(seconds))
        until((self._folder / f"held {step.number}").exists, f"the end of {seconds:g} s in native code")

    def end(self, number: int) -> None:
        (self._folder / f"end {number}").touch()

    def _open(self) -> list[Begun]:
        return [one for one in self.begun() if not (self._folder / f"end {one.number}").exists()]


def until(look: Callable[[], T | None], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true answer; `SystemExit` where none comes."""
    end = time.monotonic() + patience_s
    while not (found := look()):
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come within {patience_s:g} s")
        time.sleep(0.002)
    return found


class Domain:
    """The living domain: its processes, and what its cluster governors say."""

    def __init__(self, federation: Federation, home: DomainHome) -> None:
        self._federation, self._home = federation, home

    def pid(self, name: str) -> int:
        found = {process.name: process.pid for process in self._federation.processes()}.get(name)
        if found is None:
            raise SystemExit(f"{name} is not there")
        return found

    def nodes(self, cluster: str) -> set[str]:
        """Those that may be given something."""
        address = next(item for item in self._home.config().clusters if item.name == cluster)
        with contextlib.suppress(UnreachableError):
            status = status_of(cluster, address.governor, self._home.token(), 1.0)
            return {name for name, node in status["nodes"].items() if node["free"]}
        return set()

    def whole(self, running: str) -> None:
        """Wait until all nodes are there again, with the job's code; the step that runs has one."""
        wanted = {(NEAR, "near-1"), (NEAR, "near-2"), (OTHER, "other-1")}
        until(
            lambda: (
                {(c, n) for c in (NEAR, OTHER) for n in self.nodes(c)} | {(c, running) for c, _ in wanted} >= wanted
            ),
            "all nodes",
        )


def measure(report: Report, name: str, seconds: list[float]) -> None:
    report.figures[f"p50_s@{name}"], report.figures[f"worst_s@{name}"] = median(seconds), max(seconds)


@contextlib.contextmanager
def federation_of(home: Path, far: FarMachine | None) -> Iterator[Federation]:
    """As `Federation` by itself, but the scheduler of the far cluster can be reached from the other machine."""
    federation = Federation(TOPOLOGY, home, POLICIES, [])
    try:
        federation.prepare()
        if far is not None:
            FarNode(far, federation.home_domain, FAR, FAR_NODE).listen()
        federation.start()
        federation.wait_ready(120)
        yield federation
    finally:
        federation.stop()


@contextlib.contextmanager
def far_node(machine: FarMachine, home: DomainHome, folder: Path) -> Iterator[None]:
    far = FarNode(machine, home, FAR, FAR_NODE)
    environment = {**far.environment(), "PYTHONPATH": str(PROJECT)}
    with (folder / "far.log").open("ab") as log:
        nanny = subprocess.Popen(
            far.command(folder), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        children = psutil.Process(nanny.pid).children(recursive=True) if nanny.poll() is None else []
        for process in (*children, nanny):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        nanny.wait()


def fault(steps: Steps, strike: Callable[[Begun], None], after: Callable[[Begun], None] = lambda _: None) -> float:
    """Seconds from `strike` at the step that runs until it runs elsewhere."""
    lost = steps.now()
    struck = time.time()
    strike(lost)
    again = steps.again(lost)
    after(lost)
    steps.end(again.number)
    return again.at - struck


def measure_faults(report: Report, sizes: dict[str, float], folder: Path) -> None:
    repeats = int(sizes["repeats"])
    (folder / "steps").mkdir(parents=True)
    far = FarMachine() if possible() else None
    with ExitStack() as stack:
        if far is not None:
            stack.enter_context(far)
        federation = stack.enter_context(federation_of(folder / "home", far))
        home = federation.home_domain
        domain, steps = Domain(federation, home), Steps(folder / "steps")
        wanted = 4 * repeats + SPARE
        run = _run(federation, folder, wanted)
        stack.callback(_end, run)
        for name, strike in _strikes(domain).items():
            seconds = []
            for number in range(repeats):
                domain.whole(steps.now().node)
                if name.startswith("scheduler"):
                    step_on(steps, lambda node: node.startswith(f"{NEAR}-"))
                seconds.append(fault(steps, strike))
                say(f"{name} {number + 1} of {repeats}: {seconds[-1]:.2f} s")
            measure(report, name, seconds)
        holder = steps.now()
        domain.whole(holder.node)
        steps.hold(holder, sizes["hold_s"])
        report.figures["evictions@gil"] = sum(one.number == holder.number for one in steps.begun()) - 1
        if far is not None:
            stack.enter_context(far_node(far, home, folder))
            seconds = []
            for number in range(repeats):
                seconds.append(cut_off(domain, steps, far))
                say(f"link {number + 1} of {repeats}: {seconds[-1]:.2f} s")
            measure(report, "link", seconds)
        for number in range(wanted):
            steps.end(number)
        if run.wait(PATIENCE_S) != 0:
            raise SystemExit(f"the run did not succeed: {(folder / 'run.log').read_text()[-2_000:]}")


def step_on(steps: Steps, wanted: Callable[[str], bool]) -> Begun:
    """The step that waits once it is on such a node: others are ended until then."""

    def there() -> Begun | None:
        now = steps.now()
        if wanted(now.node):
            return now
        steps.end(now.number)
        time.sleep(0.2)  # between two steps, not in the place of an event: the node is found when it is there
        return None

    return until(there, "a step on such a node")


def cut_off(domain: Domain, steps: Steps, far: FarMachine) -> float:
    """Seconds from the loss of the link to the far node, while a step runs there, until that runs elsewhere."""

    # A step ends only for a node that is there: those to come are few, and a busy machine starts a node slowly.
    until(lambda: FAR_NODE in domain.nodes(FAR) or steps.now().node == FAR_NODE, "the far node")
    lost = step_on(steps, lambda node: node == FAR_NODE)
    struck = time.time()
    far.cut()
    try:
        return steps.again(lost).at - struck
    finally:
        far.heal()


def _strikes(domain: Domain) -> dict[str, Callable[[Begun], None]]:
    def scheduler_of(step: Begun) -> int:
        return domain.pid(f"scheduler-{step.node.partition('-')[0]}")

    return {
        "kill": lambda step: os.kill(step.pid, signal.SIGKILL),
        "stop": lambda step: os.kill(step.pid, signal.SIGSTOP),
        "scheduler_kill": lambda step: os.kill(scheduler_of(step), signal.SIGKILL),
        "scheduler_stop": lambda step: os.kill(scheduler_of(step), signal.SIGSTOP),
    }


def _run(federation: Federation, folder: Path, wanted: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **federation.environment(),
        "DAGSTER_HOME": str(prepare_dagster(folder / "home")),
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.failover_defs"]
    command += [str(folder / "steps"), str(len(NODES)), str(wanted)]
    with (folder / "run.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


# The peer -------------------------------------------------------------------------------------------------------------


def peer_task(folder: str) -> None:
    """Says where it began, and waits for its end."""
    (Path(folder) / str(os.getpid())).write_text(repr(time.time()))
    while not (Path(folder) / "end").exists():
        time.sleep(0.01)


def dask_alone(folder: Path) -> float:
    """Seconds from SIGSTOP of a worker of plain Dask until its task runs on the other one."""
    from dask import config

    folder.mkdir()
    with (
        config.set({"distributed.scheduler.worker-ttl": "5s", "distributed.admin.tick.limit": "1h"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,  # pyright: ignore
        Client(cluster) as client,
    ):
        future = client.submit(peer_task, str(folder), pure=False)
        first = until(lambda: next(folder.iterdir(), None), "the peer's task")
        struck = time.time()
        os.kill(int(first.name), signal.SIGSTOP)
        try:
            second = until(
                lambda: next((one for one in folder.iterdir() if one != first), None), "the peer's task again"
            )
            seconds = float(until(second.read_text, "its time")) - struck
        finally:
            (folder / "end").touch()
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(first.name), signal.SIGCONT)
        future.result(timeout=30)
        return seconds


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    sizes, report = QUICK if quick() else FULL, Report("failover")
    with tempfile.TemporaryDirectory(prefix="ioi-failover-") as folder:
        measure_faults(report, sizes, Path(folder) / "ours")
        peers = [dask_alone(Path(folder) / f"peer-{number}") for number in range(int(sizes["peers"]))]
    report.peers["dask_worker_ttl_s@stop"] = median(peers)
    rows = [name.removeprefix("p50_s@") for name in report.figures if name.startswith("p50_s@")]
    report.figures["worst_p50_s"] = max(report.figures[f"p50_s@{name}"] for name in rows)
    report.floors = {f"p50_s@{name}": (1.5, "max") for name in rows} | {"evictions@gil": (0.0, "max")}
    report.aims = {f"worst_s@{name}": (0.8, "max") for name in rows}
    report.ratios["stop/dask_worker_ttl"] = report.figures["p50_s@stop"] / median(peers)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
