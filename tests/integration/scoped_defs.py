"""Jobs whose steps share resources for as long as their run."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import (
    Config,
    ConfigurableResource,
    Definitions,
    InitResourceContext,
    ResourceParam,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
    resource,
)

from ioi_dagster import ExchangeIOManager, governed_executor, run_scoped

FOLDER = "IOI_TEST_FOLDER"


def folder() -> Path:
    return Path(os.environ[FOLDER])


def note(*words: object) -> None:
    with (folder() / "notes").open("a") as notes:
        notes.write(" ".join(map(str, words)) + "\n")


class Thing:
    def __init__(self, name: str, run: str) -> None:
        self.name, self.run, self.open = name, run, True

    def close(self) -> None:
        self.open = False
        note("close", self.name, self.run)


@resource(config_schema={"name": str})
def connection(context) -> Iterator[Thing]:
    thing = Thing(context.resource_config["name"], context.run.run_id)
    note("open", thing.name, thing.run)
    yield thing
    thing.close()


class Model(ConfigurableResource):
    name: str

    def setup_for_execution(self, context: InitResourceContext) -> None:
        self._run = context.run.run_id  # pyright: ignore
        note("open", self.name, self._run)

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        note("close", self.name, self._run)


class Pool(ConfigurableResource):
    model: Model

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext):
        note("open", "pool", context.run.run_id)  # pyright: ignore
        yield self
        note("close", "pool", context.run.run_id)  # pyright: ignore


@resource
def fails_once() -> str:
    note("try")
    if not (folder() / "failed").exists():
        (folder() / "failed").touch()
        raise ValueError("not yet")
    return "there"


@resource
def ends_badly(context) -> Iterator[int]:
    note("open", "bad", context.run.run_id)
    yield 1
    note("close", "bad", context.run.run_id)
    raise ValueError("it does not close")


@resource(required_resource_keys={"of_a_step"})
def hanging_on(context) -> str:
    return context.resources.of_a_step


@resource
def of_a_step() -> str:
    return "short"


class Waits(Config):
    for_file: str = ""


@op
def begins(config: Waits) -> int:
    note("begun")
    while config.for_file and not (folder() / config.for_file).exists():
        time.sleep(0.01)
    return 0


@op
def at_once() -> int:
    return 0


@op
def uses(context, number: int, connection: ResourceParam[Thing], model: Model, pool: Pool) -> int:
    assert connection.open
    assert connection.run == context.run_id
    note("use", id(connection), context.run_id)
    return number + 1


@op(required_resource_keys={"odd"})
def uses_odd(context, number: int) -> int:
    note("use", context.resources.odd)
    return number


RESOURCES = {
    "connection": run_scoped(connection),
    "model": run_scoped(Model(name="model")),
    "pool": run_scoped(Pool(model=Model(name="inner"))),
    "io_manager": ExchangeIOManager(),
}
CONFIG = {"resources": {"connection": {"config": {"name": "connection"}}}}


def several(name: str, executor, copies: str = "abc"):
    resources = (
        RESOURCES if executor is governed_executor else {k: v for k, v in RESOURCES.items() if k != "io_manager"}
    )

    @job(name=name, executor_def=executor, resource_defs=resources)
    def it():
        number = begins()
        for copy in copies:
            uses.alias(f"{copy}2")(uses.alias(copy)(number))

    return it


def odd(name: str, **resources):
    @job(name=name, executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager(), **resources})
    def it():
        number = begins()
        uses_odd.alias("one")(number)
        uses_odd.alias("two")(number)

    return it


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def interrupted():
    uses(at_once())
    begins()


governed = several("governed", governed_executor)
in_process = several("in_process", in_process_executor)
multiprocess = several("multiprocess", multiprocess_executor, "a")
failing = odd("failing", odd=run_scoped(fails_once))
not_closing = odd("not_closing", odd=run_scoped(ends_badly))
too_short = odd("too_short", odd=run_scoped(hanging_on), of_a_step=of_a_step)

defs = Definitions(jobs=[governed, in_process, multiprocess, failing, not_closing, too_short, interrupted])
