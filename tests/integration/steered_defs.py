"""Steps that say where they began, and go on to their end when they are let."""

import time
from collections.abc import Iterator
from pathlib import Path

from dagster import Config, Definitions, DynamicOut, DynamicOutput, job, op
from distributed import get_worker

from ioi_dagster import ExchangeIOManager, governed_executor
from ioi_dagster.host import tags

COUNT = 6


class Where(Config):
    folder: str


@op(out=DynamicOut(int), tags={tags.PLACE_IN: "home"})
def numbers() -> Iterator[DynamicOutput[int]]:
    for number in range(COUNT):
        yield DynamicOutput(number, str(number))


@op(tags={tags.EFFECT: "pure", tags.PLACE_IN: "home"})
def work(config: Where, number: int) -> int:
    folder = Path(config.folder)
    (folder / f"began-{number}-{get_worker().name}").touch()
    while not (folder / f"go-{number}").exists():
        time.sleep(0.02)
    return number


@op(tags={tags.PLACE_IN: "home"})
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def works() -> None:
    total(numbers().map(work).collect())


defs = Definitions(jobs=[works])
