"""Steps that write their output to a store and then never come to an end that anybody hears of."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from dagster import Config, Definitions, Failure, Output, job, op

from ioi_dagster import LocalFilesIOManager, MemoryIOManager, governed_executor
from ioi_dagster.host import tags
from ioi_dagster.host.exchange import current_exchange

FILES = {"io_manager": LocalFilesIOManager.configure_at_launch()}
MEMORY = {"io_manager": MemoryIOManager.configure_at_launch()}


class Where(Config):
    folder: str


@op
def writes(config: Where) -> Iterator[Output[int]]:
    """Its process ends; should it be tried again, it fails before it writes."""
    try:
        (Path(config.folder) / "tried").mkdir()
    except FileExistsError:
        raise Failure("it was tried before") from None
    yield Output(1)
    exchange = current_exchange()
    assert exchange is not None
    for durable in exchange.writes:
        durable.result()
    os._exit(1)


@op(name="writes")
def writes_and_stands(config: Where) -> Iterator[Output[int]]:
    yield Output(1)
    time.sleep(600)


@job(executor_def=governed_executor, resource_defs=FILES)
def dies() -> None:
    writes()


@job(executor_def=governed_executor, resource_defs=MEMORY)
def dies_with_its_memory() -> None:
    writes()


@job(executor_def=governed_executor, resource_defs=FILES)
def dies_apart() -> None:
    """In a process of its own, which is not started again."""
    writes.tag({tags.EFFECT: "at_most_once"})()


@job(executor_def=governed_executor, resource_defs=FILES)
def stands() -> None:
    writes_and_stands()


defs = Definitions(jobs=[dies, dies_with_its_memory, dies_apart, stands])
