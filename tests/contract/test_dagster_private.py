"""Every private name of Dagster that we lean on is what we take it for, in the pinned version."""

from __future__ import annotations

import copy
import inspect
import re
from contextlib import asynccontextmanager
from importlib.metadata import version

import pytest
from dagster import (
    ConfigurableResource,
    DagsterInstance,
    Definitions,
    DynamicOut,
    DynamicOutput,
    ResourceDefinition,
    build_resources,
    in_process_executor,
    job,
    op,
    reconstructable,
)

from ioi_dagster.host import private

SHAPES = {
    "ActiveExecution.get_steps_to_execute": {"limit"},
    "ActiveExecution.handle_event": {"dagster_event"},
    "ActiveExecution.verify_complete": {"job_context", "step_key"},
    "ActiveExecution.plan_events_iterator": {"job_context"},
    "ActiveExecution.concurrency_event_iterator": {"plan_context"},
    "ActiveExecution.sleep_interval": set(),
    "ActiveExecution.mark_interrupted": set(),
    "ActiveExecution.check_for_interrupts": set(),
    "ActiveExecution.get_known_state": set(),
    "ActiveExecution.get_step_by_key": {"step_key"},
    "ActiveExecution.mark_up_for_retry": {"step_key", "at_time"},
    "ActiveExecution.mark_skipped": {"step_key"},
    "ActiveExecution._update": set(),
    "ActiveExecution._prep_for_dynamic_outputs": {"step"},
    "ActiveExecution._skip_for_dynamic_outputs": {"step"},
    "InstanceConcurrencyContext.__init__": {"instance", "dagster_run"},
    "InstanceConcurrencyContext.free_step": {"step_key"},
    "KnownExecutionState.__new__": {
        "previous_retry_attempts",
        "dynamic_mappings",
        "step_output_versions",
        "ready_outputs",
        "parent_state",
    },
    "QueuedRunCoordinator.submit_run": {"context"},
    "QueuedRunCoordinator.get_run_queue_config": set(),
    "QueuedRunCoordinator.from_config_value": {"inst_data", "config_value"},
    "StepDependencyConfig.from_config": {"config_value"},
    "RunLauncher.launch_run": {"context"},
    "RunLauncher.resume_run": {"context"},
    "RunLauncher.check_run_worker_health": {"run"},
    "RunLauncher.get_run_worker_debug_info": {"run", "include_container_logs"},
    "RunLauncher.terminate": {"run_id"},
    "ExecuteRunArgs.__new__": {"job_origin", "run_id", "instance_ref"},
    "ExecuteRunArgs.get_command_args": set(),
    "ResumeRunArgs.__new__": {"job_origin", "run_id", "instance_ref"},
    "ResumeRunArgs.get_command_args": set(),
    "InMemoryEventLogStorage.store_event": {"event"},
    "SqlEventLogStorage._get_asset_entry_values": {"event", "event_id", "has_asset_key_index_cols"},
    "SqlEventLogStorage._store_asset_event": {"conn", "event", "event_id"},
    "SqlEventLogStorage._store_asset_event_tags": {"conn", "events", "event_ids"},
    "SqlEventLogStorage.store_asset_check_event": {"event", "event_id"},
    "SqliteEventLogStorage._initdb": {"engine"},
    "SqliteEventLogStorage._connect": {"shard"},
    "create_execution_plan": {"job", "run_config", "step_keys_to_execute", "known_state", "repository_load_data"},
    "execute_plan_iterator": {"execution_plan", "job", "dagster_run", "instance", "retry_mode", "run_config"},
    "recon_job_from_origin": {"origin"},
    "snapshot_from_execution_plan": {"execution_plan", "pipeline_snapshot_id"},
    "AssetsDefinitionCacheableData.__new__": {"keys_by_output_name", "extra_metadata"},
    "CacheableAssetsDefinition.compute_cacheable_data": set(),
    "CacheableAssetsDefinition.build_definitions": {"data"},
    "RunQueueConfig.__new__": {"tag_concurrency_limits", "max_concurrent_runs"},
    "RetryMode.for_inner_plan": set(),
    "ExecutionPlan.get_step": {"handle"},
    "UnresolvedMappedExecutionStep.__new__": {"handle", "job_name", "step_inputs", "step_outputs"},
}


def test_the_version_is_the_pinned_one():
    assert version("dagster") == "1.13.27"


def test_every_name_is_there():
    assert [name for name in private.__all__ if not hasattr(private, name)] == []


@pytest.mark.parametrize("path", SHAPES)
def test_a_signature_is_what_we_call(path: str):
    found = private
    for part in path.split("."):
        found = getattr(found, part)
    parameters = set(inspect.signature(found).parameters)
    assert SHAPES[path] <= parameters, parameters


@op(out=DynamicOut())
def some():
    yield DynamicOutput(1, "a")


@op
def same(value):
    return value


@op
def last(values):
    return values


@job(executor_def=in_process_executor)
def two_stages():
    last(some().map(same).map(same.alias("again")).collect())


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("some", {}),
        ("same[a]", {"some": {"result": ["a"]}}),
        ("again[b]", {"some": {"result": ["b"]}}),
        ("last", {"some": {"result": ["a", "b"]}}),
        ("last", {"some": {"result": []}}),
    ],
)
def test_the_plan_of_one_step_is_what_dagster_builds_of_the_whole_job(key: str, keys: dict):
    whole = private.create_execution_plan(two_stages)
    before = (dict(whole.step_dict), dict(whole.step_dict_by_key))
    known = private.KnownExecutionState(dynamic_mappings=keys)
    config = private.ResolvedRunConfig.build(two_stages, {})
    made = private.plan_of_step(whole, key, known, two_stages, config)
    assert made == private.create_execution_plan(two_stages, step_keys_to_execute=[key], known_state=known)
    assert (whole.step_dict, whole.step_dict_by_key) == before


def test_what_dagsters_command_collects_of_a_run_is_read_by_nobody() -> None:
    """So it may be nothing: see `events_not_collected`."""
    from dagster._cli import api

    command = api.execute_run_command.callback
    assert command is not None
    uses = [line.strip() for line in inspect.getsource(command).splitlines() if re.search(r"\bbuffer\b", line)]
    assert uses == ["buffer = []", "buffer.append(serialize_value(event))"]
    stock = api.serialize_value
    with private.events_not_collected() as unread:
        assert not unread, "no run is executed here"
        assert api.serialize_value({"an": "event"}) == ""
    assert api.serialize_value is stock


def test_dagsters_command_asks_of_an_event_only_whether_the_run_has_failed() -> None:
    from dagster._cli import api

    for body in (api._execute_run_command_body, api._resume_run_command_body):
        lines = [line.strip() for line in inspect.getsource(body).splitlines()]
        assert [line for line in lines if re.search(r"\bevent\b", line) and not line.startswith("#")] == [
            "for event in core_execute_run(",
            "write_stream_fn(event)",
            "if event.event_type == DagsterEventType.PIPELINE_FAILURE:",
        ]


def test_it_is_known_whether_a_run_is_executed_by_dagsters_command(monkeypatch) -> None:
    from dagster._cli import api

    seen = []

    def look(*args, **kwargs):
        with private.events_not_collected() as unread:
            seen.append(unread)
        yield from ()

    monkeypatch.setattr(api, "core_execute_run", look)
    with DagsterInstance.ephemeral() as instance:
        origin = reconstructable(two_stages).get_python_origin()
        run = instance.create_run_for_job(two_stages, job_code_origin=origin)
        private.execute_as_launched(run.run_id, instance)
    list(look())
    assert seen == [True, False]


def test_dagster_builds_the_repository_of_definitions_once_a_process() -> None:
    """So it has to be forgotten where another run brings other data: see `renew_definitions`."""
    definitions = Definitions(jobs=[two_stages])
    made = definitions.get_repository_def()
    assert definitions.get_repository_def() is made
    private.get_cached_method_cache(definitions, "get_repository_def").clear()
    assert definitions.get_repository_def() is not made


@op(config_schema={"words": [str]})
def reads_words(context):
    context.op_config["words"].append("changed")


@job(executor_def=in_process_executor)
def two_readers():
    reads_words()
    reads_words.alias("again")()


def test_a_run_config_is_validated_once_and_who_changes_it_changes_its_own_copy(monkeypatch) -> None:
    stock = private.ResolvedRunConfig.build
    monkeypatch.setattr(private.ResolvedRunConfig, "build", stock)
    private.remember_run_config.__wrapped__()
    given = {"ops": {name: {"config": {"words": ["a"]}} for name in ("reads_words", "again")}}
    as_built = stock(two_readers, given)
    first, second = (private.ResolvedRunConfig.build(two_readers, given) for _ in range(2))
    first.ops["again"].config["words"].append("b")
    assert first.ops["again"].config == {"words": ["a", "b"]}, "one value for who holds it"
    assert dict(second.ops) == dict(as_built.ops)
    assert dict(second.resources) == dict(as_built.resources)
    assert second.loggers is first.loggers
    result = two_readers.execute_in_process(run_config=given)
    assert result.success
    assert dict(private.ResolvedRunConfig.build(two_readers, given).ops) == dict(as_built.ops)


class Plain(ConfigurableResource):
    pass


class Asynchronous(ConfigurableResource):
    @asynccontextmanager
    async def yield_for_execution(self, context):  # pyright: ignore
        yield self


def test_a_resource_is_made_by_the_function_that_was_put_into_its_definition() -> None:
    stock, names = ResourceDefinition.hardcoded_resource("old"), []

    def new(context) -> str:
        names.append(private.resource_name(context))
        return "new"

    changed = private.with_resource_function(copy.copy(stock), new)
    with build_resources({"one": changed, "other": stock}) as made:
        assert (made.one, made.other) == ("new", "old")  # pyright: ignore
    assert names == ["one"]


def test_resources_that_are_made_asynchronously_are_told_from_others() -> None:
    definitions = (Plain().get_resource_definition(), Asynchronous().get_resource_definition())
    assert [private.is_async_resource(one) for one in definitions] == [False, True]
    assert not private.is_async_resource(ResourceDefinition.hardcoded_resource(1))


def test_how_steps_ended_is_known_to_the_plan() -> None:
    plan = private.create_execution_plan(of_four)
    with private.ActiveExecution(plan, retry_mode=private.RetryMode.DISABLED) as active:
        active.get_steps_to_execute()
        assert private.steps_in_flight(active) == {"good", "bad", "idle"}
        active.mark_success("good")
        active.mark_failed("bad")
        active.mark_skipped("idle")
        assert private.steps_that_ended(active) == ({"good"}, {"bad", "idle"})
        active.get_steps_to_abandon()
        active.mark_abandoned("after")
        assert private.steps_that_ended(active) == ({"good"}, {"bad", "idle", "after"})


def test_limits_by_tag_count_the_steps_that_are_there() -> None:
    (step,) = [step for step in private.create_execution_plan(of_four).steps if step.key == "good"]
    assert step.tags == {"kind": "x"}
    assert private.TagConcurrencyLimitsCounter([{"key": "kind", "limit": 1}], [step]).is_blocked(step)
    assert not private.TagConcurrencyLimitsCounter([{"key": "kind", "limit": 2}], [step]).is_blocked(step)


@op(tags={"kind": "x"})
def good() -> None: ...


@op
def bad() -> int:
    return 1


@op
def idle() -> None: ...


@op
def after(value: int) -> None: ...


@job
def of_four() -> None:
    good()
    after(bad())
    idle()
