"""A step that hangs where it runs is run once more elsewhere, the run ends with what that made, and the first one is stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DynamicOut, DynamicOutput, execute_job, job, op, reconstructable
from distributed import LocalCluster

from ioi_dagster import governed_executor
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.model.story import Chapter
from tests.conftest import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PAGES = 6


def folder() -> Path:
    return Path(os.environ["IOI_TEST_FOLDER"])


@op(out=DynamicOut(int))
def pages() -> Iterator[DynamicOutput[int]]:
    for number in range(PAGES):
        yield DynamicOutput(number, str(number))


@op(tags={"ioi/effect": "pure"})
def read(number: int) -> int:
    """The last page takes whoever reads it first for ever."""
    hangs = folder() / "hangs"
    if number < PAGES - 1 or hangs.exists():
        return number
    hangs.touch()
    try:
        while True:
            time.sleep(0.05)
    finally:
        (folder() / "stopped").touch()


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=governed_executor)
def reads():
    total(pages().map(read).collect())


def test_a_step_that_hangs_is_copied_and_the_copy_counts(
    tmp_path: Path, clean_environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("IOI_TEST_FOLDER", str(tmp_path))
    with (
        DagsterInstance.get() as instance,
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
    ):
        config = {"execution": {"config": {"address": cluster.scheduler_address}}}
        with execute_job(reconstructable(reads), instance, run_config=config) as result:
            assert result.success
            assert result.output_for_node("total") == sum(range(PAGES))
            run = result.run_id
            shown = [
                event.engine_event_data.metadata["ioi/copies"].value
                for event in result.all_events
                if event.is_engine_event and "ioi/copies" in event.engine_event_data.metadata
            ]
        eventually((tmp_path / "stopped").exists, 30, "the end of the one that hangs")
    ledger = Ledger(ledger_path())
    try:
        (row,) = [row for row in ledger.steps(run) if row.step == f"read[{PAGES - 1}]"]
        told = [entry.text for entry in ledger.story(run, row.step) if entry.chapter is Chapter.COPY]
    finally:
        ledger.close()
    late, awarded, stopped = told
    assert (row.state, row.fence) == ("DONE", 1), "it was not lost: its first start was only late"
    assert late.startswith("late: it has run ")
    assert awarded == f"its copy was awarded to {row.node} of alone"
    assert stopped.startswith("it is stopped on ") and stopped.endswith(f"its copy has ended on {row.node} of alone")
    assert shown == ["; ".join(told)]
