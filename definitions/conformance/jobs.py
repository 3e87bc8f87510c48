"""One job a feature, each built for any executor. Small on purpose: what is compared is what happened, not how fast."""

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetOut,
    AssetSelection,
    AssetSpec,
    Config,
    ConfigurableResource,
    DailyPartitionsDefinition,
    Definitions,
    DynamicOut,
    DynamicOutput,
    ExecutorDefinition,
    ExpectationResult,
    Failure,
    GraphOut,
    HookContext,
    In,
    IOManager,
    Nothing,
    OpExecutionContext,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    asset,
    asset_check,
    define_asset_job,
    failure_hook,
    graph,
    graph_asset,
    io_manager,
    job,
    multi_asset,
    multi_asset_check,
    observable_source_asset,
    op,
    resource,
    success_hook,
)

# Ops ----------------------------------------------------------------------------------------------------------------


@op
def one() -> int:
    return 1


@op
def add_one(number: int) -> int:
    return number + 1


@op
def add(left: int, right: int) -> int:
    return left + right


@op
def fails() -> int:
    raise ValueError("meant to fail")


@op
def fails_with_metadata(context: OpExecutionContext) -> int:
    raise Failure("meant to fail", metadata={"why": "because"}, allow_retries=False)


@op(out=DynamicOut(int))
def some() -> Iterator[DynamicOutput[int]]:
    for number in range(4):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op(out=DynamicOut(int))
def none() -> Iterator[DynamicOutput[int]]:
    yield from ()


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@op
def fails_on_two(number: int) -> int:
    if number == 2:
        raise ValueError("not two")
    return number


@op(retry_policy=RetryPolicy(max_retries=2))
def succeeds_at_third(context: OpExecutionContext) -> int:
    if context.retry_number < 2:
        raise ValueError("again")
    return context.retry_number


@op
def asks_for_retry(context: OpExecutionContext) -> int:
    if context.retry_number < 1:
        raise RetryRequested(max_retries=1, seconds_to_wait=0.2)
    return context.retry_number


@op(retry_policy=RetryPolicy(max_retries=1))
def fails_for_good() -> int:
    raise ValueError("always")


@op(out={"yes": Out(int, is_required=False), "no": Out(int, is_required=False)})
def branch() -> Iterator[Output[int]]:
    yield Output(1, "yes")


@op(out={"left": Out(int), "right": Out(str)})
def two_outputs() -> Iterator[Output[Any]]:
    yield Output(1, "left", metadata={"size": 1})
    yield Output("x", "right")


@op
def takes_text(text: str) -> str:
    return text


@op(ins={"start": In(Nothing)}, out=Out(Nothing))
def after() -> None:
    return None


@op
def tells(context: OpExecutionContext) -> None:
    context.log.info("said on the log")
    print("said on stdout")
    context.log_event(AssetMaterialization("told", metadata={"n": 1}))
    context.log_event(AssetObservation("told", metadata={"n": 2}))
    context.log_event(ExpectationResult(success=False, label="expected"))
    context.add_output_metadata({"n": 3})


@op(pool="conformance")
def pooled() -> int:
    return 1


@op(tags={"kind": "limited"})
def limited() -> int:
    return 1


@op(tags={"dagster/priority": "5"})
def urgent() -> int:
    return 1


@op
def unpicklable() -> Any:
    return lambda: 1


@op
def takes_anything(value: Any) -> None:
    return None


@op
def large() -> bytes:
    return b"\0" * 20_000_000


@op
def measures(data: bytes) -> int:
    return len(data)


@op(name="x" * 180)
def long_name() -> int:
    return 1


class Words(Config):
    text: str
    times: int = 2


@op
def configured(config: Words) -> str:
    return config.text * config.times


@op
def leaves_quietly() -> None:
    """Ends with an exception that is not an `Exception`."""
    raise SystemExit(3)


# Resources and hooks ------------------------------------------------------------------------------------------------


class Greeter(ConfigurableResource):
    greeting: str = "hello"

    def greet(self) -> str:
        return self.greeting


@resource
def broken_resource(_context: Any) -> int:
    raise ValueError("cannot start")


@resource
def torn_resource(_context: Any) -> Iterator[int]:
    yield 1
    raise ValueError("cannot stop")


@op(required_resource_keys={"broken"})
def needs_broken() -> int:
    return 1


@op(required_resource_keys={"torn"})
def needs_torn() -> int:
    return 1


@op
def greets(greeter: Greeter) -> str:
    return greeter.greet()


@success_hook
def glad(context: HookContext) -> None:
    context.log.info("glad")


@failure_hook
def sorry(context: HookContext) -> None:
    context.log.info("sorry")


@success_hook
def broken_hook(context: HookContext) -> None:
    raise ValueError("the hook itself fails")


class FolderIO(IOManager):
    """A file an output in a folder that every process sees."""

    def _path(self, context: Any) -> str:
        name = "-".join([*context.get_identifier()][1:]).replace("/", "_")
        folder = os.path.join(tempfile.gettempdir(), "ioi-conformance", context.run_id)
        os.makedirs(folder, exist_ok=True)
        return os.path.join(folder, name)

    def handle_output(self, context: Any, obj: Any) -> None:
        context.add_output_metadata({"written": True})
        with open(self._path(context), "w") as file:
            file.write(repr(obj))

    def load_input(self, context: Any) -> Any:
        with open(self._path(context.upstream_output)) as file:
            return int(file.read())


@io_manager
def folder_io(_context: Any) -> FolderIO:
    return FolderIO()


class BrokenIO(IOManager):
    def handle_output(self, context: Any, obj: Any) -> None:
        raise OSError("the disk is full")

    def load_input(self, context: Any) -> Any:
        raise OSError("nothing there")


@io_manager
def broken_io(_context: Any) -> BrokenIO:
    return BrokenIO()


# Jobs of ops --------------------------------------------------------------------------------------------------------

Make = Callable[[ExecutorDefinition, str], Any]
_JOBS: dict[str, Make] = {}


def _job(**settings: Any) -> Callable[[Callable[[], None]], None]:
    def register(compose: Callable[[], None]) -> None:
        name = compose.__name__

        def make(executor: ExecutorDefinition, job_name: str) -> Any:
            return job(name=job_name, executor_def=executor, **settings)(compose)

        _JOBS[name] = make

    return register


@_job()
def fan_out() -> None:
    total(some().map(add_one).collect())


@_job()
def fan_out_in_two_stages() -> None:
    mapped = some().map(add_one)
    total(mapped.map(add_one).collect())
    total.alias("again")(mapped.collect())


@_job()
def empty_fan_out() -> None:
    total(none().map(add_one).collect())


@_job()
def fan_out_with_a_failure() -> None:
    total(some().map(fails_on_two).collect())


@_job()
def retry_policy() -> None:
    add_one(succeeds_at_third())


@_job()
def retry_requested() -> None:
    add_one(asks_for_retry())


@_job()
def retries_used_up() -> None:
    add_one(fails_for_good())
    one()


@_job()
def skipped_branch() -> None:
    yes, no = branch()
    add_one(yes)
    add_one.alias("after_no")(add_one.alias("on_no")(no))


@_job()
def failure_stops_what_depends() -> None:
    add(add_one(fails()), add_one.alias("fine")(one()))
    add_one.alias("also_fine")(one.alias("other")())


@_job()
def failure_with_metadata() -> None:
    add_one(fails_with_metadata())


@_job()
def several_outputs() -> None:
    left, right = two_outputs()
    add_one(left)
    takes_text(right)


@_job()
def order_without_data() -> None:
    after.alias("second")(start=after.alias("first")(start=one()))


@_job()
def events_of_users() -> None:
    tells()


@_job(hooks={glad, sorry})
def hooks() -> None:
    add_one(one())
    fails()


@_job(hooks={broken_hook})
def hook_that_fails() -> None:
    add_one(one())


@_job()
def pools() -> None:
    for number in range(3):
        pooled.alias(f"pooled_{number}")()


@_job()
def tag_limits() -> None:
    for number in range(3):
        limited.alias(f"limited_{number}")()


@_job()
def priority() -> None:
    urgent()
    one()


@_job()
def values_that_cannot_be_stored() -> None:
    takes_anything(unpicklable())


@_job()
def large_values() -> None:
    measures(large())


@_job()
def long_step_keys() -> None:
    add_one(long_name())


@_job()
def config_of_ops() -> None:
    takes_text(configured())


@_job(resource_defs={"greeter": Greeter(greeting="good day")})
def config_of_resources() -> None:
    greets()


@_job(resource_defs={"broken": broken_resource})
def resource_that_does_not_start() -> None:
    add_one(needs_broken())
    one()


@_job(resource_defs={"torn": torn_resource})
def resource_that_does_not_stop() -> None:
    add_one(needs_torn())


@_job(resource_defs={"io_manager": folder_io})
def io_manager_of_the_users() -> None:
    add_one(one())


@_job(resource_defs={"io_manager": broken_io})
def io_manager_that_fails() -> None:
    add_one(one())


@_job()
def nested_graphs() -> None:
    twice()


@graph
def inner(number: int) -> Any:
    return add_one(number)


@graph(out=GraphOut())
def twice() -> Any:
    return add_one.alias("outer")(inner(one()))


# Assets -------------------------------------------------------------------------------------------------------------

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


outside = AssetSpec("outside")


@asset(deps=[outside])
def depends_on_outside() -> int:
    return 1


@observable_source_asset
def observed() -> Any:
    from dagster import DataVersion

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
ASSETS += [depends_on_outside, observed, failing_asset, behind_failing, described]
CHECKS = [watched_blocks, watched_warns, both]


def _assets(**settings: Any) -> Make:
    return lambda executor, name: define_asset_job(name, executor_def=executor, **settings)


_JOBS |= {
    "assets": _assets(selection=AssetSelection.assets(upstream, downstream).without_checks()),
    "failed_asset": _assets(selection=AssetSelection.assets(failing_asset, behind_failing)),
    "blocking_check_of_the_asset": _assets(selection=AssetSelection.assets(guarded, behind_guard)),
    "blocking_check_apart": _assets(selection=AssetSelection.assets(watched, behind_watched)),
    "checks_of_several": _assets(selection=AssetSelection.assets(upstream)),
    "checks_alone": _assets(selection=AssetSelection.checks(watched_warns)),
    "part_of_a_multi_asset": _assets(selection=AssetSelection.assets(AssetKey("many_b"))),
    "partitions": _assets(selection=AssetSelection.assets(daily, daily_after), partitions_def=DAYS),
    "graph_asset_": _assets(selection=AssetSelection.assets(composed)),
    "external_asset": _assets(selection=AssetSelection.assets(depends_on_outside)),
    "observable_source": _assets(selection=AssetSelection.assets(AssetKey("observed"))),
    "asset_with_everything": _assets(selection=AssetSelection.assets(described)),
}

CASES = tuple(_JOBS)


def job_name(case: str, executor: str) -> str:
    return f"{case}__{executor}"


def build(executors: dict[str, ExecutorDefinition]) -> Definitions:
    """Every case for every executor, named `case__executor`."""
    made = [make(executor, job_name(case, key)) for key, executor in executors.items() for case, make in _JOBS.items()]
    return Definitions(assets=[*ASSETS, outside], asset_checks=CHECKS, jobs=made)
