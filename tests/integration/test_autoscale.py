"""A cluster without any node: a run comes, nodes come, they go when nothing runs there, and none of them with its work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from typer.testing import CliRunner

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.cli import app
from ioi_dagster.local.federation import Federation
from ioi_dagster.model.story import Chapter
from tests.conftest import eventually
from tests.integration.federations import federation_of, topology_of
from tests.integration.standing import MODULE, Runs

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(240)]

POOL = "{max: 3, boot_s: 5, after_s: 0, idle_s: 1, min_age_s: 1, up_pause_s: 1, down_pause_s: 1, node_hour: 2}"
TOPOLOGY = topology_of(f"[{{name: pool, autoscale: {POOL}}}]")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with federation_of(tmp_path, MODULE, TOPOLOGY) as federation:
        yield federation


def status(home: Path) -> dict:
    told = CliRunner().invoke(app, ["status", "--home", str(home), "--json"])
    return json.loads(told.output)["library.example"]["clusters"]["library-main"]


def workers(federation: Federation) -> dict[str, int]:
    return {one.name: one.pid for one in federation.processes() if one.role == "worker" and one.pid}


def test_from_no_node_to_three_and_back_with_the_work_in_flight_kept(federation: Federation, tmp_path: Path) -> None:
    home, runs = tmp_path / "home", Runs(tmp_path)
    assert (workers(federation), status(home)["scaling"]["pool"]["there"]) == ({}, 0)
    try:
        flood = runs.start("flood", "guests")
        eventually(lambda: len(list(tmp_path.glob("came *"))) == 3, 60, "three steps on three nodes that came for them")
        assert set(workers(federation)) == {"pool-1", "pool-2", "pool-3"}
        assert status(home)["scaling"]["pool"]["cost_hour"] == 6.0
        # The scheduler is started anew: its nodes are wanted still, and what ran there runs again.
        scheduler = next(one for one in federation.processes() if one.role == "scheduler")
        assert scheduler.pid is not None
        os.kill(scheduler.pid, 9)
        eventually(lambda: len(list(tmp_path.glob("came *"))) == 6, 60, "the same three steps on the same nodes")
        eventually(lambda: len(workers(federation)) == 3, 60, "three nodes")
        for number in range(3):
            (tmp_path / f"go {number}").touch()
        eventually(lambda: len(workers(federation)) == 1, 60, "the end of the nodes where nothing runs any more")
        (kept,) = workers(federation).items()
        assert status(home)["leases"][0]["node"] == kept[0]
        (tmp_path / "go").touch()
        assert flood.wait(60) == 0, (tmp_path / "flood.log").read_text()
        eventually(lambda: workers(federation) == {}, 60, "the end of the last one")
        assert not psutil.pid_exists(kept[1])
    finally:
        runs.end()
    with DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
    assert run.status is DagsterRunStatus.SUCCESS
    ledger = Ledger(federation.home_domain.ledger)
    try:
        steps, story = ledger.steps(run.run_id), ledger.story(run.run_id)
    finally:
        ledger.close()
    assert {(step.commits, step.state) for step in steps} == {(1, "DONE")}
    losses = [entry.text for entry in story if entry.chapter is Chapter.LOSS]
    assert len(losses) <= 4, f"what is given back takes no work along: {losses}"
    waits = [entry.text for entry in story if entry.chapter is Chapter.WAIT]
    assert any("0 of at most 3 nodes of pool are there; more are asked for" in text for text in waits), waits
    shown = CliRunner().invoke(app, ["status", "--home", str(home)]).output
    assert "nodes that come and go" in shown
