"""Tidying: what attempts that lost have left, old rows of the ledger, old output of run processes.

Idle replicas of AI blocks go by age too, by themselves: see `idle_s` of a block.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    RunsFilter,
    ScheduleDefinition,
    in_process_executor,
    job,
    op,
)

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.governors.tidying import RunFacts, may_go, seconds_of
from ioi_dagster.host.exchange import handle_from_text
from ioi_dagster.host.io_manager import ObjectStore, default_folder, ledger_path, run_name
from ioi_dagster.host.private import DagsterRunStatus
from ioi_dagster.host.run_process import log_of
from ioi_dagster.host.staged import from_reference, is_reference, tidy
from ioi_dagster.model.amounts import counted

_MAY_GO_ON = list(
    set(DagsterRunStatus) - {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
)


@dataclass(frozen=True, slots=True)
class Swept:
    """What went, or would go: runs whose rows went, values that no commit names, and logs of run processes."""

    runs: list[str]
    values: int
    logs: int


def sweep(instance: DagsterInstance, older_than_s: float, dry_run: bool = False) -> Swept:
    """Tidy up after runs that are over and `older_than_s` seconds old. With `dry_run` nothing is changed, and values in stores of
    other IO managers than `ExchangeIOManager` are not counted."""
    now, ledger, objects = time.time(), Ledger(ledger_path()), ObjectStore(default_folder())
    try:
        facts = [_facts(instance, run, ended, touched) for run, ended, touched in ledger.touched()]
        # Runs that read from others may have no row in the ledger yet.
        waiting = instance.get_runs(RunsFilter(statuses=_MAY_GO_ON))
        facts += [RunFacts(run.run_id, False, now, _parents(run.parent_run_id, run.root_run_id)) for run in waiting]
        gone = may_go(facts, now, older_than_s)
        values = 0
        for run in gone:
            references = ledger.outputs(run)
            values += objects.sweep(f"runs/{run}", _kept(run, references), dry_run)
            if not dry_run:
                # Before its rows go: afterwards nobody can tell which attempts were committed.
                kept = filter(None, map(from_reference, references.values()))
                values += tidy(run, ledger.stores(run), kept, {})
        logs = _old_logs(instance, now - older_than_s)
        if not dry_run:
            ledger.forget(gone)
            for path in logs:
                path.unlink(missing_ok=True)
    finally:
        ledger.close()
    return Swept(gone, values, len(logs))


def tidying_schedule(
    cron: str = "17 3 * * *", older_than: str = "30d", status: DefaultScheduleStatus = DefaultScheduleStatus.STOPPED
) -> ScheduleDefinition:
    """A schedule of the job `ioi_tidy`, for a project's `Definitions`. Raises `BadInputError` for an age that is none."""
    seconds = seconds_of(older_than)

    @op(name="tidy", description=f"Removes what runs left that are over and {older_than} old; committed outputs stay.")
    def tidy_op(context) -> None:
        swept = sweep(context.instance, seconds)
        context.log.info(
            f"{counted(len(swept.runs), 'run')}, {counted(swept.values, 'value')}, {counted(swept.logs, 'log')}"
        )

    @job(name="ioi_tidy", executor_def=in_process_executor)
    def ioi_tidy() -> None:
        tidy_op()

    return ScheduleDefinition(job=ioi_tidy, cron_schedule=cron, default_status=status)


def _facts(instance: DagsterInstance, run_id: str, ended: bool, touched: float) -> RunFacts:
    run = instance.get_run_by_id(run_id)
    if run is None:
        # Deleted, or another instance's: then its own last word counts.
        return RunFacts(run_id, ended, touched)
    return RunFacts(run_id, run.is_finished, touched, _parents(run.parent_run_id, run.root_run_id))


def _parents(*runs: str | None) -> tuple[str, ...]:
    return tuple(run for run in runs if run)


def _kept(run: str, references: dict[str, str]) -> set[str]:
    """Names of objects that were committed, and those under which later runs find them."""
    own = {name for name in references.values() if not is_reference(name)}
    return own | {run_name(run, handle_from_text(handle)) for handle in references}


def _old_logs(instance: DagsterInstance, before: float) -> list[Path]:
    folder = log_of(Path(instance.root_directory), "").parent
    old = [path for path in folder.glob("*.log") if path.stat().st_mtime <= before]
    return [path for path in old if _is_over(instance, path.stem)]


def _is_over(instance: DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def describe(swept: Swept, dry_run: bool) -> Iterable[str]:
    """Lines for a person."""
    verb = "would go" if dry_run else "went"
    values, logs = counted(swept.values, "value"), counted(swept.logs, "log")
    yield f"the rows of {counted(len(swept.runs), 'run')}, {values} that no commit names and {logs} {verb}"
    yield from swept.runs
