"""How far a command is: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from ioi_dagster.model.progress import LINE

APART_S = 5.0


class ProgressDisplay:
    """As a context manager it gives the function to call: (what, done, of, in other words); `of` is 0 where no total is
    known. `quiet`: nothing is shown. `clock`: seconds."""

    def __init__(self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._quiet, self._clock = console, quiet, clock
        self._bar: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._last: tuple[str, float] = ("", float("-inf"))

    def __enter__(self) -> Callable[..., None]:
        if not self._quiet and self._console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                _Count(),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[more]}[/]"),
                console=self._console,
            )
            self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _show(self, what: str, done: int, of: int, more: str = "") -> None:
        if self._quiet:
            return
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=None, more="")
            self._bar.update(self._tasks[what], completed=done, total=of or None, more=escape(more))
            return
        line, now = progress_line(what, done, of, more), self._clock()
        # A log gets a line now and then, and each end.
        if line != self._last[0] and (0 < of == done or now - self._last[1] >= APART_S):
            self._last = (line, now)
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class _Count(MofNCompleteColumn):
    """`14/24`, and nothing where no total is known."""

    def render(self, task: Any) -> Text:
        return Text("") if task.total is None else super().render(task)


def progress_line(what: str, done: int, of: int, more: str = "") -> str:
    """One line of at most a hundred characters."""
    count = f"{done} of {of} done" if of else ""
    line = f"{what}: " + "; ".join(filter(None, (count, more)))
    return line if len(line) <= LINE else f"{line[: LINE - 1]}…"
