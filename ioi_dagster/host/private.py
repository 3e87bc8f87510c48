"""Every private name of Dagster that we use, in one place; `tests/contract/test_dagster_private.py` holds them still."""

from __future__ import annotations

import collections
import copy
import inspect
import logging
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, lru_cache
from types import CodeType
from typing import Any

from dagster import Definitions, InitResourceContext, ResourceDefinition
from dagster._config.config_schema import UserConfigSchema
from dagster._config.pythonic_config import ConfigurableResourceFactory
from dagster._config.pythonic_config.resource import PartialResource
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions import scoped_resources_builder
from dagster._core.definitions.assets.definition.cacheable_assets_definition import (
    AssetsDefinitionCacheableData,
    CacheableAssetsDefinition,
)
from dagster._core.definitions.data_version import DATA_VERSION_TAG, extract_data_version_from_entry
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_DISPLAY_STRING,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    AssetObservationData,
    DagsterEvent,
    DagsterEventType,
    EngineEventData,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator, execute_run, execute_run_iterator
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.handle import ResolvedFromDynamicStepHandle
from dagster._core.execution.plan.inputs import (
    FromLoadableAsset,
    FromMultipleSources,
    UnresolvedCollectStepInput,
    UnresolvedMappedStepInput,
)
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState, PastExecutionState
from dagster._core.execution.plan.step import (
    ExecutionStep,
    UnresolvedCollectExecutionStep,
    UnresolvedMappedExecutionStep,
)
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.step_dependency_config import StepDependencyConfig, get_step_dependency_config_field
from dagster._core.instance import InstanceRef, InstanceType
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, ResumeRunContext, RunLauncher, WorkerStatus
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
from dagster._core.log_manager import DagsterLogManager, _error_str_for_event
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, get_python_environment_entry_point
from dagster._core.run_coordinator import DefaultRunCoordinator, QueuedRunCoordinator, SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._core.snap import snapshot_from_execution_plan
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.event_log.base import AssetEntry, AssetRecord
from dagster._core.storage.event_log.in_memory import InMemoryEventLogStorage
from dagster._core.storage.event_log.migration import ASSET_KEY_INDEX_COLS
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetKeyTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs import InMemoryRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._core.utils import make_new_run_id
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, deserialize_value, serialize_value
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster._utils.tags import TagConcurrencyLimitsCounter
from dagster_shared.error import SerializableErrorInfo
from dagster_shared.serdes.serdes import _WHITELIST_MAP, NamedTupleSerializer, pack_value
from dagster_shared.utils.cached_method import get_cached_method_cache

__all__ = [
    "ASSET_CHECK_EVENTS",
    "ASSET_EVENTS",
    "ASSET_KEY_INDEX_COLS",
    "DATA_VERSION_TAG",
    "DEFAULT_DAGSTER_ENTRY_POINT",
    "EVENT_TYPE_TO_PIPELINE_RUN_STATUS",
    "IN_PROGRESS_RUN_STATUSES",
    "PLAIN",
    "SERIALIZERS",
    "SQLITE_BUSY_TIMEOUT_SECONDS",
    "WITH_ERROR",
    "ActiveExecution",
    "AssetCheckExecutionRecordStatus",
    "AssetCheckExecutionsTable",
    "AssetEntry",
    "AssetKeyTable",
    "AssetObservationData",
    "AssetRecord",
    "AssetsDefinitionCacheableData",
    "CacheableAssetsDefinition",
    "CapturedLogContext",
    "CheckRunHealthResult",
    "ConfigurableClass",
    "ConfigurableClassData",
    "ConfigurableResourceFactory",
    "DagsterEvent",
    "DagsterEventType",
    "DagsterLogManager",
    "DagsterRun",
    "DagsterRunStatus",
    "DefaultRunCoordinator",
    "EngineEventData",
    "EventLogEntry",
    "ExecuteRunArgs",
    "ExecutionPlan",
    "ExecutionStep",
    "FromLoadableAsset",
    "InMemoryEventLogStorage",
    "InMemoryRunStorage",
    "InstanceConcurrencyContext",
    "InstanceRef",
    "InstanceType",
    "JobPythonOrigin",
    "KnownExecutionState",
    "LaunchRunContext",
    "LocalArtifactStorage",
    "LocalComputeLogManager",
    "ModuleCodePointer",
    "NamedTupleSerializer",
    "NoOpComputeLogManager",
    "PartialResource",
    "PastExecutionState",
    "PlanOrchestrationContext",
    "QueuedRunCoordinator",
    "ReconstructableJob",
    "ReconstructableRepository",
    "RepositoryLoadData",
    "ResolvedRunConfig",
    "ResumeRunArgs",
    "ResumeRunContext",
    "RetryMode",
    "RunLauncher",
    "RunQueueConfig",
    "RunsFilter",
    "SerializableErrorInfo",
    "SqlEventLogStorage",
    "SqlEventLogStorageTable",
    "SqliteEventLogStorage",
    "StepDependencyConfig",
    "StepFailureData",
    "StepMaterializationData",
    "StepOutputHandle",
    "SubmitRunContext",
    "SyncInMemoryRunLauncher",
    "TagConcurrencyLimitsCounter",
    "UnresolvedMappedExecutionStep",
    "UserConfigSchema",
    "WorkerStatus",
    "create_execution_plan",
    "deserialize_value",
    "dynamic_sources",
    "events_not_collected",
    "execute_as_launched",
    "execute_plan_iterator",
    "execute_run",
    "execute_run_iterator",
    "extract_data_version_from_entry",
    "forget_claims",
    "get_cached_method_cache",
    "get_python_environment_entry_point",
    "get_retries_config",
    "get_step_dependency_config_field",
    "is_async_resource",
    "keep_claims",
    "keys_of",
    "make_new_run_id",
    "pack_field",
    "pack_value",
    "plan_of_step",
    "recon_job_from_origin",
    "release_claims",
    "remember_resource_types",
    "remember_run_config",
    "renew_definitions",
    "replay_step",
    "resource_name",
    "serializable_error_info_from_exc_info",
    "serialize_value",
    "snapshot_from_execution_plan",
    "steps_in_flight",
    "steps_that_ended",
    "takes_several",
    "unresolved_key",
    "update_plan",
    "with_resource_function",
    "wrap_planned_events",
]

MAX_CONFIGS = 8

SERIALIZERS = _WHITELIST_MAP.object_serializers
"""How a class is written, by its name."""


def pack_field(serializer: Any, value: Any) -> Any:
    """What a field that is written in a way of its own is written as."""
    return serializer.pack(value, whitelist_map=_WHITELIST_MAP, descent_path="")


@cache
def remember_resource_types() -> None:
    """From now on this process makes the type of each set of resources once and not some seven times for each step.

    Dagster's `ScopedResourcesBuilder.build` derives a class from a new `namedtuple` each time; that base says nothing but the
    resources' names, so those of the same names may share one.
    """
    stock = collections.namedtuple

    @lru_cache(maxsize=256)
    def made(name: str, fields: tuple[str, ...]) -> Any:
        return stock(name, fields)

    scoped_resources_builder.namedtuple = lambda name, fields: made(name, tuple(fields))  # pyright: ignore


class _OwnCopies(Mapping[str, Any]):
    """Copies of what `known` holds, each made when it is first asked for: a step looks at the config of one op, and a job may
    have hundreds."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known, self._copies = known, {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(self._known[key])
        return self._copies[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


@cache
def remember_run_config() -> None:
    """From now on this process validates a run's config once and not twice for each step.

    Dagster does so in `ResolvedRunConfig.build`, which takes longer the more ops a job has. What it gives out is a copy where
    something could be changed in it, so that a step that changes its config changes its own. Jobs with a config mapping are
    left alone, since the mapping is the user's code.
    """
    stock = ResolvedRunConfig.build
    known: OrderedDict[tuple[int, str], tuple[Any, ResolvedRunConfig]] = OrderedDict()
    lock = threading.Lock()

    def build(job_def: Any, run_config: Mapping[str, object] | None = None) -> ResolvedRunConfig:
        if job_def.run_config_schema.config_mapping is not None:
            return stock(job_def, run_config)
        key = (id(job_def), repr(run_config))
        with lock:
            found = known.get(key)
        if found is None:
            made = stock(job_def, run_config)
            found = (job_def, made)
            with lock:
                known[key] = found
                if len(known) > MAX_CONFIGS:
                    known.popitem(last=False)
        config = found[1]
        return config._replace(
            ops=_OwnCopies(config.ops), resources=_OwnCopies(config.resources), inputs=_OwnCopies(config.inputs)
        )

    ResolvedRunConfig.build = staticmethod(build)  # pyright: ignore[reportAttributeAccessIssue]


def dynamic_sources(plan: ExecutionPlan) -> dict[str, frozenset[tuple[str, str]]]:
    """(step key, output name) of the dynamic outputs that a step is mapped over or collects, by its `unresolved_key`. Steps that
    collect what an earlier run made are not among them: they are made with the plan."""
    return {
        step.key: frozenset(
            (its.resolved_by_step_key, its.resolved_by_output_name)
            for its in step.step_inputs
            if isinstance(its, (UnresolvedMappedStepInput, UnresolvedCollectStepInput))
        )
        for step in plan.step_dict.values()
        if isinstance(step, (UnresolvedMappedExecutionStep, UnresolvedCollectExecutionStep))
    }


def unresolved_key(step: ExecutionStep) -> str:
    """The key that `step` had before the dynamic outputs that it depends on were made."""
    handle = step.handle
    return handle.unresolved_form.to_key() if isinstance(handle, ResolvedFromDynamicStepHandle) else step.key


def keys_of(step: Any, mappings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The keys of the steps that `step` of a plan is: itself, or, where it is mapped, as many as `mappings` say by now."""
    if not isinstance(step, UnresolvedMappedExecutionStep):
        return [step.key]
    made = mappings.get(step.resolved_by_step_key, {}).get(step.resolved_by_output_name) or ()
    return [step.handle.resolve(key).to_key() for key in made]


def takes_several(step: ExecutionStep) -> bool:
    """Has it an input that is made of several outputs?"""
    return any(isinstance(its.source, FromMultipleSources) for its in step.step_inputs)


@cache
def renew_definitions() -> None:
    """From now on this process builds a repository of what was computed for the run that asks for it.

    Dagster builds the one of a module's `Definitions` once a process, which does for a process that ends with its run. In one
    that serves many runs, each would get the assets that were computed (`CacheableAssetsDefinition`) for the first.
    """
    stock = ReconstructableRepository.get_definition
    # Which data are read is a variable of the whole process.
    lock = threading.RLock()

    def get_definition(repository: ReconstructableRepository) -> Any:
        data = repository.repository_load_data
        if data is None or not data.cacheable_asset_data:
            return stock(repository)
        with lock:
            made = stock(repository)
            its = made.repository_load_data
            if its is None or its.cacheable_asset_data != data.cacheable_asset_data:
                target = repository.pointer.load_target()
                if isinstance(target, Definitions):
                    get_cached_method_cache(target, "get_repository_def").clear()
                    made = stock(repository)
            return made

    ReconstructableRepository.get_definition = get_definition  # pyright: ignore[reportAttributeAccessIssue]


def plan_of_step(
    whole: ExecutionPlan, key: str, known: KnownExecutionState, job_def: Any, config: ResolvedRunConfig
) -> ExecutionPlan:
    """The plan of the one step `key`, out of that of the whole job, which stays as it is.

    Steps that dynamic outputs make are put into it by what `known` says of those outputs, as Dagster does where it builds the
    plan of the whole job anew.
    """
    mappings, made = known.dynamic_mappings, []
    for step_key, sources in dynamic_sources(whole).items() if mappings else ():
        if not all(output in mappings.get(source, {}) for source, output in sources):
            continue
        step = whole.step_dict_by_key[step_key]
        if isinstance(step, UnresolvedMappedExecutionStep):
            made += step.resolve(mappings)
        elif isinstance(step, UnresolvedCollectExecutionStep):
            made.append(step.resolve(mappings))
    if made:
        whole = whole._replace(
            step_dict=whole.step_dict | {step.handle: step for step in made},
            step_dict_by_key=whole.step_dict_by_key | {step.key: step for step in made},
        )
    return whole._replace(known_state=known).build_subset_plan([key], job_def, config)


_MOVING = (
    *(DagsterEventType.STEP_OUTPUT, DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE),
    *(DagsterEventType.STEP_SKIPPED, DagsterEventType.STEP_UP_FOR_RETRY, DagsterEventType.RESOURCE_INIT_FAILURE),
)
_MOVES = re.compile(f'"event_type_value": "(?:{"|".join(kind.value for kind in _MOVING)})"')


def moves_plan(entry: str) -> bool:
    """Is this serialised `EventLogEntry` of a kind that `ActiveExecution.handle_event` acts on? Reading one costs more than all
    else that is done with it, and most of a step's events only tell. What a person wrote has its quotes escaped in it."""
    return _MOVES.search(entry) is not None


PLAIN = frozenset(
    kind.value
    for kind in (
        *(DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED, DagsterEventType.STEP_INPUT),
        *(DagsterEventType.LOADED_INPUT, DagsterEventType.HANDLED_OUTPUT, DagsterEventType.LOGS_CAPTURED),
        *(DagsterEventType.RESOURCE_INIT_STARTED, DagsterEventType.RESOURCE_INIT_SUCCESS),
        *(DagsterEventType.HOOK_COMPLETED, DagsterEventType.HOOK_SKIPPED),
    )
)
"""Kinds of events that lead to nothing: of no asset, no status and no step that goes on. They only stand in the log."""


WITH_ERROR = frozenset(
    kind.value
    for kind in (
        *(DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_UP_FOR_RETRY, DagsterEventType.HOOK_ERRORED),
        *(DagsterEventType.RESOURCE_INIT_FAILURE, DagsterEventType.ENGINE_EVENT),
    )
)
"""Kinds of events that may hold an error, which a console shows."""


def loggers_of(log: DagsterLogManager) -> Sequence[logging.Logger]:
    """Those that the run's lines go to besides the event log."""
    return log._dagster_handler._loggers


def event_title(kind: str) -> str:
    """What a console calls events of a kind."""
    return EVENT_TYPE_TO_DISPLAY_STRING.get(DagsterEventType(kind), kind)


def event_error_text(entry: EventLogEntry) -> str:
    """What a console shows after the message of an event that holds an error."""
    return (_error_str_for_event(entry.dagster_event) if entry.dagster_event else None) or ""


def wrap_planned_events(instance: Any, around: Callable[[], AbstractContextManager[Any]]) -> None:
    """What `instance` plans when it makes a run (an event for each asset and each check) is written within `around()`.

    Dagster marks those events as a batch, but hands the batch on only where the environment sets a batch size, which would
    hold back steps' events as well.
    """
    stock = instance.run_domain._log_asset_planned_events

    def log(*args: Any, **kwargs: Any) -> None:
        with around():
            stock(*args, **kwargs)

    instance.run_domain._log_asset_planned_events = log


def replay_step(active: ActiveExecution, key: str) -> str:
    """Hand over the step `key` as an earlier process did, whatever limits say now, and none besides it.

    Returns what it is then: `running`, `skipped` or (when the plan does not know it as ready) nothing.
    """
    active._update()
    step = active.get_step_by_key(key)
    if key in active._in_flight:
        return "running"
    if key in active._executable:
        active._executable.remove(key)
        active._in_flight.add(key)
        active._prep_for_dynamic_outputs(step)
        return "running"
    if key in active._pending_skip:
        active._pending_skip.remove(key)
        active._in_flight.add(key)
        active._skip_for_dynamic_outputs(step)
        active.mark_skipped(key)
        return "skipped"
    return ""


def update_plan(active: ActiveExecution) -> None:
    """Have the plan know all steps that dynamic outputs have made by now, without handing one over."""
    active._update()


def steps_in_flight(active: ActiveExecution) -> set[str]:
    """The steps that are handed over, and of which nothing says how they ended."""
    return set(active._in_flight)


def steps_that_ended(active: ActiveExecution) -> tuple[set[str], set[str]]:
    """The steps that succeeded, and those that will not run (any more)."""
    return active._success, active._failed | active._skipped | active._abandoned


@contextmanager
def events_not_collected() -> Iterator[bool]:
    """Dagster's command that executes a run makes a text of each event of it, keeps them all, and reads none: 14 KB a step.

    Gives whether the caller's run is executed by that command, which needs to be handed none of the events of steps then.
    """
    command = sys.modules.get("dagster._cli.api")
    if command is None:
        yield False
        return
    bodies = {vars(command)[name].__code__ for name in ("_execute_run_command_body", "_resume_run_command_body")}
    stock = vars(command)["serialize_value"]
    vars(command)["serialize_value"] = lambda event: ""
    try:
        yield _called_from(bodies)
    finally:
        vars(command)["serialize_value"] = stock


def _called_from(bodies: set[CodeType]) -> bool:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code in bodies:
            return True
        frame = frame.f_back
    return False


def execute_as_launched(run_id: str, instance: Any, resume: bool = False) -> None:
    """Execute a run that has been created, or go on with it, in this process, as Dagster's command does in the process of a
    launched run. What is raised is told in the run's log alone."""
    from dagster._cli import api

    names, kept = vars(api), []
    body = names["_resume_run_command_body" if resume else "_execute_run_command_body"]
    body(run_id, instance, lambda event: kept.append(names["serialize_value"](event)), False)


def forget_claims(pools: InstanceConcurrencyContext) -> None:
    """What this process waits for in pools is another's by now: leaving must not give it up."""
    pools._pending_claims.clear()


def keep_claims(pools: InstanceConcurrencyContext) -> None:
    """Slots in pools stay as they are: the steps that hold them go on without this process."""
    pools._claims.clear()


def release_claims(pools: InstanceConcurrencyContext) -> None:
    """Give back every slot that this process holds in a pool. Dagster gives back a step's when the step ends, which those of
    a run that was interrupted or ended with an error never do."""
    for step in list(pools._claims):
        pools.free_step(step)


def with_resource_function(definition: ResourceDefinition, function: Any) -> ResourceDefinition:
    """`definition`, changed: `function` makes its resource from now on."""
    definition._resource_fn = function
    return definition


def is_async_resource(definition: ResourceDefinition) -> bool:
    """Is it a `ConfigurableResource` whose `yield_for_execution` is asynchronous?"""
    function = getattr(getattr(definition, "configurable_resource_cls", None), "yield_for_execution", None)
    return inspect.isasyncgenfunction(inspect.unwrap(function)) if function is not None else False


def resource_name(context: InitResourceContext) -> str:
    """The key of the resource that is being made; empty where it has none."""
    all_of_them = context.all_resource_defs or {}
    return next((key for key, definition in all_of_them.items() if definition is context._resource_def), "")
