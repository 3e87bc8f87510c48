"""The steps that run in this worker: stopping one, and taking back one that waits for a thread.

Python cannot end a thread. An exception is raised in it, which user code sees between two of its instructions; code that does
not come back to the interpreter, or swallows the exception, ends with its process, whose other steps are placed elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from ioi_dagster.errors import StepMemoryError, StepRevokedError, StepTimeoutError, TakenBackError

GRACE_S = 5.0
"""From the exception to the end of the process."""
EXIT_STATUS, MEMORY_STATUS = 70, 71
REMEMBERED = 10_000

LOADING_S = 120.0
"""What a step's code may take to load, besides its own limit."""

_asked: dict[int, type[BaseException]] = {}
_limits: dict[int, _Limit] = {}


def code_begins() -> None:
    """Called by the thread of a step when its code is loaded: its limit counts from now."""
    limit = _limits.get(threading.get_ident())
    if limit is not None:
        limit.begin()


def when_code_begins(then: Callable[[], object]) -> None:
    """Have `then` called when the code of the calling thread's step begins; for a process that has no limits of its own."""
    _limits[threading.get_ident()] = _Limit(then, 0.0, then)


def ask_to_stop(thread: int, error: type[BaseException]) -> None:
    """Remember that the step in `thread` was asked to stop, by whatever raises `error` there."""
    _asked[thread] = error


def raise_if_stopped(ended_well: bool) -> None:
    """Raise what should have stopped the step of this thread: where it ended well, since that was swallowed; and where its slot
    is somebody else's, since then it has not failed but begins again."""
    error = _asked.get(threading.get_ident())
    if error is not None and (ended_well or issubclass(error, StepRevokedError)):
        raise error


def end_revoked() -> NoReturn:
    """End the step of this thread as one whose slot is somebody else's, by its own will."""
    ask_to_stop(threading.get_ident(), StepRevokedError)
    raise StepRevokedError


class _Limit:
    """Calls `over` when time is up; `seconds` 0: never. `then` is called when the time begins."""

    def __init__(self, over: Callable[[], object], seconds: float, then: Callable[[], object] = lambda: None) -> None:
        self._seconds = seconds
        self._over, self._then = over, then
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        self.cancel()
        self.start(self._seconds)
        self._then()

    def start(self, seconds: float) -> None:
        if self._seconds > 0:
            self._timer = threading.Timer(seconds, self._over)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@dataclass(slots=True)
class Running:
    """One per worker process. Thread-safe."""

    _threads: dict[str, int] = field(default_factory=dict)
    _begun: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _taken_back: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def step(
        self,
        key: str,
        timeout_s: float = 0.0,
        begun: Callable[[], object] = lambda: None,
        over: Callable[[], object] = lambda: None,
    ) -> Iterator[None]:
        """The calling thread runs the step under `key`, for `timeout_s` seconds at most (0: no limit). `begun` is called when
        that time begins, and `over` when it is up, in another thread.

        Raises `TakenBackError` where it was taken back, and `StepTimeoutError` in whatever runs when the time is up.
        """
        me = threading.get_ident()

        def up() -> None:
            try:
                over()
            finally:
                self.stop([key], StepTimeoutError)

        limit = _Limit(up, timeout_s, begun if timeout_s > 0 else lambda: None)
        try:
            with self._lock:
                if key in self._taken_back:
                    raise TakenBackError("the start was taken back before it ran")
                _remember(self._begun, key)
                self._threads[key] = me
            _limits[me] = limit
            limit.start(LOADING_S + timeout_s)
            yield
        finally:
            # What stops a step may be raised in any of these lines too.
            try:
                limit.cancel()
                _limits.pop(me, None)
            finally:
                try:
                    self._over(key, me)
                finally:
                    self._over(key, me)

    def _over(self, key: str, thread: int) -> None:
        """The step is over; done again, it changes nothing."""
        with self._lock:
            if self._threads.get(key) == thread:
                del self._threads[key]
            if _asked.pop(thread, None) is not None:
                # An exception that was on its way here must not reach what this thread does next.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)

    def stop(self, keys: list[str], error: type[BaseException]) -> list[str]:
        """Raise `error` in those of `keys` that run here, and end the process if they still run after `GRACE_S` seconds.

        Those that wait for a thread are taken back. Returns the keys that ran.
        """
        with self._lock:
            for key in keys:
                if key not in self._begun:
                    _remember(self._taken_back, key)
            ran = {key: self._threads[key] for key in keys if key in self._threads}
            for thread in ran.values():
                ask_to_stop(thread, error)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
        if ran:
            late = threading.Timer(GRACE_S, self._end, (ran, error))
            late.daemon = True
            late.start()
        return list(ran)

    def stop_all(self, error: type[BaseException]) -> list[str]:
        """As `stop`, for whatever runs here now."""
        return self.stop(self.keys(), error)

    def keys(self) -> list[str]:
        """Of what runs here now."""
        with self._lock:
            return list(self._threads)

    def runs(self, key: str) -> bool:
        with self._lock:
            return key in self._threads

    def only(self) -> str | None:
        """The key of the step that runs here, where it is one."""
        with self._lock:
            return next(iter(self._threads)) if len(self._threads) == 1 else None

    def take_back(self, keys: list[str]) -> list[str]:
        """Those of `keys` that have not begun here, and now never will."""
        with self._lock:
            waiting = [key for key in keys if key not in self._begun]
            for key in waiting:
                _remember(self._taken_back, key)
        return waiting

    def _end(self, ran: dict[str, int], error: type[BaseException]) -> None:
        with self._lock:
            still = [key for key, thread in ran.items() if self._threads.get(key) == thread]
        if still:
            sys.stderr.write(
                f"{error.__name__}: {', '.join(still)} did not stop within {GRACE_S:g} s; ending the process\n"
            )
            sys.stderr.flush()
            os._exit(MEMORY_STATUS if error is StepMemoryError else EXIT_STATUS)


def _remember(keys: OrderedDict[str, None], key: str) -> None:
    keys[key] = None
    if len(keys) > REMEMBERED:
        keys.popitem(last=False)
