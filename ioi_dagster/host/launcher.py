"""The run launcher: gate 2, a process for each run, and another one where that is gone before the run has ended.

Dagster's code server starts run processes too, but reports a run whose process died as failed at once, so that nothing is left
to resume. Here the launcher starts them itself, and what became of one is asked by Dagster's run monitoring (`run_monitoring` in
`dagster.yaml`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster import DagsterInstance, Field
from typing_extensions import override

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import home_domain
from ioi_dagster.errors import FinalError
from ioi_dagster.host import tags
from ioi_dagster.host.governance import check_permit
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.private import (
    DEFAULT_DAGSTER_ENTRY_POINT,
    IN_PROGRESS_RUN_STATUSES,
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    DagsterEventType,
    DagsterRun,
    DagsterRunStatus,
    EngineEventData,
    ExecuteRunArgs,
    InstanceRef,
    LaunchRunContext,
    ResumeRunArgs,
    ResumeRunContext,
    RunLauncher,
    RunsFilter,
    UserConfigSchema,
    WorkerStatus,
    get_python_environment_entry_point,
)
from ioi_dagster.host.run_process import RunProcess, last_words, log_of, start_run_process
from ioi_dagster.host.warm import Child, Forked, Warmth
from ioi_dagster.model.refusal import Refusal

GRACE_S = 30.0
"""From the request to stop to the end by force: steps are cancelled and resources torn down meanwhile."""
LOOK_EVERY_S = 0.2


class GovernedRunLauncher(RunLauncher, ConfigurableClass):
    """Starts each run whose permit is good in a process of its own; a run without one ends with the reason.

    A run whose process is gone goes on in a new one where the run was executed by `governed_executor`, or had not begun a step;
    Dagster's other executors would start it all over, so there it fails.
    """

    def __init__(
        self, inst_data: ConfigurableClassData | None = None, grace_s: float = GRACE_S, warm: bool = True
    ) -> None:
        self._inst_data, self._grace_s = inst_data, grace_s
        self._warmth = Warmth() if warm else None
        super().__init__()

    @property
    @override
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    @override
    def config_type(cls) -> UserConfigSchema:
        grace = "Seconds from the request to end a run to the end of its process by force."
        warm = "Fork run processes of one that has imported Dagster already, where there is one that fits."
        return {
            "terminate_grace_seconds": Field(float, default_value=GRACE_S, description=grace),
            "warm_processes": Field(bool, default_value=True, description=warm),
        }

    @classmethod
    @override
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        grace_s = float(config_value.get("terminate_grace_seconds", GRACE_S))
        return cls(inst_data, grace_s, bool(config_value.get("warm_processes", True)))

    @override
    def dispose(self) -> None:
        if self._warmth is not None:
            self._warmth.close()

    @override
    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        if self._may(run):
            self._start(run, ExecuteRunArgs)

    @property
    @override
    def supports_resume_run(self) -> bool:
        return True

    @override
    def resume_run(self, context: ResumeRunContext) -> None:
        run = context.dagster_run
        if not self._may(run):
            return
        if not _can_go_on(self._instance, run):
            text = (
                "The run's process is gone, and the run's executor cannot go on where it ended: "
                "re-execute it from failure, or use governed_executor"
            )
            self._instance.report_run_failed(run, text)
            return
        self._start(run, ResumeRunArgs)

    @property
    @override
    def supports_check_run_worker_health(self) -> bool:
        return True

    @override
    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        process = process_of(run)
        if process is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the run has no process that is known")
        worker = process.text()
        if process.elsewhere:
            told = f"its process was started on {process.host}, of which nothing is known here"
            return CheckRunHealthResult(WorkerStatus.RUNNING, told, run_worker_id=worker)
        if process.alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=worker)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"process {process.pid} is gone", run_worker_id=worker)

    @override
    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        log = self._log(run.run_id)
        words = last_words(log) if include_container_logs else ""
        return f"The end of {log}:\n{words}" if words else f"See {log}"

    @override
    def terminate(self, run_id: str) -> bool:
        """Ask the run's process to stop, and see in the background that it does. False where the run is over, and where its
        process cannot be asked from here."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if run.status is not DagsterRunStatus.CANCELING:
            self._instance.report_run_canceling(run)
        process = process_of(run)
        if process is not None and process.elsewhere:
            # It may be alive and commit steps, so the run is not over.
            text = f"The run's process was started on {process.host} and cannot be stopped from here: stop it there"
            self._instance.report_engine_event(text, run, EngineEventData(), cls=self.__class__)
            return False
        if process is not None and process.send(signal.SIGINT):
            args = (self._instance.get_ref(), run_id, process, self._grace_s)
            threading.Thread(target=_see_it_end, args=args, name=f"end {run_id[:8]}", daemon=True).start()
        else:
            self._instance.report_run_canceled(run, "The run's process was gone already")
        return True

    def _may(self, run: DagsterRun) -> bool:
        """Gate 2."""
        home = home_domain()
        checked = check_permit(home, run) if home is not None else None
        if isinstance(checked, Refusal):
            self._instance.report_run_failed(run, f"Refused at gate 2: {checked}")
            return False
        return True

    def _start(self, run: DagsterRun, kind: type[ExecuteRunArgs] | type[ResumeRunArgs]) -> None:
        if run.job_code_origin is None:
            raise FinalError("the run does not say where its code is — launch it from a code location")
        ref, log = self._instance.get_ref(), self._log(run.run_id)
        command = _command(kind(run.job_code_origin, run.run_id, ref))
        child: Child | None = self._warmth.start(command, log) if self._warmth is not None else None
        if child is None:
            child = start_run_process(command, log, os.environ)
        process = child.process if isinstance(child, Forked) else RunProcess.of(child.pid)
        self._instance.add_run_tags(run.run_id, {tags.RUN_PROCESS: process.text()})
        text = f"Started process {child.pid} on {process.host}; what it prints goes to {log}"
        self._instance.report_engine_event(text, run, EngineEventData(), cls=self.__class__)
        args = (child, process, ref, run.run_id, log)
        threading.Thread(target=_wait_for, args=args, name=f"run {run.run_id[:8]}", daemon=True).start()

    def _log(self, run_id: str) -> Path:
        return log_of(Path(self._instance.root_directory), run_id)


def process_of(run: DagsterRun) -> RunProcess | None:
    """The newest process of a run; None where it never had one."""
    return RunProcess.parse(run.tags.get(tags.RUN_PROCESS, ""))


def end_run_processes(grace_s: float = GRACE_S) -> list[str]:
    """End the processes of all runs of `$DAGSTER_HOME` that are under way on this machine; returns those runs. They stay as
    they are, so that whoever monitors the instance next resumes them."""
    with DagsterInstance.get() as instance:
        runs = instance.get_runs(RunsFilter(statuses=[*IN_PROGRESS_RUN_STATUSES, DagsterRunStatus.CANCELING]))
    found = [(run.run_id, process) for run in runs if (process := process_of(run)) is not None]
    asked = [(run_id, process) for run_id, process in found if process.send(signal.SIGINT)]
    until = time.monotonic() + grace_s
    while any(process.alive for _, process in asked) and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S / 2)
    for _, process in asked:
        process.kill_group()
    return [run_id for run_id, _ in asked]


def _command(args: ExecuteRunArgs | ResumeRunArgs) -> list[str]:
    """The command of Dagster's that executes or resumes a run. `dagster` alone would be whichever the search path has, or none,
    so it is the one of the code location's own interpreter."""
    entry, command = args.job_origin.repository_origin.entry_point, list(args.get_command_args())
    if entry != DEFAULT_DAGSTER_ENTRY_POINT:
        return command
    own = get_python_environment_entry_point(args.job_origin.executable_path or sys.executable)
    return [*own, *command[len(DEFAULT_DAGSTER_ENTRY_POINT) :]]


def _can_go_on(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Its executor keeps a ledger of it, or no step was begun that another process could begin a second time."""
    ledger = Ledger(ledger_path())
    try:
        known = bool(ledger.runs(run.run_id, limit=1))
    finally:
        ledger.close()
    began = {DagsterEventType.STEP_START, DagsterEventType.STEP_WORKER_STARTING, DagsterEventType.STEP_SKIPPED}
    return known or not instance.get_records_for_run(run.run_id, of_type=began, limit=1).records


def _wait_for(child: Child, process: RunProcess, ref: InstanceRef, run_id: str, log: Path) -> None:
    """Tell of a process that ended before its run did, where run monitoring is not the one to find out."""
    code = child.wait()
    with DagsterInstance.from_ref(ref) as instance:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished or process_of(run) != process:
            return
        starting = run.status in (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING)
        if starting or (run.status is DagsterRunStatus.STARTED and not instance.run_monitoring_enabled):
            how = _how(code)
            words = last_words(log)
            text = f"The run's process {child.pid} ended ({how}) before the run did. The end of {log}:\n{words}"
            instance.report_run_failed(run, text)


def _how(code: int | None) -> str:
    if code is None:
        return "nobody saw how"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _see_it_end(ref: InstanceRef, run_id: str, process: RunProcess, grace_s: float) -> None:
    until = time.monotonic() + grace_s
    while process.alive and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
    forced = process.alive
    process.kill_group()
    while process.alive:
        time.sleep(LOOK_EVERY_S)
    with DagsterInstance.from_ref(ref) as instance:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return
        text = f"Its process did not stop within {grace_s:g} s and was killed" if forced else "Its process has ended"
        instance.report_run_canceled(run, text)
