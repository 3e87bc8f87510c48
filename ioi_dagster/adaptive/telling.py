"""When a run's progress is worth a word: when why its steps wait has changed, and not again too soon."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ioi_dagster.model.progress import Progress


@dataclass(slots=True)
class Telling:
    """Says of each look at a run whether it is to be told. Sans-IO: `now` is monotonic seconds.

    `first_s`: nothing is told of a run that is over sooner. `apart_s`: at least so long between two. `quiet_s`: after so
    long it is told although only its counts have changed. `begun` is when the run began.
    """

    begun: float
    first_s: float = 5.0
    apart_s: float = 20.0
    quiet_s: float = 300.0
    _last: Progress | None = None
    _at: float = float("-inf")

    def due(self, now: float) -> bool:
        """Is a look worth its cost?"""
        return now - self.begun >= self.first_s and now - self._at >= self.apart_s

    def worth(self, progress: Progress, now: float) -> bool:
        """Is `progress` to be told? If so it counts as told."""
        if not self.due(now) or progress == self._last:
            return False
        long_ago = now - max(self._at, self.begun) >= self.quiet_s
        same_extent = self._last is None or progress.of == self._last.of
        if not long_ago and same_extent and _kinds(progress) == (_kinds(self._last) if self._last else frozenset()):
            return False
        self._last, self._at = progress, now
        return True


def _kinds(progress: Progress) -> frozenset[str]:
    """Why steps wait, in words alone: another number is no other reason."""
    return frozenset(re.sub(r"\d+", "#", reason) for reason, _ in progress.reasons)
