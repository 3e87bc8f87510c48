"""When a run's progress is told: on change, not too often, and never for a run that is over at once."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adaptive.telling import Telling
from ioi_dagster.model.progress import Progress, commonest, of_facts

BUSY = Progress(done=1, running=2, waiting=3, reasons=(("lab has no free slot", 3),))
AWAY = Progress(done=1, running=0, waiting=5, reasons=(("lab is away: its scheduler went away", 5),))


def told(*looks: tuple[float, Progress]) -> list[float]:
    """The times at which something is told, of a run that began at 0."""
    telling = Telling(0.0)
    return [now for now, progress in looks if telling.worth(progress, now)]


def test_nothing_is_told_of_a_run_that_is_over_soon():
    assert told((1.0, BUSY), (4.0, AWAY)) == []


def test_new_reasons_are_told_and_the_same_ones_are_not():
    more = Progress(done=3, running=2, waiting=1, reasons=(("lab has no free slot", 1),))
    assert told((6.0, BUSY), (30.0, more), (60.0, AWAY), (90.0, AWAY)) == [6.0, 60.0]


def test_another_number_is_no_other_reason():
    first = Progress(waiting=600, reasons=(("512 of its kind are before it", 600),))
    second = Progress(waiting=500, reasons=(("412 of its kind are before it", 500),))
    assert told((6.0, first), (30.0, second)) == [6.0]


def test_how_many_steps_there_are_is_told_when_it_is_known():
    known = replace(BUSY, of=20)
    assert told((6.0, BUSY), (30.0, known), (60.0, known)) == [6.0, 30.0]


def test_two_changes_are_told_apart():
    assert told((6.0, BUSY), (7.0, AWAY), (27.0, AWAY)) == [6.0, 27.0]


def test_that_nothing_waits_any_more_is_told():
    assert told((6.0, BUSY), (40.0, Progress(done=6))) == [6.0, 40.0]


def test_a_long_run_in_which_nothing_waits_is_told_of_now_and_then():
    assert told((10.0, Progress(running=2)), (301.0, Progress(done=1, running=2)), (400.0, Progress(done=2))) == [301.0]


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.sampled_from([BUSY, AWAY, Progress(done=9)])), max_size=60))
def test_never_more_often_than_it_may(looks: list[tuple[float, Progress]]):
    telling, now, times = Telling(0.0), 0.0, []
    for pause, progress in looks:
        now += pause
        if telling.worth(progress, now):
            times.append(now)
    assert all(time >= telling.first_s for time in times)
    assert all(second - first >= telling.apart_s for first, second in itertools.pairwise(times))


def test_progress_in_words_and_as_facts():
    progress = Progress(4, 2, 7, 1, commonest(["b"] * 3 + ["a"] * 3 + [""]))
    assert str(progress) == "4 done, 2 running, 7 waiting (3 × a; 3 × b; 1 for other reasons), 1 failed"
    assert of_facts(progress.facts()) == progress
    assert commonest([""]) == (("its places are being looked up", 1),)
    assert str(Progress(done=2)) == "2 done, 0 running, 0 waiting"
