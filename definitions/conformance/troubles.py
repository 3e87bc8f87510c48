"""Jobs whose processes are killed, whose runs are interrupted, and that go well only when they are run again."""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import Config, DynamicOut, DynamicOutput, In, Nothing, OpExecutionContext, op

from definitions.conformance.ops import add_one, one, total
from definitions.conformance.registry import op_job


@op
def two() -> int:
    return 2


@op
def exits() -> int:
    os._exit(3)


@op
def segfaults() -> int:
    return ctypes.string_at(0)[0]


@op
def is_killed() -> int:
    """What the kernel does to the process that takes the last memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 1


@op_job()
def crash_by_exit() -> None:
    add_one(exits())
    add_one.alias("sibling")(one())


@op_job()
def crash_by_segfault() -> None:
    add_one(segfaults())
    add_one.alias("sibling")(one())


@op_job()
def crash_by_kill() -> None:
    add_one(is_killed())
    add_one.alias("sibling")(one())


class Marker(Config):
    folder: str


@op(ins={"after": In(Nothing)}, tags={"ioi/timeout_s": "300"})
def waits(context: OpExecutionContext, config: Marker) -> int:
    """Says that it has begun, and goes on only where a file lets it."""
    (Path(config.folder) / f"begun-{context.op.name}").touch()
    until = time.monotonic() + 60
    while not (Path(config.folder) / "go").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return 1


@op_job()
def waiting() -> None:
    add_one(waits(after=two()))


@op
def fails_at_first(context: OpExecutionContext, number: int) -> int:
    """Only a run that has a parent gets through."""
    if number == 2 and context.run.parent_run_id is None:
        raise ValueError("not in the first run")
    return number


@op(out=DynamicOut(int))
def three() -> Iterator[DynamicOutput[int]]:
    for number in range(1, 4):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op_job()
def again_from_failure() -> None:
    add_one(fails_at_first(two()))
    add_one.alias("fine")(one())


@op_job()
def again_with_dynamic_steps() -> None:
    total(three().map(fails_at_first).map(add_one).collect())
