"""Two gateways of one domain, or two governors of one cluster: the second says so and touches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ioi_dagster.adapters.files.lease_journal import LeaseJournal
from ioi_dagster.adapters.files.only_one import only_one
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

TOPOLOGY = Topology(
    "book", "one.example", (DomainSpec("one.example", "own", (ClusterSpec("main", (NodeSpec("n"),)),)),)
)


def test_the_second_is_told_who_the_first_is_and_comes_in_when_that_has_gone(tmp_path: Path) -> None:
    first = only_one(tmp_path / "lock", "a thing")
    with pytest.raises(BadInputError, match=f"a thing runs already, as process {os.getpid()}"):
        only_one(tmp_path / "lock", "a thing")
    first.close()
    only_one(tmp_path / "lock", "a thing").close()


def test_a_second_governor_of_a_cluster_does_not_touch_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "leases-c.jsonl"
    first = LeaseJournal(path, "c")
    before = path.read_bytes()
    with pytest.raises(BadInputError, match="a governor of cluster c runs already"):
        LeaseJournal(path, "c")
    assert path.read_bytes() == before
    first.close()
    assert LeaseJournal(path, "c").epoch == 2


def test_a_second_gateway_of_a_domain_ends_with_the_reason(tmp_path: Path) -> None:
    federation = Federation(TOPOLOGY, tmp_path / "home", POLICIES, ())
    federation.prepare()
    home = federation.home_domain
    with only_one(home.root / "gateway.lock", "its gateway"):
        second = subprocess.run(
            [sys.executable, "-m", "ioi_dagster.local.gateway_main"],
            env={**os.environ, "IOI_DOMAIN_HOME": str(home.root)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    federation.stop()
    assert second.returncode == 1
    assert f"a gateway of one.example runs already, as process {os.getpid()}" in second.stderr
