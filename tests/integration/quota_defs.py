"""Steps that stand still until in their folder lies `go`, or `go` with their number, leaving how often they were stopped, and one
that does not."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from dagster import Config, Definitions, DynamicOut, DynamicOutput, HookContext, failure_hook, job, op

from ioi_dagster import ExchangeIOManager, checkpoint, governed_executor
from ioi_dagster.host import tags


class Where(Config):
    folder: str


@op(out=DynamicOut(int), tags={tags.PLACE_IN: "home"})
def several() -> Iterator[DynamicOutput[int]]:
    for number in range(4):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op(tags={tags.PLACE_IN: "home", tags.CHECKPOINTABLE: "true"})
def stands(config: Where, number: int) -> int:
    folder = Path(config.folder)
    (folder / f"came {uuid.uuid4().hex}").touch()
    before = (checkpoint.last() or b"").decode()
    checkpoint.ready(grace_s=10)
    until = time.monotonic() + 120
    while not (folder / "go").exists() and not (folder / f"go {number}").exists():
        assert time.monotonic() < until, "nobody let it go on"
        if checkpoint.wanted:
            (folder / f"left {number} {len(before)}").touch()
            checkpoint.leave(f"{before}x".encode())
        time.sleep(0.02)
    (folder / f"done {number} {len(before)}").touch()
    return number


@op(tags={tags.PLACE_IN: "home"})
def passes() -> int:
    return 1


@failure_hook
def hooked(context: HookContext) -> None:
    (Path(context.op_config["folder"]) / "hooked").touch()


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def flood() -> None:
    several().map(stands.with_hooks({hooked}))


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def one() -> None:
    passes()


defs = Definitions(jobs=[flood, one])
