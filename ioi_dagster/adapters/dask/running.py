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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ioi_dagster.errors import RetryableError, StepTimeoutError

GRACE_S = 5.0
"""From the exception to the end of the process."""
EXIT_STATUS = 70
REMEMBERED = 10_000


@dataclass(slots=True)
class Running:
    """One per worker process. Thread-safe."""

    _threads: dict[str, int] = field(default_factory=dict)
    _begun: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _taken_back: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def step(self, key: str, timeout_s: float = 0.0) -> Iterator[None]:
        """The calling thread runs the step under `key`, for `timeout_s` seconds at most (0: no limit).

        Raises `RetryableError` where it was taken back, and `StepTimeoutError` in whatever runs when the time is up.
        """
        me = threading.get_ident()
        with self._lock:
            if key in self._taken_back:
                raise RetryableError("the start was taken back before it ran")
            _remember(self._begun, key)
            self._threads[key] = me
        limit = threading.Timer(timeout_s, self.stop, ([key], StepTimeoutError))
        limit.daemon = True
        try:
            if timeout_s > 0:
                limit.start()
            yield
        finally:
            limit.cancel()
            with self._lock:
                self._threads.pop(key, None)
                # An exception that was on its way here must not reach what this thread does next.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), None)

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
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
        if ran:
            late = threading.Timer(GRACE_S, self._end, (ran, error))
            late.daemon = True
            late.start()
        return list(ran)

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
            os._exit(EXIT_STATUS)


def _remember(keys: OrderedDict[str, None], key: str) -> None:
    keys[key] = None
    if len(keys) > REMEMBERED:
        keys.popitem(last=False)
