"""What a step leaves behind when its slot is somebody else's, so that its next attempt goes on from there.

    @op(tags={"ioi/checkpointable": "true"})
    def train():
        state = decode(checkpoint.last() or START)
        checkpoint.ready(grace_s=10)
        while not state.done:
            state.advance()
            if checkpoint.wanted:
                checkpoint.leave(encode(state))

Whoever is ready is asked and has its grace; whoever has not left anything by then, or is not ready, is stopped as ever. Bytes
travel as they are: nothing is unpickled that the step's own code does not unpickle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

from ioi_dagster.errors import FinalError
from ioi_dagster.model.start import MAX_CHECKPOINT

MAX_GRACE_S = 15.0
"""Whoever is asked to stop has no more than this: its lease is renewed no longer, and somebody waits for its slot."""


class Checkpoint:
    """Of one attempt. `end`: ends the attempt in the thread of its step, by raising."""

    def __init__(self, end: Callable[[], NoReturn], last: bytes | None = None) -> None:
        self.last = last
        self.left: bytes | None = None
        self.grace_s = 0.0
        self._end = end
        self._wanted = threading.Event()

    def ask(self) -> float:
        """Its slot is somebody else's: how many seconds it has to leave something; 0 where it is not ready to."""
        if self.grace_s:
            self._wanted.set()
        return self.grace_s

    @property
    def wanted(self) -> bool:
        return self._wanted.is_set()

    def leave(self, data: bytes | None) -> NoReturn:
        """Its next attempt finds `data`; None: what this one found."""
        self.left = data
        self._end()


_current: ContextVar[Checkpoint | None] = ContextVar("ioi_checkpoint", default=None)


def current_checkpoint() -> Checkpoint | None:
    """None outside a node, and in a process of the step's own."""
    return _current.get()


@contextmanager
def checkpointing(its: Checkpoint) -> Iterator[Checkpoint]:
    token = _current.set(its)
    try:
        yield its
    finally:
        _current.reset(token)


class Checkpoints:
    """The public object is `checkpoint`: of the step that runs in this thread. Where nothing could be asked of a step (another
    executor, a process of its own), it starts from nothing and is never asked."""

    def last(self) -> bytes | None:
        """What the attempt before this one left; None where there is nothing."""
        its = _current.get()
        return its.last if its is not None else None

    def ready(self, grace_s: float = 5.0) -> None:
        """From now on it is asked, and has `grace_s` seconds, 15 at most, to `leave` something; with 0 it is not.

        Raises `FinalError` for what is no length of time."""
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise FinalError(f"grace_s is {grace_s!r}: give seconds from 0 to {MAX_GRACE_S:g}")
        its = _current.get()
        if its is not None:
            its.grace_s = float(grace_s)

    @property
    def wanted(self) -> bool:
        """It is asked to stop. A step that is over before its grace is simply done."""
        its = _current.get()
        return its is not None and its.wanted

    def leave(self, data: bytes) -> NoReturn:
        """End this attempt, as the slot's owner asked; the next one finds `data`. Neither fails the step nor uses up a retry.

        Raises `FinalError` where nothing is wanted, and for anything but up to 16 MiB of bytes."""
        its = _current.get()
        if its is None or not its.wanted:
            raise FinalError("nobody wants a checkpoint: leave one when `checkpoint.wanted` says so")
        if not isinstance(data, bytes) or len(data) > MAX_CHECKPOINT:
            what = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
            raise FinalError(f"a checkpoint of {what}: leave up to {MAX_CHECKPOINT} bytes, and where more lies")
        its.leave(data)


checkpoint = Checkpoints()
