"""Steps whose run is interrupted: one stops when it is asked to, another swallows that. And steps of a run beside it."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import Config, ConfigurableResource, Definitions, DynamicOut, DynamicOutput, InitResourceContext, job, op

from ioi_dagster import ExchangeIOManager, governed_executor

MODULE = __name__
STEPS = 8


def mark(folder: str, what: str) -> None:
    """One file for each time that something happened, with the number of the process in its name."""
    (Path(folder) / f"{what} {os.getpid()} {uuid.uuid4().hex}").touch()


class Held(ConfigurableResource):
    folder: str

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator["Held"]:
        mark(self.folder, "held")
        try:
            yield self
        finally:
            mark(self.folder, "let-go")


class Where(Config):
    folder: str


@op
def polite(held: Held) -> None:
    mark(held.folder, "polite")
    while True:
        time.sleep(0.01)


@op
def deaf(config: Where) -> None:
    mark(config.folder, "deaf")
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            continue


@op(out=DynamicOut(int))
def several() -> Iterator[DynamicOutput[int]]:
    for number in range(STEPS):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def stands(config: Where, number: int) -> int:
    """Until in its folder lies `go`."""
    mark(config.folder, f"stands-{number}")
    until = time.monotonic() + 120
    while not (Path(config.folder) / "go").exists():
        assert time.monotonic() < until, "nobody let it go on"
        time.sleep(0.02)
    return number


@op
def adds(config: Where, numbers: list[int]) -> None:
    (Path(config.folder) / "sum").write_text(str(sum(numbers)))


@op
def takes_its_turn(config: Where) -> None:
    """Until in its folder lies `go`, as `stands`; nothing comes before it."""
    mark(config.folder, "turn")
    until = time.monotonic() + 120
    while not (Path(config.folder) / "go").exists():
        assert time.monotonic() < until, "nobody let it go on"
        time.sleep(0.02)


VALUES = {"io_manager": ExchangeIOManager()}
HELD = {"held": Held.configure_at_launch()}


@job(executor_def=governed_executor, resource_defs=HELD)
def stops() -> None:
    polite()


@job(executor_def=governed_executor)
def goes_on() -> None:
    deaf()


@job(executor_def=governed_executor, resource_defs=HELD)
def both() -> None:
    polite()
    deaf()


@job(executor_def=governed_executor, resource_defs=VALUES)
def beside() -> None:
    adds(several().map(stands).collect())


TURNS = ("one", "two", "three", "four", "five")


@job(executor_def=governed_executor)
def queue() -> None:
    for name in TURNS:
        takes_its_turn.alias(name)()


JOBS = {
    "queue": TURNS,
    "stops": ("polite",),
    "goes_on": ("deaf",),
    "both": ("polite", "deaf"),
    "beside": ("stands", "adds"),
}


def config_of(name: str, folder: Path) -> dict:
    """Run config of one of the jobs."""
    where = {"config": {"folder": str(folder)}}
    config: dict = {"ops": {step: where for step in JOBS[name] if step != "polite"}}
    return {**config, "resources": {"held": where}} if "polite" in JOBS[name] else config


defs = Definitions(jobs=[queue, stops, goes_on, both, beside])
