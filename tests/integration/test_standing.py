"""How clusters stand with a domain is told to its real gateway, and outlives that gateway's process, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.negotiation import topology
from ioi_dagster.adapters.http.client import GatewayClient, own_gateway
from ioi_dagster.cli_status import collect
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import IoiError
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES, PROJECT
from ioi_dagster.model.standing import Experience, Experiences
from tests.conftest import eventually

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(120)]


@contextmanager
def gateway(home: DomainHome) -> Iterator[GatewayClient]:
    """A client of the domain's gateway, whose process runs without anything else of that domain and is killed at the end."""
    environment = {**os.environ, "IOI_DOMAIN_HOME": str(home.root)}
    process = subprocess.Popen([sys.executable, "-m", "ioi_dagster.local.gateway_main"], cwd=PROJECT, env=environment)
    client = own_gateway(home)

    def answers() -> bool:
        assert process.poll() is None, "it ended"
        try:
            return bool(client.health())
        except IoiError:
            return False

    try:
        eventually(answers, what="the gateway's first answer")
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


def test_what_was_told_is_there_after_the_gateway_was_killed(tmp_path: Path) -> None:
    federation = Federation(topology(1, 1), tmp_path, POLICIES, [])
    try:
        federation.prepare()
        home = federation.home_domain
        seen = Experience("cloud-c", kept=1.0, broken=1.0, why="it never came")
        with gateway(home) as client:
            (told,) = client.standing(Experiences("run", (seen,))).result()
        with gateway(home) as client:
            (found,) = client.standing(Experiences("another")).result()
            shown = collect(tmp_path)[home.name]["standing"]
    finally:
        federation.stop()
    assert (told.cluster, told.trust, told.why) == ("cloud-c", 0.667, "it never came")
    assert (found.cluster, found.why) == (told.cluster, told.why)
    assert found.trust == pytest.approx(told.trust, abs=0.01)
    assert [one["cluster"] for one in shown] == ["cloud-c"]
