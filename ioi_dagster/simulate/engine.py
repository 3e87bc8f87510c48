"""Virtual time: what is to happen, in order."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Engine:
    """A queue of acts. What is due at the same time happens in the order in which it was asked for, so a simulation is decided
    by its seed alone. `now`: seconds since its beginning; `acts`: how many happened."""

    def __init__(self) -> None:
        self.now = 0.0
        self.acts = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._stopped = False

    def after(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heappush(self._queue, (self.now + seconds, self._count, act, arguments))

    def stop(self) -> None:
        """Nothing more happens in this `run`."""
        self._stopped = True

    def run(self, until: float) -> None:
        """Let time pass until nothing is to happen any more, somebody calls `stop`, or the time is `until`."""
        queue = self._queue
        self._stopped = False
        while queue and not self._stopped:
            if queue[0][0] > until:
                self.now = until
                return
            self.now, _, act, arguments = heappop(queue)
            self.acts += 1
            act(*arguments)
