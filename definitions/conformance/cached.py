"""A code location whose assets Dagster computes once, when it is loaded, and hands to each run as the run's load data.

It is apart from the other jobs, whose runs have none.
"""

from collections.abc import Mapping, Sequence
from uuid import uuid4

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    Definitions,
    ExecutorDefinition,
    Output,
    asset,
    define_asset_job,
)

from ioi_dagster.host.private import AssetsDefinitionCacheableData, CacheableAssetsDefinition


class CountedAssets(CacheableAssetsDefinition):
    """Assets that know by which computation they were made."""

    def compute_cacheable_data(self) -> Sequence[AssetsDefinitionCacheableData]:
        return [computed()]

    def build_definitions(self, data: Sequence[AssetsDefinitionCacheableData]) -> Sequence[AssetsDefinition]:
        return [made for one in data for made in _assets(one)]


def computed() -> AssetsDefinitionCacheableData:
    """What a computation gives: the next one gives something else."""
    return AssetsDefinitionCacheableData(
        keys_by_output_name={"result": AssetKey("computed")}, extra_metadata={"computation": uuid4().hex}
    )


def _assets(data: AssetsDefinitionCacheableData) -> list[AssetsDefinition]:
    (key,) = (data.keys_by_output_name or {}).values()

    @asset(name=key.path[-1])
    def first(context: AssetExecutionContext) -> Output[int]:
        return Output(1, metadata={_whose(context, data): True})

    @asset(name="after_computed", deps=[key])
    def second(context: AssetExecutionContext) -> Output[int]:
        return Output(2, metadata={_whose(context, data): True})

    return [first, second]


def _whose(context: AssetExecutionContext, data: AssetsDefinitionCacheableData) -> str:
    """Is this what the run was created with?"""
    snapshot = context.instance.get_execution_plan_snapshot(str(context.run.execution_plan_snapshot_id))
    load_data = snapshot.repository_load_data
    its = [one for some in load_data.cacheable_asset_data.values() for one in some] if load_data else []
    return "as its run has it" if its == [data] else "another computation"


def build_cached(executors: Mapping[str, ExecutorDefinition]) -> Definitions:
    """The job `computed_assets` for every executor, named as the others are."""
    return Definitions(
        assets=[CountedAssets("conformance")],
        jobs=[
            define_asset_job(
                f"computed_assets__{name}", selection=["computed", "after_computed"], executor_def=executor
            )
            for name, executor in executors.items()
        ],
    )
