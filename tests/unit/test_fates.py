"""What is known of a run that has not said that it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from ioi_dagster.cli_runs import looking
from ioi_dagster.host.fates import Fate, State, fate_of, fates
from ioi_dagster.host.run_process import RunProcess
from ioi_dagster.host.tags import RUN_PROCESS
from ioi_dagster.local.home import prepare_dagster
from tests.conftest import Child


def run(status: DagsterRunStatus = DagsterRunStatus.STARTED, process: RunProcess | None = None) -> DagsterRun:
    return DagsterRun("job", status=status, tags={} if process is None else {RUN_PROCESS: process.text()})


def ended() -> RunProcess:
    """One that was there and is not."""
    with Child([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = RunProcess.of(child.pid)
        assert process.alive
    return process


ME = RunProcess.of(os.getpid())


@pytest.mark.parametrize(
    ("its", "fate"),
    [
        (run(process=ME), Fate(State.RUNNING, "running")),
        (run(DagsterRunStatus.CANCELING, ME), Fate(State.RUNNING, "running")),
        (run(process=ended()), Fate(State.GONE, "its process is gone; `ioi up` goes on with it")),
        (run(process=replace(ME, host="far")), Fate(State.UNKNOWN, "running, or ended without a word on far")),
        (run(), Fate(State.UNKNOWN, "running, or ended without a word")),
        (None, Fate(State.UNKNOWN, "running, or ended without a word")),
        (run(DagsterRunStatus.FAILURE, ME), Fate(State.ENDED, "failed, by Dagster's word")),
        (run(DagsterRunStatus.CANCELED, ME), Fate(State.ENDED, "canceled, by Dagster's word")),
        (run(DagsterRunStatus.SUCCESS, ME), Fate(State.ENDED, "well, by Dagster's word")),
    ],
)
def test_what_became_of_a_run(its, fate):
    assert fate_of(its) == fate


def test_runs_are_looked_up_in_the_instance_of_a_folder(tmp_path: Path):
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        its = run(process=ME)
        instance.add_run(its)
    assert fates(tmp_path, [its.run_id, "two"]) == {its.run_id: fate_of(its), "two": fate_of(None)}


def test_runs_of_a_home_are_looked_up_in_its_own_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As `ioi up` makes it: its storage goes by $DAGSTER_HOME."""
    home = tmp_path / "home"
    (home / "domains").mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", str(prepare_dagster(home)))
    its = run(process=ME)
    with DagsterInstance.get() as instance:
        instance.add_run(its)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
    assert looking(home)([its.run_id]) == {its.run_id: Fate(State.RUNNING, "running")}


def test_where_there_is_no_instance_none_is_made(tmp_path: Path):
    assert fates(tmp_path, ["one"]) == {"one": fate_of(None)}
    assert list(tmp_path.iterdir()) == []
