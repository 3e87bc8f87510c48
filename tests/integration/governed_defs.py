"""A job that leaves a trace wherever any of its code runs as a step, on three executors."""

from pathlib import Path

from dagster import Config, Definitions, OpExecutionContext, in_process_executor, job, op

from ioi_dagster import governed_executor


class Where(Config):
    folder: str


@op
def first(config: Where) -> int:
    (Path(config.folder) / "first").touch()
    return 1


@op
def second(context: OpExecutionContext, number: int) -> int:
    return number


@job(executor_def=governed_executor)
def governed() -> None:
    second(first())


@job(executor_def=in_process_executor)
def stock() -> None:
    second(first())


defs = Definitions(jobs=[governed, stock])
