"""What came of streamed calls that broke: no result of anybody's, but what a block that resumes may go on from elsewhere."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from ioi_dagster.model.block import Made, Payload

KEPT = 128 * 2**20
"""Bytes of a run process; the oldest goes first, and is made anew."""


@dataclass(frozen=True, slots=True)
class Partial:
    """`payload`: the digest of what the call was given. `size`: bytes of its pieces."""

    made: Made
    payload: str
    pieces: tuple[Payload, ...]
    size: int


class Partials:
    """One a run process, by step. Thread-safe."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._partials: OrderedDict[str, Partial] = OrderedDict()

    def keep(self, step: str, partial: Partial) -> None:
        with self._lock:
            self._partials.pop(step, None)
            self._partials[step] = partial
            while sum(one.size for one in self._partials.values()) > self._kept:
                self._partials.popitem(last=False)

    def of(self, step: str, payload: str) -> Partial | None:
        """Where the step's call is given the same as then."""
        with self._lock:
            found = self._partials.get(step)
        return found if found is not None and found.payload == payload else None

    def drop(self, step: str) -> None:
        with self._lock:
            self._partials.pop(step, None)
