"""Jobs with resources, hooks and IO managers, sound ones and broken ones."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

from dagster import (
    ConfigurableResource,
    HookContext,
    IOManager,
    failure_hook,
    io_manager,
    mem_io_manager,
    op,
    resource,
    success_hook,
)

from definitions.conformance.ops import add_one, fails, one, some, total
from definitions.conformance.registry import op_job
from ioi_dagster import ExchangeIOManager


class Greeter(ConfigurableResource):
    greeting: str = "hello"

    def greet(self) -> str:
        return self.greeting


@resource
def broken_resource(_context: Any) -> int:
    raise ValueError("cannot start")


@resource
def torn_resource(_context: Any) -> Iterator[int]:
    yield 1
    raise ValueError("cannot stop")


@op(required_resource_keys={"broken"})
def needs_broken() -> int:
    return 1


@op(required_resource_keys={"torn"})
def needs_torn() -> int:
    return 1


@op
def greets(greeter: Greeter) -> str:
    return greeter.greet()


@success_hook
def glad(context: HookContext) -> None:
    context.log.info("glad")


@failure_hook
def sorry(context: HookContext) -> None:
    context.log.info("sorry")


@success_hook
def broken_hook(context: HookContext) -> None:
    raise ValueError("the hook itself fails")


class FolderIO(IOManager):
    """A file an output in a folder that every process sees."""

    def _path(self, context: Any) -> str:
        name = "-".join([*context.get_identifier()][1:]).replace("/", "_")
        folder = os.path.join(tempfile.gettempdir(), "ioi-conformance", context.run_id)
        os.makedirs(folder, exist_ok=True)
        return os.path.join(folder, name)

    def handle_output(self, context: Any, obj: Any) -> None:
        context.add_output_metadata({"written": True})
        with open(self._path(context), "w") as file:
            file.write(repr(obj))

    def load_input(self, context: Any) -> Any:
        with open(self._path(context.upstream_output)) as file:
            return int(file.read())


@io_manager
def folder_io(_context: Any) -> FolderIO:
    return FolderIO()


class BrokenIO(IOManager):
    def handle_output(self, context: Any, obj: Any) -> None:
        raise OSError("the disk is full")

    def load_input(self, context: Any) -> Any:
        raise OSError("nothing there")


@io_manager
def broken_io(_context: Any) -> BrokenIO:
    return BrokenIO()


# Jobs ---------------------------------------------------------------------------------------------------------------


@op_job(hooks={glad, sorry})
def hooks() -> None:
    add_one(one())
    fails()


@op_job(hooks={broken_hook})
def hook_that_fails() -> None:
    add_one(one())


@op_job(resource_defs={"greeter": Greeter(greeting="good day")})
def config_of_resources() -> None:
    greets()


@op_job(resource_defs={"broken": broken_resource})
def resource_that_does_not_start() -> None:
    add_one(needs_broken())
    one()


@op_job(resource_defs={"torn": torn_resource})
def resource_that_does_not_stop() -> None:
    add_one(needs_torn())


@op_job(resource_defs={"io_manager": folder_io})
def io_manager_of_the_users() -> None:
    add_one(one())


@op_job(resource_defs={"io_manager": broken_io})
def io_manager_that_fails() -> None:
    add_one(one())


@op_job(resource_defs={"io_manager": mem_io_manager})
def io_manager_in_memory() -> None:
    add_one(one())


@op_job(resource_defs={"io_manager": ExchangeIOManager()})
def io_manager_of_ours() -> None:
    total(some().map(add_one).collect())
