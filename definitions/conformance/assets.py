"""Jobs of assets: dependencies, checks, parts of multi-assets, graph, external and observable assets."""

from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetOut,
    AssetSelection,
    AssetSpec,
    DailyPartitionsDefinition,
    DataVersion,
    Output,
    asset,
    asset_check,
    graph_asset,
    multi_asset,
    multi_asset_check,
    observable_source_asset,
    op,
)

from definitions.conformance.ops import add_one, one
from definitions.conformance.registry import asset_job

DAYS = DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")


@asset
def upstream() -> int:
    return 1


@asset
def downstream(upstream: int) -> int:
    return upstream + 1


@asset(check_specs=[AssetCheckSpec("positive", asset="guarded", blocking=True)])
def guarded() -> Iterator[Any]:
    yield Output(-1)
    yield AssetCheckResult(passed=False, check_name="positive")


@asset
def behind_guard(guarded: int) -> int:
    return guarded


@asset
def watched() -> int:
    return 1


@asset_check(asset=watched, blocking=True)
def watched_blocks() -> AssetCheckResult:
    return AssetCheckResult(passed=False, severity=AssetCheckSeverity.ERROR)


@asset_check(asset=watched)
def watched_warns(watched: int) -> AssetCheckResult:
    return AssetCheckResult(passed=False, severity=AssetCheckSeverity.WARN, metadata={"value": watched})


@asset
def behind_watched(watched: int) -> int:
    return watched


@multi_asset_check(specs=[AssetCheckSpec("first", asset="upstream"), AssetCheckSpec("second", asset="upstream")])
def both() -> Iterator[AssetCheckResult]:
    yield AssetCheckResult(passed=True, asset_key="upstream", check_name="first")
    yield AssetCheckResult(passed=False, asset_key="upstream", check_name="second", severity=AssetCheckSeverity.WARN)


@asset
def judged() -> int:
    return 1


@multi_asset_check(
    specs=[AssetCheckSpec("first", asset="judged"), AssetCheckSpec("second", asset="judged")], can_subset=True
)
def either(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
    for key in sorted(context.selected_asset_check_keys):
        yield AssetCheckResult(passed=True, asset_key=key.asset_key, check_name=key.name)


@multi_asset(outs={"many_a": AssetOut(is_required=False), "many_b": AssetOut(is_required=False)}, can_subset=True)
def many(context: AssetExecutionContext) -> Iterator[Output[int]]:
    for name in sorted(context.op_execution_context.selected_output_names):
        yield Output(1, name)


@asset(partitions_def=DAYS)
def daily(context: AssetExecutionContext) -> str:
    return context.partition_key


@asset(partitions_def=DAYS)
def daily_after(daily: str) -> str:
    return daily * 2


@graph_asset
def composed() -> int:
    return add_one(one())


@op
def is_large(number: int) -> Any:
    return AssetCheckResult(passed=number > 100, severity=AssetCheckSeverity.WARN)


@graph_asset(check_specs=[AssetCheckSpec("is_large", asset="composed_and_checked")])
def composed_and_checked() -> Any:
    number = add_one(one())
    return {"result": number, "composed_and_checked_is_large": is_large(number)}


outside = AssetSpec("outside")


@asset(deps=[outside])
def depends_on_outside() -> int:
    return 1


@observable_source_asset
def observed() -> Any:

    return DataVersion("7")


@asset
def failing_asset() -> int:
    raise ValueError("meant to fail")


@asset
def behind_failing(failing_asset: int) -> int:
    return failing_asset


@asset(pool="conformance", kinds={"python"}, owners=["team:tests"], code_version="3")
def described(context: AssetExecutionContext) -> int:
    context.add_output_metadata({"rows": 3})
    return 1


ASSETS = [upstream, downstream, guarded, behind_guard, watched, behind_watched, many, daily, daily_after, composed]
ASSETS += [judged, composed_and_checked]
ASSETS += [depends_on_outside, observed, failing_asset, behind_failing, described]
CHECKS = [watched_blocks, watched_warns, both, either]

asset_job("assets", selection=AssetSelection.assets(upstream, downstream).without_checks())
asset_job("failed_asset", selection=AssetSelection.assets(failing_asset, behind_failing))
asset_job("blocking_check_of_the_asset", selection=AssetSelection.assets(guarded, behind_guard))
asset_job("blocking_check_apart", selection=AssetSelection.assets(watched, behind_watched))
asset_job("checks_of_several", selection=AssetSelection.assets(upstream))
asset_job("checks_alone", selection=AssetSelection.checks(watched_warns))
asset_job("part_of_a_multi_asset", selection=AssetSelection.assets(AssetKey("many_b")))
asset_job("partitions", selection=AssetSelection.assets(daily, daily_after), partitions_def=DAYS)
asset_job("graph_asset_", selection=AssetSelection.assets(composed))
asset_job("graph_asset_with_a_check", selection=AssetSelection.assets(composed_and_checked))
asset_job("either_check", selection=AssetSelection.assets(judged))
asset_job("external_asset", selection=AssetSelection.assets(depends_on_outside))
asset_job("observable_source", selection=AssetSelection.assets(AssetKey("observed")))
asset_job("asset_with_everything", selection=AssetSelection.assets(described))
