"""Exactly one attempt commits, and only the newest process of a run may write."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ioi_dagster.adapters.sql.ledger import Commit, FencedError, Ledger, Started
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.model.placement import Made
from ioi_dagster.model.story import Chapter, Entry


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def started(fence: int, node: str = "n1") -> Started:
    return Started("s", fence, "d", "c", node, "ocr", "public")


def commit(fence: int, attempt: str) -> Commit:
    return Commit("s", fence, attempt, "n1", 1.0, 2.0, {"out": f"ref-{attempt}"}, b"[]")


def test_the_first_complete_attempt_under_the_current_fence_commits(ledger):
    epoch = ledger.take_over("r", "job", 1.0)
    assert ledger.write("r", epoch, [started(1)], [], []) == set()
    assert ledger.write("r", epoch, [started(2, "n2")], [commit(1, "zombie")], []) == set()
    assert ledger.write("r", epoch, [], [commit(2, "first"), commit(2, "second")], []) == {"first"}
    (row,) = ledger.steps("r")
    assert (row.state, row.fence, row.attempt, row.commits, row.node) == ("DONE", 2, "first", 1, "n1")
    assert ledger.outputs("r") == {"out": "ref-first"}


def test_the_classes_that_outputs_have_are_those_of_the_attempt_that_committed(ledger):
    epoch = ledger.take_over("r", "job", 1.0)
    ledger.write("r", epoch, [started(1)], [replace(commit(1, "a"), classes={"out": "internal", "x": "public"})], [])
    assert ledger.stated_classes("r") == {"out": "internal", "x": "public"}
    late = replace(commit(1, "late"), classes={"out": "restricted"})
    assert ledger.write("r", epoch, [started(2)], [late], []) == set()
    assert ledger.stated_classes("r") == {}, "the step is under way again"
    ledger.write("r", epoch, [], [replace(commit(2, "b"), classes={"out": "restricted"})], [])
    assert ledger.stated_classes("r") == {"out": "restricted"}
    assert ledger.stated_classes("other") == {}


def test_where_starts_of_a_run_write_to_is_kept_until_the_run_is_forgotten(ledger):
    epoch = ledger.take_over("r", "job", 1.0)
    ledger.write("r", epoch, [started(1)], [], [], stores=["/a", "s3://b"])
    ledger.write("r", epoch, [], [], [], stores=["/a"])
    assert (ledger.stores("r"), ledger.stores("other")) == ({"/a", "s3://b"}, set())
    ledger.forget(["r"])
    assert ledger.stores("r") == set()


def test_an_older_fence_never_comes_back(ledger):
    epoch = ledger.take_over("r", "job", 1.0)
    ledger.write("r", epoch, [started(5)], [], [])
    ledger.write("r", epoch, [started(4)], [], [])
    assert ledger.fences("r") == {"s": 5}


def test_a_newer_process_fences_the_older_one_off(ledger):
    old = ledger.take_over("r", "job", 1.0)
    ledger.write("r", old, [started(1)], [], [])
    new = ledger.take_over("r", "job", 2.0)
    with pytest.raises(FencedError):
        ledger.write("r", old, [], [commit(1, "late")], [Entry("r", "s", Chapter.COMMIT, "late", 3.0)])
    assert ledger.story("r") == []
    assert ledger.write("r", new, [], [commit(1, "good")], []) == {"good"}


def test_of_many_processes_that_commit_at_once_one_succeeds(tmp_path):
    first = Ledger(tmp_path / "ledger.sqlite")
    epoch = first.take_over("r", "job", 1.0)
    first.write("r", epoch, [started(1)], [], [])
    won: list[str] = []
    gate = threading.Barrier(6)

    def race(name: str) -> None:
        ledger = Ledger(tmp_path / "ledger.sqlite")
        gate.wait()
        won.extend(ledger.write("r", epoch, [], [commit(1, name)], []))

    threads = [threading.Thread(target=race, args=(f"a{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert first.steps("r")[0].attempt == won[0]


def test_what_is_mapped_is_counted_by_what_its_step_made_and_what_is_through(ledger):
    epoch = ledger.take_over("m", "job", 1.0)
    steps = ("list", "read[a]", "read[b]", "reader[a]")
    ledger.write("m", epoch, [Started(step, 1, "d", "c", "n", "own", DataClass.PUBLIC) for step in steps], [], [])
    assert (ledger.outputs_of("m", "list"), ledger.done_of("m", "read")) == (None, 0)
    made = {"list result a": "1", "list result b": "2"}
    commits = [Commit(step, 1, step, "n", 1.0, 2.0, made if step == "list" else {}, b"") for step in steps[:2]]
    ledger.write("m", epoch, [], commits, [])
    assert (ledger.outputs_of("m", "list"), ledger.done_of("m", "read")) == (2, 1)
    ledger.write("m", epoch, [], [Commit("reader[a]", 1, "x", "n", 1.0, 2.0, {}, b"")], [])
    assert ledger.done_of("m", "read") == 1


def test_the_story_is_told_in_order_and_by_step(ledger):
    entries = [Entry("r", step, Chapter.BID, f"{step}!", 1.0, {"n": 1}) for step in ("", "a", "b")]
    ledger.tell(entries)
    assert ledger.story("r") == entries
    assert ledger.story("r", "a") == entries[:2]


def test_a_takeover_in_the_middle_of_a_write_fences_it(tmp_path):
    """The epoch is read under the write lock: here a second process takes over between the two."""
    old, new = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    epoch = old.take_over("r", "job", 1.0)
    old.write("r", epoch, [started(1)], [], [])
    taken: list[int] = []
    waiting: list[threading.Thread] = []

    class Looked(list):
        """What `write` looks at between its check of the epoch and its first row."""

        def __bool__(self) -> bool:
            waiting.append(threading.Thread(target=lambda: taken.append(new.take_over("r", "job", 2.0))))
            waiting[0].start()
            waiting[0].join(0.3)
            assert taken == [], "the lock was not held"
            return False

    assert old.write("r", epoch, [], [commit(1, "a1")], [], Looked()) == {"a1"}
    waiting[0].join(30)
    assert taken == [2]
    with pytest.raises(FencedError):
        old.write("r", epoch, [started(2)], [], [])


def test_many_may_open_a_new_ledger_at_once(tmp_path):
    for round_ in range(5):
        path, failures, gate = tmp_path / str(round_) / "ledger.sqlite", [], threading.Barrier(8)

        def open_it(path=path, failures=failures, gate=gate) -> None:
            gate.wait()
            try:
                Ledger(path).close()
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_what_a_run_has_spent_is_what_its_awards_cost_less_what_was_given_back(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "job", 0.0)
    entries = [
        Entry("r", "a", Chapter.AWARD, "awarded", 1.0, {"node": "n", "price": 0.5}),
        Entry("r", "b", Chapter.AWARD, "awarded", 1.0, {"node": "n", "price": 0.25}),
        Entry("r", "b", Chapter.REFUSED, "refused the start", 2.0, {"price": -0.25}),
        Entry("r", "c", Chapter.AWARD, "awarded for nothing", 2.0, {"node": "n"}),
        Entry("r", "c", Chapter.BID, "offers", 2.0, {"offers": [{"price": 9.0}], "price": 9.0}),
    ]
    ledger.write("r", epoch, [], [], entries)
    assert (ledger.spent("r"), ledger.spent("other")) == (0.5, 0)
    ledger.close()


def test_what_nobody_waits_for_is_dropped_and_what_is_done_stays(ledger):
    epoch = ledger.take_over("r", "job", 1.0)
    steps = [Started(name, 1, "d", "c", "n", "own", DataClass.PUBLIC) for name in ("late", "done")]
    ledger.write("r", epoch, steps, [replace(commit(1, "a"), step="done")], [])
    ledger.write("r", epoch, [], [], [], dropped=["late", "done"])
    assert {row.step: row.state for row in ledger.steps("r")} == {"late": "DROPPED", "done": "DONE"}
    assert ledger.write("r", epoch, [], [replace(commit(1, "b"), step="late")], []) == set()


def test_how_long_steps_took_is_told_by_job_and_mapped_steps_count_as_one(ledger):
    for run, job, seconds in (("r1", "job", 2.0), ("r2", "job", 4.0), ("r3", "other", 50.0)):
        epoch = ledger.take_over(run, job, 1.0)
        for step, its in (("load", seconds), ("page[1]", 1.0), ("page[2]", 3.0)):
            begun = Started(step, 1, "d", "c", "n1", "ocr", "public")
            ledger.write(run, epoch, [begun], [Commit(step, 1, "a", "n1", 10.0, 10.0 + its, {}, b"[]")], [])
    assert ledger.took("job") == {"load": 3.0, "page": 2.0}
    assert ledger.took("new") == {}


def test_how_much_steps_made_is_told_by_job_and_output_and_of_mapped_steps_on_average(ledger):
    for run, job, factor in (("r1", "job", 1), ("r2", "job", 3), ("r3", "other", 50)):
        epoch = ledger.take_over(run, job, 1.0)
        its = {
            "list": {"pages": (10, 100 * factor), "total": (1, 8)},
            "page[1]": {"text": (1, 20)},
            "page[2]": {"text": (1, 40)},
        }
        begun = [Started(step, 1, "d", "c", "n1", "ocr", "public") for step in (*its, "none", "late")]
        commits = [Commit(step, 1, "a", "n1", 1.0, 2.0, {}, b"[]", sizes=sizes) for step, sizes in its.items()]
        ledger.write(run, epoch, begun, [*commits, Commit("none", 1, "a", "n1", 1.0, 2.0, {}, b"[]")], [])
    assert ledger.made("job") == {
        ("list", "pages"): Made(20.0, 200.0),
        ("list", "total"): Made(8.0, 8.0),
        ("page", "text"): Made(30.0, 30.0),
    }
    assert ledger.made("new") == {}


def test_a_file_that_an_older_version_has_made_gets_the_columns_that_are_new(tmp_path: Path) -> None:
    """What was said then is there still, and is not refused."""
    said = Intervention("r", Action.PAUSE, "ocr", who="ann", number=1, answer="goes on")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.intervene(said)
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as older, older:
        older.execute("ALTER TABLE intervention DROP COLUMN refused")
    for _ in range(2):
        ledger = Ledger(tmp_path / "ledger.sqlite")
        assert ledger.interventions("r") == [said]
        ledger.close()
