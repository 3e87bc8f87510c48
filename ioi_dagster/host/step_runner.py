"""Runs one step of Dagster where it was placed, and brings back its events and outputs instead of writing them.

The step sees an instance of its own that only collects: a node has no access to the run owner's storage.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from functools import lru_cache

import msgspec
from dagster import DagsterInstance

from ioi_dagster.errors import RetryableError
from ioi_dagster.host.exchange import Exchange, StepOutput, StepResult, StepWork, exchanging
from ioi_dagster.host.private import (
    DagsterRun,
    DefaultRunCoordinator,
    EventLogEntry,
    InMemoryEventLogStorage,
    InMemoryRunStorage,
    InstanceType,
    JobPythonOrigin,
    KnownExecutionState,
    LocalArtifactStorage,
    NoOpComputeLogManager,
    ReconstructableJob,
    RepositoryLoadData,
    RetryMode,
    SyncInMemoryRunLauncher,
    create_execution_plan,
    deserialize_value,
    execute_plan_iterator,
    recon_job_from_origin,
    serializable_error_info_from_exc_info,
    serialize_value,
)


def run(work: bytes) -> bytes:
    """`StepWork` in, `StepResult` out (both msgpack). Errors of user code are events, and what Dagster raises around it is
    the result's `failure`. Raises `RetryableError` where this node is to blame."""
    task = msgspec.msgpack.decode(work, type=StepWork)
    dagster_run = deserialize_value(task.run, DagsterRun)
    job = _job(task.origin, _selection(dagster_run))
    exchange = Exchange(inputs={item.handle: item.data for item in task.inputs})
    instance = _instance()
    instance.collected.clear()
    failure = None
    try:
        _execute(task, dagster_run, job, exchange, instance)
    except RetryableError:
        raise
    except Exception as error:
        # As in Dagster's own executors: it fails the step, with the user's error as it was, and uses up no node.
        raised = getattr(error, "original_exc_info", None) or sys.exc_info()
        failure = serialize_value(serializable_error_info_from_exc_info(raised))
    events = [serialize_value(entry) for entry in instance.collected]
    outputs = [
        StepOutput(handle, data, exchange.classes.get(handle), exchange.assets.get(handle))
        for handle, data in exchange.outputs.items()
    ]
    return msgspec.msgpack.encode(StepResult(events, outputs, failure))


def _execute(
    task: StepWork, dagster_run: DagsterRun, job: ReconstructableJob, exchange: Exchange, instance: _NodeInstance
) -> None:
    with exchanging(exchange):
        plan = create_execution_plan(
            job,
            run_config=dagster_run.run_config,
            step_keys_to_execute=[task.step],
            known_state=deserialize_value(task.known_state, KnownExecutionState),
            repository_load_data=_load_data(task.repository_load_data),
        )
        for _ in execute_plan_iterator(
            plan,
            job,
            dagster_run,
            instance=instance.dagster,
            retry_mode=RetryMode(task.retries).for_inner_plan(),
            run_config=dagster_run.run_config,
        ):
            pass


def _load_data(text: str | None) -> RepositoryLoadData | None:
    return deserialize_value(text, RepositoryLoadData) if text else None


class _CollectingEvents(InMemoryEventLogStorage):
    """Keeps what is stored in a list besides; reads find nothing, as on a node that has no storage."""

    def __init__(self) -> None:
        super().__init__()
        self.collected: list[EventLogEntry] = []

    def store_event(self, event: EventLogEntry) -> None:
        self.collected.append(event)


class _NodeInstance:
    """One a thread, kept warm: making a Dagster instance costs more than a small step."""

    def __init__(self) -> None:
        events = _CollectingEvents()
        self.collected = events.collected
        self.dagster = DagsterInstance(
            instance_type=InstanceType.EPHEMERAL,
            local_artifact_storage=LocalArtifactStorage(tempfile.gettempdir()),
            run_storage=InMemoryRunStorage(),
            event_storage=events,
            compute_log_manager=NoOpComputeLogManager(),
            run_coordinator=DefaultRunCoordinator(),
            run_launcher=SyncInMemoryRunLauncher(),
        )


_warm = threading.local()


def _instance() -> _NodeInstance:
    if not hasattr(_warm, "instance"):
        _warm.instance = _NodeInstance()
    return _warm.instance


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
