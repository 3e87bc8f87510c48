"""A run that takes its time says how far it is and why its steps wait: in its log, and to `ioi runs`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from dagster import DagsterEventType, DagsterInstance
from rich.console import Console
from typer.testing import CliRunner

from ioi_dagster import cli, cli_runs
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home, eventually
from tests.integration.ending_defs import MODULE, TURNS, config_of

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(170)]

WHY = "alone: its only node is busy"
TABLE = [("done", 0, ""), ("running", 1, ""), ("waiting", 4, WHY)]


def tables(instance: DagsterInstance, run: str) -> list[list[tuple]]:
    """The tables of the run's progress events, in order."""
    records = instance.get_records_for_run(run, of_type=DagsterEventType.ENGINE_EVENT).records
    events = [record.event_log_entry.dagster_event for record in records]
    told = [event.engine_event_data.metadata.get("ioi/progress") for event in events if event is not None]
    return [
        [(row.data["steps"], row.data["count"], row.data["why"]) for row in table.records]
        for table in told
        if table is not None
    ]


def one_frame(_seconds: float) -> None:
    raise KeyboardInterrupt


def said(*arguments: str) -> str:
    told = CliRunner().invoke(cli.app, list(arguments))
    assert told.exit_code == 0, told.output
    return told.output


def test_a_run_of_more_than_five_seconds_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "out", Console(width=300))
    monkeypatch.setattr(cli_runs, "time", SimpleNamespace(time=time.time, sleep=one_frame))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    config = {**config_of("queue", tmp_path), "execution": {"config": {"workers": 1}}}
    command = [sys.executable, "-m", "tests.integration.governed_run", MODULE, "queue", json.dumps(config), "{}"]
    with DagsterInstance.get() as instance, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT)
        try:
            eventually(lambda: list(tmp_path.glob("turn *")), what="a step that runs")
            (run,) = instance.get_runs()
            eventually(lambda: TABLE in tables(instance, run.run_id), what="a word in its log")
            (told,) = json.loads(said("runs", "--json"))
            assert (told["run"], told["job"], told["ended"]) == (run.run_id, "queue", None)
            counts = {"done": 0, "running": 1, "waiting": 4, "failed": 0, "of": 5, "more": False}
            assert told["progress"] == {**counts, "reasons": [[WHY, 4]]}
            assert "0 of 5 done, 1 running, 4 waiting (all nodes are busy)" in said("runs")
            (row,) = [line for line in said("runs", "--watch").splitlines() if run.run_id[:8] in line]
            cells = [cell.strip() for cell in row.split("│")]
            assert [*cells[:2], *cells[3:]] == [run.run_id[:8], "queue", "0 of 5", "1", "4", f"4 × {WHY}"]

            (tmp_path / "go").touch()
            assert process.wait(100) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
        assert 1 <= len(tables(instance, run.run_id)) <= 3
    (told,) = json.loads(said("runs", "--json"))
    assert (told["progress"], told["ending"]) == (None, {"interrupted": False, "failed": 0})
    assert len(list(tmp_path.glob("turn *"))) == len(TURNS)
    assert "no run is in progress" in said("runs", "--watch")
