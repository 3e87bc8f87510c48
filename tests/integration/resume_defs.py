"""Jobs that stand still where a test wants to kill or freeze their run process: in its folder lies `go` when they may go on."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from dagster import (
    Config,
    Definitions,
    DynamicOut,
    DynamicOutput,
    OpExecutionContext,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    job,
    op,
)

from ioi_dagster import governed_executor
from ioi_dagster.host import tags

FREE = 4
"""Steps that do not wait."""


class Where(Config):
    folder: str


class Many(Where):
    count: int = 8


def came(folder: str, step: str) -> None:
    """Leaves a file for each start of a step."""
    (Path(folder) / f"{step} {uuid.uuid4().hex}").touch()


def wait_for(folder: str, name: str) -> None:
    until = time.monotonic() + 120
    while not (Path(folder) / name).exists():
        assert time.monotonic() < until, f"nobody let it go on: {name}"
        time.sleep(0.02)


@op(out=DynamicOut(int))
def some(config: Many) -> Iterator[DynamicOutput[int]]:
    for number in range(config.count):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op
def same(context: OpExecutionContext, config: Where, number: int) -> int:
    came(config.folder, context.get_step_execution_context().step.key)
    if number >= FREE:
        wait_for(config.folder, "go")
    return number


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=governed_executor)
def gated() -> None:
    total(some().map(same).collect())


@op(out={"never": Out(int, is_required=False), "always": Out(int)})
def one_of_two() -> Iterator[Output[int]]:
    yield Output(1, "always")


@op
def skipped(number: int) -> int:
    return number


@op
def again_at_once(context: OpExecutionContext) -> int:
    if context.retry_number == 0:
        raise RetryRequested(max_retries=1)
    return context.retry_number


@op
def again_later(context: OpExecutionContext, config: Where, first: int) -> int:
    came(config.folder, "again_later")
    if context.retry_number == 0:
        raise RetryRequested(max_retries=1, seconds_to_wait=2)
    return context.retry_number


@op
def fails() -> int:
    raise ValueError("it fails")


@op
def after_failure(number: int) -> int:
    return number


@job(executor_def=governed_executor)
def odd() -> None:
    """Everything that Dagster's plan does besides running a step."""
    never, _ = one_of_two()
    skipped(skipped.alias("skipped_first")(never))
    again_later(again_at_once())
    after_failure(fails())


@op(tags={tags.EFFECT: "at_most_once"})
def once(config: Where) -> int:
    came(config.folder, "once")
    wait_for(config.folder, "go")
    return 1


@job(executor_def=governed_executor)
def careful() -> None:
    once()


@op
def first() -> int:
    return 1


@op(retry_policy=RetryPolicy(max_retries=1))
def fails_once(context: OpExecutionContext, number: int) -> int:
    if context.retry_number == 0:
        raise ValueError("not yet")
    return number


@job(executor_def=governed_executor)
def chain() -> None:
    fails_once(first())


@op(tags={"dagster/concurrency_key": "few"})
def takes_a_slot() -> int:
    return 1


@op(pool="few")
def takes_it_then(number: int) -> int:
    return number


@job(executor_def=governed_executor)
def pooled() -> None:
    takes_it_then(takes_a_slot())


@op(pool="few")
def holds_a_slot(config: Where) -> int:
    came(config.folder, "holds_a_slot")
    wait_for(config.folder, "go")
    return 1


@job(executor_def=governed_executor)
def held() -> None:
    takes_it_then(holds_a_slot())


defs = Definitions(jobs=[gated, odd, careful, chain, pooled, held])
