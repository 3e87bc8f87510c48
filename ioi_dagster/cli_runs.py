"""What `ioi runs --watch` shows: each run in progress, how far it is and why it waits, out of the ledger."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.local.home import dagster_of
from ioi_dagster.model.progress import Progress, of_facts

if TYPE_CHECKING:
    from ioi_dagster.host.fates import Fate

log = logging.getLogger("ioi.runs")


@dataclass(frozen=True, slots=True)
class Watched:
    """A run that has not ended, as far as anybody knows. `progress` is what its process said last, `said` seconds ago; None: it
    has said nothing yet. `gone`: what is known of it where its process is not there; empty where it is, or nobody knows."""

    run: str
    job: str
    seconds: float
    progress: Progress
    said: float | None
    gone: str = ""


Look = Callable[[list[str]], dict[str, "Fate"]]
"""What became of runs of which the ledger knows no end."""


def looking(home: Path | None) -> Look:
    """At the Dagster instance of the home, which is `$DAGSTER_HOME` of this process from then on. Where that cannot be read
    nobody knows, and the runs are told all the same."""

    def look(runs: list[str]) -> dict[str, Fate]:
        if not runs:
            return {}
        from ioi_dagster.host.fates import fate_of, fates

        folder = dagster_of(home)
        # The storage that its dagster.yaml names goes by it.
        os.environ["DAGSTER_HOME"] = str(folder)
        try:
            return fates(folder, runs)
        except Exception as error:  # whatever its storage raises
            log.warning("Dagster's instance cannot be read: %s", error)
            return {run: fate_of(None) for run in runs}

    return look


def watched(ledger: Ledger, now: float, look: Look) -> list[Watched]:
    """The runs in progress, newest first. `now`: Unix seconds."""
    runs = [(run, job, started) for run, job, started, ended in ledger.runs() if ended is None]
    fates = look([run for run, _, _ in runs])
    return [
        Watched(run, job, now - started, *progress_in(ledger, run, now), fates[run].text if fates[run].gone else "")
        for run, job, started in runs
        if not fates[run].ended
    ]


def progress_in(ledger: Ledger, run: str, now: float) -> tuple[Progress, float | None]:
    """What the run's process said last, with all that is done of the run, and how many seconds ago; before its first word what
    the ledger has of its steps."""
    counts, last = ledger.counts(run), ledger.last_progress(run)
    made = counts.get("DONE", 0)
    if last is None:
        return Progress(done=made, running=counts.get("RUN", 0)), None
    said = of_facts(last.facts)
    # What processes before it have done it does not count, and the ledger counts failed tries too, of steps that are to come.
    most = said.of - said.running - said.waiting - said.failed if said.of else made - said.failed
    return replace(said, done=max(said.done, min(made, most))), now - last.at


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
            Text(row.gone, "yellow") if row.gone else why if progress.waiting else "–",
        )
    return table


def watch(ledger: Ledger, console: object, look: Look) -> None:
    """Show it again every second until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    assert isinstance(console, Console)
    with Live(render(watched(ledger, time.time(), look)), console=console, refresh_per_second=2) as live:
        try:
            while True:
                time.sleep(1.0)
                live.update(render(watched(ledger, time.time(), look)))
        except KeyboardInterrupt:
            return
