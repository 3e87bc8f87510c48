"""Reading by geometry: which lines are the page's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from PIL import Image

from definitions.documents import upright
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


def picture(file: str) -> Any:
    return decode(load_page(PageRef("p", file, 1, "jpeg", "d", DataClass.PUBLIC, True), SHIPPED))


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize(("file", "lies"), [("pages/phototest.tif", 0), ("book/0003.jpg", 270)])
def test_a_real_page_is_set_upright_from_any_side_at_a_quick_look(file, lies, turn, monkeypatch):
    monkeypatch.setattr(upright, "_thorough_look", lambda image: pytest.fail("a quick look was not enough"))
    assert find_turn(picture(file).rotate(turn, expand=True)) == (lies - turn) % 360


def test_a_page_whose_middle_tells_nothing_is_looked_at_as_a_whole():
    page = Image.new("RGB", (900, 1200), "white")
    text = picture("pages/phototest.tif").resize((800, 600)).crop((0, 0, 800, 260))
    page.paste(text, (50, 10))
    assert upright._quick_look(page) is None
    assert find_turn(page) == 0
    assert find_turn(page.rotate(90, expand=True)) == 270


def test_a_page_without_text_stays_as_it_is():
    assert find_turn(Image.new("RGB", (900, 1200), "white")) == 0
    assert find_turn(Image.new("RGB", (3, 2), "white")) == 0
