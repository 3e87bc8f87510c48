"""The runs that faults meet. Each start of a step leaves a file in the run's folder that names the step, its fence, its attempt,
its node and its process, and tells the time there.

`python -m tests.chaos.jobs FOLDER` imports everything, says so by a file `ready PID` there, and then takes one line: `{"job": …,
"steps": …, "seconds": …}` for a new run, or `{"resume": RUN}` to go on with one, as whoever launches runs would.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, Definitions, DynamicOut, DynamicOutput, OpExecutionContext, job, op

from ioi_dagster import ExchangeIOManager, governed_executor
from ioi_dagster.compound.attempt import current_attempt
from ioi_dagster.host import tags

MODULE = "tests.chaos.jobs"
PRESS = {tags.RESOURCES: "press=1"}
"""What only the nodes of one cluster have."""


def hold_interpreter(seconds: float) -> None:
    """One call into native code that does not let go, and is busy all the time."""
    began = time.monotonic()
    sum(range(1_000_000))
    sum(range(int(1_000_000 * seconds / (time.monotonic() - began))))


def came(context: OpExecutionContext) -> Path:
    attempt = current_attempt()
    assert attempt is not None
    folder = Path(os.environ["IOI_CHAOS_FOLDER"]) / attempt.run
    folder.mkdir(parents=True, exist_ok=True)
    step = context.get_step_execution_context().step.key
    name = f"{step} {attempt.fence} {attempt.id} {attempt.node} {os.getpid()}"
    (folder / f".{name}").write_text(repr(time.time()))
    (folder / f".{name}").replace(folder / f"began {name}")
    return folder / f"ended {name}"


@op(out=DynamicOut(int), config_schema={"steps": int})
def some(context: OpExecutionContext) -> Iterator[DynamicOutput[int]]:
    came(context)
    for number in range(context.op_config["steps"]):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op(config_schema={"seconds": float})
def square(context: OpExecutionContext, number: int) -> int:
    """Takes its time. The first that finds `hold` there keeps the interpreter for as many seconds as it says."""
    ended, until = came(context), time.monotonic() + context.op_config["seconds"]
    hold = ended.parent / "hold"
    while time.monotonic() < until:
        try:
            hold.rename(hold.with_name("held"))
        except OSError:
            time.sleep(0.01)
        else:
            (ended.parent / f"holds {os.getpid()}").touch()
            hold_interpreter(float((ended.parent / "held").read_text()))
            (ended.parent / f"held {os.getpid()}").touch()
    ended.touch()
    return number * number


@op(config_schema={"seconds": float}, tags={**PRESS, tags.EFFECT: "at_most_once"})
def pays(context: OpExecutionContext) -> int:
    """It may be called once, and takes as long as three of the others."""
    ended = came(context)
    time.sleep(3 * context.op_config["seconds"])  # its work
    ended.touch()
    return 1


@op
def kills(context: OpExecutionContext, number: int) -> int:
    """It takes its node down each time."""
    came(context)
    if number == 0:
        time.sleep(0.2)
        os._exit(1)
    return number


@op
def total(context: OpExecutionContext, numbers: list[int]) -> int:
    ended = came(context)
    (ended.parent / "total").write_text(str(sum(numbers)))
    return sum(numbers)


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def spread() -> None:
    total(some().map(square).collect())


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def paying() -> None:
    pays()
    total(some().map(square).collect())


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def pressing() -> None:
    total(some().map(square.tag(PRESS)).collect())


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def poisoned() -> None:
    some().map(kills)


JOBS = (spread, paying, pressing, poisoned)
defs = Definitions(jobs=JOBS)


def config_of(asked: dict[str, Any]) -> dict[str, Any]:
    ops: dict[str, Any] = {"some": {"config": {"steps": asked["steps"]}}}
    if asked["job"] != "poisoned":
        ops["square"] = {"config": {"seconds": asked["seconds"]}}
    if asked["job"] == "paying":
        ops["pays"] = {"config": {"seconds": asked["seconds"]}}
    return {
        "ops": ops,
        "execution": {"config": {"objective": "cheapest"}},
        "loggers": {"console": {"config": {"log_level": "ERROR"}}},
    }


def main() -> int:
    from ioi_dagster.host.private import execute_as_launched
    from ioi_dagster.host.runs import create_governed_run, execute_governed_run, job_of
    from ioi_dagster.local.home import PROJECT

    jobs = {one.name: job_of(MODULE, one.name, PROJECT) for one in JOBS}
    for one in jobs.values():
        one.get_definition()
    folder = Path(sys.argv[1])
    (folder / f"ready {os.getpid()}").touch()
    asked = json.loads(sys.stdin.readline())
    with DagsterInstance.get() as instance:
        if "resume" in asked:
            execute_as_launched(asked["resume"], instance, resume=True)
            return 0
        run_id, _ = create_governed_run(instance, jobs[asked["job"]], config_of(asked), {})
        (folder / f"run {os.getpid()}").write_text(run_id)
        return 0 if execute_governed_run(instance, jobs[asked["job"]], run_id) else 1


if __name__ == "__main__":
    sys.exit(main())
