"""Virtual time: what is to happen, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Engine:
    """A queue of acts. What is due at the same time happens in the order in which it was asked for, so a simulation is decided
    by its seed alone. `now`: seconds since its beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self.acts = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, act, arguments))

    def run(self, until: float, is_over: Callable[[], bool]) -> None:
        """Let time pass until nothing is to happen any more, `is_over`, or the time is `until`."""
        while self._queue and not is_over():
            if self._queue[0][0] > until:
                self.now = until
                return
            self.now, _, act, arguments = heapq.heappop(self._queue)
            self.acts += 1
            act(*arguments)
