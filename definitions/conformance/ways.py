"""The ways in which a case is run: once, in run processes of its own, two runs at once, again after a failure, interrupted, or
killed and resumed."""

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

from dagster import AssetCheckKey, AssetKey, DagsterInstance, ReexecutionOptions, execute_job

from definitions.conformance.cached import computed
from definitions.conformance.cases import CASES, Case, job_name
from definitions.conformance.observe import Observed, read
from ioi_dagster.host.private import (
    DagsterRun,
    ReconstructableJob,
    RepositoryLoadData,
    create_execution_plan,
    execute_as_launched,
    execute_run_iterator,
    snapshot_from_execution_plan,
)
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
module, name, run, folder, location = sys.argv[1:]
with DagsterInstance.get() as instance:
    execute_run(job_of(module, name, Path(folder), location), instance.get_run_by_id(run), instance, raise_on_error=False)
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
            whole = replace(case, job=job, config={}, selection=(), assets=(), checks=None, limits={})
            _execute(_create(whole, where, tags), where)
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


def _launched(case: Case, where: Where) -> list[str]:
    """As `_once`, with a process for each run, as a run launcher starts them: none finds there what the one before it loaded."""
    runs = [_create(case, where, tags) for tags in case.tags]
    for run in runs:
        _process(case, run, where).wait(120)
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
    job = _job(case, where)
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
    job = _job(case, where)
    left = where.instance.get_run_by_id(run.run_id)
    assert left is not None
    for _ in execute_run_iterator(job, left, where.instance, resume_from_failure=True):
        pass
    return [run.run_id]


WAYS: Mapping[str, Callable[[Case, Where], list[str]]] = {
    "once": _once,
    "launched": _launched,
    "at_once": _at_once,
    "again": _again,
    "interrupted": _interrupted,
    "resumed": _resumed,
}


# Runs ---------------------------------------------------------------------------------------------------------------


def _job(case: Case, where: Where) -> ReconstructableJob:
    return job_of(where.module, job_name(case.job, where.executor), where.folder, case.location)


def _create(case: Case, where: Where, tags: Mapping[str, str]) -> DagsterRun:
    """As the web server creates it, with what is selected and with what was computed when the code was loaded."""
    whole = _job(case, where)
    assets = frozenset(map(AssetKey, case.assets)) if case.assets or case.checks else None
    checks = None if case.checks is None else frozenset(map(_check_key, case.checks))
    definition = whole.get_subset(
        op_selection=case.selection, asset_selection=assets, asset_check_selection=checks
    ).get_definition()
    repository = whole.get_repository_definition()
    load_data = repository.repository_load_data if repository is not None else None
    if load_data is not None:
        # Computed for each run, as if the code was loaded anew between them.
        load_data = RepositoryLoadData(
            cacheable_asset_data={key: [computed()] for key in load_data.cacheable_asset_data}
        )
    config = _config(case, where)
    plan = create_execution_plan(
        definition,
        run_config=config,
        instance_ref=where.instance.get_ref() if where.instance.is_persistent else None,
        tags=dict(tags),
        repository_load_data=load_data,
    )
    snapshot = definition.get_job_snapshot()
    return where.instance.create_run(
        job_name=definition.name,
        run_id=None,
        run_config=config,
        status=None,
        tags=dict(tags),
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=plan.step_keys_to_execute,
        execution_plan_snapshot=snapshot_from_execution_plan(plan, definition.get_job_snapshot_id()),
        job_snapshot=snapshot,
        parent_job_snapshot=definition.get_parent_job_snapshot(),
        asset_selection=assets,
        asset_check_selection=checks,
        resolved_op_selection=None,
        op_selection=list(case.selection) or None,
        remote_job_origin=None,
        job_code_origin=whole.get_python_origin(),
        asset_graph=definition.asset_layer.asset_graph,
    )


def _check_key(name: str) -> AssetCheckKey:
    asset, _, check = name.partition(":")
    return AssetCheckKey(AssetKey(asset), check)


def _execute(run: DagsterRun, where: Where) -> None:
    execute_as_launched(run.run_id, where.instance)


def _process(case: Case, run: DagsterRun, where: Where) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-c", _CHILD]
    command += [where.module, job_name(case.job, where.executor), run.run_id, str(where.folder), case.location]
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
