"""What others do on the machine of a node (proc(5)): tasks that want a processor, and memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import psutil

from ioi_dagster.governors.load import MachineSeen

SMOOTH = 0.2
"""The weight of the newest look: what is counted at one moment is smoothed over some five of them."""
PROC = Path("/proc")


class Machine:
    """`look` is called once a second. Where the system has no such files nothing is in the way."""

    def __init__(
        self, proc: Path = PROC, processors: int | None = None, memory: Callable[[], float] | None = None
    ) -> None:
        self._proc, self._processors = proc, processors or os.cpu_count() or 1
        self._memory = memory or (lambda: psutil.virtual_memory().percent / 100)
        self._crowd = 0.0

    def look(self) -> MachineSeen:
        """Of the whole machine, less what this process and those that it has started do."""
        others = max(0, self._runnable() - self._own(os.getpid()))
        self._crowd += SMOOTH * (others / self._processors - self._crowd)
        return MachineSeen(round(self._crowd, 3), self._memory())

    def _runnable(self) -> int:
        try:
            return int((self._proc / "loadavg").read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return 0

    def _own(self, pid: int) -> int:
        """Threads of a process and of those below it that run or wait for a processor."""
        found = 0
        for thread in (self._proc / str(pid) / "task").glob("*"):
            with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
                found += (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
                for child in (thread / "children").read_text().split():
                    found += self._own(int(child))
        return found
