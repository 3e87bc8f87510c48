"""The page of the conformance table has what the table has."""

from __future__ import annotations

import re

from benchmarks.conformance_page import COLUMNS, PAGE, page
from definitions.conformance.cases import CASES

VERSIONS = {"versions": {"dagster": "1", "distributed": "2"}, "python": "3"}


def rows(text: str) -> list[list[str]]:
    """The cells of each row below the head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in lines[2:]]


def test_every_case_has_its_row_and_every_row_its_case():
    found = rows(PAGE.read_text())
    assert [name.strip("`") for name, *_ in found] == sorted(CASES)
    assert {len(row) for row in found} == {2 + len(COLUMNS)}
    written = rows(page({**VERSIONS, "cases": {name: dict.fromkeys(COLUMNS, "right") for name in CASES}}))
    assert [row[:2] for row in found] == [row[:2] for row in written], "what a case is: write the page anew"


def test_what_was_said_is_shown_as_it_was_said():
    (name, *_) = CASES
    said = dict.fromkeys(COLUMNS, "right") | {"dask": r"lacks add_one[n0] a|b <x> *c* \d"}
    text = page({**VERSIONS, "cases": {name: said}})
    (row,) = rows(text)
    assert row[2] == r"lacks add\_one\[n0\] a\|b &lt;x> \*c\* \\d"
    assert row[3:] == ["right"] * 3
    assert "Python 3, dagster 1 and distributed 2" in text
    assert "dagster-dask 0, in_process 1" in text
