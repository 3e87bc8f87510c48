"""Steps that do nothing, for every executor that is timed."""

from collections.abc import Iterator

from dagster import (
    Config,
    Definitions,
    DynamicOut,
    DynamicOutput,
    ExecutorDefinition,
    JobDefinition,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
)
from dagster_dask import dask_executor

from ioi_dagster import governed_executor

LINKS = 200


class Count(Config):
    count: int = 3


@op(out=DynamicOut(int))
def some(config: Count) -> Iterator[DynamicOutput[int]]:
    for number in range(config.count):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op
def same(number: int) -> int:
    return number


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@op
def link_0() -> int:
    return 0


@op
def link(number: int) -> int:
    return number


def _fan_out(name: str, executor: ExecutorDefinition) -> JobDefinition:
    @job(name=f"fan_out__{name}", executor_def=executor)
    def fan_out() -> None:
        total(some().map(same).collect())

    return fan_out


def _chain(name: str, executor: ExecutorDefinition) -> JobDefinition:
    @job(name=f"chain__{name}", executor_def=executor)
    def chain() -> None:
        number = link_0()
        for position in range(1, LINKS):
            number = link.alias(f"link_{position}")(number)

    return chain


def _static(name: str, executor: ExecutorDefinition) -> JobDefinition:
    @job(name=f"static__{name}", executor_def=executor)
    def static() -> None:
        for position in range(LINKS):
            link_0.alias(f"link_{position}")()

    return static


EXECUTORS = {
    "governed": governed_executor,
    "in_process": in_process_executor,
    "multiprocess": multiprocess_executor,
    "dask": dask_executor,
}

defs = Definitions(
    jobs=[make(name, executor) for name, executor in EXECUTORS.items() for make in (_fan_out, _chain, _static)]
)
