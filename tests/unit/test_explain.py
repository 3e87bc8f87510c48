"""The story of a run as it is told: in order, each step from its candidates to its commit, nothing of later."""

from __future__ import annotations

from pathlib import Path

import pytest

from ioi_dagster.adapters.sql.ledger import Commit, Ledger, Started
from ioi_dagster.cli_explain import collect, table
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.progress import Progress
from ioi_dagster.model.story import Chapter, Entry

C = Chapter
PLACES = {"places": ["lab", "home"]}


def entry(step: str, chapter: Chapter, text: str, at: float, **facts: object) -> Entry:
    return Entry("run", step, chapter, text, at, facts)


STORY = [
    entry("", C.POLICY, "gate 1: launch allow", 9.0),
    entry("", C.TRIGGER, "started by a sensor", 9.5),
    entry("a", C.CANDIDATES, "may go to lab, home", 10.0, **PLACES),
    entry("b", C.CANDIDATES, "may go to home", 10.0, places=["home"]),
    entry("", C.BID, "no bid from lab: busy", 10.5, cluster="lab"),
    entry("", C.BID, "no bid from lab: busy", 11.0, cluster="lab"),
    entry("", C.BID, "no bid from shop: away", 11.0, cluster="shop"),
    entry("a", C.WAIT, "waited 2.0 s for a place: all 2 nodes are busy", 12.0),
    entry("a", C.BID, "offers: home", 12.0),
    entry("a", C.AWARD, "awarded to n1 of home", 12.0),
    entry("a", C.LOSS, "lost on n1", 13.0, cluster="home"),
    entry("a", C.BID, "offers: home", 13.5),
    entry("a", C.AWARD, "awarded to n2 of home", 13.5),
    entry("", C.PROGRESS, "1 running", 14.0),
    entry("a", C.COMMIT, "attempt x committed", 16.0, attempt="x"),
    entry("", C.BID, "no bid from lab: later", 17.0, cluster="lab"),
]


@pytest.fixture
def ledger(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("run", "job", 9.0)
    started = [Started("a", 2, "library", "home", "n2", "own", DataClass.PUBLIC)]
    ledger.write("run", epoch, started, [], STORY, [])
    ledger.write("run", epoch, [], [Commit("a", 2, "x", "n2", 13.6, 15.9, {}, b"")], [], [])
    yield ledger
    ledger.close()


def told(ledger: Ledger, step: str | None, now: float = 20.0) -> list[tuple[str, str, str]]:
    return [(e.step, str(e.chapter), e.text) for e in collect(ledger, "run", step, now)]


def test_a_step_is_told_from_trigger_to_commit_and_nothing_of_later(ledger):
    assert [row[1:] for row in told(ledger, "a")] == [
        ("trigger", "started by a sensor"),
        ("policy", "gate 1: launch allow"),
        ("candidates", "may go to lab, home"),
        ("bid", "no bid from lab: busy (2 times in 0.5 s)"),
        ("wait", "waited 2.0 s for a place: all 2 nodes are busy"),
        ("bid", "offers: home"),
        ("award", "awarded to n1 of home"),
        ("loss", "lost on n1"),
        ("bid", "offers: home"),
        ("award", "awarded to n2 of home"),
        ("start", "attempt x ran 2.30 s on n2 of home (library)"),
        ("commit", "attempt x committed"),
    ]


def test_a_run_is_told_step_by_step_and_what_befell_it_as_a_whole_comes_last(ledger):
    rows = told(ledger, None)
    assert [row[0] for row in rows] == ["", "", *["a"] * 9, "b", "b", "", "", "", ""]
    assert [row[1] for row in rows][:2] == ["trigger", "policy"]
    assert [row[2] for row in rows][-4:] == [
        "no bid from lab: busy (2 times in 0.5 s)",
        "no bid from shop: away",
        "1 running",
        "no bid from lab: later",
    ]


def test_a_step_that_waits_now_says_for_how_long_and_why_while_the_run_goes_on(ledger):
    epoch = ledger.take_over("run", "job", 18.0)
    said = Progress(waiting=3, reasons=(("home: all 2 nodes are busy", 3),))
    ledger.write("run", epoch, [], [], [entry("", C.PROGRESS, str(said), 18.5, **said.facts(), epoch=epoch)], [])
    assert told(ledger, "b")[-1] == (
        "b",
        "wait",
        "waits for 10.0 s now; the run's waiting steps: 3 × home: all 2 nodes are busy",
    )
    ledger.end("run", epoch, 19.0)
    assert told(ledger, "b")[-1][1] == "candidates"


def test_a_step_that_waits_now_says_why_it_does_itself_and_since_when_it_has(ledger):
    epoch = ledger.take_over("run", "job", 18.0)
    said = Progress(waiting=3, reasons=(("home: all 2 nodes are busy", 3),))
    why = {"why": "home: no node has a GPU free", "waited": 2.0, "round": 4, "parked": ["home"]}
    waits = [
        entry("", C.PROGRESS, str(said), 18.5, **said.facts(), epoch=epoch),
        entry("b", C.WAIT, "no place by round 4, after 2.0 s: home: no node has a GPU free", 18.6, **why),
        entry("b", C.CANDIDATES, "may go to home, lab", 19.0, **PLACES),
    ]
    ledger.write("run", epoch, [], [], waits, [])
    now = "waits for 3.4 s now: home: no node has a GPU free; asked to tell as soon as there is room: home"
    assert told(ledger, "b")[-1] == ("b", "wait", now)
    after = [
        entry("b", C.WAIT, "waited 4.0 s for a place", 19.2, seconds=4.0, why="home: no node has a GPU free"),
        entry("b", C.AWARD, "awarded to n1 of home", 19.2),
        entry("b", C.LOSS, "lost on n1", 19.5),
    ]
    ledger.write("run", epoch, [], [], after, [])
    assert told(ledger, "b")[-1][2] == "waits for 0.5 s now; the run's waiting steps: 3 × home: all 2 nodes are busy"


def test_a_step_that_nobody_knows_has_no_story(ledger):
    assert collect(ledger, "run", "none", 20.0) == []
    assert collect(ledger, "other", None, 20.0) == []


def test_a_name_without_its_brackets_is_all_that_it_is_mapped_to(ledger):
    mapped = [entry(f"read[{key}]", C.CANDIDATES, "may go to home", 18.0) for key in ("p1", "p2")]
    ledger.tell([*mapped, entry("reader", C.CANDIDATES, "may go to home", 18.0)])
    story = collect(ledger, "run", "read", 20.0)
    assert [(e.step, str(e.chapter)) for e in story] == [
        ("", "trigger"),
        ("", "policy"),
        ("read[p1]", "candidates"),
        ("read[p1]", "wait"),
        ("read[p2]", "candidates"),
        ("read[p2]", "wait"),
    ]
    assert [str(column.header) for column in table(story, "read").columns] == [
        "time",
        "step",
        "chapter",
        "what happened",
    ]
    assert collect(ledger, "run", "rea", 20.0) == []
