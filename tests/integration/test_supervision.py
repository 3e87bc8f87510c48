"""Real processes of a small domain: what dies or stands still is replaced, and nothing stays when the federation ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology
from tests.conftest import eventually

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(180)]

DOMAIN = "small.example"
TOPOLOGY = Topology(
    "small",
    DOMAIN,
    (DomainSpec(DOMAIN, "own", (ClusterSpec("main", (NodeSpec("node-1"),)),), handles=DataClass.RESTRICTED),),
)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(TOPOLOGY, tmp_path / "home", POLICIES, ()) as one:
        one.wait_ready(90)
        yield one


def pids(federation: Federation) -> dict[str, int]:
    """Of the supervisor and everything that it keeps; empty while one is away."""
    found = {process.name: process.pid for process in federation.processes()}
    found["supervisor"] = federation.supervisors()[DOMAIN]
    there = {name: pid for name, pid in found.items() if pid and psutil.pid_exists(pid)}
    return there if len(there) == len(found) == 4 else {}


def renewed(federation: Federation, before: dict[str, int], names: set[str]) -> bool:
    now = pids(federation)
    return bool(now) and {name for name in now if now[name] != before[name]} >= names


def test_a_supervisor_that_is_killed_is_replaced_with_all_it_keeps(federation):
    before = pids(federation)
    os.kill(before["supervisor"], signal.SIGKILL)
    eventually(lambda: renewed(federation, before, set(before)), 30, "a supervisor and its processes")
    federation.wait_ready(60)
    assert federation.dead() == []
    after = pids(federation)
    federation.stop()
    assert [pid for pid in (*before.values(), *after.values()) if psutil.pid_exists(pid)] == []


@pytest.mark.parametrize("victim", ["node-1", "scheduler-main", "gateway"])
def test_one_that_stands_still_is_ended_and_replaced(federation, victim):
    before = pids(federation)
    os.kill(before[victim], signal.SIGSTOP)
    eventually(lambda: renewed(federation, before, {victim}), 30, f"another {victim}")
    log = (federation.domain(DOMAIN).root / "supervisor.log").read_text()
    # Of a node its scheduler may be the first to see it.
    given_up = victim == "node-1" and f"{victim} is ended: its cluster has given it up" in log
    assert given_up or f"{victim} stood still" in log
    federation.wait_ready(60)
