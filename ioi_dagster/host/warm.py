"""Run processes out of a warm one: what starts them has imported Dagster already (`warm_main`), which is most of a short run.

There is one such process for each interpreter, started after the first run that would have used it. Whatever is in its way
(another version on disk, another environment, an interpreter that lacks this package) is no error: the run's process is then
started the usual way.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Protocol

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.host.run_process import RunProcess
from ioi_dagster.host.warm_main import READY, Command, Ended

ANSWER_S = 5.0
"""A warm process that has not forked within so long is not waited for: its fork is never told what to do."""
LOOK_EVERY_S = 0.2


class Child(Protocol):
    """As of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def wait(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None where that cannot be known."""
        ...


class Forked:
    """Implements `Child`: a run process that a warm process forked."""

    def __init__(self, process: RunProcess, answers: socket.socket) -> None:
        self.process, self._answers = process, answers

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self) -> int | None:
        try:
            with self._answers, self._answers.makefile("rb") as lines:
                return from_json(lines.readline(), Ended).code
        except (OSError, msgspec.MsgspecError):
            # The warm process has ended, and its forks with no one to tell of them.
            while self.process.alive:
                time.sleep(LOOK_EVERY_S)
            return None


class WarmProcess:
    """One, of the interpreter `python`, with this process's environment as it is now."""

    def __init__(self, python: str, log: Path) -> None:
        self._state, self._ready = _state(), False
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("wb") as output:
            command = [python, "-m", "ioi_dagster.host.warm_main", str(theirs.fileno())]
            self._process = Popen(
                command,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def fits(self) -> bool:
        """It lives, and what it has of its environment is so still."""
        return self._process.poll() is None and self._state == _state()

    @property
    def ready(self) -> bool:
        """It has imported everything. Where that takes long a run is not kept waiting for it."""
        if not self._ready:
            try:
                self._ready = self._requests.recv(1, socket.MSG_DONTWAIT) == READY
            except OSError:
                return False
        return self._ready

    @property
    def failed(self) -> bool:
        """It ended by itself with an error, as the next one would."""
        return (self._process.poll() or 0) > 0

    def fork(self, arguments: Sequence[str], log: Path) -> Forked | None:
        """`python -m dagster ARGUMENTS` in a session of its own. None where it cannot be had: then nothing was started."""
        answers, theirs = socket.socketpair()
        answers.settimeout(ANSWER_S)
        try:
            with theirs:
                socket.send_fds(self._requests, [b"1"], [theirs.fileno()])
            process = RunProcess.parse(_line(answers))
            if process is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                answers.sendall(msgspec.json.encode(Command(list(arguments), str(log.absolute()))) + b"\n")
                answers.settimeout(None)
                return Forked(process, answers)
        except OSError:
            pass
        answers.close()
        return None

    def close(self) -> None:
        """It ends by itself; what it has forked goes on."""
        self._requests.close()
        threading.Thread(target=self._process.wait, name="warm process ends", daemon=True).start()


class Warmth:
    """The warm processes of a launcher. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_python: dict[str, WarmProcess] = {}

    def start(self, command: Sequence[str], log: Path) -> Forked | None:
        """The process of `command`, if it is one of Dagster's and there is a warm process for it. Else None, and that one is
        started for the next."""
        python, *rest = command
        if rest[:2] != ["-m", "dagster"]:
            return None
        with self._lock:
            warm = self._by_python.get(python)
            if warm is not None:
                if warm.failed or (warm.fits and not warm.ready):
                    return None
                child = warm.fork(rest[2:], log) if warm.fits else None
                if child is not None:
                    return child
                warm.close()
            self._by_python[python] = WarmProcess(python, log.with_name("warm.log"))
        return None

    def close(self) -> None:
        with self._lock:
            for warm in self._by_python.values():
                warm.close()
            self._by_python.clear()


def _state() -> tuple[Mapping[str, str], str]:
    return dict(os.environ), os.getcwd()


def _line(answers: socket.socket) -> str:
    """Up to the first end of a line; the rest, of which there is none yet, stays unread."""
    found = b""
    while not found.endswith(b"\n"):
        more = answers.recv(1)
        if not more:
            break
        found += more
    return found.decode()
