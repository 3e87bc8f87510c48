"""What `ioi runs --watch` shows: each run in progress, how far it is and why it waits, out of the ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.model.progress import Progress, of_facts


@dataclass(frozen=True, slots=True)
class Watched:
    """A run that has not ended. `waiting` and its reasons are what the run process said last, `said` seconds ago."""

    run: str
    job: str
    seconds: float
    progress: Progress
    said: float | None


def watched(ledger: Ledger, now: float) -> list[Watched]:
    """The runs in progress, newest first. `now`: Unix seconds."""
    return [
        Watched(run, job, now - started, *progress_in(ledger, run, now))
        for run, job, started, ended in ledger.runs()
        if ended is None
    ]


def progress_in(ledger: Ledger, run: str, now: float) -> tuple[Progress, float | None]:
    """Counts of steps as they are in the ledger, with what the run process said last of those that wait."""
    counts = ledger.counts(run)
    last = ledger.last_progress(run)
    said = of_facts(last.facts) if last else Progress()
    progress = Progress(
        done=counts.get("DONE", 0),
        running=counts.get("RUN", 0),
        waiting=said.waiting,
        failed=said.failed,
        reasons=said.reasons,
        of=said.of,
        more=said.more,
    )
    return progress, (now - last.at if last else None)


def render(runs: list[Watched]) -> RenderableType:
    if not runs:
        return Text("no run is in progress")
    table = Table("run", "job", "seconds", "done", "running", "waiting", "why they wait", show_edge=False)
    for row in runs:
        progress = row.progress
        why = Text("\n").join(Text(f"{count} × {reason}") for reason, count in progress.reasons) or Text("–")
        table.add_row(
            row.run[:8],
            Text(row.job),
            f"{row.seconds:.0f}",
            progress.count() + (", more to come" if progress.more else ""),
            str(progress.running),
            str(progress.waiting),
            why if progress.waiting else "–",
        )
    return table


def watch(ledger: Ledger, console: object) -> None:
    """Show it again every second until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    assert isinstance(console, Console)
    with Live(render(watched(ledger, time.time())), console=console, refresh_per_second=2) as live:
        try:
            while True:
                time.sleep(1.0)
                live.update(render(watched(ledger, time.time())))
        except KeyboardInterrupt:
            return
