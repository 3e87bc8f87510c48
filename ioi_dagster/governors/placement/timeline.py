"""Free capacity of one node over time, as a step function."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ioi_dagster.governors.placement.fleet import Need


class Timeline:
    """`times[i]` is when `free[i]` begins; the last lasts for ever. `open` is the first piece with a core free."""

    __slots__ = ("free", "open", "times")

    def __init__(self, capacity: Need, since: float = 0.0) -> None:
        self.times, self.free, self.open = [since], [capacity], 0

    def copy(self) -> Timeline:
        made = object.__new__(Timeline)
        made.times, made.free, made.open = self.times.copy(), self.free.copy(), self.open
        return made

    def earliest(self, ready: float, length: float, need: Need) -> float:
        """First moment from `ready` on at which `need` is free for `length` seconds. The last piece must hold `need`."""
        cores, memory, gpus = need
        times, free = self.times, self.free
        i = bisect_right(times, ready) - 1
        start = ready
        if i < self.open:
            i = self.open
            start = times[i]
        last = len(times) - 1
        while True:
            f = free[i]
            if f[0] < cores or f[1] < memory or f[2] < gpus:
                i += 1
                start = times[i]
            elif i == last or start + length <= times[i + 1]:
                return start
            else:
                i += 1

    def reserve(self, start: float, length: float, need: Need) -> None:
        cores, memory, gpus = need
        times, free = self.times, self.free
        a = bisect_left(times, start)
        if a == len(times) or times[a] != start:
            times.insert(a, start)
            free.insert(a, free[a - 1])
            if a <= self.open:
                self.open += 1
        end = start + length
        b = bisect_left(times, end)
        if b == len(times) or times[b] != end:
            times.insert(b, end)
            free.insert(b, free[b - 1])
            if b <= self.open:
                self.open += 1
        for i in range(a, b):
            f = free[i]
            free[i] = (f[0] - cores, f[1] - memory, f[2] - gpus)
        i = self.open
        while free[i][0] <= 0 and i < len(free) - 1:
            i += 1
        self.open = i
