"""Pages that are read at once, but for the last one, which takes whoever reads it first for ever."""

import time
from collections.abc import Iterator
from pathlib import Path

from dagster import Config, Definitions, DynamicOut, DynamicOutput, job, op

from ioi_dagster import ExchangeIOManager, governed_executor
from ioi_dagster.host import tags

PAGES = 6


class Where(Config):
    folder: str


@op(out=DynamicOut(int), tags={tags.PLACE_IN: "home"})
def pages() -> Iterator[DynamicOutput[int]]:
    for number in range(PAGES):
        yield DynamicOutput(number, str(number))


@op(tags={tags.EFFECT: "pure", tags.PLACE_IN: "home"})
def read(config: Where, number: int) -> int:
    folder = Path(config.folder)
    if number < PAGES - 1 or (folder / "hangs").exists():
        return number
    (folder / "hangs").touch()
    try:
        while True:
            time.sleep(0.05)
    finally:
        (folder / "stopped").touch()


@op(tags={tags.PLACE_IN: "home"})
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def reads() -> None:
    total(pages().map(read).collect())


@job(executor_def=governed_executor)
def reads_alone() -> None:
    total(pages().map(read).collect())


defs = Definitions(jobs=[reads, reads_alone])
