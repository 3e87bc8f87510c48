"""What the steps of a run share in a worker process until the run has ended: a connection, a model, a pool."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from distributed import Worker
from distributed.core import Status

from ioi_dagster.errors import RetryableError

log = logging.getLogger("ioi.node")
IDLE_S = 1800.0
"""Without a step that uses it for so long, what a run keeps here is torn down: its process may be gone for good."""
POLL_S = 0.2
"""An exception that stops a step is raised between two instructions, so nothing waits for longer at a stretch."""
BEING_SET_UP_S = 5.0
"""At the end of a run its steps have ended; one that has not, and still sets something up, is not waited for longer."""


@dataclass(slots=True)
class _Shared:
    """`stack` is None until it is set up."""

    value: Any = None
    stack: ExitStack | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Run:
    shared: dict[str, _Shared] = field(default_factory=dict)
    ready: list[tuple[str, _Shared]] = field(default_factory=list)
    """In the order in which they were set up."""
    users: int = 0
    used_at: float = 0.0
    over: bool = False


class RunScope:
    """One per worker process. Thread-safe. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.open = False
        """This process is a node, which is told when a run has ended."""
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    @contextmanager
    def shared(self, run: str, key: str, set_up: Callable[[ExitStack], Any]) -> Iterator[Any]:
        """What `set_up` makes, made by whoever needs `key` first; what is to be done at the end of the run goes on its stack.

        Raises what `set_up` raises, and then the next one tries, and `RetryableError` where the run has ended meanwhile.
        """
        with self._lock:
            its = self._runs.setdefault(run, _Run())
            its.users += 1
            one = its.shared.setdefault(key, _Shared())
        try:
            while not one.lock.acquire(timeout=POLL_S):
                continue
            try:
                if one.stack is None:
                    self._set_up(its, key, one, set_up)
            finally:
                one.lock.release()
            yield one.value
        finally:
            with self._lock:
                its.users -= 1
                its.used_at = self._clock()

    def _set_up(self, its: _Run, key: str, one: _Shared, set_up: Callable[[ExitStack], Any]) -> None:
        stack = ExitStack()
        try:
            one.value = set_up(stack)
            with self._lock:
                if its.over:
                    raise RetryableError(f"the run ended while {key.partition(' ')[0]} was set up")
                one.stack = stack
                its.ready.append((key, one))
        except BaseException:
            one.value, one.stack = None, None
            _torn_down(key, stack)
            raise

    def end(self, run: str) -> list[str]:
        """Tear down what is kept for `run`, last first; returns what was raised by that, in words."""
        with self._lock:
            its = self._runs.pop(run, None)
            if its is None:
                return []
            its.over = True
        problems: list[str] = []
        for key, one in reversed(its.ready):
            locked = one.lock.acquire(timeout=BEING_SET_UP_S)
            stack, one.stack, one.value = one.stack, None, None
            if locked:
                one.lock.release()
            problems += _torn_down(key, stack)
        return problems

    def end_all(self) -> None:
        """The process ends."""
        for run in list(self._runs):
            self.end(run)

    def idle(self) -> list[str]:
        """Runs of which no step has used anything here for `IDLE_S` seconds."""
        before = self._clock() - IDLE_S
        with self._lock:
            return [run for run, its in self._runs.items() if not its.users and its.used_at < before]

    def end_idle(self) -> None:
        for run in self.idle():
            self.end(run)


def _torn_down(key: str, stack: ExitStack | None) -> list[str]:
    """Whatever a teardown raises, the worker goes on."""
    try:
        if stack is not None:
            stack.close()
    except BaseException as error:
        name = key.partition(" ")[0]
        log.warning("the resource %s was not torn down well", name, exc_info=error)
        return [f"the resource {name} was not torn down well: {type(error).__name__}: {error}"]
    return []


scope = RunScope()


async def tear_down(run: str) -> list[str]:
    """Called on every worker when a run has ended."""
    return await asyncio.to_thread(scope.end, run)


async def end_with(worker: Worker) -> None:
    """Called on a worker that may be about to end."""
    if worker.status in (Status.closing, Status.closing_gracefully):
        await asyncio.to_thread(scope.end_all)
