"""How often anybody may ask at a door: a token bucket for each who asks and each door, as many as are in use."""

from __future__ import annotations

from collections import OrderedDict

from ioi_dagster.adapters.http.doors import Rate

MAX_BUCKETS = 10_000
"""Of which those that were used longest ago go: whoever is forgotten begins with a full one."""


class Buckets:
    """A bucket holds `Rate.burst` requests and fills by `Rate.per_s`. Times are monotonic seconds."""

    def __init__(self, most: int = MAX_BUCKETS) -> None:
        self._most = most
        self._left: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        """(asker, door) → (requests that were left, when)."""

    def take(self, asker: str, door: str, rate: Rate, now: float) -> float:
        """0, and one is taken; or in how many seconds there is one."""
        key = (asker, door)
        left, at = self._left.pop(key, (float(rate.burst), now))
        left = min(float(rate.burst), left + max(0.0, now - at) * rate.per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / rate.per_s
        self._left[key] = (left - 1.0 if not wait_s else left, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return wait_s

    def __len__(self) -> int:
        return len(self._left)
