"""Run-time state: unsigned, local, leased. An entry that is not renewed is gone; no ghosts."""

from __future__ import annotations

import heapq
from typing import Any


class LeasedState:
    """Key → value with a time to live. Times are monotonic seconds, passed in. Expiry costs O(log n) an entry."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, Any]] = {}
        self._heap: list[tuple[float, str]] = []

    def put(self, key: str, value: Any, ttl_s: float, now: float) -> None:
        """Set or renew."""
        self._entries[key] = (now + ttl_s, value)
        heapq.heappush(self._heap, (now + ttl_s, key))

    def drop(self, key: str) -> None:
        self._entries.pop(key, None)

    def get(self, key: str, now: float) -> Any | None:
        self._expire(now)
        entry = self._entries.get(key)
        return entry[1] if entry else None

    def items(self, now: float, prefix: str = "") -> dict[str, Any]:
        self._expire(now)
        return {key: value for key, (_, value) in sorted(self._entries.items()) if key.startswith(prefix)}

    def _expire(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            _, key = heapq.heappop(self._heap)
            entry = self._entries.get(key)
            # A renewed entry has a later time; its own heap item follows.
            if entry is not None and entry[0] <= now:
                del self._entries[key]
