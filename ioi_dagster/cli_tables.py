"""Tables that fit a terminal: where it is narrow the names are short and the least important columns are left out, where it is
low the least important rows; and what is left out is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_BETWEEN = 3
"""What stands between the contents of two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """`rank`: where there is no room the columns with the highest go first, those with 0 never. `short`: its name then. `wraps`:
    it may be so narrow, and goes on in the next line."""

    name: str
    rank: int = 0
    short: str = ""
    right: bool = False
    wraps: int = 0

    def called(self, short: bool) -> str:
        return self.short if short and self.short else self.name


class Fitted:
    """A table of `columns`, filled by `add_row`."""

    def __init__(self, *columns: Column, title: str = "") -> None:
        self.title = title
        self._columns = columns
        self._rows: list[tuple[Text, ...]] = []
        self._longest = [0] * len(columns)

    def add_row(self, *cells: str | Text) -> None:
        """Cells at the end that are not given are empty."""
        given = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
        self._rows.append((*given, *(Text() for _ in self._columns[len(given) :])))
        for number, cell in enumerate(given):
            self._longest[number] = max(self._longest[number], *map(cell_len, cell.plain.split("\n")))

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def left_out(self, width: int) -> list[str]:
        """The names of the columns that have no room in so many characters."""
        kept, _ = self._fit(width)
        return [column.name for number, column in enumerate(self._columns) if number not in kept]

    def table(self, width: int, rows: int | None = None) -> Table:
        """For so many characters, of the first `rows` rows (None: of all)."""
        kept, short = self._fit(width)
        table = Table(show_edge=False, title=self.title or None, title_justify="left")
        for number in kept:
            column = self._columns[number]
            table.add_column(
                Text(column.called(short)),
                justify="right" if column.right else "left",
                no_wrap=not column.wraps,
                min_width=min(self._needs(number, short), width),
                overflow="fold" if column.wraps else "ellipsis",
            )
        for row in self._rows[:rows]:
            table.add_row(*(row[number] for number in kept))
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table(options.max_width)

    def _fit(self, width: int) -> tuple[list[int], bool]:
        """Which columns, and whether by their short names."""
        kept = list(range(len(self._columns)))
        short = False
        while self._width(kept, short) > width:
            if not short:
                short = True
                continue
            last = max(kept, key=lambda number: self._columns[number].rank)
            if not self._columns[last].rank:
                break
            kept.remove(last)
        return kept, short

    def _width(self, kept: Sequence[int], short: bool) -> int:
        return sum(self._needs(number, short) + _BETWEEN for number in kept) - 1

    def _needs(self, number: int, short: bool) -> int:
        column, longest = self._columns[number], self._longest[number]
        return max(cell_len(column.called(short)), min(longest, column.wraps) if column.wraps else longest)


@dataclass(frozen=True, slots=True)
class Tables:
    """`tables` one after the other, then `notes`. On a `screen`, where nothing is scrolled, as many rows as it has lines: those
    of the tables that come first in `matter` have room first."""

    tables: Sequence[Fitted]
    notes: Sequence[Text]
    matter: Sequence[Fitted]
    screen: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, notes = options.max_width, list(self.notes)
        rows = {id(table): table.row_count for table in self.tables}
        if self.screen:
            rows, told = self._rows_in(console, options, options.size.height)
            notes += told
        else:
            notes += _columns_told(self.tables, width)
        for table in self.tables:
            if rows[id(table)]:
                yield table.table(width, rows[id(table)])
        yield from notes

    def _rows_in(self, console: Console, options: ConsoleOptions, height: int) -> tuple[dict[int, int], list[Text]]:
        """How many rows of each table there is room for in `height` lines, and what is told of the others."""
        rows, told, spare = self._rows_beside(console, options, height, ())
        # What is told takes room itself, and with less room more is to be told.
        while told and spare < 0 and any(rows.values()):
            rows, told, spare = self._rows_beside(console, options, height, told)
        return rows, told

    def _rows_beside(
        self, console: Console, options: ConsoleOptions, height: int, told: Sequence[Text]
    ) -> tuple[dict[int, int], list[Text], int]:
        room = height - sum(_lines(console, options, note) for note in (*self.notes, *told))
        rows: dict[int, int] = {}
        takes = dict.fromkeys(map(id, self.matter), 0)
        # At first none takes more than half of what is left, or a long one would be all that is seen.
        for part in (2, 1):
            for table in self.matter:
                its = id(table)
                rows[its] = _most(console, options, table, max(takes[its], (takes[its] + room) // part))
                now = _lines(console, options, table.table(options.max_width, rows[its])) if rows[its] else 0
                room, takes[its] = room + takes[its] - now, now
        shown = [table for table in self.tables if rows[id(table)]]
        more = [*_rows_told(self.tables, rows), *_columns_told(shown, options.max_width)]
        longer = sum(_lines(console, options, note) for note in more) - sum(
            _lines(console, options, note) for note in told
        )
        return rows, more, room - longer


def _most(console: Console, options: ConsoleOptions, table: Fitted, room: int) -> int:
    """The most rows with which the table has at most `room` lines."""
    low, high = 0, max(0, min(table.row_count, room))
    while low < high:
        middle = (low + high + 1) // 2
        if _lines(console, options, table.table(options.max_width, middle)) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _lines(console: Console, options: ConsoleOptions, what: Table | Text) -> int:
    return len(console.render_lines(what, options, pad=False))


def _rows_told(tables: Sequence[Fitted], rows: dict[int, int]) -> Iterator[Text]:
    left = [(_called(table), table.row_count - rows[id(table)]) for table in tables]
    told = ", ".join(f"{count} of {name}" for name, count in left if count)
    if told:
        yield Text(f"rows left out for want of room: {told}", "dim")


def _columns_told(tables: Sequence[Fitted], width: int) -> Iterator[Text]:
    left = [(_called(table), table.left_out(width)) for table in tables if table.row_count]
    told = "; ".join(f"{', '.join(names)} of {name}" for name, names in left if names)
    if told:
        yield Text(f"columns left out for want of room: {told}", "dim")


def _called(table: Fitted) -> str:
    return table.title.partition(",")[0] or "nodes"
