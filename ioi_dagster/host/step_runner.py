"""Runs one step of Dagster where it was placed, and brings back its events and outputs instead of writing them.

The step sees an instance that collects the run's events, see `node_instance`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from functools import lru_cache, partial

import msgspec

from ioi_dagster.adapters.dask.forks import end_if_forked
from ioi_dagster.adapters.dask.running import code_begins, raise_if_stopped
from ioi_dagster.adapters.dask.stores import tell_store
from ioi_dagster.compound.attempt import Attempt, current_attempt
from ioi_dagster.compound.checkpoint import current_checkpoint
from ioi_dagster.compound.invocation import noting_inability
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import NodeUnableError, RetryableError, StepStoppedError
from ioi_dagster.host.entry_text import entry_text
from ioi_dagster.host.exchange import Exchange, Handle, StepOutput, StepResult, StepWork, decode_chunk, exchanging
from ioi_dagster.host.flow_map import run_chunk
from ioi_dagster.host.node_instance import NodeInstance, node_instance
from ioi_dagster.host.private import (
    DagsterRun,
    ExecutionPlan,
    JobPythonOrigin,
    KnownExecutionState,
    ReconstructableJob,
    RepositoryLoadData,
    ResolvedRunConfig,
    RetryMode,
    create_execution_plan,
    deserialize_value,
    execute_plan_iterator,
    plan_of_step,
    recon_job_from_origin,
    remember_resource_types,
    remember_run_config,
    renew_definitions,
    serializable_error_info_from_exc_info,
    serialize_value,
)
from ioi_dagster.host.staged import reference

MAX_PLANS = 4
FUSED_S = 0.1
"""A chain goes on in the same task while it has taken less than this."""


def run(work: bytes) -> bytes:
    """`StepWork` in, `StepResult` out (both msgpack). Errors of user code are events, and what Dagster raises around it is
    the result's `failure`. Raises `RetryableError` or `NodeUnableError` where this node is to blame."""
    chunk = decode_chunk(work)
    if chunk is not None:
        return run_chunk(chunk, _load_code)
    task = from_msgpack(work, StepWork)
    checkpoint = current_checkpoint()
    if checkpoint is not None:
        checkpoint.last = task.checkpoint
    result, made = _run(task, {}, {})
    until = result.started + FUSED_S
    values, references = _passed(result)
    last = result
    for follower in task.then:
        if not last.succeeded or last.ended > until or not set(follower.takes) <= made:
            break
        try:
            last, made = _run(follower, values, references)
        except (RetryableError, NodeUnableError):
            # What was done before it stands; it is placed by itself, and tells then what its node lacks.
            break
        result.then.append(last)
        values, references = _passed(last)
    return msgspec.msgpack.encode(result)


def _passed(result: StepResult) -> tuple[dict[Handle, bytes], dict[Handle, str]]:
    """What the next step of a chain finds of this one's outputs: values, and references to values in a store."""
    return (
        {output.handle: output.data for output in result.outputs},
        {staged.handle: reference(staged) for staged in result.staged},
    )


def _run(task: StepWork, values: dict[Handle, bytes], references: dict[Handle, str]) -> tuple[StepResult, set[Handle]]:
    """The result, and the outputs that the step made, wherever its IO managers put them. `values` and `references`: what the
    step before it in its chain left in the exchange."""
    started = time.time()
    dagster_run = _read_run(task.run)
    job = _job(task.origin, _selection(dagster_run))
    inputs = {item.handle: item.data for item in task.inputs} | {
        handle: values[handle] for handle in task.takes if handle in values
    }
    located = {item.handle: item.reference for item in task.located} | references
    exchange = Exchange(
        inputs=inputs,
        references=located,
        one_cluster=task.one_cluster,
        tell_store=partial(tell_store, (current_attempt() or Attempt()).run_key),
        origin=task.origin,
        run=task.run,
        step=task.step,
    )
    instance = node_instance(task.instance)
    failure = None
    with instance.collecting(dagster_run.run_id, task.upstream) as collected, noting_inability() as unable:
        try:
            _execute(task, dagster_run, job, exchange, instance)
        except (RetryableError, StepStoppedError):
            raise
        except BaseException as error:  # with SystemExit, which a step's process is not to follow
            # As in Dagster's own executors: it fails the step, with the user's error as it was, and uses up no node.
            raised = getattr(error, "original_exc_info", None) or sys.exc_info()
            failure = serialize_value(serializable_error_info_from_exc_info(raised))
        finally:
            end_if_forked()
    for write in exchange.writes:
        try:
            write.result()
        except OSError as error:
            raise RetryableError(
                f"the durable copy of an output of step {task.step!r} was not written: {error}"
            ) from error
    events = [entry_text(entry) for entry in collected]
    outputs = [
        StepOutput(
            handle, data, exchange.classes.get(handle), exchange.assets.get(handle), exchange.partitions.get(handle, {})
        )
        for handle, data in exchange.outputs.items()
    ]
    told = [entry.dagster_event for entry in collected if entry.dagster_event is not None]
    succeeded = failure is None and any(event.is_step_success for event in told)
    raise_if_stopped(succeeded)
    if unable and not succeeded:
        raise unable[-1]
    made = {event.step_output_data.step_output_handle for event in told if event.is_successful_output}
    result = StepResult(events, outputs, failure, succeeded, started, time.time(), [], exchange.staged)
    return result, {(handle.step_key, handle.output_name, handle.mapping_key or "") for handle in made}


def _execute(
    task: StepWork, dagster_run: DagsterRun, job: ReconstructableJob, exchange: Exchange, instance: NodeInstance
) -> None:
    remember_run_config()
    remember_resource_types()
    renew_definitions()
    with exchanging(exchange):
        plan = _plan(task, dagster_run, job)
        code_begins()
        for _ in execute_plan_iterator(
            plan,
            job,
            dagster_run,
            instance=instance.dagster,
            retry_mode=RetryMode(task.retries).for_inner_plan(),
            run_config=dagster_run.run_config,
        ):
            # Before the failure hooks of a step that has not failed.
            raise_if_stopped(False)


def _plan(task: StepWork, dagster_run: DagsterRun, job: ReconstructableJob) -> ExecutionPlan:
    """The plan of this step. That of the whole job stays warm, since making it takes longer the more steps there are."""
    known = deserialize_value(task.known_state, KnownExecutionState)
    load_data = _load_data(task.repository_load_data)
    key = (id(job), dagster_run.run_id, task.repository_load_data or "")
    plans: OrderedDict[tuple[int, str, str], ExecutionPlan] = _warm.__dict__.setdefault("plans", OrderedDict())
    whole = plans.get(key)
    if whole is None:
        whole = plans[key] = create_execution_plan(
            job, run_config=dagster_run.run_config, repository_load_data=load_data
        )
        if len(plans) > MAX_PLANS:
            plans.popitem(last=False)
    definition = job.with_repository_load_data(load_data).get_definition() if load_data else job.get_definition()
    config = ResolvedRunConfig.build(definition, dagster_run.run_config)
    return plan_of_step(whole, task.step, known, definition, config)


_warm = threading.local()


@lru_cache(maxsize=MAX_PLANS)
def _read_run(text: str) -> DagsterRun:
    """One value for all steps of a run here, as in Dagster's in-process executor."""
    return deserialize_value(text, DagsterRun)


def _load_data(text: str | None) -> RepositoryLoadData | None:
    return deserialize_value(text, RepositoryLoadData) if text else None


def _load_code(origin: str, run: str) -> None:
    """Import what a step of that job would."""
    _job(origin, _selection(_read_run(run)))


_Selection = tuple[frozenset[str] | None, frozenset | None, frozenset | None]


def _selection(run: DagsterRun) -> _Selection:
    return (
        frozenset(run.resolved_op_selection) if run.resolved_op_selection else None,
        frozenset(run.asset_selection) if run.asset_selection else None,
        frozenset(run.asset_check_selection) if run.asset_check_selection is not None else None,
    )


@lru_cache(maxsize=16)
def _job(origin: str, selection: _Selection) -> ReconstructableJob:
    """The loaded job stays warm: the code location is imported once per process."""
    job = recon_job_from_origin(deserialize_value(origin, JobPythonOrigin))
    ops, assets, checks = selection
    if ops or assets or checks is not None:
        return job.get_subset(op_selection=ops, asset_selection=assets, asset_check_selection=checks)
    return job
