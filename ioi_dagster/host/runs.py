"""Starting a governed run from a command: the same gates as from the UI, in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import home_domain
from ioi_dagster.errors import FinalError
from ioi_dagster.host import tags
from ioi_dagster.host.governance import gate_one
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.private import (
    DagsterEventType,
    DagsterRun,
    DagsterRunStatus,
    ModuleCodePointer,
    ReconstructableJob,
    ReconstructableRepository,
    execute_run,
    make_new_run_id,
)
from ioi_dagster.host.run_process import RunProcess
from ioi_dagster.local.gate import open_gate
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.story import Chapter


def job_of(module: str, job: str, folder: Path, location: str = "defs") -> ReconstructableJob:
    """The job `job` of the code location that is `location` in `module`."""
    pointer = ModuleCodePointer(module, location, str(folder))
    return ReconstructableRepository(pointer).get_reconstructable_job(job)


def create_governed_run(
    instance: DagsterInstance, job: ReconstructableJob, run_config: Mapping[str, Any], run_tags: Mapping[str, str]
) -> tuple[str, Decision | None]:
    """Create the run and take it through gate 1. The permit is in its tags when it was allowed.

    This process is its run process: should it be killed, whoever monitors the instance next goes on with the run.
    """
    run_id = make_new_run_id()
    try:
        run = instance.create_run_for_job(
            job_def=job.get_definition(),
            run_id=run_id,
            run_config=run_config,
            tags={**run_tags, tags.RUN_PROCESS: RunProcess.of(os.getpid()).text()},
            job_code_origin=job.get_python_origin(),
        )
        return run_id, _pass_gate_one(instance, run)
    except BaseException as error:
        give_up(instance, run_id, error)
        raise


def _pass_gate_one(instance: DagsterInstance, run: DagsterRun) -> Decision | None:
    home = home_domain()
    if home is None:
        return None
    snapshot = run.execution_plan_snapshot_id
    steps = len(instance.get_execution_plan_snapshot(snapshot).step_keys_to_execute) if snapshot else 0
    decision, permit = gate_one(home, open_gate(home), run, steps)
    if decision.verdict is Verdict.ALLOW:
        instance.add_run_tags(run.run_id, {tags.PERMIT: permit})
    else:
        reasons = "; ".join(str(refusal) for refusal in decision.refusals)
        instance.report_run_failed(run, f"Gate 1 says {decision.verdict}: {reasons}")
    return decision


def execute_governed_run(instance: DagsterInstance, job: ReconstructableJob, run_id: str) -> bool:
    """Execute a created run here; True when it succeeded."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise FinalError(f"run {run_id} does not exist")
    if run.status is DagsterRunStatus.FAILURE:
        return False
    from ioi_dagster.host.resume import interruption_ends_run

    with interruption_ends_run():
        success = execute_run(job, run, instance, raise_on_error=False).success
    if not success:
        _end_if_interrupted(instance, run_id)
    return success


def give_up(instance: DagsterInstance, run_id: str, error: BaseException) -> None:
    """End a run that was created and will never begin, for `error`."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return
    if isinstance(error, Exception):
        instance.report_run_failed(run, f"It was not begun: {error}")
    else:
        instance.report_run_canceled(run, "It was interrupted before it began")


def was_interrupted(instance: DagsterInstance, run_id: str) -> bool:
    """Did somebody end the run, rather than a failure?"""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status is DagsterRunStatus.CANCELED


def _end_if_interrupted(instance: DagsterInstance, run_id: str) -> None:
    """Whoever stops a command wants its run to be over. Dagster leaves one open that a monitoring daemon might resume, and so
    the next `ioi up` would go on with it."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return
    ledger = Ledger(ledger_path())
    try:
        # A process that another one has overtaken says no last word.
        ends = [entry for entry in ledger.story(run_id, "") if entry.chapter is Chapter.DONE]
    finally:
        ledger.close()
    if ends and ends[-1].facts.get("interrupted"):
        instance.report_run_canceled(run, "The command that ran it was interrupted")


def why_failed(instance: DagsterInstance, run_id: str) -> list[str]:
    """The reasons that Dagster's log gives for a failed run: its failed steps first, then the run's own failure."""
    wanted = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    found = []
    for record in instance.get_records_for_run(run_id, of_type=wanted).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.is_step_failure:
            error = event.step_failure_data.error
            if error is not None and error.cls_name == "DagsterExecutionStepExecutionError" and error.cause is not None:
                # It only wraps what the step's own code raised.
                error = error.cause
            found.append(f"{event.step_key}: {error.message.strip() if error else event.message}")
        elif event is not None and event.is_failure:
            error = getattr(event.event_specific_data, "error", None)
            interrupted = error is not None and error.cls_name == "DagsterExecutionInterruptedError"
            told = "it was interrupted" if interrupted else error.message.strip() if error else str(event.message)
            # The run fails for what its step failed for: told once.
            if not any(told in reason for reason in found):
                found.append(told)
    return found
