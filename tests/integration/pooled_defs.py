"""Jobs whose steps are in one pool, and a step that holds the one node until a file is there."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dagster import DagsterInstance, execute_job, job, op, reconstructable

from ioi_dagster import governed_executor

ALONE = {"execution": {"config": {"workers": 1}}}


def folder() -> Path:
    return Path(os.environ["IOI_TEST_FOLDER"])


@op(tags={"dagster/priority": "5"})
def holds() -> None:
    (folder() / "held").touch()
    while not (folder() / "over").exists():
        time.sleep(0.05)


@op(pool="scarce")
def pooled() -> None:
    with (folder() / "pooled").open("a") as file:
        file.write(f"{os.getpid()}\n")


@job(executor_def=governed_executor)
def crowded():
    holds()
    pooled()


@job(executor_def=governed_executor)
def idle():
    pooled()


def run(name: str) -> bool:
    with (
        DagsterInstance.get() as instance,
        execute_job(reconstructable(globals()[name]), instance, run_config=ALONE) as result,
    ):
        return result.success


if __name__ == "__main__":
    sys.exit(0 if run(sys.argv[1]) else 1)
