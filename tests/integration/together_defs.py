"""Steps that take a GPU, steps that meet each other, and steps that nobody could ever run."""

import os
import time
from pathlib import Path

from dagster import Config, Definitions, OpExecutionContext, job, op

from ioi_dagster import ExchangeIOManager, governed_executor
from ioi_dagster.host import tags

HOME = {tags.PLACE_IN: "home"}
STORED = {"io_manager": ExchangeIOManager()}


class Where(Config):
    folder: str


@op(tags={**HOME, tags.RESOURCES: "gpu=1, memory=64MiB"})
def on_gpu(config: Where) -> None:
    held = Path(config.folder) / "gpu"
    held.touch(exist_ok=False)
    time.sleep(0.5)
    held.unlink()


@op(tags={**HOME, tags.GANG: "pair"})
def meets(context: OpExecutionContext, config: Where) -> None:
    """Goes on when the other one is there too."""
    folder = Path(config.folder)
    (folder / f"here {context.op_handle.name}").write_text(str(os.getpid()))
    until = time.monotonic() + 60
    while len(list(folder.glob("here *"))) < 2:
        assert time.monotonic() < until, "the other one did not come"
        time.sleep(0.02)


@job(executor_def=governed_executor, resource_defs=STORED)
def three_on_gpu() -> None:
    for number in range(3):
        on_gpu.alias(f"gpu_{number}")()


@job(executor_def=governed_executor, resource_defs=STORED)
def pair() -> None:
    for name in ("one", "other"):
        meets.alias(name)()


@op(tags={**HOME, tags.RESOURCES: "tpu=1"})
def on_tpu() -> None: ...


@op(tags={**HOME, tags.RESOURCES: "memory=1TiB"})
def vast() -> None: ...


@job(executor_def=governed_executor, resource_defs=STORED)
def impossible() -> None:
    on_tpu()
    vast()


defs = Definitions(jobs=[three_on_gpu, pair, impossible])
