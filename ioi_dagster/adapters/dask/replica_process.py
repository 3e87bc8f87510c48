"""A replica in a process of its own, from its worker's side: what it does to itself costs nobody else anything."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

import psutil

from ioi_dagster.adapters.dask import replica_child as child
from ioi_dagster.adapters.dask.project_code import Stamp, project_code
from ioi_dagster.compound.pieces import StreamClosedError
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec

LOOK_S = 0.25
"""How often the memory of a replica that is at work is looked at."""
END_S = 5.0
"""From being asked to unload to being killed."""


class ReplicaGoneError(Exception):
    """The replica is of no more use. `untouched`: no call of the batch has begun. `unread`: it was ended since nobody read on."""

    def __init__(self, text: str, untouched: bool = False, unread: bool = False) -> None:
        self.untouched, self.unread = untouched, unread
        super().__init__(text)


class BlockFailedError(FinalError):
    """The block raised an exception in its own process; the text names it and its place."""


class ProcessReplica:
    """Started fresh, not forked. Used by one thread, which must outlive it: the kernel ends the process with that thread."""

    def __init__(self, spec: BlockSpec) -> None:
        self._spec = spec
        self._why = ""
        self._stopped = False

    def load(self) -> None:
        """Raises what went wrong as `BlockFailedError` or `ReplicaGoneError`; then no process is left."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", child.__name__, str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                [*command, self._spec.entrypoint],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sock = ours
        threading.Thread(target=_relay, args=(self._process.stdout,), daemon=True).start()
        if self._stopped:
            self._process.kill()
        try:
            (files,) = self._ask()
        except BaseException:
            self._end()
            raise
        project_code.elsewhere(f"{self._process.pid}", from_json(files, dict[str, Stamp]))

    def invoke(self, batch: Sequence[Payload]) -> Sequence[Payload]:
        """Raises `BlockFailedError` for an exception of the block, `ReplicaGoneError` when the process ended."""
        self._begin(child.INVOKE, [encode_payload(payload) for payload in batch])
        return [decode_payload(frame) for frame in self._ask()]

    def stream(self, payload: Payload, after: int, give: Callable[[bytes], None]) -> None:
        """Each piece goes to `give`. Raises as `invoke`. Where nobody reads on the process is ended: nothing else would have it
        stop."""
        self._begin(child.STREAM, [encode_payload(payload), b"%d" % after])
        try:
            while pieces := self._ask():
                give(pieces[0])
        except StreamClosedError as error:
            self.stop(str(error))
            raise ReplicaGoneError(self._how_it_ended(), unread=True) from error

    def _begin(self, kind: bytes, frames: Sequence[bytes]) -> None:
        try:
            self._sock.settimeout(None)
            child.send(self._sock, kind, frames)
            self._ask()
        except (OSError, ReplicaGoneError) as error:
            raise ReplicaGoneError(self._how_it_ended(), untouched=True) from error

    def stop(self, why: str) -> None:
        """End the process whatever it does; callable from any thread."""
        self._why, self._stopped = why, True
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()

    def unload(self) -> None:
        """Asked first, then killed. What its `unload` raises is its own affair: the process ends."""
        with contextlib.suppress(OSError):
            self._sock.settimeout(END_S)
            child.send(self._sock, child.UNLOAD)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._end()

    def _ask(self) -> list[bytes]:
        self._sock.settimeout(LOOK_S)
        try:
            kind, frames = child.receive(self._sock, self._look)
        except EOFError:
            raise ReplicaGoneError(self._how_it_ended()) from None
        if kind == child.ERROR:
            raise BlockFailedError(decode_payload(frames[0]).document["text"])
        return frames

    def _look(self) -> None:
        """One that takes more than it was given is ended before the node is short of memory."""
        limit = self._spec.memory_mb * 2**20
        with contextlib.suppress(psutil.Error):
            if limit and psutil.Process(self._process.pid).memory_info().rss > limit:
                self.stop(f"it took more than its memory_mb of {self._spec.memory_mb} MiB")

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        code = self._process.poll()
        if self._why:
            how = self._why
        elif code is None:
            how = "it closed its connection"
        elif code >= 0:
            how = f"its process ended with status {code}"
        elif -code == signal.SIGKILL:
            how = "its process was killed (SIGKILL: by somebody, or by the system for want of memory)"
        else:
            how = f"its process crashed ({signal.Signals(-code).name})"
        return how

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        project_code.ended(f"{self._process.pid}")
        self._sock.close()


def _relay(lines: IO[bytes] | None) -> None:
    """What the process prints goes where this one prints, which during a step is the step's own log."""
    assert lines is not None
    with lines:
        for line in lines:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(line.decode(errors="replace"))
