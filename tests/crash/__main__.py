"""`python -m tests.crash [--kills 200] [--seed 1] [--storage sqlite|postgres]`: the loop, with a bar and a closing table."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.contract.postgres import new_database, server
from tests.crash.loop import SQLITE, Tally, crash_loop, postgres
from tests.crash.phases import PHASES

console = Console(stderr=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--storage", choices=["sqlite", "postgres"], default="sqlite")
    given = parser.parse_args()
    begun = time.monotonic()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ioi-crash-")))
        storage = SQLITE
        if given.storage == "postgres":
            storage = postgres(new_database(stack.enter_context(server()), "crash"))
        loop = stack.enter_context(crash_loop(home, storage, given.seed))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[more]}"),
        )
        bar = stack.enter_context(Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console))
        task = bar.add_task("kill -9", total=given.kills, more="")

        def told(tally: Tally) -> None:
            more = f"{tally.runs} runs, {len(tally.violations)} violations"
            bar.update(task, completed=tally.kills, more=more)

        # Who ends it early is told what there is.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            loop.run(given.kills, told=told)
    tally = loop.tally
    _tell(tally, given.kills, given.storage, time.monotonic() - begun)
    return 1 if tally.violations or tally.kills < given.kills else 0


def _tell(tally: Tally, wanted: int, storage: str, seconds: float) -> None:
    table = Table(title=f"kill -9 of run processes on {storage}, seed {tally.seed}", show_header=False)
    table.add_row("kills", f"{tally.kills}" if tally.kills >= wanted else f"{tally.kills} of {wanted}: ended early")
    table.add_row("runs", f"{tally.runs} ({', '.join(f'{count} {job}' for job, count in tally.by_job.items())})")
    table.add_row("run processes", f"{tally.processes}")
    table.add_row("most kills in one run", f"{tally.most}")
    table.add_row("seconds", f"{seconds:.0f}")
    table.add_row("successes whose outputs were read when first seen", f"{tally.looks}")
    table.add_section()
    for phase in PHASES:
        table.add_row(f"killed while {phase}", f"{tally.by_phase[phase]}")
    table.add_section()
    table.add_row("violations", f"[{'red' if tally.violations else 'green'}]{len(tally.violations)}[/]")
    Console().print(table)
    for text in tally.violations:
        Console().print(text, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
