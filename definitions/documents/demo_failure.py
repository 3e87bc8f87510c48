"""`make demo-failure`: a worker is killed in the middle of a run, then a whole scheduler; the run tells what happened."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from definitions.documents.command import SHIPPED, run
from ioi_dagster.adapters.sql.ledger import Ledger, StepRow
from ioi_dagster.cli_progress import ProgressDisplay
from ioi_dagster.errors import IoiError
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import find_home
from ioi_dagster.model.story import Chapter

WAIT_S = 120.0
console = Console()


class Saboteur(threading.Thread):
    """Kills a process of a domain while it runs a step of the run. `victims`: (domain, role), one after the other."""

    def __init__(self, federation: Federation, victims: tuple[tuple[str, str], ...]) -> None:
        super().__init__(daemon=True)
        self._federation, self._victims = federation, victims
        self.killed: list[tuple[str, int, tuple[str, ...]]] = []
        """(process, pid, the steps that it was running)"""

    def run(self) -> None:
        ledger = Ledger(self._federation.home_domain.ledger)
        try:
            newest = ledger.runs(limit=1)[0][0] if ledger.runs(limit=1) else ""
            struck: set[str] = set()
            for domain, role in self._victims:
                self._strike(ledger, newest, domain, role, struck)
        finally:
            ledger.close()

    def _strike(self, ledger: Ledger, before: str, domain: str, role: str, struck: set[str]) -> None:
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            runs = ledger.runs(limit=1)
            running = [row for row in ledger.steps(runs[0][0]) if _reads(row, domain)] if runs else []
            # A run that began before this thread did is not the one to be disturbed, unless it is still going.
            running = [row for row in running if row.step not in struck]
            process = self._process(domain, role, running)
            if process is not None and running:
                name, pid = process
                os.kill(pid, signal.SIGKILL)
                hit = tuple(row.step for row in running if role == "scheduler" or row.node == name)
                struck |= set(hit)
                self.killed.append((name, pid, hit))
                return
            time.sleep(0.1)

    def _process(self, domain: str, role: str, running: list[StepRow]) -> tuple[str, int] | None:
        nodes = {row.node for row in running}
        for process in self._federation.processes():
            wanted = process.domain == domain and process.role == role and process.pid is not None
            if wanted and (role != "worker" or process.name in nodes):
                assert process.pid is not None
                return process.name, process.pid
        return None


def _reads(row: StepRow, domain: str) -> bool:
    return row.state == "RUN" and row.domain == domain and row.capability in ("page.ocr", "page.upright")


def main() -> int:
    out = Path("out-failure")
    home = find_home(None)
    saboteurs: list[Saboteur] = []

    def disturb(federation: Federation) -> None:
        saboteurs.append(Saboteur(federation, (("lab.example", "worker"), ("lab.example", "scheduler"))))
        saboteurs[0].start()

    try:
        with ProgressDisplay(console) as progress:
            summary = run(SHIPPED, out, (), home, progress, started=disturb)
    except IoiError as error:
        console.print(f"[red]{error}[/]")
        return 2
    run_id = summary["run"]["id"]
    home_ledger = Ledger(home / "domains" / "library.example" / "ledger.sqlite")
    steps, story = home_ledger.steps(run_id), home_ledger.story(run_id)
    home_ledger.close()
    for name, pid, hit in saboteurs[0].killed:
        console.print(f"\n[bold red]killed[/] {name} (pid {pid}) while it ran {escape(', '.join(hit)) or 'nothing'}")
    table = Table("step", "what happened", show_edge=False)
    disturbed = {entry.step for entry in story if entry.chapter is Chapter.LOSS}
    for entry in story:
        if entry.step in disturbed and entry.chapter in (Chapter.AWARD, Chapter.LOSS, Chapter.COMMIT):
            table.add_row(escape(entry.step), escape(entry.text))
    console.print(table)
    once = all(row.commits == 1 and row.state == "DONE" for row in steps)
    ok = once and summary["run"]["status"] == "success" and len(saboteurs[0].killed) == 2
    console.print(
        f"\nrun {summary['run']['status']}: {len(steps)} steps, {len(disturbed)} of them lost and placed again, "
        f"{'each committed exactly once' if once else 'NOT each committed once'}"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
