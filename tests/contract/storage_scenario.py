"""One history of runs, written into any event log, and everything that Dagster reads of it, in a form that can be compared."""

import datetime
from collections.abc import Callable, Sequence
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DailyPartitionsDefinition,
    Definitions,
    EventRecordsFilter,
    Failure,
    MaterializeResult,
    RunRequest,
    RunsFilter,
    RunStatusSensorContext,
    SensorEvaluationContext,
    asset,
    asset_check,
    asset_sensor,
    build_last_update_freshness_checks,
    build_sensor_context,
    define_asset_job,
    job,
    multi_asset_sensor,
    op,
    run_status_sensor,
)
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

DAYS = DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")


@asset(code_version="1", tags={"team": "storage"})
def raw() -> MaterializeResult:
    return MaterializeResult(metadata={"rows": 3}, tags={"kind": "sample"})


@asset(deps=[raw])
def refined() -> int:
    return 1


@asset(partitions_def=DAYS)
def daily() -> int:
    return 2


@asset_check(asset=raw, blocking=True)
def raw_is_there() -> AssetCheckResult:
    return AssetCheckResult(passed=True)


@asset_check(asset=refined)
def refined_is_large() -> AssetCheckResult:
    return AssetCheckResult(passed=False, metadata={"size": 1})


@asset_check(asset=daily, partitions_def=DAYS)
def daily_is_early(context: AssetCheckExecutionContext) -> AssetCheckResult:
    return AssetCheckResult(passed=context.op_execution_context.partition_key == "2026-01-02")


FRESH = build_last_update_freshness_checks(assets=[raw], lower_bound_delta=datetime.timedelta(days=9_000))


@op
def fails() -> None:
    raise Failure("it fails")


@job
def failing() -> None:
    fails()


@asset_sensor(asset_key=AssetKey("refined"), job_name="all_of_them")
def on_refined(context: SensorEvaluationContext, event: Any) -> RunRequest:
    return RunRequest(run_key="one", tags={"of": event.dagster_event.asset_key.to_user_string()})


@multi_asset_sensor(monitored_assets=[AssetKey("raw"), AssetKey("refined")], job_name="all_of_them")
def on_both(context: Any) -> RunRequest | None:
    found = context.latest_materialization_records_by_key()
    if not all(found.values()):
        return None
    context.advance_all_cursors()
    return RunRequest(run_key="both", tags={"of": " ".join(sorted(key.to_user_string() for key in found))})


@run_status_sensor(run_status=DagsterRunStatus.FAILURE, monitor_all_code_locations=True, request_job=failing)
def on_failure(context: RunStatusSensorContext) -> RunRequest:
    return RunRequest(run_key=None, tags={"of": context.dagster_run.job_name})


DEFINITIONS = Definitions(
    assets=[raw, refined, daily],
    asset_checks=[raw_is_there, refined_is_large, daily_is_early, *FRESH],
    jobs=[define_asset_job("all_of_them", ["raw", "refined"]), define_asset_job("of_a_day", ["daily"]), failing],
    sensors=[on_refined, on_both, on_failure],
)
KEYS = [AssetKey("raw"), AssetKey("refined"), AssetKey("daily"), AssetKey("outside")]
CHECKS = [
    AssetCheckKey(AssetKey("raw"), "raw_is_there"),
    AssetCheckKey(AssetKey("refined"), "refined_is_large"),
    AssetCheckKey(AssetKey("raw"), "freshness_check"),
    AssetCheckKey(AssetKey("daily"), "daily_is_early"),
]


def history(instance: DagsterInstance) -> list[dict[str, Any]]:
    """Write it, and give what was to be read after each of its parts."""
    read: list[dict[str, Any]] = []
    cursors: dict[str, str | None] = {name: _tick(name, instance, None)[1] for name in SENSORS}
    for part in (_runs, _planned_and_runless, _wiped_and_deleted):
        part(instance)
        found = answers(instance)
        for name in SENSORS:
            asked, cursors[name] = _tick(name, instance, cursors[name])
            found[f"sensor {name}"] = asked
        read.append(found)
    return read


def _run(instance: DagsterInstance, name: str, **options: Any) -> None:
    job_def = DEFINITIONS.resolve_job_def(name)
    job_def.execute_in_process(instance=instance, raise_on_error=False, **options)


def _runs(instance: DagsterInstance) -> None:
    _run(instance, "all_of_them")
    _run(instance, "failing")
    for day in ("2026-01-02", "2026-01-03"):
        _run(instance, "of_a_day", partition_key=day)


def _planned_and_runless(instance: DagsterInstance) -> None:
    instance.create_run_for_job(DEFINITIONS.resolve_job_def("all_of_them"), tags={"only": "planned"})
    tags = {"only": "planned", "dagster/partition": "2026-01-05"}
    instance.create_run_for_job(DEFINITIONS.resolve_job_def("of_a_day"), tags=tags)
    instance.report_runless_asset_event(AssetMaterialization("outside", tags={"dagster/data_version": "7"}))
    instance.report_runless_asset_event(AssetObservation("outside", metadata={"seen": 1}))
    change = FreshnessStateChange(
        key=AssetKey("raw"),
        new_state=FreshnessState.PASS,
        previous_state=FreshnessState.UNKNOWN,
        state_change_timestamp=1.0,
    )
    instance._report_runless_asset_event(change)


def _wiped_and_deleted(instance: DagsterInstance) -> None:
    instance.wipe_assets([AssetKey("refined")])
    (failed,) = instance.get_runs(RunsFilter(job_name="failing"))
    instance.delete_run(failed.run_id)
    _run(instance, "all_of_them")


def answers(instance: DagsterInstance) -> dict[str, Any]:
    """What the UI, sensors and the catalogue ask of an event log, without ids and times."""
    storage = instance.event_log_storage
    runs = {run.run_id: f"{run.job_name} {number}" for number, run in enumerate(reversed(list(instance.get_runs())))}

    def told(records: Sequence[Any]) -> list[tuple[Any, ...]]:
        _rising([record.storage_id for record in records])
        return [_told(record.event_log_entry, runs) for record in records]

    def paged(fetch: Callable[..., Any], about: Any) -> list[tuple[Any, ...]]:
        records, cursor = [], None
        while True:
            page = fetch(about, limit=2, cursor=cursor, ascending=True)
            records += page.records
            cursor = page.cursor
            if not page.has_more:
                return told(records)

    kinds = (
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_OBSERVATION,
        DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    )
    statuses = (DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_START)
    found: dict[str, Any] = {
        "runs": sorted((name, instance.get_run_by_id(run).status.value) for run, name in runs.items()),  # pyright: ignore
        "keys": sorted(str(key) for key in storage.all_asset_keys()),
        "latest": {str(k): e and _told(e, runs) for k, e in storage.get_latest_materialization_events(KEYS).items()},
        "records": [_asset_record(record, runs) for record in sorted(storage.get_asset_records(KEYS), key=_key)],
        "tags": [[sorted(tags) for tags in storage.get_event_tags_for_asset(key)] for key in KEYS],
        "partitions": [storage.get_materialized_partitions(key) for key in KEYS],
        "by partition": set(
            storage.get_latest_storage_id_by_partition(AssetKey("daily"), DagsterEventType.ASSET_MATERIALIZATION)
        ),
        "planned": [
            (info := storage.get_latest_planned_materialization_info(key)) and runs[info.run_id] for key in KEYS
        ],
        "attempts": {
            partition: runs[run]
            for partition, (
                run,
                _,
            ) in storage.get_latest_asset_partition_materialization_attempts_without_materializations(
                AssetKey("daily")
            ).items()
        },
        "checks": {
            str(key): [_check(record, runs) for record in storage.get_asset_check_execution_history(key, limit=10)]
            for key in CHECKS
        },
        "latest checks": {
            str(key): _check(record, runs)
            for key, record in storage.get_latest_asset_check_execution_by_key(CHECKS).items()
        },
        "summaries": {
            str(key): [
                part and _check(part, runs)
                for part in (summary.last_check_execution_record, summary.last_completed_check_execution_record)
            ]
            for key, summary in storage.get_asset_check_summary_records(CHECKS).items()
        },
        "freshness": {str(k): str(r.freshness_state) for k, r in storage.get_freshness_state_records(KEYS).items()},
        "data versions": {
            key.to_user_string(): (record := instance.get_latest_data_version_record(key)) and bool(record)
            for key in KEYS
        },
    }
    for run_id, name in runs.items():
        stats = storage.get_stats_for_run(run_id)
        found[f"run {name}"] = (
            told(instance.get_records_for_run(run_id).records),
            (stats.steps_succeeded, stats.steps_failed, stats.materializations, stats.expectations),
            [(s.step_key, str(s.status), s.attempts) for s in storage.get_step_stats_for_run(run_id)],
        )
        # Page by page, by cursor, is the same as all at once.
        pages, cursor = [], None
        while True:
            page = instance.get_records_for_run(run_id, cursor=cursor, limit=3)
            pages += page.records
            cursor = page.cursor
            if not page.has_more:
                break
        assert told(pages) == found[f"run {name}"][0]
    for kind in kinds:
        records = storage.get_event_records(EventRecordsFilter(kind), limit=100, ascending=True)
        found[f"records {kind.value}"] = told(records)
        for record in records[:1]:
            later = EventRecordsFilter(kind, after_cursor=record.storage_id)
            assert (
                told(storage.get_event_records(later, limit=100, ascending=True)) == found[f"records {kind.value}"][1:]
            )
        for key in KEYS:
            found[f"of {key} {kind.value}"] = told(
                storage.get_event_records(EventRecordsFilter(kind, asset_key=key), limit=100, ascending=True)
            )
    for kind in statuses:
        found[f"statuses {kind.value}"] = paged(storage.fetch_run_status_changes, kind)
    for key in KEYS:
        found[f"fetched {key}"] = paged(storage.fetch_materializations, key)
        found[f"observed {key}"] = paged(storage.fetch_observations, key)
    days = AssetRecordsFilter(asset_key=AssetKey("daily"), asset_partitions=["2026-01-03"])
    found["a day"] = paged(storage.fetch_materializations, days)
    checked = storage.get_asset_check_partition_info(CHECKS)
    found["checked partitions"] = sorted(_partition_info(info, runs) for info in checked)
    for day in ("2026-01-03", "2026-01-04"):
        of_day = storage.get_asset_check_partition_info(CHECKS, partition_keys=[day])
        found[f"checked on {day}"] = sorted(_partition_info(info, runs) for info in of_day)
    # What came after an event, the check's or its asset's.
    for number, since in enumerate(sorted({info.latest_check_event_storage_id for info in checked})):
        later = storage.get_asset_check_partition_info(CHECKS, after_storage_id=since)
        found[f"checked after event {number}"] = sorted(_partition_info(info, runs) for info in later)
    parts = [(key, DAYS if key.asset_key == AssetKey("daily") else None) for key in CHECKS]
    found["check states"] = {
        str(key): (
            {status.value: _subset(subset) for status, subset in state.subsets.items()},
            {runs[run_id]: _subset(subset) for run_id, subset in state.in_progress_runs.items()},
        )
        for key, state in storage.get_asset_check_state(parts).items()
    }
    return found


SENSORS = ("on_refined", "on_both", "on_failure")


def _tick(name: str, instance: DagsterInstance, cursor: str | None) -> tuple[list[dict[str, str]], str | None]:
    sensor = DEFINITIONS.resolve_sensor_def(name)
    repository = DEFINITIONS.get_repository_def()
    with build_sensor_context(
        instance=instance, cursor=cursor, repository_def=repository, sensor_name=name, definitions=None
    ) as context:
        tick = sensor.evaluate_tick(context)
    asked = [{k: v for k, v in request.tags.items() if k == "of"} for request in tick.run_requests or ()]
    return asked, tick.cursor


def _told(entry: Any, runs: dict[str, str]) -> tuple[Any, ...]:
    event = entry.dagster_event
    if event is None:
        # Such lines name folders, which differ.
        return (entry.level, entry.step_key, runs.get(entry.run_id, ""))
    key = event.asset_key.to_user_string() if event.asset_key else None
    return (event.event_type_value, event.step_key, key, event.partition, runs.get(entry.run_id, ""))


def _key(record: Any) -> str:
    return str(record.asset_entry.asset_key)


def _asset_record(record: Any, runs: dict[str, str]) -> tuple[Any, ...]:
    entry = record.asset_entry
    last = entry.last_materialization_record
    return (
        _key(record),
        last and _told(last.event_log_entry, runs),
        runs.get(entry.last_run_id or "", entry.last_run_id),
        entry.asset_details is not None and entry.asset_details.last_wipe_timestamp is not None,
        entry.last_observation_record and _told(entry.last_observation_record.event_log_entry, runs),
        entry.last_planned_materialization_run_id and runs.get(entry.last_planned_materialization_run_id),
    )


def _check(record: Any, runs: dict[str, str]) -> tuple[Any, ...]:
    return (str(record.status), runs.get(record.run_id), record.event and _told(record.event, runs), record.partition)


def _partition_info(info: Any, runs: dict[str, str]) -> tuple[Any, ...]:
    return (
        str(info.check_key),
        info.partition_key or "",
        info.latest_execution_status.value,
        runs[info.latest_planned_run_id],
        info.latest_materialization_storage_id is not None,
        info.latest_target_materialization_storage_id is not None,
        info.is_current,
    )


def _subset(subset: Any) -> Any:
    return sorted(subset.subset_value.get_partition_keys()) if subset.is_partitioned else subset.value


def _rising(numbers: list[int]) -> None:
    assert numbers == sorted(set(numbers)), "later events have higher ids"
