"""How far a command is: on a terminal a bar, elsewhere few short lines, and no total that is not known."""

from __future__ import annotations

import io

import pytest
from dagster import DynamicOut, DynamicOutput, job, op
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ioi_dagster.cli_progress import ProgressDisplay, progress_line
from ioi_dagster.host.extent import Extent
from ioi_dagster.host.private import create_execution_plan
from ioi_dagster.model.progress import LINE, Progress, in_short

BUSY = "library-books: all 2 nodes are busy; lab-ocr: what it had free went to steps before this one"
AWARD = "an award is being answered"


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(80, 5, 12, 0, ((BUSY, 12),), of=129), "80 of 129 done, 5 running, 12 waiting (all nodes are busy)"),
        (
            Progress(80, 5, 12, 0, ((BUSY, 7), ("lab-ocr: its only node is busy", 2), (AWARD, 3))),
            "80 done, 5 running, 12 waiting (9 × all nodes are busy, 3 × being placed)",
        ),
        (Progress(2, 1, more=True), "2 done, 1 running, 0 waiting, more to come"),
        (Progress(2, 1, 0, 1, ((BUSY, 3),)), "2 done, 1 running, 0 waiting, 1 failed"),
    ],
)
def test_one_line_says_how_many_wait_and_why_in_few_words(progress, line):
    assert progress.brief() == line


@given(
    st.builds(
        Progress,
        *[st.integers(0, 10**6)] * 4,
        st.lists(st.tuples(st.text(max_size=300), st.integers(1, 10**6)), max_size=5).map(tuple),
        of=st.integers(0, 10**6),
        more=st.booleans(),
    ),
    st.text(max_size=30),
)
def test_no_line_is_longer_than_a_hundred_characters(progress, what):
    assert len(progress.brief()) <= LINE == 100
    assert len(progress_line(what, 1, 2, progress.brief())) <= LINE


def test_reasons_that_nobody_thought_of_are_cut():
    assert in_short("x" * 200) == "x" * 40
    assert in_short("its places are being looked up") == "being placed"


def lines(*calls: tuple[float, tuple]) -> list[str]:
    """What is shown where there is no terminal, of calls at these seconds."""
    text, now = io.StringIO(), [0.0]
    with ProgressDisplay(Console(file=text, width=40), clock=lambda: now[0]) as show:
        for now[0], call in calls:
            show(*call)
    return text.getvalue().splitlines()


def test_elsewhere_than_on_a_terminal_few_lines_are_shown_and_each_end():
    calls = [(0.5 * n, ("pages", n // 4, 0 if n < 4 else 24, f"{n} done")) for n in range(16)]
    assert lines(*calls, (8.0, ("pages", 24, 24, "all")), (8.1, ("pages", 24, 24, "all"))) == [
        "pages: 0 done",
        "pages: 2 of 24 done; 10 done",
        "pages: 24 of 24 done; all",
    ]


def test_nothing_is_shown_where_nothing_is_wanted():
    text = io.StringIO()
    with ProgressDisplay(Console(file=text), quiet=True) as show:
        show("pages", 1, 2, "")
    assert text.getvalue() == ""


def test_a_terminal_gets_a_bar_that_has_no_total_before_one_is_known():
    text = io.StringIO()
    with ProgressDisplay(Console(file=text, width=100, force_terminal=True, color_system=None)) as show:
        show("pages", 0, 0, "3 done")
        show("pages", 14, 24, "[80] done")
    last = text.getvalue().rpartition("\r")[2]
    assert "pages" in last
    assert "14/24" in last
    assert "[80] done" in last


@op(out=DynamicOut())
def some():
    yield DynamicOutput(1, mapping_key="a")


@op
def one(x):
    return x


@op
def gather(xs):
    return xs


@job
def mapped():
    listed = some()
    gather(listed.map(one).map(one).collect())
    gather(some().map(one).collect())


@pytest.mark.parametrize(
    ("mappings", "steps"),
    [
        ({}, None),
        ({"some": {"result": ["a", "b"]}}, None),
        ({"some": {"result": ["a", "b"]}, "some_2": {"result": ["c"]}}, 4 + 2 * 2 + 1),
        ({"some": {"result": None}, "some_2": {"result": []}}, 4),
    ],
)
def test_how_many_steps_a_run_has_is_known_when_all_that_is_mapped_over_is(mappings, steps):
    assert Extent(create_execution_plan(mapped)).steps(mappings) == steps
