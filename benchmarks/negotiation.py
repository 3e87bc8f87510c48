"""How soon steps that become ready together have their leases, and how many leases one cluster governor grants a second.

`p50_ms@STEPSxCLUSTERS`, `p99_ms@…`: from STEPS being ready to all of them being awarded, over the wire. The domains run as
`ioi up` runs them: each is a supervisor with a gateway, a Dask scheduler with the cluster governor and its lease journal, and a
worker with as many slots as are its part of the steps, so that every cluster is awarded some in every round. The run's side is
the live flow driver in this process, with its registry look-up, policy, signed requests, permit and ledger, up to where it would
start a step. Then the leases are released, which is not timed. `find`, `bid` and `award` are the parts of a round: until the
first announcement, from there until the first award, and from there to the end. `cpu_ms_…` is what the processes of one role use
together while a round and its release last, with all that they do anyway.

`placed_per_s@cluster`: leases granted and released by one cluster governor with its journal, in awards of 100: what the
scheduler's process does with a request, without HTTP, and what the gateway and the run do to write and read the messages. The
peer commits as many rows in SQLite, 100 a transaction, each on the disk when it returns.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median, quantiles
from types import FrameType
from typing import Any

import msgspec
import psutil
from distributed import Scheduler

from benchmarks.frame import Report, quick
from ioi_dagster.adapters.dask.scheduler_preload import ClusterPlugin
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.clock import SystemClock
from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainHome
from ioi_dagster.governors.cluster import NodeJoined
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import Instruction, SendAnnounce, SendAward, StartStep
from ioi_dagster.host.flow_driver import FlowDriver
from ioi_dagster.host.governance import Checked
from ioi_dagster.host.io_manager import ObjectStore
from ioi_dagster.host.network import FederatedNetwork
from ioi_dagster.host.work import Work
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Ask, Award, Awarded, Lease, LeaseRequest, ReleaseRequest
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology
from ioi_dagster.policy.permits import issue

FULL = {"steps": 100, "clusters": 10, "rounds": 250, "awards": 300, "repeats": 5}
QUICK = {"steps": 20, "clusters": 2, "rounds": 50, "awards": 100, "repeats": 1}
WARM_UP = 10
"""Rounds before those that count: connections are opened, policy is loaded."""
PATIENCE_S = 30.0
"""A round that takes longer than this has gone wrong."""
BATCH = 100
"""Leases of an award, and rows of a transaction of the peer."""


# Rounds over the wire -----------------------------------------------------------------------------------------------


def topology(clusters: int, slots: int) -> Topology:
    """Domains of one authority with a cluster each, whose node has `slots` slots."""
    return Topology(
        "book",
        "d0.example",
        tuple(
            DomainSpec(
                f"d{number}.example", "partners", (ClusterSpec(f"c{number}", (NodeSpec(f"n{number}", slots=slots),)),)
            )
            for number in range(clusters)
        ),
    )


def permitted(home: DomainHome, run: str) -> Checked:
    """A run's permit as gate 1 issues it."""
    now = time.time()
    permit = RunPermit(
        run=run,
        subject="benchmark",
        job="negotiation",
        job_snapshot="",
        plan="",
        config="",
        selection="",
        code=__name__,
        highest=DataClass.INTERNAL,
        domains=tuple(sorted(home.config().authorities)),
        decision_ids=(uuid.uuid4().hex,),
        revision="",
        not_before=float(int(now)),
        expires=float(int(now + 3_600)),
        nonce=uuid.uuid4().hex,
        issuer=home.name,
    )
    return Checked(permit, issue(home.signing_key(), permit))


class Placing(FlowDriver):
    """The live driver, which notes when it announces and awards, and keeps a lease where it would start the step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.leases: list[Lease] = []
        self.at: dict[str, list[float]] = {"announce": [], "award": [], "awarded": []}

    def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case SendAnnounce():
                self.at["announce"].append(time.perf_counter())
            case SendAward():
                self.at["award"].append(time.perf_counter())
            case StartStep(_, lease):
                self.leases.append(lease)
                return self.at["awarded"].append(time.perf_counter())
        super()._perform(instruction)


class Rounds:
    """One run that places step after step; each round has a governor and a driver of its own, as a resumed run has."""

    def __init__(self, home: DomainHome, network: FederatedNetwork, run: str, folder: Path) -> None:
        self._home, self._network, self._run, self._folder = home, network, run, folder
        self._clock = SystemClock()
        self._ledger = Ledger(home.ledger)
        self._number = 0
        self.again = 0
        """Rounds in which a step was announced more than once."""

    def close(self) -> None:
        self._ledger.close()

    def round(self, steps: int) -> dict[str, float]:
        """Seconds of its parts, and of the whole."""
        self._number += 1
        epoch = self._ledger.take_over(self._run, "negotiation", self._clock.wall())
        governor = FlowGovernor(self._run, self._network.home)
        driver = Placing(
            self._run, epoch, self._network, governor, self._ledger, ObjectStore(self._folder), self._clock
        )
        works = [
            Work(Ask(self._run, f"step_{self._number}[{step}]", OWN_STEP), b"", None, 0, False) for step in range(steps)
        ]
        try:
            started = time.perf_counter()
            for work in works:
                driver.submit(work)
            while len(driver.leases) < steps:
                driver.pump(0.05)
                if time.perf_counter() - started > PATIENCE_S:
                    raise SystemExit(f"{len(driver.leases)} of {steps} steps placed: {driver.snapshot().waiting}")
        finally:
            driver.close(interrupted=False)
        its = {name: (min(times), max(times)) for name, times in driver.at.items()}
        self.again += governor.snapshot().round > 1
        return {
            "find": its["announce"][0] - started,
            "bid": its["award"][0] - its["announce"][0],
            "award": its["awarded"][1] - its["award"][0],
            "whole": its["awarded"][1] - started,
        }


def measure_rounds(report: Report, sizes: dict[str, int], folder: Path) -> None:
    steps, clusters, rounds = sizes["steps"], sizes["clusters"], sizes["rounds"]
    size, found = f"{steps}x{clusters}", []
    with ExitStack() as stack:
        say(f"{clusters} domains start")
        federation = stack.enter_context(Federation(topology(clusters, steps // clusters), folder, POLICIES, []))
        federation.wait_ready(120, lambda there, wanted: say_at(f"{there} of {wanted} nodes are there"))
        home, run = federation.home_domain, uuid.uuid4().hex
        network = FederatedNetwork(home, permitted(home, run))
        stack.callback(network.close)
        its = stack.enter_context(closing(Rounds(home, network, run, folder / "objects")))
        roles = {info.pid: f"{info.role}s" for info in federation.processes() if info.pid is not None}
        roles |= dict.fromkeys(federation.supervisors().values(), "supervisors") | {os.getpid(): "run"}
        for _ in range(WARM_UP):
            its.round(steps)
        its.again = 0
        before, began = cpu_seconds(roles), time.perf_counter()
        for number in range(rounds):
            found.append(its.round(steps))
            say_at(f"{number + 1} of {rounds} rounds")
        took, after = time.perf_counter() - began, cpu_seconds(roles)
        report.figures[f"again@{size}"] = its.again
    whole = sorted(1e3 * one["whole"] for one in found)
    report.figures[f"p50_ms@{size}"], report.figures[f"p99_ms@{size}"] = median(whole), quantiles(whole, n=100)[98]
    report.figures[f"max_ms@{size}"], report.figures[f"rounds@{size}"] = whole[-1], rounds
    for part in ("find", "bid", "award"):
        report.figures[f"{part}_p50_ms@{size}"] = median(1e3 * one[part] for one in found)
    for role, seconds in after.items():
        report.figures[f"cpu_ms_{role}@{size}"] = 1e3 * (seconds - before[role]) / rounds
    report.figures[f"with_release_ms@{size}"] = 1e3 * took / rounds


def cpu_seconds(roles: dict[int, str]) -> dict[str, float]:
    """What the processes of each role have used so far."""
    found = dict.fromkeys(roles.values(), 0.0)
    for pid, role in roles.items():
        its = psutil.Process(pid).cpu_times()
        found[role] += its.user + its.system
    return found


# One cluster governor -----------------------------------------------------------------------------------------------


async def placed_per_second(home: DomainHome, awards: int, number: int) -> float:
    """Leases a second of a governor with as many nodes of one slot as an award has requests."""
    scheduler = Scheduler(dashboard=False, dashboard_address=None)
    plugin = ClusterPlugin(scheduler, home, home.config().spec.clusters[0].name)
    for node in range(BATCH):
        plugin.perform(plugin.governor.handle(NodeJoined(f"n{node}", 1, frozenset({OWN_STEP})), time.monotonic()))
    run, granted = f"run-{number}", 0
    started = time.perf_counter()
    for batch in range(awards):
        requests = tuple(
            LeaseRequest(run, f"step_{batch}[{step}]", 1, OWN_STEP, DataClass.INTERNAL) for step in range(BATCH)
        )
        awarded: Awarded = asked(plugin, Award("c0", run, batch, home.name, requests), Awarded)
        granted += len(awarded.leases)
        asked(plugin, ReleaseRequest(run, tuple(lease.id for lease in awarded.leases)), None)
    took = time.perf_counter() - started
    if granted != awards * BATCH or plugin.governor.snapshot().leases:
        raise SystemExit(f"{granted} of {awards * BATCH} leases granted")
    return granted / took


def asked(plugin: ClusterPlugin, message: Any, kind: Any) -> Any:
    """What comes back of a message that is written and read as on the wire."""
    received = from_json(msgspec.json.encode(message), type(message))
    answer = msgspec.json.encode(plugin.request(received))
    return from_json(answer, kind) if kind is not None else None


def sqlite_rows_per_second(path: Path, transactions: int) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE lease (id TEXT PRIMARY KEY, step TEXT, fence INTEGER)")
        started = time.perf_counter()
        for batch in range(transactions):
            connection.execute("BEGIN IMMEDIATE")
            rows = [(f"c0/1/{batch * BATCH + step}", f"step_{batch}[{step}]", 1) for step in range(BATCH)]
            connection.executemany("INSERT INTO lease VALUES (?, ?, ?)", rows)
            connection.execute("COMMIT")
        return transactions * BATCH / (time.perf_counter() - started)


def measure_cluster(report: Report, sizes: dict[str, int], folder: Path) -> None:
    ours, peers = [], []
    for number in range(sizes["repeats"]):
        say_at(f"{number} of {sizes['repeats']} repeats of one cluster's awards")
        # Each a federation of its own: of one cluster there is never more than one governor, as long as its process lives.
        federation = Federation(topology(1, BATCH), folder / f"{number}", POLICIES, [])
        try:
            federation.prepare()
            ours.append(asyncio.run(placed_per_second(federation.home_domain, sizes["awards"], number)))
        finally:
            federation.stop()
        peers.append(sqlite_rows_per_second(folder / f"peer-{number}.sqlite", sizes["awards"]))
    report.figures["placed_per_s@cluster"] = median(ours)
    report.peers["sqlite_rows_per_s"] = median(peers)
    report.ratios["placed/sqlite_rows"] = median(ours) / median(peers)


# The command --------------------------------------------------------------------------------------------------------

_said = time.monotonic()


def say(text: str) -> None:
    global _said
    _said = time.monotonic()
    print(text, file=sys.stderr, flush=True)


def say_at(text: str) -> None:
    """At most every two seconds."""
    if time.monotonic() - _said >= 2.0:
        say(text)


def end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        # As an exception they end what was started and remove its folders.
        signal.signal(number, end)
    sizes, report = QUICK if quick() else FULL, Report("negotiation")
    parts: list[tuple[str, Callable[[Report, dict[str, int], Path], None]]] = [
        ("cluster", measure_cluster),
        ("rounds", measure_rounds),
    ]
    with tempfile.TemporaryDirectory(prefix="ioi-negotiation-") as folder:
        for name, measure in parts:
            measure(report, sizes, Path(folder) / name)
    report.floors = {
        "p50_ms@100x10": (25.0, "max"),
        "p99_ms@100x10": (180.0, "max"),
        "placed_per_s@cluster": (10_000.0, "min"),
    }
    report.aims = {"p99_ms@100x10": (50.0, "max"), "placed_per_s@cluster": (20_000.0, "min")}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
