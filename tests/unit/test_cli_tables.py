"""Tables that fit: nothing wider or lower than the terminal, the most important first, and what is left out is told."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ioi_dagster.cli_status import render
from ioi_dagster.cli_tables import Column, Fitted, Tables
from ioi_dagster.cli_tenants import tenants_table
from tests.unit.test_cli_status import TENANT, domain

COLUMNS = (Column("name"), Column("importance", 2, "imp", right=True), Column("free", 1), Column("why", wraps=6))


def printed(what: Any, width: int, height: int = 500) -> list[str]:
    console = Console(width=width, height=height)
    with console.capture() as captured:
        console.print(what)
    return captured.get().splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in lines if "━" not in line]


def a_table(rows: int = 1, title: str = "") -> Fitted:
    made = Fitted(*COLUMNS, title=title)
    for number in range(rows):
        made.add_row(f"node-{number:02}", "7", "12", "it is full")
    return made


def test_where_there_is_room_all_columns_have_their_names():
    assert cells(printed(a_table(), 80)) == [
        ["name", "importance", "free", "why"],
        ["node-00", "7", "12", "it is full"],
    ]


def test_names_are_shortened_before_columns_go_and_the_least_important_goes_first():
    assert cells(printed(a_table(), 37))[0] == ["name", "imp", "free", "why"]
    assert cells(printed(a_table(), 25))[0] == ["name", "free", "why"]
    assert cells(printed(a_table(), 20)) == [["name", "why"], ["node-00", "it is"], ["", "full"]]
    assert [a_table().left_out(width) for width in (37, 25, 20)] == [[], ["importance"], ["importance", "free"]]


def test_what_may_never_go_stays_however_narrow():
    assert cells(printed(a_table(), 9))[0][0].startswith("n")


def tables(*which: Fitted, notes: tuple[str, ...] = (), screen: bool = True) -> Tables:
    return Tables(which, [Text(note) for note in notes], matter=which, screen=screen)


def test_columns_that_are_left_out_are_told_once_below_all():
    lines = printed(tables(a_table(title="a"), a_table(title="b"), screen=False), 25)
    assert " ".join(lines[-3:]) == "columns left out for want of room: importance of a; importance of b"


def test_a_screen_that_is_low_shows_what_matters_and_counts_the_rest():
    first, second = a_table(3, "first"), a_table(30, "second")
    lines = printed(tables(first, second, notes=("lab does not answer",)), 80, 16)
    assert lines[:6] == printed(first, 80)
    assert lines[6:9] == printed(second, 80)[:3]
    assert lines[-2:] == ["lab does not answer", "rows left out for want of room: 25 of second"]
    assert len(lines) == 16


def test_a_long_table_leaves_room_for_the_others():
    long, short = a_table(100, "long"), a_table(2, "short")
    lines = printed(tables(long, short), 80, 20)
    assert "short" in [line.strip() for line in lines]
    assert lines[-1] == "rows left out for want of room: 89 of long"


def test_what_is_printed_and_can_be_scrolled_has_all_rows():
    assert len(printed(tables(a_table(100), screen=False), 80, 20)) == 102


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(40, 120),
    st.integers(8, 40),
    st.lists(st.text("ab ", min_size=1, max_size=100), max_size=2),
)
@example([1] * 6, 40, 8, ["a b " * 25] * 2)
def test_a_screen_is_never_too_low_nor_too_narrow(rows, width, height, notes):
    which = [a_table(count, f"table {number}") for number, count in enumerate(rows)]
    lines = printed(tables(*which, notes=tuple(notes)), width, height)
    assert len(lines) <= max(height, 12), "notes, and what is told to be left out, stay"
    assert all(cell_len(line) <= width for line in lines)


def status() -> dict[str, Any]:
    found = {name: domain(name, "internal") for name in ("library.example", "lab.example")}
    for name, its in found.items():
        shares = {**TENANT, "cohort": ""}
        its["clusters"][f"{name}-c"]["cohorts"] = {"partners": shares, "visitors": shares}
    return found


def test_the_tenants_say_who_uses_what_of_what_is_his_in_eighty_columns():
    snapshots = {"library-main": status()["lab.example"]["clusters"]["lab.example-c"]}
    header, first, *_ = cells(printed(tenants_table(snapshots), 80)[1:])
    assert header[:2] == ["cluster", "tenant"] and {"used", "own", "runs", "waits", "since"} <= set(header)
    assert first[:2] == ["library-main", "partners"]


def test_the_whole_status_fits_a_terminal_of_eighty_by_twenty_four():
    lines = printed(render(status(), screen=True), 80, 24)
    assert len(lines) <= 24
    assert max(map(cell_len, lines)) <= 80
    assert "left out for want of room" in " ".join(lines)
    assert sum("takes steps" in line for line in lines) == 2
