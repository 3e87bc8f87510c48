"""A step that hangs where it runs is run once more elsewhere, the run ends with what that made, and the first one is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterInstance, execute_job, reconstructable
from distributed import LocalCluster

from ioi_dagster.adapters.sql.ledger import Ledger, StepRow
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.local.home import PROJECT
from ioi_dagster.model.story import Chapter
from tests.conftest import dagster_home, eventually
from tests.integration.federations import federation_of, topology_of
from tests.integration.late_defs import PAGES, reads_alone

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(400)]

MODULE = "tests.integration.late_defs"
LATE = f"read[{PAGES - 1}]"
TOPOLOGY = topology_of("[{name: library-1}, {name: library-2}]")


def config(folder: Path) -> dict:
    return {"ops": {"read": {"config": {"folder": str(folder)}}}}


def told_of(path: Path, run: str) -> tuple[StepRow, list[str]]:
    """The ledger's row of the step that hung, and what was told of its copies."""
    ledger = Ledger(path)
    try:
        (row,) = [row for row in ledger.steps(run) if row.step == LATE]
        return row, [entry.text for entry in ledger.story(run, LATE) if entry.chapter is Chapter.COPY]
    finally:
        ledger.close()


def is_copied(row: StepRow, told: list[str]) -> None:
    late, awarded, stopped = told
    assert (row.state, row.fence, row.commits) == ("DONE", 1, 1), "it was not lost: its first start was only late"
    assert late.startswith("late: it has run ")
    assert awarded == f"its copy was awarded to {row.node} of {row.cluster}"
    assert stopped.startswith("it is stopped on ")
    assert stopped.endswith(f"its copy has ended on {row.node} of {row.cluster}")


def test_a_step_that_hangs_is_copied_and_the_copy_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dagster_home(tmp_path, monkeypatch)
    with (
        DagsterInstance.get() as instance,
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
    ):
        settings = {"execution": {"config": {"address": cluster.scheduler_address}}, **config(tmp_path)}
        with execute_job(reconstructable(reads_alone), instance, run_config=settings) as result:
            assert result.success
            assert result.output_for_node("total") == sum(range(PAGES))
            run = result.run_id
            shown = [
                event.engine_event_data.metadata["ioi/copies"].value
                for event in result.all_events
                if event.is_engine_event and "ioi/copies" in event.engine_event_data.metadata
            ]
        eventually((tmp_path / "stopped").exists, 30, "the end of the one that hangs")
    row, told = told_of(ledger_path(), run)
    is_copied(row, told)
    assert shown == ["; ".join(told)]


def test_so_it_is_in_a_federation(tmp_path: Path) -> None:
    with federation_of(tmp_path, MODULE, TOPOLOGY) as federation:
        command = [sys.executable, "-m", "tests.integration.governed_run", MODULE, "reads"]
        ended = subprocess.run(
            [*command, json.dumps(config(tmp_path)), "{}"], cwd=PROJECT, capture_output=True, text=True, timeout=200
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        eventually((tmp_path / "stopped").exists, 30, "the end of the one that hangs")
        with DagsterInstance.get() as instance:
            (run,) = instance.get_runs()
        row, told = told_of(federation.home_domain.ledger, run.run_id)
    is_copied(row, told)
