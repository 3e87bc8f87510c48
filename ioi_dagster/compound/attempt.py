"""Which attempt of a step runs here: set by whoever starts it, so that what it writes can bear the attempt's name."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ioi_dagster.model.negotiation import run_key


@dataclass(frozen=True, slots=True)
class Attempt:
    """`id` is unique among all attempts; `key` names its start at the node; `fence` is the one it was started under; `origin` is
    the domain whose run it is of."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    run: str = ""
    step: str = ""
    fence: int = 0
    key: str = ""
    node: str = ""
    origin: str = ""

    @property
    def run_key(self) -> str:
        return run_key(self.origin, self.run)


_attempt: ContextVar[Attempt | None] = ContextVar("ioi_attempt", default=None)


def current_attempt() -> Attempt | None:
    """None outside a node."""
    return _attempt.get()


@contextmanager
def attempting(attempt: Attempt) -> Iterator[Attempt]:
    token = _attempt.set(attempt)
    try:
        yield attempt
    finally:
        _attempt.reset(token)
