"""The steps that are under way in this worker, for a run process that takes over from one that is gone.

When the process that sent a step is gone, so is its connection, and Dask forgets the task: it runs on to its end, and its result
is thrown away. Here its answer is kept, until it is taken or `KEPT_S` seconds later.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dask.context import thread_state
from distributed import get_worker

KEPT_S = 600.0
MAX_KEPT = 512 * 2**20
"""Bytes of answers that are kept; what is more is forgotten, the oldest first, and its step is run again."""


@dataclass(slots=True)
class Flight:
    """A start that is under way, and its answer once there is one."""

    answer: bytes = b""


@dataclass(slots=True)
class Flights:
    """One per worker process. Thread-safe. `clock`: monotonic seconds."""

    clock: Callable[[], float] = time.monotonic
    _under_way: set[str] = field(default_factory=set)
    _claimed: set[str] = field(default_factory=set)
    _kept: OrderedDict[str, tuple[bytes, float]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def flight(self, key: str) -> Iterator[Flight]:
        """The calling thread, which runs a task of Dask's, runs the start under `key` within this."""
        flight = Flight()
        self.begin(key)
        try:
            yield flight
        finally:
            self.end(key, flight.answer, awaited())

    def begin(self, key: str) -> None:
        """The start under `key` is under way."""
        with self._lock:
            self._under_way.add(key)

    def end(self, key: str, answer: bytes, awaited: bool) -> None:
        """It has ended with `answer`. `awaited`: who sent it is still there to take it."""
        with self._lock:
            if key in self._under_way and (key in self._claimed or not awaited):
                self._kept[key] = (answer, self.clock() + KEPT_S)
            self._under_way.discard(key)
            self._forget_old()

    def depend(self, key: str) -> None:
        """It asks the process that sent it for something, so no other can take it over any more."""
        with self._lock:
            self._under_way.discard(key)

    def claim(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are under way or have a kept answer; the answers of the others of them will be kept too."""
        with self._lock:
            self._forget_old()
            found = [key for key in keys if key in self._under_way or key in self._kept]
            self._claimed.update(found)
            return found

    def any_claimed(self, keys: Iterable[str]) -> bool:
        with self._lock:
            return not self._claimed.isdisjoint(keys)

    def answers(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The answers of `keys`, empty for those that are under way still; what is not known here has none."""
        with self._lock:
            there = {key: self._kept[key][0] for key in keys if key in self._kept}
            return {key: b"" for key in keys if key in self._under_way} | there

    def drop(self, keys: Iterable[str]) -> None:
        """Nobody asks for these any more."""
        with self._lock:
            for key in keys:
                self._claimed.discard(key)
                self._kept.pop(key, None)

    def _forget_old(self) -> None:
        now, held = self.clock(), sum(len(answer) for answer, _ in self._kept.values())
        while self._kept:
            key, (answer, until) = next(iter(self._kept.items()))
            if until > now and held <= MAX_KEPT:
                return
            held -= len(answer)
            del self._kept[key]
            self._claimed.discard(key)


flights = Flights()


def awaited() -> bool:
    """Somebody waits for the Dask task of the calling thread. Dask tells its worker when nobody does any more."""
    task = get_worker().state.tasks.get(thread_state.key)
    return task is not None and task.state in ("executing", "long-running")


def claim(keys: list[str]) -> list[str]:
    """Run by Dask on every worker, beside the steps; so are the others."""
    return flights.claim(keys)


def answers(keys: list[str]) -> dict[str, bytes]:
    return flights.answers(keys)


def drop(keys: list[str]) -> None:
    flights.drop(keys)
