"""What a run says of its progress, and what `ioi runs --watch` makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ioi_dagster.adapters.sql.ledger import Commit, Ledger, Started
from ioi_dagster.cli_runs import Look, Watched, progress_in, render, watched
from ioi_dagster.governors.flow import FlowSnapshot
from ioi_dagster.host.fates import Fate, State, fate_of
from ioi_dagster.host.progress import _metadata, progress_of
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.progress import Progress
from ioi_dagster.model.story import Chapter, Entry

SNAPSHOT = FlowSnapshot(
    round=3,
    counts={"done": 4, "running": 2, "waiting": 3, "awarding": 1, "failed": 1, "refused": 1},
    waiting={"a": "lab has no free slot", "b": "lab has no free slot", "c": "to be placed again"},
    suspects={},
    spent=4.0,
    reputation={},
)
PROGRESS = Progress(
    4, 2, 4, 2, (("lab has no free slot", 2), ("an award is being answered", 1), ("to be placed again", 1))
)


def test_a_snapshot_is_told_by_what_its_steps_do():
    assert progress_of(SNAPSHOT, None) == replace(PROGRESS, more=True)
    assert progress_of(SNAPSHOT, 20) == replace(PROGRESS, of=20)


def test_the_event_of_the_log_has_a_row_a_reason():
    table = _metadata(PROGRESS)["ioi/progress"].value
    assert [record.data for record in table.records] == [
        {"steps": "done", "count": 4, "why": ""},
        {"steps": "running", "count": 2, "why": ""},
        {"steps": "waiting", "count": 2, "why": "lab has no free slot"},
        {"steps": "waiting", "count": 1, "why": "an award is being answered"},
        {"steps": "waiting", "count": 1, "why": "to be placed again"},
        {"steps": "failed or refused", "count": 2, "why": ""},
    ]


def told(run: str, at: float, epoch: int, progress: Progress) -> Entry:
    return Entry(run, "", Chapter.PROGRESS, "", at, {**progress.facts(), "epoch": epoch})


def fates(**known: Fate) -> Look:
    return lambda runs: {run: known.get(run, fate_of(None)) for run in runs}


def test_runs_in_progress_are_watched_by_what_their_processes_said_last(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ended = ledger.take_over("ended", "job", 50.0)
    ledger.end("ended", ended, 60.0)
    epoch = ledger.take_over("runs", "pages", 100.0)
    started = [Started(step, 1, "d", "lab", "n", "own", DataClass.PUBLIC) for step in ("x", "y")]
    ledger.write("runs", epoch, started, [], [], [])
    ledger.write("runs", epoch, [], [Commit("x", 1, "attempt", "n", 1.0, 2.0, {}, b"")], [], [])
    assert watched(ledger, 101.0, fates()) == [Watched("runs", "pages", 1.0, Progress(done=1, running=1), None)]
    # What failed, and is tried again, is committed too.
    again = Progress(running=1, waiting=1, reasons=(("it is tried again", 1),), of=2)
    ledger.write("runs", epoch, [], [], [told("runs", 101.0, epoch, PROGRESS), told("runs", 103.0, epoch, again)], [])
    assert watched(ledger, 110.0, fates()) == [Watched("runs", "pages", 10.0, again, 7.0)]
    ledger.close()


def test_what_an_earlier_process_of_a_run_said_is_not_told_of_the_new_one(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    first = ledger.take_over("run", "pages", 100.0)
    ledger.write("run", first, [], [], [told("run", 101.0, first, PROGRESS)], [])
    assert progress_in(ledger, "run", 102.0) == (PROGRESS, 1.0)
    second = ledger.take_over("run", "pages", 110.0)
    assert progress_in(ledger, "run", 111.0) == (Progress(), None)
    ledger.write("run", second, [], [], [told("run", 112.0, second, Progress(done=1))], [])
    assert progress_in(ledger, "run", 113.0) == (Progress(done=1), 1.0)
    ledger.close()


@pytest.mark.parametrize(
    ("said", "done"),
    [
        (Progress(running=4, waiting=2, of=8), 2),
        (Progress(running=4, waiting=3, of=8), 1),
        (Progress(running=1, more=True), 3),
    ],
)
def test_what_processes_before_have_done_counts_as_far_as_it_is_not_to_come_again(
    tmp_path: Path, said: Progress, done: int
):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("run", "pages", 100.0)
    for step in ("x", "y", "z"):
        ledger.write("run", epoch, [Started(step, 1, "d", "lab", "n", "own", DataClass.PUBLIC)], [], [], [])
        ledger.write("run", epoch, [], [Commit(step, 1, step, "n", 1.0, 2.0, {}, b"")], [], [])
    epoch = ledger.take_over("run", "pages", 110.0)
    ledger.write("run", epoch, [], [], [told("run", 112.0, epoch, said)], [])
    assert progress_in(ledger, "run", 113.0) == (replace(said, done=done), 1.0)
    ledger.close()


def test_a_run_that_dagster_knows_to_be_over_is_not_in_progress_and_one_whose_process_is_gone_says_so(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for run in ("failed", "gone", "runs"):
        ledger.take_over(run, "pages", 100.0)
    known = fates(
        failed=Fate(State.ENDED, "failed"), gone=Fate(State.GONE, "it is gone"), runs=Fate(State.RUNNING, "runs")
    )
    assert {(row.run, row.gone) for row in watched(ledger, 101.0, known)} == {("gone", "it is gone"), ("runs", "")}
    ledger.close()


def test_what_is_shown_names_the_reasons():
    console = Console(width=120)
    with console.capture() as captured:
        console.print(render([Watched("0123456789", "pages", 12.0, PROGRESS, 1.0)]))
    assert "2 × lab has no free slot" in captured.get()
    assert "01234567" in captured.get()
    with console.capture() as captured:
        console.print(render([]))
    assert captured.get().strip() == "no run is in progress"
