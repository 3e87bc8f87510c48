"""Where the jobs are gathered, each as a function that builds it for an executor."""

from collections.abc import Callable
from typing import Any

from dagster import ExecutorDefinition, define_asset_job, job

Make = Callable[[ExecutorDefinition, str], Any]
JOBS: dict[str, Make] = {}


def op_job(**settings: Any) -> Callable[[Callable[[], None]], None]:
    """The decorated function composes a job of its name."""

    def register(compose: Callable[[], None]) -> None:
        def make(executor: ExecutorDefinition, job_name: str) -> Any:
            return job(name=job_name, executor_def=executor, **settings)(compose)

        JOBS[compose.__name__] = make

    return register


def asset_job(name: str, **settings: Any) -> None:
    """A job of assets; `settings` as in `define_asset_job`."""
    JOBS[name] = lambda executor, job_name: define_asset_job(job_name, executor_def=executor, **settings)
