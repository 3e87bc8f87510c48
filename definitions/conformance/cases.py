"""The conformance table: one row a case, saying which promise it covers and how its job is run.

The oracle of a row is what Dagster's multiprocess executor does with it. Where that executor cannot (it does not resume a
run), or would take an hour (1,000 processes), the row says which other run is the oracle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster import Definitions, ExecutorDefinition

from definitions.conformance import assets, ops, partitions, resources, troubles
from definitions.conformance.registry import JOBS

_MODULES = (ops, resources, troubles)
"""Imported for their jobs."""


@dataclass(frozen=True, slots=True)
class Case:
    """How the job `job` is run, see `ways`. `first`: (job, tags) of runs that come before it. `tags`: those of each of its
    runs. `selection`: ops, `assets` and `checks` (`asset:check`): the part of the job that is run; `checks` of `None` are all
    those of the assets, and an empty tuple none. `location`: the attribute of the module that has the job. `measures`: facts
    besides the events, see `observe`. `oracle`: the executor, or the case, whose facts are right."""

    covers: str
    job: str
    way: str = "once"
    tags: tuple[Mapping[str, str], ...] = ({},)
    config: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    first: tuple[tuple[str, Mapping[str, str]], ...] = ()
    selection: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    checks: tuple[str, ...] | None = None
    location: str = "defs"
    measures: tuple[str, ...] = ()
    oracle: str = "multiprocess"


def _days(*days: str) -> tuple[Mapping[str, str], ...]:
    return tuple({"dagster/partition": day} for day in days)


_LIMITED = {"tag_concurrency_limits": [{"key": "kind", "value": "limited", "limit": 1}]}
_RANGE = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-03"}
_BACKFILL = tuple({**tags, "dagster/backfill": "conform"} for tags in _days("2026-01-01", "2026-01-02"))
_WORDS = {"ops": {"configured": {"config": {"text": "ab", "times": 3}}}}
_GREETING = {"resources": {"greeter": {"config": {"greeting": "servus"}}}}
_EARLY = {"step_dependency_config": {"require_upstream_step_success": False}}
_WATCHED = ("watched", "behind_watched")
_MANY = {"ops": {"so_many": {"config": {"count": 1_000}}}}

CASES: dict[str, Case] = {
    "fan_out": Case("dynamic map and collect", "fan_out"),
    "fan_out_in_two_stages": Case("dynamic map and collect, two stages", "fan_out_in_two_stages"),
    "fan_out_of_a_graph": Case("dynamic map and collect, nested", "fan_out_of_a_graph"),
    "fan_out_selected": Case("dynamic map and collect, selected", "fan_out", selection=("some", "add_one")),
    "empty_fan_out": Case("dynamic map and collect, empty", "empty_fan_out"),
    "fan_out_with_a_failure": Case("dynamic map and collect, one fails", "fan_out_with_a_failure"),
    "retry_policy": Case("retries by policy", "retry_policy"),
    "retry_requested": Case("retries by request", "retry_requested"),
    "retries_used_up": Case("retries used up", "retries_used_up"),
    "retries_switched_off": Case("retries switched off", "retry_policy", limits={"retries": {"disabled": {}}}),
    "skipped_branch": Case("skips", "skipped_branch"),
    "failure_stops_what_depends": Case("failure propagation", "failure_stops_what_depends"),
    "failure_with_metadata": Case("failure propagation, with metadata", "failure_with_metadata"),
    "several_outputs": Case("several outputs", "several_outputs"),
    "half_of_the_outputs": Case("failure after an output", "half_of_the_outputs"),
    "dependency_on_outputs_only": Case("step_dependency_config", "half_of_the_outputs", limits=_EARLY),
    "order_without_data": Case("order without data", "order_without_data"),
    "events_of_users": Case("asset observations and events of users", "events_of_users"),
    "hooks": Case("hooks of success and failure", "hooks"),
    "hook_that_fails": Case("a hook that fails", "hook_that_fails"),
    "pools": Case("pools", "pools", measures=("at_once",)),
    "tag_limits": Case("tag limits", "tag_limits", limits=_LIMITED, measures=("at_once",)),
    "priority": Case("priority", "priority_in_order", limits={"max_concurrent": 1}, measures=("order",)),
    "crash_by_exit": Case("process crash, os._exit", "crash_by_exit"),
    "crash_by_segfault": Case("process crash, segmentation fault", "crash_by_segfault"),
    "crash_by_kill": Case("process crash, memory", "crash_by_kill"),
    "resource_that_does_not_start": Case("resource-init failure", "resource_that_does_not_start"),
    "resource_that_does_not_stop": Case("resource teardown failure", "resource_that_does_not_stop"),
    "captured_logs": Case("captured logs", "captured_logs", measures=("printed",)),
    "two_runs_at_once": Case("two runs of one job at once", "fan_out", "at_once"),
    "interrupt": Case("interrupt", "waiting", "interrupted"),
    "again_from_failure": Case("re-execution from failure", "again_from_failure", "again"),
    "again_with_dynamic_steps": Case("re-execution from failure, dynamic", "again_with_dynamic_steps", "again"),
    "resume": Case("resume after loss of the run process", "waiting", "resumed", oracle="undisturbed"),
    "config_of_ops": Case("run config", "config_of_ops", config=_WORDS),
    "config_of_resources": Case("resource config", "config_of_resources", config=_GREETING),
    "values_that_cannot_be_stored": Case("unpicklable values", "values_that_cannot_be_stored"),
    "large_values": Case("large values", "large_values"),
    "long_step_keys": Case("very long step keys", "long_step_keys"),
    "unicode_asset_keys": Case("unicode", "unicode_asset_keys"),
    "io_manager_of_the_users": Case("IO managers, of the user", "io_manager_of_the_users"),
    "io_manager_that_fails": Case("IO managers, failing", "io_manager_that_fails"),
    "io_manager_in_memory": Case("IO managers, in memory", "io_manager_in_memory"),
    "io_manager_of_ours": Case("IO managers, values over Dask", "io_manager_of_ours"),
    "io_manager_of_each_asset": Case("IO managers, per asset", "io_manager_of_each_asset"),
    "nested_graphs": Case("graphs in graphs", "nested_graphs"),
    "assets": Case("assets", "assets"),
    "failed_asset": Case("failure propagation between assets", "failed_asset"),
    "asset_with_everything": Case("pool, kinds, owners, metadata of an asset", "asset_with_everything"),
    "part_of_a_multi_asset": Case("subset multi-assets", "part_of_a_multi_asset"),
    "multi_asset_inside": Case("subset multi-assets, dependencies inside", "multi_asset_with_inner_dependencies"),
    "graph_asset": Case("graph assets", "graph_asset_"),
    "graph_asset_with_a_check": Case("graph assets, with a check inside", "graph_asset_with_a_check"),
    "external_asset": Case("external assets", "external_asset"),
    "observable_source": Case("observable sources", "observable_source"),
    "several_observable_sources": Case("observable sources, several", "several_observable_sources"),
    "observations": Case("asset observations", "observations"),
    "data_versions": Case("data versions and their lineage", "data_versions", measures=("versions",)),
    "blocking_check_of_the_asset": Case("blocking checks", "blocking_check_of_the_asset"),
    "blocking_check_apart": Case("blocking checks, apart", "blocking_check_apart"),
    "checks_of_several": Case("asset checks, several in one", "checks_of_several"),
    "checks_alone": Case("asset checks, alone", "checks_alone", first=(("blocking_check_apart", {}),)),
    "some_checks_selected": Case(
        "asset checks, some selected", "blocking_check_apart", assets=_WATCHED, checks=("watched:watched_warns",)
    ),
    "no_checks_selected": Case("asset checks, none selected", "blocking_check_apart", assets=_WATCHED, checks=()),
    "checks_selected_alone": Case(
        "asset checks, selected without their asset",
        "blocking_check_apart",
        checks=("watched:watched_warns",),
        first=(("blocking_check_apart", {}),),
    ),
    "one_of_several_checks": Case(
        "asset checks, one of several in one", "either_check", assets=("judged",), checks=("judged:second",)
    ),
    "no_checks_of_ops": Case("an empty selection of checks for a job of ops", "skipped_branch", checks=()),
    "check_in_the_result": Case("asset checks, in the result", "check_in_the_result"),
    "check_that_raises": Case("asset checks, raising", "check_that_raises", first=(("data_versions", {}),)),
    "freshness_check": Case("asset checks, freshness", "freshness_check"),
    "partitions": Case("partitions", "partitions", tags=_days("2026-01-02")),
    "multi_partitions": Case("partitions, two dimensions", "multi_partitions", tags=_days("東京|2026-01-02")),
    "partitioned_check": Case(
        "asset checks, partitioned",
        "partitioned_check",
        tags=_days("2026-01-02", "2026-01-03"),
        measures=("by_partition",),
    ),
    "all_partitions": Case(
        "IO managers, partitioned",
        "all_of_it_job",
        first=tuple(("by_day_job", tags) for tags in _days("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")),
    ),
    "backfill": Case("backfills, a run each", "by_day_job", tags=_BACKFILL),
    "backfill_in_one_run": Case("backfills, in one run", "in_one_run_job", tags=(_RANGE,)),
    "dynamic_partitions_are_added": Case(
        "dynamic partitions, added by a step", "dynamic_partitions_are_added", measures=("guests",)
    ),
    "dynamic_partition": Case(
        "dynamic partitions",
        "dynamic_partition",
        tags=({"dagster/partition": "ada"},),
        first=(("dynamic_partitions_are_added", {}),),
    ),
    "computed_assets": Case(
        "definitions computed when the code is loaded", "computed_assets", "launched", tags=({}, {}), location="cached"
    ),
    "fan_out_of_1000": Case("1,000-step fan-out", "large_fan_out", config=_MANY, oracle="in_process"),
    "chain_of_200": Case("200-step chain", "long_chain", oracle="in_process"),
}


def job_name(job: str, executor: str) -> str:
    return f"{job}__{executor}"


def build(executors: Mapping[str, ExecutorDefinition]) -> Definitions:
    """Every job for every executor, named `job__executor`."""
    made = [make(executor, job_name(name, key)) for key, executor in executors.items() for name, make in JOBS.items()]
    return Definitions(
        assets=[*assets.ASSETS, assets.outside, *partitions.ASSETS],
        asset_checks=[*assets.CHECKS, *partitions.CHECKS],
        jobs=made,
        resources=partitions.RESOURCES,
    )
