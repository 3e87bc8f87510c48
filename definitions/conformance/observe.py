"""Runs a conformance job and says what happened, as values that can be compared between executors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from definitions.conformance.jobs import job_name
from ioi_dagster.host.private import DagsterEventType, execute_run
from ioi_dagster.host.runs import job_of

MODULE = "definitions.conformance.defs"
INSTANCE = "telemetry: {enabled: false}\nconcurrency: {pools: {default_limit: 1}}\n"
"""The `dagster.yaml` that the cases are meant for."""

RUN_TAGS: Mapping[str, Mapping[str, str]] = {"partitions": {"dagster/partition": "2026-01-02"}}
EXECUTOR_CONFIG: Mapping[str, Mapping[str, Any]] = {
    "tag_limits": {"tag_concurrency_limits": [{"key": "kind", "value": "limited", "limit": 1}]}
}
RUN_CONFIG: Mapping[str, Mapping[str, Any]] = {
    "config_of_ops": {"ops": {"configured": {"config": {"text": "ab", "times": 3}}}}
}
NOT_COMPARED = frozenset(
    {
        DagsterEventType.ENGINE_EVENT,
        DagsterEventType.STEP_WORKER_STARTING,
        DagsterEventType.STEP_WORKER_STARTED,
        DagsterEventType.LOGS_CAPTURED,
        DagsterEventType.RESOURCE_INIT_STARTED,
        DagsterEventType.RESOURCE_INIT_SUCCESS,
        DagsterEventType.RESOURCE_INIT_FAILURE,
        DagsterEventType.HANDLED_OUTPUT,
        DagsterEventType.LOADED_INPUT,
    }
)
"""How an executor starts its workers and moves values is its own affair; what became of each step is not."""


@dataclass(frozen=True, slots=True)
class Observed:
    """`facts` is a multiset of (event type, step, what it is about); `status` the run's end."""

    status: str
    facts: dict[tuple[str, str, str], int]


def observe(
    case: str, executor: str, instance: DagsterInstance, folder: Path, module: str = MODULE, **config: Any
) -> Observed:
    """Run `case` on `executor` in this process and read its events from the log."""
    job = job_of(module, job_name(case, executor), folder)
    settings = {**EXECUTOR_CONFIG.get(case, {}), **config}
    if executor == "in_process":
        settings = {}
    run = instance.create_run_for_job(
        job_def=job.get_definition(),
        run_config=_config(case, settings),
        tags=dict(RUN_TAGS.get(case, {})),
        asset_selection=None,
        job_code_origin=job.get_python_origin(),
    )
    execute_run(job, run, instance, raise_on_error=False)
    return read(instance, run.run_id)


def read(instance: DagsterInstance, run_id: str) -> Observed:
    """What the log says of a run."""
    facts: Counter[tuple[str, str, str]] = Counter()
    for record in instance.get_records_for_run(run_id).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.event_type not in NOT_COMPARED:
            facts[event.event_type.value, event.step_key or "", _about(event)] += 1
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return Observed(run.status.value, dict(facts))


def _about(event: Any) -> str:
    data = event.event_specific_data
    match event.event_type:
        case DagsterEventType.STEP_OUTPUT:
            return f"{data.step_output_handle.output_name}[{data.step_output_handle.mapping_key or ''}]"
        case DagsterEventType.ASSET_MATERIALIZATION:
            found = data.materialization
            metadata = sorted(set(found.metadata) - {"path"})
            return f"{found.asset_key.to_user_string()} {found.partition or ''} {metadata} {sorted(found.tags or ())}"
        case DagsterEventType.ASSET_OBSERVATION:
            return data.asset_observation.asset_key.to_user_string()
        case DagsterEventType.ASSET_CHECK_EVALUATION:
            return f"{data.asset_key.to_user_string()}:{data.check_name} {data.passed} {data.severity.value}"
        case DagsterEventType.STEP_FAILURE:
            return str(data.error.cls_name if data.error else "")
        case _:
            return ""


def _config(case: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = dict(RUN_CONFIG.get(case, {}))
    if settings:
        config = {**config, "execution": {"config": dict(settings)}}
    return {**config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
