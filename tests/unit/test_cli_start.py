"""Commands by which people step in are there at once: none imports what takes seconds to import and is of no use to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome
from ioi_dagster.host import intervening
from ioi_dagster.local.home import POLICIES
from ioi_dagster.model.intervention import Action, Intervention
from tests.realms import owned

HEAVY = {"dagster", "distributed", "dask", "httpx", "numpy", "sqlalchemy", "uvicorn"}
COMMAND = """
import json, sys
from ioi_dagster.cli import app
words = json.loads(sys.argv[1])
try:
    app(words, standalone_mode=False)
finally:
    print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture
def lab(tmp_path: Path) -> DomainHome:
    home = owned(tmp_path, "lab").home
    home.save_config(replace(home.config(), policies=str(POLICIES), scopes=("book",)))
    ledger = Ledger(home.ledger)
    ledger.end("run-1", ledger.take_over("run-1", "books", 1.0, "ann"), 2.0)
    ledger.close()
    return home


@pytest.mark.parametrize(
    ("words", "told", "needs"),
    [
        (["block", "pause", "dagster.step", "--why", "w"], "block dagster.step of lab paused", set()),
        (["tenant", "cap", "default", "2"], "tenant default of lab may run 2 at once", set()),
        (["node", "pause", "lab-1"], "lab-1 of lab-c is paused", set()),
        (["drain", "lab-1"], "lab-1 of lab-c is drained", set()),
        (["pause", "run-1"], "gone: nothing to do; run run-1 has ended", {"sqlalchemy"}),
        (["domain", "introductions"], "introductions are on", {"httpx", "numpy", "sqlalchemy"}),
    ],
)
def test_a_command_imports_what_it_needs(lab: DomainHome, words: list[str], told: str, needs: set[str]) -> None:
    home = lab.root.parents[1]
    process = subprocess.run(
        [sys.executable, "-c", COMMAND, json.dumps([*words, "--home", str(home)])],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name not in ("IOI_HOME", "DAGSTER_HOME")},
    )
    *said, modules = process.stdout.splitlines()
    assert told in "\n".join(said), process.stderr
    assert HEAVY & set(json.loads(modules)) <= needs


def test_who_has_not_answered_since_its_run_is_over_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process was killed, and nobody has told the ledger."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(intervening, "SILENT_S", 0.0)
    run = DagsterRun(job_name="books", status=DagsterRunStatus.FAILURE)
    with DagsterInstance.get() as instance:
        instance.add_run(run)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.take_over(run.run_id, "books", 1.0, "ann")
    said = intervening.intervene(tmp_path / "ledger.sqlite", None, Intervention("last", Action.PAUSE, who="ann"))
    assert said.intervention.answer == f"gone: nothing to do; run {run.run_id[:8]} has ended"
    assert [one.answer for one in ledger.interventions(run.run_id)] == [said.intervention.answer]
    ledger.close()
