"""Starts the domains of a topology on this machine, each with folders, keys and processes of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.domain import ClusterAddress, DomainConfig, DomainHome
from ioi_dagster.errors import BadInputError, IoiError, RetryableError, UnreachableError
from ioi_dagster.local.identity import (
    forget_damaged,
    identity_locked,
    is_locked,
    prepare_authority,
    prepare_certificates,
    prepare_folders,
    renew_record,
)
from ioi_dagster.local.keeper import Keeper, start_supervisor
from ioi_dagster.local.member_book import meet, start_anew
from ioi_dagster.local.readiness import Missing, Readiness, Seen, clusters_of, nodes_of
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.data_stores import DataSpec, doors_between
from ioi_dagster.model.topology import DomainSpec, Topology
from ioi_dagster.ports import free_ports

START_S = 5.0
"""So long a gateway may take for an answer while everything starts."""
NOTED = "topology"
"""The file in a federation's home that names the one with its topology, for who changes quotas or examines it."""
ENDING_S = 10.0
"""So long a supervisor may take to end whose federation was killed."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    domain: str
    name: str
    role: str
    pid: int | None
    restarts: int


class Federation:
    """The domains of `topology`, which stands in `file`, under `home` (`$IOI_HOME`). `policies` is the folder with the built
    bundle.

    As a context manager it prepares, starts, and stops; nothing is left running.
    """

    def __init__(
        self, topology: Topology, home: Path, policies: Path, blocks: Sequence[BlockSpec], file: Path | None = None
    ) -> None:
        self._topology, self._home, self._file = topology, home.resolve(), file
        self._policies, self._blocks = policies.resolve(), blocks
        self._keeper: Keeper | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Federation:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def domain(self, name: str) -> DomainHome:
        return DomainHome(self._home / "domains" / name)

    @property
    def home_domain(self) -> DomainHome:
        return self.domain(self._topology.home)

    def environment(self) -> dict[str, str]:
        """What a run process or Dagster needs to find its domain."""
        return {"IOI_HOME": str(self._home), "IOI_DOMAIN": self._topology.home}

    def prepare(self) -> None:
        """Folders, keys, trust, ports. What exists is kept; a port taken by someone else is replaced; whom an owner has put
        out stays out. Raises `BadInputError`: where a domain in the home is its owner's own, or runs, nothing is changed; where
        it cannot be read whom an owner has put out, nobody is taken in."""
        self._home.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self._refuse_others()
        if not (self._policies / "bundle" / "bundle.tar.gz").exists():
            raise BadInputError(
                "there is no built policy bundle", where=str(self._policies), todo="run `ioi policy build`"
            )
        # A run of before that was killed had no chance to sweep.
        self.sweep()
        self._note_file()
        self._forget_strangers()
        for spec in self._topology.domains:
            prepare_folders(self.domain(spec.name))
        ports = free_ports(sum(1 + 2 * len(spec.clusters) for spec in self._topology.domains))
        gateways = {spec.name: f"https://127.0.0.1:{ports.pop()}" for spec in self._topology.domains}
        data = {name: its.at(str(self.domain(name).root)) for name, its in self._topology.data.items()}
        for spec in self._topology.domains:
            home = self.domain(spec.name)
            start_anew(
                home,
                DomainConfig(
                    network=self._topology.network,
                    home=self._topology.home,
                    spec=spec,
                    gateway=gateways[spec.name],
                    clusters=tuple(
                        ClusterAddress(
                            cluster.name,
                            f"{self._dask_protocol(spec)}://127.0.0.1:{ports.pop()}",
                            governor_address(home.root / f"governor-{cluster.name}.sock", ports.pop()),
                        )
                        for cluster in spec.clusters
                    ),
                    peers={name: url for name, url in gateways.items() if name != spec.name},
                    policies=str(self._policies),
                    scopes=self._topology.scopes(spec.name),
                    authorities={other.name: other.authority for other in self._topology.domains},
                    limits={other.name: other.handles for other in self._topology.domains},
                    links=self._topology.links_of(spec.name),
                    data=replace(data.get(spec.name, DataSpec()), doors=doors_between(data, spec.name)),
                    regions={other.name: other.region for other in self._topology.domains if other.region},
                ),
            )
            (home.root / "blocks.json").write_bytes(msgspec.json.encode(offered(spec, self._blocks)))
        self._introduce(gateways)

    def _note_file(self) -> None:
        noted = self._home / NOTED
        if self._file is None:
            noted.unlink(missing_ok=True)
        else:
            noted.write_text(str(self._file.resolve()))

    def _dask_protocol(self, spec: DomainSpec) -> str:
        """Whose code goes to a cluster anyway reaches it as it is, unless its owner wants it otherwise. Into that of another
        authority none goes, so nobody without a certificate of that one gets in, be it from this machine."""
        authorities = {one.name: one.authority for one in self._topology.domains}
        return "tls" if spec.dask_tls or spec.authority != authorities[self._topology.home] else "tcp"

    def _introduce(self, gateways: dict[str, str]) -> None:
        """Everybody has certificates of his authority and the record that each other one signed of himself, unless he has put
        that one out."""
        now, records = time.time(), {}
        for spec in self._topology.domains:
            home = self.domain(spec.name)
            forget_damaged(home)
            authority = prepare_authority(self._home / "authorities" / spec.authority, spec.authority, now)
            with identity_locked(home):
                prepare_certificates(home, authority, now)
                records[spec.name] = renew_record(
                    home, authority, self._topology.network, spec, gateways[spec.name], now
                )
        for spec in self._topology.domains:
            meet(self.domain(spec.name), records)

    def _forget_strangers(self) -> None:
        """A domain that left the topology is no member any more; its folder stays, for its owner to remove."""
        known = {spec.name for spec in self._topology.domains}
        for path in (self._home / "domains").glob("*/domain.json"):
            if path.parent.name not in known:
                path.unlink()

    def start(self) -> None:
        """One supervisor a domain; each starts and restarts its own processes, and is itself started again when it
        dies."""
        for spec in self._topology.domains:
            (self.domain(spec.name).root / "supervisor.json").unlink(missing_ok=True)
        names = [spec.name for spec in self._topology.domains]
        self._keeper = Keeper(names, lambda name: start_supervisor(self.domain(name)))
        self._keeper.open()

    def supervisors(self) -> dict[str, int]:
        """Domain → its supervisor's process; empty before the start."""
        return self._keeper.pids() if self._keeper is not None else {}

    def dead(self) -> list[str]:
        """Domains whose supervisor ends again and again: nobody restarts what dies there."""
        return self._keeper.dead() if self._keeper is not None else []

    def wait_ready(
        self,
        timeout_s: float = 60.0,
        progress: Callable[[int, int], None] | None = None,
        stopped: Callable[[], object] = lambda: False,
    ) -> None:
        """Until every gateway answers and every node has joined, or `stopped()`. Raises `UnreachableError` naming what
        is missing when nothing new has appeared for `timeout_s` seconds."""
        readiness = Readiness(nodes_of(self._topology), timeout_s, time.monotonic(), clusters_of(self._topology))
        while True:
            seen = self._seen()
            if progress is not None:
                progress(len(seen.nodes & readiness.wanted), len(readiness.wanted))
            if readiness.ready(seen) or stopped():
                return
            dead = self.dead()
            if dead:
                raise UnreachableError(f"supervisor of {dead[0]}", f"it ended; see {self.domain(dead[0]).root}")
            if readiness.given_up(seen, time.monotonic()):
                raise self._not_there(readiness.missing(seen), timeout_s)
            time.sleep(0.1)

    def _not_there(self, missing: Missing, timeout_s: float) -> UnreachableError:
        log = self.domain(missing.domain).logs / f"{missing.process}.log"
        rows = {row["name"]: row for row in read_supervisor(self.domain(missing.domain))}
        ended = rows.get(missing.process, {}).get("restarts", 0)
        told = [f"nothing has joined for {timeout_s:g} s"]
        told += [f"it ended {counted(ended, 'time')}"] if ended else []
        told += [f"its log {log} ends with: {last}"] if (last := last_line(log)) else []
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        busy = f"the machine is busy ({load:.0f} processes for {cores} cores): try again when it has less to do"
        todo = busy if load > 2 * cores else "`ioi doctor` tells what is missing"
        return UnreachableError(missing.what, f"{'; '.join(told)} — {todo}")

    def processes(self) -> list[ProcessInfo]:
        """What runs now, from the supervisors' own reports."""
        found = []
        for spec in self._topology.domains:
            for row in read_supervisor(self.domain(spec.name)):
                found.append(ProcessInfo(spec.name, row["name"], row["role"], row["pid"], row["restarts"]))
        return found

    def stop(self) -> None:
        """End every supervisor (and so its children); then domains that retain nothing are swept. An impatient second
        Ctrl-C waits for that."""
        with _undisturbed():
            self._stop()

    def _stop(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        # Without the lock, what lies there is somebody else's.
        if self._lock is not None:
            self.sweep()
            self._unlock()

    def sweep(self) -> None:
        """Everybody's scratch goes; of a domain that retains nothing also its logs and lease journals. What stays of it
        are its keys, its records and its policy decisions (codes and digests of inputs, for the audit)."""
        for spec in self._topology.domains:
            home = self.domain(spec.name)
            scratch = [home.work] if spec.retains else [home.work, home.logs]
            for folder in scratch:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not spec.retains:
                for name in ("supervisor.log", "leases-*.jsonl"):
                    for path in home.root.glob(name):
                        path.unlink()

    def _seen(self) -> Seen:
        gateways, clusters, nodes = set(), set(), set()
        for spec in self._topology.domains:
            client = own_gateway(self.domain(spec.name))
            # Who is not there yet refuses at once. Who is there, on a busy machine, is given the time to say so.
            with contextlib.suppress(RetryableError, IoiError):
                state = client.state(START_S)
                gateways.add(spec.name)
                living = {key.removeprefix("cluster/") for key in state if key.startswith("cluster/")}
                clusters |= {(spec.name, cluster) for cluster in living}
                for key in state:
                    kind, _, rest = key.partition("/")
                    cluster, _, node = rest.partition("/")
                    if kind == "node" and cluster in living:
                        nodes.add((spec.name, cluster, node))
            client.close()
        return Seen(frozenset(gateways), frozenset(clusters), frozenset(nodes))

    def _take_lock(self) -> None:
        lock = (self._home / "federation.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise BadInputError(
                "another federation runs on this home", where=str(self._home), todo="stop it, or give another --home"
            ) from None
        self._lock = lock

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _refuse_others(self) -> None:
        """A domain that its owner has made, be it called as one of the topology or not, has ports, members and limits that no
        topology knows; and of what runs, nothing is changed."""
        try:
            homes = [DomainHome(folder) for folder in sorted((self._home / "domains").glob("*")) if folder.is_dir()]
            made = next((home for home in homes if home.by_hand.exists()), None)
            if made is not None:
                raise BadInputError(
                    f"{made.name} was made by `ioi domain init`: a federation here would take its members and ports from it",
                    where=str(made.root),
                    todo="give the federation another --home; this domain starts by `ioi domain up`",
                )
            runs = _still_running(homes)
            if runs is not None:
                raise BadInputError(
                    f"{runs.name} runs already: its supervisor is not this federation's",
                    where=str(runs.root),
                    todo="stop what has started it, or give another --home",
                )
        except BaseException:
            self._unlock()
            raise


def _still_running(homes: Sequence[DomainHome]) -> DomainHome | None:
    """One whose supervisor runs. Those of a federation that was killed end by themselves, and are waited for."""
    until = time.monotonic() + ENDING_S
    while True:
        found = next((home for home in homes if is_locked(home.root / "supervisor.lock")), None)
        if found is None or time.monotonic() > until:
            return found
        time.sleep(0.1)


def governor_address(path: Path, port: int) -> str:
    """A socket in the file system takes half the processor of one on loopback, but its name may have 107 bytes only (unix(7))."""
    return f"unix:{path}" if len(os.fsencode(path)) <= 107 else f"tcp://127.0.0.1:{port}"


def last_line(log: Path, most: int = 200) -> str:
    """The last line that says something; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:most] for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that ask this process to end are ignored; only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_supervisor(home: DomainHome) -> list[dict[str, Any]]:
    """The processes of a domain as its supervisor last reported them; empty when it never did."""
    try:
        return json.loads((home.root / "supervisor.json").read_text())["processes"]
    except (OSError, ValueError, KeyError):
        return []


def offered(spec: DomainSpec, blocks: Sequence[BlockSpec]) -> list[BlockSpec]:
    """The domain's blocks, none of which may be given more than the domain handles."""
    known = {block.name: block for block in blocks}
    missing = [name for name in spec.blocks if name not in known]
    if missing:
        raise BadInputError(
            f"{spec.name} offers unknown blocks: {', '.join(missing)}", todo=f"known: {', '.join(known)}"
        )
    return [
        replace(known[name], handles=min(known[name].handles, spec.handles, key=lambda c: c.rank))
        for name in spec.blocks
    ]
