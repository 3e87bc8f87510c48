"""Steps that behave badly, each in its own way, and harmless ones beside them."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from dagster import (
    ConfigurableResource,
    DynamicOut,
    DynamicOutput,
    Out,
    RetryPolicy,
    job,
    multiprocess_executor,
    op,
    resource,
)

from ioi_dagster import ExchangeIOManager, LocalFilesIOManager, MemoryIOManager, governed_executor

VALUES = {"io_manager": ExchangeIOManager()}
SMALL_VALUES = {"io_manager": ExchangeIOManager(max_mib=1)}


def folder() -> Path:
    return Path(os.environ["IOI_TEST_FOLDER"])


def mark(name: str) -> None:
    """One file for each time that something happened."""
    (folder() / f"{name}.{time.time_ns()}").touch()


@op(out=DynamicOut(int))
def eight() -> Iterator[DynamicOutput[int]]:
    for number in range(8):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def harmless(number: int) -> int:
    mark(f"harmless-{number}")
    return number


# Values -------------------------------------------------------------------------------------------------------------


@op
def unpicklable() -> Any:
    return threading.Lock()


@op
def large() -> bytes:
    return bytes(3 * 2**20)


@op
def nested() -> list:
    deep: list = []
    for _ in range(50_000):
        deep = [deep]
    return deep


@op
def odd() -> Any:
    circle: list = ["\ud800", math.nan, 10**3000, {"b": 1, "a": 2}]
    circle.append(circle)
    return circle


@op
def takes_odd(value: Any) -> str:
    assert value[4] is value
    assert math.isnan(value[1])
    assert value[2] == 10**3000
    return f"{value[0]!a} {list(value[3])}"


@op
def exits_politely() -> None:
    raise SystemExit(3)


@job(executor_def=governed_executor, resource_defs=SMALL_VALUES)
def odd_values():
    unpicklable()
    large()
    nested()
    exits_politely()
    takes_odd(odd())
    eight().map(harmless)


# Ends of the process ------------------------------------------------------------------------------------------------


@op
def segfaults() -> None:
    mark("segfaults")
    ctypes.string_at(0)


@op(retry_policy=RetryPolicy(max_retries=3))
def exits() -> None:
    mark("exits")
    os._exit(7)


@job(executor_def=governed_executor)
def crashes():
    segfaults()
    exits()
    eight().map(harmless)


@op
def forks() -> str:
    """The copy goes on with the step as if it were the worker."""
    if os.fork() == 0:
        mark("copy")
        return "the copy's"
    return "the worker's"


@op
def forks_and_dies() -> str:
    """Its copy lives on, and with it whatever the copy keeps open."""
    if list(folder().glob("lives-*")):
        return "again"
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    (folder() / f"lives-{child}").touch()
    os._exit(1)


@job(executor_def=governed_executor, resource_defs=VALUES)
def forking():
    forks()
    forks_and_dies()
    eight().map(harmless)


# Memory and output --------------------------------------------------------------------------------------------------


@op
def leaks() -> None:
    mark("leaks")
    kept = []
    while True:
        kept.append(b"x" * 2**22)
        time.sleep(0.01)


@op
def leaks_and_will_not_stop() -> None:
    mark("will-not-stop")
    kept = []
    while True:
        try:
            while True:
                kept.append(b"x" * 2**22)
                time.sleep(0.005)
        except BaseException:
            continue


@job(executor_def=governed_executor)
def leaking():
    leaks()
    leaks_and_will_not_stop()
    eight().map(harmless)


@op(config_schema={"mib": int})
def prints(context) -> int:
    line = "x" * 1023
    before = psutil.Process().memory_info().rss
    for _ in range(context.op_config["mib"] * 1024):
        print(line)
    return (psutil.Process().memory_info().rss - before) // 2**20


@job(executor_def=governed_executor, resource_defs=VALUES)
def printing():
    prints()
    eight().map(harmless)


@op(config_schema={"mib": int})
def makes(context) -> bytes:
    return bytes(context.op_config["mib"] * 2**20)


@op
def measures(data: bytes) -> int:
    return len(data)


@job(executor_def=governed_executor, resource_defs=VALUES)
def making():
    measures(makes())
    eight().map(harmless)


@job(executor_def=governed_executor, resource_defs={"io_manager": LocalFilesIOManager()})
def making_files():
    measures(makes())
    eight().map(harmless)


@op(out=Out(io_manager_key="files"))
def too_large_for_the_disk() -> bytes:
    mark("made")
    return os.urandom(2 * 2**20)


@op(out=Out(io_manager_key="memory"))
def too_large_for_its_copy() -> bytes:
    mark("made")
    return os.urandom(2 * 2**20)


@op(out=Out(io_manager_key="files"))
def fits() -> int:
    return 1


@op
def takes_what_fits(number: int) -> int:
    return number


ON_DISK = {
    "files": LocalFilesIOManager.configure_at_launch(),
    "memory": MemoryIOManager.configure_at_launch(),
}


@job(executor_def=governed_executor, resource_defs={**VALUES, **ON_DISK})
def filling():
    too_large_for_the_disk()
    too_large_for_its_copy()
    takes_what_fits(fits())
    eight().map(harmless)


# Time and tags ------------------------------------------------------------------------------------------------------


@op(tags={"ioi/timeout_s": "0.3"})
def swallows_its_timeout() -> str:
    try:
        while True:
            time.sleep(0.01)
    except Exception:
        mark("swallowed")
        return "as if nothing had been"


@op(tags={"ioi/timeout_s": "0.3"}, retry_policy=RetryPolicy(max_retries=1))
def never_returns() -> None:
    mark("never-returns")
    time.sleep(10_000)


@op(tags={"ioi/timeout_s": "soon"})
def bad_timeout() -> None: ...


@op(tags={"ioi/effect": "twice"})
def bad_effect() -> None: ...


@op(tags={"ioi/data_class": "secret"})
def bad_class() -> None: ...


@job(executor_def=governed_executor, resource_defs=VALUES)
def out_of_time():
    swallows_its_timeout()
    never_returns()
    bad_timeout()
    bad_effect()
    bad_class()
    eight().map(harmless)


# Resources ----------------------------------------------------------------------------------------------------------


class Unable(ConfigurableResource):
    def setup_for_execution(self, context) -> None:
        mark("setup")
        raise ValueError("no such server")


class Untidy(ConfigurableResource):
    def teardown_after_execution(self, context) -> None:
        mark("teardown")
        raise ValueError("cannot be closed")


@op(retry_policy=RetryPolicy(max_retries=1))
def needs_unable(unable: Unable) -> None: ...


@op
def needs_untidy(untidy: Untidy) -> int:
    return 1


@op
def after_untidy(number: int) -> int:
    return number


RESOURCES = {"unable": Unable(), "untidy": Untidy()}


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def governed_resources():
    needs_unable()
    after_untidy(needs_untidy())
    eight().map(harmless)


@job(executor_def=multiprocess_executor, resource_defs=RESOURCES)
def stock_resources():
    needs_unable()
    after_untidy(needs_untidy())
    eight().map(harmless)


# Once ---------------------------------------------------------------------------------------------------------------

ONCE = {"ioi/effect": "at_most_once"}


@op(tags=ONCE)
def once() -> int:
    mark("once")
    return os.getpid()


@op(tags=ONCE, retry_policy=RetryPolicy(max_retries=3))
def once_and_crashes() -> None:
    mark("once-and-crashes")
    ctypes.string_at(0)


@op(tags=ONCE, retry_policy=RetryPolicy(max_retries=1))
def once_more_if_told(context) -> int:
    """It failed, and the user says that it may be tried again: nothing about its outcome is unknown."""
    mark("once-more")
    if context.retry_number == 0:
        raise ValueError("not yet")
    return 1


@op(tags={**ONCE, "ioi/timeout_s": "2"})
def once_and_never_returns() -> None:
    mark("once-and-never-returns")
    time.sleep(10_000)


@op
def dies_once() -> None:
    if not list(folder().glob("died.*")):
        mark("died")
        os._exit(1)


@job(executor_def=governed_executor, resource_defs=VALUES)
def at_most_once():
    dies_once()
    once()
    once_and_crashes()
    once_more_if_told()
    once_and_never_returns()
    eight().map(harmless)


@job(executor_def=governed_executor, resource_defs=VALUES)
def only_once():
    once()


# Interrupts ---------------------------------------------------------------------------------------------------------


@resource
@contextmanager
def held(_context) -> Iterator[None]:
    mark("held")
    try:
        yield
    finally:
        mark("let-go")


@op(required_resource_keys={"held"}, pool="one_at_a_time")
def waits_for_ever() -> None:
    mark("began")
    while True:
        time.sleep(0.01)


@job(executor_def=governed_executor, resource_defs={"held": held})
def endless():
    waits_for_ever()
    waits_for_ever.alias("too")()


@op
def returns_after_it_was_cancelled() -> str:
    mark("began")
    try:
        while True:
            time.sleep(0.01)
    except BaseException:
        mark("cancelled")
        return "as if nothing had been"


@op
def comes_after(text: str) -> None:
    mark("came-after")


@job(executor_def=governed_executor, resource_defs=VALUES)
def stubborn():
    comes_after(returns_after_it_was_cancelled())


# Two runs -----------------------------------------------------------------------------------------------------------


@op(out=DynamicOut(int), config_schema={"steps": int})
def many(context) -> Iterator[DynamicOutput[int]]:
    for number in range(context.op_config["steps"]):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def takes_a_while(context, number: int) -> int:
    mark(f"{context.run_id}-{number}")
    time.sleep(0.05)
    return number


@op
def adds(numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=governed_executor, resource_defs=VALUES)
def sharing():
    adds(many().map(takes_a_while).collect())
