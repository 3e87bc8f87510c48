"""The operating system's process of a run, told from every other one that ever had its number.

A number (pid) is given out again. With the time at which its process started, in the kernel's ticks since boot, and the boot's
own id it names one process (proc(5): `/proc/[pid]/stat`, field 22; `/proc/sys/kernel/random/boot_id`).
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Self

import msgspec

from ioi_dagster.decoding import from_json


@dataclass(frozen=True, slots=True)
class RunProcess:
    """`started` in ticks since the boot `boot` of `host`. Linux only."""

    host: str
    boot: str
    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has `pid` now: this one, or a child of it that nobody has waited for."""
        return cls(socket.gethostname(), _boot(), pid, _started(pid) or 0)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `text` made; None for anything else."""
        try:
            return from_json(text, cls)
        except msgspec.MsgspecError:
            return None

    def text(self) -> str:
        return msgspec.json.encode(self).decode()

    @property
    def elsewhere(self) -> bool:
        """It was started on another machine, so nothing can be said of it here."""
        return self.host != socket.gethostname()

    @property
    def alive(self) -> bool:
        """It is there, and not only waited for by its parent."""
        return not self.elsewhere and self.boot == _boot() and _started(self.pid) == self.started

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; False where it is gone. Nobody who has its number by now gets it."""
        if self.elsewhere or self.boot != _boot():
            return False
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if _started(self.pid) != self.started:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def kill_group(self) -> None:
        """End it and what it started in its session, at once."""
        if self.alive:
            # A session's leader: while it is there its number is nobody else's, nor is its group's.
            os.killpg(self.pid, signal.SIGKILL)


def start_run_process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Popen[bytes]:
    """Start it in a session of its own, so that what ends its starter does not end it. What it prints goes to the end of
    `log`. Raises `OSError`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return Popen(
            list(command),
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            env=dict(environment),
            start_new_session=True,
        )


def log_of(folder: Path, run: str) -> Path:
    """Where the processes of a run print to, below the instance's `folder`."""
    return folder / "run_processes" / f"{run}.log"


def last_words(log: Path, most: int = 2_000) -> str:
    """The end of what a run's processes printed; empty where there is nothing."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int | None:
    """None where there is no such process, or only its parent does not know yet that it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in brackets may hold anything, brackets too.
    state, *others = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(others[18])
