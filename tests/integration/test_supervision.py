"""Real processes of a small domain: what dies or stands still is replaced, and nothing stays when the federation ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.local.identity import OVERLAP_S
from ioi_dagster.local.member_book import own_record
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology
from tests.conftest import eventually
from tests.owners import Owner, answers

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


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_supervisor_that_is_killed_or_stands_still_is_replaced_with_all_it_keeps(federation, sent):
    before = pids(federation)
    os.kill(before["supervisor"], sent)
    eventually(lambda: renewed(federation, before, set(before)), 30, "a supervisor and its processes")
    federation.wait_ready(60)
    assert federation.dead() == []
    after = pids(federation)
    federation.stop()
    assert [pid for pid in (*before.values(), *after.values()) if psutil.pid_exists(pid)] == []


@pytest.mark.parametrize("victim", ["node-1", pytest.param("scheduler-main", marks=pytest.mark.slow), "gateway"])
def test_one_that_stands_still_is_ended_and_replaced(federation, victim):
    before = pids(federation)
    os.kill(before[victim], signal.SIGSTOP)
    eventually(lambda: renewed(federation, before, {victim}), 30, f"another {victim}")
    log = (federation.domain(DOMAIN).root / "supervisor.log").read_text()
    # Of a node its scheduler may be the first to see it.
    given_up = victim == "node-1" and f"{victim} is ended: its cluster has given it up" in log
    assert given_up or f"{victim} stood still" in log
    federation.wait_ready(60)


BY_HAND = """
network: small
home: small.example
domains:
  - name: small.example
    authority: own
    clusters: [{name: main, nodes: [{name: node-1}]}]
"""


def kept(owner: Owner) -> dict[str, int]:
    """As `pids`, of a domain by `ioi domain up`."""
    try:
        told = json.loads((owner.home.root / "supervisor.json").read_text())
    except FileNotFoundError:
        return {}
    found = {row["name"]: row["pid"] for row in told["processes"]} | {"supervisor": told["pid"]}
    there = {name: pid for name, pid in found.items() if pid and psutil.pid_exists(pid)}
    return there if len(there) == len(found) == 4 else {}


def check_what_is_revoked(owner: Owner) -> None:
    """Whoever has a certificate of before gets into no scheduler, and the domain's own processes do."""
    home, stolen = owner.home, owner.folder / "stolen.pem"
    stolen.write_bytes(home.client_certificate.read_bytes())
    (cluster,) = home.config().clusters
    assert answers(cluster.scheduler, home.authority_certificate, stolen)
    assert "the old ones are revoked" in owner.does("domain", "rotate", "--revoke")

    def again() -> bool:
        return answers(cluster.scheduler, home.authority_certificate, home.client_certificate)

    eventually(again, 60, "a scheduler with the new authority")
    assert not answers(cluster.scheduler, home.authority_certificate, stolen)
    client = own_gateway(home)
    try:
        eventually(lambda: "node/main/node-1" in client.state(5.0), 60, "the node")
    finally:
        client.close()


def test_a_domain_by_hand_outlives_its_supervisor_and_ends_with_an_error_where_it_cannot(tmp_path: Path) -> None:
    owner = Owner(tmp_path, "small", BY_HAND, blocks="tests.integration.joining_project:BLOCKS")
    owner.init()
    with owner.up(code=2) as process:
        eventually(lambda: "is up" in owner.said(), 120, "the domain")
        check_what_is_revoked(owner)
        eventually(lambda: kept(owner), 30, "all of it")
        seen = [before := kept(owner)]
        owner.does("domain", "rotate")
        long_ago = time.time() - 2 * OVERLAP_S
        os.utime(owner.home.root / "keys" / "old.key", (long_ago, long_ago))
        assert len(own_record(owner.home).keys) == 2
        os.kill(before["supervisor"], signal.SIGKILL)
        eventually(lambda: len(own_record(owner.home).keys) == 1, 60, "a gateway that ends what the old key counts")
        eventually(lambda: {**before, **kept(owner)}.items().isdisjoint(before.items()), 60, "all of it again")

        def killed_again() -> bool:
            there = kept(owner)
            if there and there != seen[-1]:
                seen.append(there)
                os.kill(there["supervisor"], signal.SIGKILL)
            return process.poll() is not None

        eventually(killed_again, 60, "the end of the command")
    assert "the supervisor of small.example is unreachable: it ended more than 3 times in 60 s" in owner.said()
    left = {pid for one in seen for pid in one.values()}
    eventually(lambda: not any(map(psutil.pid_exists, left)), 30, "the end of all that it has started")
