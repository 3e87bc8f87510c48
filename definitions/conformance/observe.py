"""What happened in a run, as values that can be compared between executors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import AssetCheckKey, AssetKey, DagsterInstance

from ioi_dagster.host.private import DagsterEvent, DagsterEventType

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

SAME_ERROR = {"ChildProcessCrashException": "the process ended", "flow.poison_step": "the process ended"}
"""Names that executors have for one thing."""

FOLDED = 100
"""From so many steps on, those that differ by a number alone are told together."""

Facts = dict[tuple[str, str, str], int]


@dataclass(frozen=True, slots=True)
class Observed:
    """`facts`: a multiset of (event type, step, what it is about); `status`: the end of each run of the case."""

    status: str
    facts: Facts


def read(instance: DagsterInstance, runs: Sequence[str], measures: Sequence[str]) -> Observed:
    """What the log says of the runs of a case, and what its measures say."""
    facts: Counter[tuple[str, str, str]] = Counter()
    ends: list[str] = []
    for number, run_id in enumerate(runs):
        events = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event is not None]
        mark = f"{number + 1}: " if len(runs) > 1 else ""
        for event in events:
            if event.event_type not in NOT_COMPARED:
                facts[event.event_type.value, mark + (event.step_key or ""), _about(event, run_id)] += 1
        for name in measures:
            for step, text in MEASURES[name](instance, run_id):
                facts[name, mark + step, text] += 1
        run = instance.get_run_by_id(run_id)
        ends.append(run.status.value if run else "not there")
    return Observed(", ".join(ends), _folded(facts))


def _about(event: DagsterEvent, run_id: str) -> str:
    data: Any = event.event_specific_data
    match event.event_type:
        case DagsterEventType.STEP_OUTPUT:
            return f"{data.step_output_handle.output_name}[{data.step_output_handle.mapping_key or ''}]"
        case DagsterEventType.ASSET_MATERIALIZATION:
            found = data.materialization
            metadata = sorted(set(found.metadata) - {"path"})
            return f"{found.asset_key.to_user_string()} {found.partition or ''} {metadata} {_tags(found.tags, run_id)}"
        case DagsterEventType.ASSET_OBSERVATION:
            seen = data.asset_observation
            return f"{seen.asset_key.to_user_string()} {sorted(seen.metadata)} {_tags(seen.tags, run_id)}"
        case DagsterEventType.ASSET_CHECK_EVALUATION:
            said = f"{data.asset_key.to_user_string()}:{data.check_name} {data.passed} {data.severity.value}"
            return f"{said} {data.partition}" if data.partition else said
        case DagsterEventType.STEP_FAILURE:
            name = str(data.error.cls_name if data.error else "")
            return SAME_ERROR.get(name, name)
        case _:
            return ""


def _tags(tags: Mapping[str, str] | None, run_id: str) -> list[str]:
    """A version that comes from the run's id says nothing to compare."""
    tags = tags or {}
    known = tags.get("dagster/code_version", run_id) != run_id or ("dagster/data_version" in tags and len(tags) == 1)
    telling = ("dagster/data_version", "dagster/input_data_version/")
    return sorted(f"{key}={tags[key]}" if known and key.startswith(telling) else key for key in tags)


def _folded(facts: Facts) -> Facts:
    if len(facts) < FOLDED:
        return facts
    number: Callable[[str], str] = lambda text: re.sub(r"\d+", "#", text)
    steps: Counter[tuple[str, str, str]] = Counter()
    events: Counter[tuple[str, str, str]] = Counter()
    for (kind, step, about), count in facts.items():
        key = kind, number(step), number(about)
        steps[key] += 1
        events[key] += count
    return {(kind, f"{step} ×{steps[kind, step, about]}", about): n for (kind, step, about), n in events.items()}


# Measures: what no single event says --------------------------------------------------------------------------------


def _times(instance: DagsterInstance, run_id: str) -> list[tuple[float, str, bool]]:
    """(time, step, began or ended) in order; of two at one time the end first."""
    begin, end = DagsterEventType.STEP_START, (DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE)
    found = []
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is not None and event.step_key and event.event_type in (begin, *end):
            found.append((entry.timestamp, event.step_key, event.event_type is begin))
    return sorted(found, key=lambda row: (row[0], row[2]))


def _order(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    return [("", " then ".join(step for _, step, began in _times(instance, run_id) if began))]


def _at_once(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    most = now = 0
    for _, _, began in _times(instance, run_id):
        now += 1 if began else -1
        most = max(most, now)
    return [("", str(most))]


def _printed(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    found = []
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is not None and event.event_type is DagsterEventType.LOGS_CAPTURED:
            key = [run_id, "compute_logs", event.logs_captured_data.file_key]
            data = instance.compute_log_manager.get_log_data(key)
            for kind, text in (("stdout", data.stdout), ("stderr", data.stderr)):
                lines = (text or b"").decode().splitlines()
                # Which steps share a file is the executor's affair.
                found += [("", f"{kind}: {line}") for line in lines if line.startswith("conformance: ")]
    return found


def _versions(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    found = []
    for name in ("versioned", "after_versioned"):
        event = instance.get_latest_materialization_event(AssetKey(name))
        materialization = event.asset_materialization if event is not None else None
        version = (materialization.tags or {}).get("dagster/data_version") if materialization else None
        found.append((name, str(version)))
    return found


def _guests(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    return [("", " ".join(sorted(instance.get_dynamic_partitions("guests"))))]


def _by_partition(instance: DagsterInstance, run_id: str) -> list[tuple[str, str]]:
    """What the catalogue knows of a partitioned check."""
    key = AssetCheckKey(AssetKey("checked_by_day"), "is_the_second")
    infos = instance.event_log_storage.get_asset_check_partition_info([key])
    return [
        (str(info.partition_key), f"{info.latest_execution_status.value}, of the latest: {info.is_current}")
        for info in infos
    ]


MEASURES: Mapping[str, Callable[[DagsterInstance, str], list[tuple[str, str]]]] = {
    "order": _order,
    "at_once": _at_once,
    "printed": _printed,
    "versions": _versions,
    "guests": _guests,
    "by_partition": _by_partition,
}
