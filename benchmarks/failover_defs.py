"""The run whose nodes are lost in `benchmarks.failover`; `python -m benchmarks.failover_defs FOLDER NODES STEPS` runs it.

Each step says where and when it begins by a file in the folder, `begun <step> <fence> <node> <process>`, whose content is the
time, and waits until its `end <step>` is there. `hold <step>` has it keep the interpreter for as many seconds as stand in there.
One step waits at a time; before them as many as there are nodes run at once, so that every node has loaded what a step needs.
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

MODULE = "benchmarks.failover_defs"


def hold_interpreter(seconds: float) -> None:
    """One call into native code that does not let go: no other thread of the process runs, and it is busy all the time."""
    began = time.monotonic()
    sum(range(2_000_000))
    sum(range(int(2_000_000 * seconds / (time.monotonic() - began))))


@op(out=DynamicOut(int), config_schema={"nodes": int})
def one_each(context: OpExecutionContext) -> Iterator[DynamicOutput[int]]:
    for number in range(context.op_config["nodes"]):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op(config_schema={"folder": str, "nodes": int})
def warms(context: OpExecutionContext, number: int) -> int:
    """Waits until there is one of its like on each node."""
    attempt, folder = current_attempt(), Path(context.op_config["folder"])
    assert attempt is not None
    (folder / f"warm {attempt.node}").touch()
    while len(list(folder.glob("warm *"))) < context.op_config["nodes"]:
        time.sleep(0.02)
    return number


@op(out=DynamicOut(int), config_schema={"steps": int})
def some(context: OpExecutionContext, warm: list[int]) -> Iterator[DynamicOutput[int]]:
    for number in range(context.op_config["steps"]):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op(config_schema={"folder": str}, tags={"waits": "yes"})
def waits(context: OpExecutionContext, number: int) -> int:
    attempt, folder = current_attempt(), Path(context.op_config["folder"])
    assert attempt is not None
    begun = folder / f"begun {number} {attempt.fence} {attempt.node} {os.getpid()}"
    part = folder / f"part {number} {attempt.fence}"
    part.write_text(repr(time.time()))
    part.replace(begun)
    hold = folder / f"hold {number}"
    while not (folder / f"end {number}").exists():
        if hold.exists():
            seconds = float(hold.read_text())
            hold.unlink()
            hold_interpreter(seconds)
            (folder / f"held {number}").touch()
        time.sleep(0.005)
    return number


@op
def total(context: OpExecutionContext, numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def lost_nodes() -> None:
    total(some(one_each().map(warms).collect()).map(waits).collect())


defs = Definitions(jobs=[lost_nodes])


def main() -> int:
    from ioi_dagster.host.runs import create_governed_run, execute_governed_run, job_of, why_failed
    from ioi_dagster.local.home import PROJECT

    folder, nodes, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config: dict[str, Any] = {
        "ops": {
            "one_each": {"config": {"nodes": nodes}},
            "warms": {"config": {"folder": folder, "nodes": nodes}},
            "some": {"config": {"steps": steps}},
            "waits": {"config": {"folder": folder}},
        },
        "execution": {"config": {"tag_concurrency_limits": [{"key": "waits", "limit": 1}], "objective": "cheapest"}},
        "loggers": {"console": {"config": {"log_level": "ERROR"}}},
    }
    its = job_of(MODULE, "lost_nodes", PROJECT)
    with DagsterInstance.get() as instance:
        run_id, _ = create_governed_run(instance, its, config, {})
        (Path(folder) / "run").write_text(json.dumps(run_id))
        if execute_governed_run(instance, its, run_id):
            return 0
        print(why_failed(instance, run_id), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
