"""Jobs of assets with partitions, data versions, observations, IO managers of their own, and the rarer kinds of checks."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from dagster import (
    AllPartitionMapping,
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetIn,
    AssetKey,
    AssetObservation,
    AssetOut,
    AssetSelection,
    AssetSpec,
    BackfillPolicy,
    DailyPartitionsDefinition,
    DataVersion,
    DynamicPartitionsDefinition,
    MaterializeResult,
    MultiPartitionsDefinition,
    ObserveResult,
    Output,
    StaticPartitionsDefinition,
    asset,
    asset_check,
    build_last_update_freshness_checks,
    multi_asset,
    multi_observable_source_asset,
)

from definitions.conformance.registry import asset_job
from definitions.conformance.resources import folder_io
from ioi_dagster import ExchangeIOManager

DAYS = DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")
CITIES = StaticPartitionsDefinition(["zürich", "東京"])
BOTH = MultiPartitionsDefinition({"day": DAYS, "city": CITIES})
GUESTS = DynamicPartitionsDefinition(name="guests")

# Partitions ---------------------------------------------------------------------------------------------------------


@asset(partitions_def=DAYS)
def by_day(context: AssetExecutionContext) -> str:
    return context.partition_key


@asset(ins={"by_day": AssetIn(partition_mapping=AllPartitionMapping())})
def all_of_it(context: AssetExecutionContext, by_day: dict[str, str]) -> Output[int]:
    return Output(len(by_day), metadata={f"day {day}": text for day, text in by_day.items()})


@asset(partitions_def=DAYS, backfill_policy=BackfillPolicy.single_run())
def in_one_run(context: AssetExecutionContext) -> None:
    context.add_output_metadata({"made": len(context.partition_keys)})


@asset(partitions_def=BOTH)
def by_day_and_city(context: AssetExecutionContext) -> str:
    return context.partition_key


@asset(partitions_def=GUESTS)
def by_guest(context: AssetExecutionContext) -> str:
    return context.partition_key


@asset
def finds_guests(context: AssetExecutionContext) -> int:
    context.instance.add_dynamic_partitions("guests", ["ada", "grace"])
    return len(context.instance.get_dynamic_partitions("guests"))


asset_job("multi_partitions", selection=AssetSelection.assets(by_day_and_city), partitions_def=BOTH)
asset_job("by_day_job", selection=AssetSelection.assets(by_day), partitions_def=DAYS)
asset_job("all_of_it_job", selection=AssetSelection.assets(all_of_it))
asset_job("in_one_run_job", selection=AssetSelection.assets(in_one_run), partitions_def=DAYS)
asset_job("dynamic_partitions_are_added", selection=AssetSelection.assets(finds_guests))
asset_job("dynamic_partition", selection=AssetSelection.assets(by_guest), partitions_def=GUESTS)

# Data versions and observations -------------------------------------------------------------------------------------


@asset(code_version="1")
def versioned() -> Output[int]:
    return Output(1, data_version=DataVersion("seven"))


@asset(code_version="2")
def after_versioned(versioned: int) -> int:
    return versioned + 1


@asset(code_version="3", deps=[after_versioned])
def reads_versions(context: AssetExecutionContext) -> Output[int]:
    record = context.instance.get_latest_data_version_record(AssetKey("versioned"))
    return Output(1, metadata={"found": record is not None})


@asset
def observes(context: AssetExecutionContext) -> int:
    context.log_event(AssetObservation("versioned", metadata={"seen": True}, tags={"dagster/data_version": "eight"}))
    return 1


@multi_observable_source_asset(specs=[AssetSpec("source_a"), AssetSpec("source_b")])
def sources() -> Iterator[ObserveResult]:
    yield ObserveResult("source_a", metadata={"rows": 1}, data_version=DataVersion("a1"))
    yield ObserveResult("source_b", data_version=DataVersion("b1"))


asset_job("data_versions", selection=AssetSelection.assets(versioned, after_versioned, reads_versions))
asset_job("observations", selection=AssetSelection.assets(observes))
asset_job("several_observable_sources", selection=AssetSelection.assets("source_a", "source_b"))

# Values, names and IO managers --------------------------------------------------------------------------------------


@asset(io_manager_key="folder_io")
def in_a_folder() -> int:
    return 1


@asset(io_manager_key="exchange_io")
def in_the_exchange(in_a_folder: int) -> int:
    return in_a_folder + 1


@asset
def in_the_default(in_the_exchange: int) -> int:
    return in_the_exchange + 1


@multi_asset(outs={"size": AssetOut(key=AssetKey(["größe", "大きさ"]))}, name="unicode_names")
def unicode_names() -> Output[str]:
    return Output("ß", "size", metadata={"länge": "α"})


@asset(ins={"size": AssetIn(key=AssetKey(["größe", "大きさ"]))})
def reads_unicode(size: str) -> str:
    return size * 2


asset_job("io_manager_of_each_asset", selection=AssetSelection.assets(in_a_folder, in_the_exchange, in_the_default))
asset_job(
    "unicode_asset_keys", selection=AssetSelection.assets(AssetKey(["größe", "大きさ"]), AssetKey("reads_unicode"))
)

# Parts of multi-assets ----------------------------------------------------------------------------------------------


@multi_asset(
    specs=[
        AssetSpec("part_a", skippable=True),
        AssetSpec("part_b", deps=["part_a"], skippable=True),
        AssetSpec("part_c", deps=["part_b"], skippable=True),
    ],
    can_subset=True,
)
def parts(context: AssetExecutionContext) -> Iterator[MaterializeResult]:
    for key in sorted(context.selected_asset_keys):
        yield MaterializeResult(asset_key=key)


@asset(deps=["part_c"])
def after_parts() -> None: ...


asset_job("multi_asset_with_inner_dependencies", selection=AssetSelection.assets("part_b", "part_c", after_parts))

# Checks -------------------------------------------------------------------------------------------------------------


@asset(check_specs=[AssetCheckSpec("in_its_result", asset="checked")])
def checked() -> MaterializeResult:
    result = AssetCheckResult(passed=True, check_name="in_its_result", metadata={"n": 1})
    return MaterializeResult(check_results=[result])


@asset_check(asset=checked)
def raises() -> AssetCheckResult:
    raise ValueError("the check itself fails")


@asset_check(asset=checked, additional_deps=["versioned"], blocking=True)
def warns_but_blocks(context: AssetCheckExecutionContext) -> AssetCheckResult:
    return AssetCheckResult(passed=False, severity=AssetCheckSeverity.WARN)


@asset(partitions_def=DAYS)
def checked_by_day(context: AssetExecutionContext) -> str:
    return context.partition_key


@asset_check(asset=checked_by_day, partitions_def=DAYS)
def is_the_second(context: AssetCheckExecutionContext, checked_by_day: str) -> AssetCheckResult:
    return AssetCheckResult(passed=checked_by_day == "2026-01-02", metadata={"day": checked_by_day})


@asset
def behind_checked(checked: Any) -> int:
    return 1


@asset
def is_fresh() -> int:
    return 1


FRESHNESS = build_last_update_freshness_checks(assets=[is_fresh], lower_bound_delta=timedelta(days=1))

_IN_ITS_RESULT = AssetSelection.checks(AssetCheckKey(AssetKey("checked"), "in_its_result"))
asset_job("check_in_the_result", selection=AssetSelection.assets(checked).without_checks() | _IN_ITS_RESULT)
asset_job("check_that_raises", selection=AssetSelection.assets(checked, behind_checked))
asset_job("partitioned_check", selection=AssetSelection.assets(checked_by_day), partitions_def=DAYS)
asset_job("freshness_check", selection=AssetSelection.assets(is_fresh))

ASSETS = [by_day, all_of_it, in_one_run, by_day_and_city, by_guest, finds_guests, versioned, after_versioned]
ASSETS += [reads_versions, observes, sources, in_a_folder, in_the_exchange, in_the_default, unicode_names]
ASSETS += [reads_unicode, parts, after_parts, checked, behind_checked, is_fresh, checked_by_day]
CHECKS = [raises, warns_but_blocks, is_the_second, *FRESHNESS]
RESOURCES = {"folder_io": folder_io, "exchange_io": ExchangeIOManager()}
