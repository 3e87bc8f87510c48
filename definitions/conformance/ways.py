"""The ways in which a case is run: once, two runs at once, again after a failure, interrupted, or killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, ReexecutionOptions, execute_job

from definitions.conformance.cases import CASES, Case, job_name
from definitions.conformance.observe import Observed, read
from ioi_dagster.host.private import DagsterRun, execute_as_launched, execute_run_iterator
from ioi_dagster.host.runs import job_of

MODULE = "definitions.conformance.defs"
INSTANCE = "telemetry: {enabled: false}\nconcurrency: {pools: {default_limit: 1}}\n"
"""The `dagster.yaml` that the cases are meant for."""

BEGUN_S = 60.0
_CHILD = """
import sys
from pathlib import Path
from dagster import DagsterInstance
from ioi_dagster.host.private import execute_run
from ioi_dagster.host.runs import job_of
module, name, run, folder = sys.argv[1:]
with DagsterInstance.get() as instance:
    execute_run(job_of(module, name, Path(folder)), instance.get_run_by_id(run), instance, raise_on_error=False)
"""


@dataclass(frozen=True, slots=True)
class Where:
    """An executor by the name that it has in `module`, its config, and the instance to run on. `folder`: the project's."""

    executor: str
    instance: DagsterInstance
    folder: Path
    module: str = MODULE
    settings: Mapping[str, Any] | None = None


def observe(name: str, where: Where) -> Observed:
    """Run the case `name` there and say what happened. An executor that raises out of its run has that as its status."""
    case = CASES[name]
    try:
        for job, tags in case.first:
            _execute(_create(replace(case, job=job, config={}, selection=(), limits={}), where, tags), where)
        runs = WAYS[case.way](case, where)
    except Exception as error:
        return Observed(f"raises {type(error).__name__}", {})
    return read(where.instance, runs, case.measures)


def undisturbed(name: str, where: Where) -> Observed:
    """What the case is without what happens to it: the oracle where the executor that is compared with gives up."""
    case = CASES[name]
    (markers(where) / "go").touch()
    return read(where.instance, _once(case, where), case.measures)


def markers(where: Where) -> Path:
    """The folder in which steps that wait say that they have begun."""
    folder = Path(where.instance.root_directory) / "markers"
    folder.mkdir(exist_ok=True)
    return folder


# Ways ---------------------------------------------------------------------------------------------------------------


def _once(case: Case, where: Where) -> list[str]:
    """One run for each of its tags, one after the other."""
    runs = [_create(case, where, tags) for tags in case.tags]
    for run in runs:
        _execute(run, where)
    return [run.run_id for run in runs]


def _at_once(case: Case, where: Where) -> list[str]:
    """Two run processes, as two clicks start them."""
    runs = [_create(case, where, {}) for _ in range(2)]
    children = [_process(case, run, where) for run in runs]
    for child in children:
        child.wait(120)
    return [run.run_id for run in runs]


def _again(case: Case, where: Where) -> list[str]:
    """It fails, and what failed is run again with what depends on it."""
    first = _create(case, where, {})
    _execute(first, where)
    job = job_of(where.module, job_name(case.job, where.executor), where.folder)
    with execute_job(
        job,
        where.instance,
        run_config=first.run_config,
        reexecution_options=ReexecutionOptions.from_failure(first.run_id, where.instance),
    ) as result:
        return [first.run_id, result.run_id]


def _interrupted(case: Case, where: Where) -> list[str]:
    """A person ends the run while a step is under way."""
    run = _create(case, where, {})
    child = _process(case, run, where)
    _wait_until_begun(where, child)
    where.instance.report_run_canceling(run)
    child.send_signal(signal.SIGINT)
    child.wait(60)
    return [run.run_id]


def _resumed(case: Case, where: Where) -> list[str]:
    """The run process is killed while a step is under way; another goes on."""
    run = _create(case, where, {})
    child = _process(case, run, where)
    _wait_until_begun(where, child)
    child.kill()
    child.wait(60)
    (markers(where) / "go").touch()
    job = job_of(where.module, job_name(case.job, where.executor), where.folder)
    left = where.instance.get_run_by_id(run.run_id)
    assert left is not None
    for _ in execute_run_iterator(job, left, where.instance, resume_from_failure=True):
        pass
    return [run.run_id]


WAYS: Mapping[str, Callable[[Case, Where], list[str]]] = {
    "once": _once,
    "at_once": _at_once,
    "again": _again,
    "interrupted": _interrupted,
    "resumed": _resumed,
}


# Runs ---------------------------------------------------------------------------------------------------------------


def _create(case: Case, where: Where, tags: Mapping[str, str]) -> DagsterRun:
    job = job_of(where.module, job_name(case.job, where.executor), where.folder)
    if case.selection:
        job = job.get_subset(op_selection=set(case.selection))
    return where.instance.create_run_for_job(
        job_def=job.get_definition(),
        run_config=_config(case, where),
        tags=dict(tags),
        asset_selection=None,
        op_selection=list(case.selection) or None,
        job_code_origin=job.get_python_origin(),
    )


def _execute(run: DagsterRun, where: Where) -> None:
    execute_as_launched(run.run_id, where.instance)


def _process(case: Case, run: DagsterRun, where: Where) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-c", _CHILD]
    command += [where.module, job_name(case.job, where.executor), run.run_id, str(where.folder)]
    return subprocess.Popen(command, cwd=where.folder, env={**os.environ}, stderr=subprocess.DEVNULL)


def _wait_until_begun(where: Where, child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + BEGUN_S
    while not (markers(where) / "begun-waits").exists():
        if child.poll() is not None:
            return  # what it left in the log is what is compared
        if time.monotonic() > until:
            child.kill()
            raise TimeoutError(f"no step began within {BEGUN_S:g} s")
        time.sleep(0.02)


def _config(case: Case, where: Where) -> dict[str, Any]:
    config: dict[str, Any] = dict(case.config)
    if case.job == "waiting":
        config["ops"] = {"waits": {"config": {"folder": str(markers(where))}}}
    limits = _limits(case, where.executor)
    settings = {**limits, **(where.settings or {})}
    if settings:
        config["execution"] = {"config": settings}
    return {**config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _limits(case: Case, executor: str) -> dict[str, Any]:
    """Executors without a setting run without it: that they lack it shows in what happens."""
    knows = {"in_process": {"retries", "step_dependency_config"}, "dask": set()}
    return {key: value for key, value in case.limits.items() if key in knows.get(executor, {key})}
