"""Jobs whose run processes come to an end that the launcher has to see."""

from dagster import Definitions, job, multiprocess_executor, op

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


defs = Definitions(jobs=[gated, stock, alone])
