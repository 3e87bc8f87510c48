"""Reading by geometry: which lines are the page's own."""

from __future__ import annotations

import math

import pytest

from definitions.documents.command import SHIPPED
from definitions.documents.facing_page import trim_facing_page
from definitions.documents.load import decode, load_page
from definitions.documents.upright import find_turn
from definitions.documents.values import Line, Page, PageRef
from ioi_dagster.model.data_class import DataClass


def line(text: str, left: float, top: float, width: float, degrees: float = 0.0) -> Line:
    drop = math.tan(math.radians(degrees)) * width
    box = ((left, top), (left + width, top + drop), (left + width, top + drop + 20), (left, top + 20))
    return Line(text, 0.9, box)


def page(*lines: Line) -> Page:
    ref = PageRef("p", "p", 1, "jpeg", "d", DataClass.PUBLIC, True)
    return Page(ref, width=1500, height=2000, lines=tuple(lines))


MAIN = [line("a line of the page itself", 440, 100 + 40 * n, 600) for n in range(10)]


@pytest.mark.parametrize(
    ("others", "kept"),
    [
        ([], True),
        ([line("second column", 1100, 100 + 40 * n, 250) for n in range(5)], True),
        ([line("bends away", 1150, 100 + 40 * n, 250, 6.0) for n in range(3)], False),
        ([line("leans", 60, 100 + 80 * n, 200, (14.0, -13.0, 0.0)[n]) for n in range(3)], False),
        ([line("far aside", 80, 400 + 40 * n, 90) for n in range(2)], False),
        ([line(f"{n}07", 1300, 400 + 40 * n, 40) for n in range(2)], True),
        ([line("a note", 320, 400 + 40 * n, 90) for n in range(2)], True),
        ([line("cut by the edge", 1300, 100 + 40 * n, 195) for n in range(3)], False),
    ],
)
def test_a_facing_page_is_left_out_and_a_second_column_is_not(others, kept):
    trimmed = trim_facing_page(page(*MAIN, *others))
    assert set(trimmed.lines) == set(MAIN) | (set(others) if kept else set())
    assert set(trimmed.trimmed) == (set() if kept else set(others))


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_real_page_is_set_upright_from_any_side(turn):
    ref = PageRef("p", "pages/phototest.tif", 1, "tiff", "d", DataClass.PUBLIC, True)
    image = decode(load_page(ref, SHIPPED)).rotate(turn, expand=True)
    assert find_turn(image) == (360 - turn) % 360
