"""`ioi run documents`: the federation, the run and its results, from one command."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from definitions.documents.book import write_text
from definitions.documents.catalogue import BLOCKS
from definitions.documents.folder import reserved
from definitions.documents.inventory import take_inventory
from definitions.documents.placements import steps_for_json, write_summary
from definitions.documents.results import Pile
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.cli_runs import progress_in
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import PROJECT, TOPOLOGY, open_federation, prepare_dagster

READY_S = 90.0
LISTS_PAGES, ENDS_PAGE = "pages.list_pages", "pages.name_languages"
STEPS_WIDE = 65
"""Characters for what the steps do, beside the pages, in a line of a hundred."""
SHIPPED = Path(__file__).parent / "input"

Progress = Callable[..., None]
"""(what, done, of (0: not known yet), in other words)"""


def check_input(folder: Path, only: tuple[str, ...]) -> None:
    """Refuse at once what no run can mend. Raises `BadInputError`."""
    if not take_inventory(folder, only).files:
        asked = ", ".join(map(repr, only))
        raise BadInputError(f"none of the pages asked for is there: {asked}", where=str(folder), todo="name others")


def run(
    source: Path,
    out: Path,
    only: tuple[str, ...],
    home: Path,
    progress: Progress,
    topology: Path = TOPOLOGY,
    started: Callable[[Any], None] = lambda federation: None,
) -> dict[str, Any]:
    """Start the federation, run the pile, stop; returns the content of `run.json` with `ok` and `paths`.

    `started` gets the running federation, for those who want to disturb it.
    """
    from dagster import DagsterInstance

    from ioi_dagster.host.runs import (
        create_governed_run,
        execute_governed_run,
        give_up,
        job_of,
        was_interrupted,
        why_failed,
    )

    begun = time.monotonic()
    check_input(source, only)
    federation = open_federation(home, topology, BLOCKS)
    with reserved(out), federation:
        environment = {**federation.environment(), "DAGSTER_HOME": str(prepare_dagster(home))}
        os.environ.update(environment)
        job = job_of("definitions.documents.defs", "documents", PROJECT)
        config = _config(source, out, only)
        with DagsterInstance.get() as instance:
            run_id, _ = create_governed_run(instance, job, config, {"ioi/trigger": "ioi run documents"})
            try:
                federation.wait_ready(READY_S, lambda done, of: progress("starting the domains' clusters", done, of))
            except BaseException as error:
                give_up(instance, run_id, error)
                raise
            ready = time.monotonic()
            started(federation)
            stop = threading.Event()
            watcher = threading.Thread(
                target=_watch, args=(federation.home_domain, run_id, progress, stop), daemon=True
            )
            watcher.start()
            try:
                success = execute_governed_run(instance, job, run_id)
            finally:
                stop.set()
                watcher.join(2.0)
            status = "success" if success else "interrupted" if was_interrupted(instance, run_id) else "failed"
            reasons = why_failed(instance, run_id) if status == "failed" else []
        ended = time.monotonic()
        summary = _summarise(federation.home_domain, out, run_id, status, only)
    summary["run"] |= {
        "seconds": round(ended - begun, 2),
        "start_seconds": round(ready - begun, 2),
        "run_seconds": round(ended - ready, 2),
    }
    if reasons:
        accepted = any(page["status"] == "indexed" for page in summary["pages"])
        nothing = "no page was accepted; the table says of each why"
        summary["run"]["why"] = reasons if accepted or not summary["pages"] else [nothing, *reasons]
    write_text(out / "run.json", json.dumps(summary, indent=1))
    return summary


def _config(source: Path, out: Path, only: tuple[str, ...]) -> dict[str, Any]:
    return {
        "resources": {"folders": {"config": {"source": str(source.resolve()), "out": str(out.resolve())}}},
        "ops": {"inventory": {"config": {"pages": list(only)}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }


def _summarise(home: DomainHome, out: Path, run_id: str, status: str, only: tuple[str, ...]) -> dict[str, Any]:
    """`run.json` as the run left it, with its end; one without pages when the run never came to its report."""
    ledger = Ledger(home.ledger)
    try:
        steps = ledger.steps(run_id)
    finally:
        ledger.close()
    run = {"id": run_id, "status": status, "pages_asked": list(only)}
    summary = _left_by(run_id, out / "run.json")
    if summary is None:
        return write_summary(out, Pile((), {}), {}, steps, run)
    summary["run"] |= run
    summary["placements"] = steps_for_json(steps)
    return summary


def _left_by(run_id: str, path: Path) -> dict[str, Any] | None:
    """What this run wrote; what an earlier one did is not this one's."""
    try:
        summary = json.loads(path.read_text())
        return summary if summary["run"]["id"] == run_id else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _watch(home: DomainHome, run_id: str, progress: Progress, stop: threading.Event) -> None:
    """Progress out of the ledger, twice a second: the pages that are through, and the steps behind them in few words.

    How many pages there are is known when they have been listed; until then there is no total, and none is made up.
    """
    ledger = Ledger(home.ledger)
    try:
        while not stop.wait(0.5):
            steps, _ = progress_in(ledger, run_id, time.time())
            pages = ledger.outputs_of(run_id, LISTS_PAGES)
            through = ledger.done_of(run_id, ENDS_PAGE) if pages else 0
            progress("pages", through, pages or 0, f"steps: {steps.brief(STEPS_WIDE)}")
    except Exception as error:  # a display must never end a run
        print(f"progress is not shown: {error}", file=sys.stderr)
    finally:
        ledger.close()
