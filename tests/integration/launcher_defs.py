"""Jobs whose run processes come to an end that the launcher has to see."""

from dagster import (
    AssetExecutionContext,
    AssetKey,
    DefaultSensorStatus,
    Definitions,
    RunRequest,
    StaticPartitionsDefinition,
    asset,
    asset_sensor,
    define_asset_job,
    job,
    multiprocess_executor,
    op,
)

from ioi_dagster import governed_executor
from tests.integration.resume_defs import Where, came, gated, wait_for


@op
def waits(config: Where) -> None:
    came(config.folder, "waits")
    wait_for(config.folder, "go")


@job(executor_def=multiprocess_executor)
def stock() -> None:
    waits()


@job(executor_def=governed_executor)
def alone() -> None:
    waits()


PARTS = ("a", "größe")
SMALL = governed_executor.configured({"workers": 1}, name="small")


@asset(partitions_def=StaticPartitionsDefinition(list(PARTS)))
def part(context: AssetExecutionContext) -> str:
    return context.partition_key


parts = define_asset_job("parts", selection=[part], executor_def=SMALL)


@op
def hears() -> None:
    pass


@job(executor_def=SMALL)
def heard() -> None:
    hears()


@asset_sensor(
    asset_key=AssetKey("part"), job=heard, minimum_interval_seconds=1, default_status=DefaultSensorStatus.RUNNING
)
def on_part(context, event):
    return RunRequest(run_key=str(context.cursor))


defs = Definitions(assets=[part], jobs=[gated, stock, alone, parts, heard], sensors=[on_part])
