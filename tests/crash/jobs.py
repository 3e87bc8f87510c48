"""Small runs whose process is killed: a chain, a fan-out, assets with checks, and everything else that a plan does.

Each start of a step leaves a file in the run's folder that names the step, its fence, its attempt and the try.
"""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    ConfigurableResource,
    DagsterInstance,
    Definitions,
    DynamicOut,
    DynamicOutput,
    InitResourceContext,
    OpExecutionContext,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    asset,
    asset_check,
    build_input_context,
    build_output_context,
    define_asset_job,
    job,
    op,
)

from ioi_dagster import ExchangeIOManager, LocalFilesIOManager, MemoryIOManager, governed_executor
from ioi_dagster.compound.attempt import current_attempt

MAPPED = 6


def came(context: Any) -> None:
    """Leaves a file for this start, and takes a moment, so that a kill may come meanwhile."""
    attempt = current_attempt()
    assert attempt is not None
    folder = Path(os.environ["IOI_CRASH_FOLDER"]) / attempt.run
    folder.mkdir(parents=True, exist_ok=True)
    step = getattr(context, "op_execution_context", context).get_step_execution_context().step.key
    (folder / f"{step} {attempt.fence} {attempt.id} {uuid.uuid4().hex}").touch()
    time.sleep(0.01)


# A chain: one task on a cluster of the run's owner --------------------------------------------------------------------


@op
def first(context: OpExecutionContext) -> int:
    came(context)
    return 1


@op
def one_more(context: OpExecutionContext, number: int) -> int:
    came(context)
    return number + 1


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def chain() -> None:
    value = first()
    for number in range(6):
        value = one_more.alias(f"link_{number}")(value)


# A fan-out --------------------------------------------------------------------------------------------------------------


@op(out=DynamicOut(int))
def some(context: OpExecutionContext) -> Iterator[DynamicOutput[int]]:
    came(context)
    for number in range(MAPPED):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op
def square(context: OpExecutionContext, number: int) -> int:
    came(context)
    return number * number


@op
def total(context: OpExecutionContext, numbers: list[int]) -> int:
    came(context)
    return sum(numbers)


@job(executor_def=governed_executor, resource_defs={"io_manager": LocalFilesIOManager()})
def fan_out() -> None:
    total(some().map(square).collect())


# Assets -----------------------------------------------------------------------------------------------------------------


@asset
def raw(context: AssetExecutionContext) -> int:
    came(context)
    return 20


@asset_check(asset=raw, blocking=True)
def raw_is_positive(context: AssetCheckExecutionContext, raw: int) -> AssetCheckResult:
    came(context)
    return AssetCheckResult(passed=raw > 0)


@asset(check_specs=[AssetCheckSpec("is_even", asset="doubled")])
def doubled(context: AssetExecutionContext, raw: int) -> Iterator[Any]:
    came(context)
    yield Output(raw * 2, metadata={"raw": raw})
    yield AssetCheckResult(check_name="is_even", passed=True)


@asset
def last(context: AssetExecutionContext, doubled: int) -> int:
    came(context)
    return doubled + 2


# Everything else --------------------------------------------------------------------------------------------------------


@op(out={"never": Out(int, is_required=False), "always": Out(int)})
def one_of_two(context: OpExecutionContext) -> Iterator[Output[int]]:
    came(context)
    yield Output(1, "always")


@op
def again_at_once(context: OpExecutionContext, number: int) -> int:
    came(context)
    if context.retry_number < 2:
        raise RetryRequested(max_retries=2)
    return number + context.retry_number


@op(retry_policy=RetryPolicy(max_retries=1, delay=0.1))
def again_later(context: OpExecutionContext, number: int) -> int:
    came(context)
    if context.retry_number == 0:
        raise ValueError("not yet")
    return number


@op
def fails(context: OpExecutionContext) -> int:
    came(context)
    raise ValueError("it always does")


class Unable(ConfigurableResource):
    def setup_for_execution(self, context: InitResourceContext) -> None:
        raise ValueError("no such server")


@op(retry_policy=RetryPolicy(max_retries=1))
def needs_unable(unable: Unable) -> int:
    return 1


@job(executor_def=governed_executor, resource_defs={"io_manager": MemoryIOManager(), "unable": Unable()})
def odd() -> None:
    needs_unable()
    never, always = one_of_two()
    one_more.alias("skipped")(never)
    again_later(again_at_once(always))
    one_more.alias("after_failure")(fails())


defs = Definitions(
    assets=[raw, doubled, last],
    asset_checks=[raw_is_positive],
    jobs=[chain, fan_out, odd, define_asset_job("assets", "*")],
    resources={"io_manager": LocalFilesIOManager()},
    executor=governed_executor,
)

JOBS = ("chain", "fan_out", "assets", "odd")
_MANAGERS = {
    "chain": ExchangeIOManager,
    "fan_out": LocalFilesIOManager,
    "assets": LocalFilesIOManager,
    "odd": MemoryIOManager,
}


def read_output(instance: DagsterInstance, job_name: str, run_id: str, handle: tuple[str, str, str]) -> Any:
    """What a later step, a re-execution or a person reads of an output: its IO manager's answer, outside any step."""
    step, name, mapping_key = handle
    upstream = build_output_context(step_key=step, name=name, run_id=run_id, mapping_key=mapping_key or None)
    manager = _MANAGERS[job_name](folder=str(Path(instance.root_directory) / "storage" / "ioi"))
    with build_input_context(upstream_output=upstream) as context:
        return manager.load_input(context)
