"""The witness of a process, at its side of the wire: what the kernel says of it, and its end.

Standard library only, since supervisors import it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

STILL_S = 0.5
"""A process that has been stopped (SIGSTOP) for so long is ended, asked or not: what it holds goes to others."""
WITNESS_FD = "IOI_WITNESS_FD"
"""Environment: the descriptor by which a scheduler asks the supervisor that started it."""
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
MAX_MESSAGE = 4_096


def look_at(pid: int) -> tuple[str, float]:
    """The state of the process `pid` as the kernel's letter, and the seconds of processor that it has used with all its threads
    (proc(5)). An empty letter where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
    except (OSError, IndexError, ValueError):
        return "", 0.0


def end(pid: int) -> None:
    """SIGKILL, which also ends one that is stopped; nothing where it is gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass(slots=True)
class Stillness:
    """Since when processes have been stopped, by name; `look` is called every now and then, with monotonic time."""

    _since: dict[str, float] = field(default_factory=dict)

    def look(self, name: str, pid: int, now: float) -> bool:
        """Has it been stopped for `STILL_S` seconds? One under a debugger (state t) is not meant."""
        if look_at(pid)[0] != "T":
            self._since.pop(name, None)
            return False
        if now - self._since.setdefault(name, now) < STILL_S:
            return False
        del self._since[name]
        return True
