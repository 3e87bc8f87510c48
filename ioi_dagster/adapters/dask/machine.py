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
PAGE = os.sysconf("SC_PAGE_SIZE")


class Machine:
    """`look` is called once a second. Where the system has no such files nothing is in the way."""

    def __init__(
        self,
        proc: Path = PROC,
        processors: int | None = None,
        memory: Callable[[], tuple[int, int]] | None = None,
        allotted: int = 0,
    ) -> None:
        """`memory`: bytes of the machine's memory that are in use, and that there are; `allotted`: those that the node may have,
        0 where nobody has said so."""
        self._proc, self._processors = proc, processors or os.cpu_count() or 1
        self._memory = memory or _memory
        self._allotted = allotted
        self._crowd = 0.0

    def look(self) -> MachineSeen:
        """Of the whole machine, less what this process and those that it has started do."""
        running, held = self._own(os.getpid())
        others = max(0, self._runnable() - running)
        self._crowd += SMOOTH * (others / self._processors - self._crowd)
        used, there = self._memory()
        return MachineSeen(
            round(self._crowd, 3),
            round(max(0, used - held) / there, 3),
            round(held / there, 3),
            round(self._allotted / there, 3),
        )

    def _runnable(self) -> int:
        try:
            return int((self._proc / "loadavg").read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return 0

    def _own(self, pid: int) -> tuple[int, int]:
        """Threads of a process and of those below it that run or wait for a processor, and the bytes of memory that they hold.
        What processes share is each one's: rather too little is said of others than too much."""
        found, held = 0, 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            held = int((self._proc / str(pid) / "statm").read_text().split()[1]) * PAGE
        for thread in (self._proc / str(pid) / "task").glob("*"):
            with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
                found += (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
                for child in (thread / "children").read_text().split():
                    below = self._own(int(child))
                    found, held = found + below[0], held + below[1]
        return found, held


def _memory() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.total - memory.available, memory.total
