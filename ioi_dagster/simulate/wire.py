"""Messages between domains: they take time. Single calls may be lost or doubled; on a kept connection what is sent during a cut
comes when it is over, however late that is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from ioi_dagster.simulate.engine import Engine

LATENCY_S = (0.0005, 0.003)
RESEND_S = 0.2

_LEAST, _SPREAD = LATENCY_S[0], LATENCY_S[1] - LATENCY_S[0]


class Wire:
    """`loss` and `doubling`: the part of messages that never comes, and that comes twice."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self._after, self._random = engine.after, rng.random
        self._cuts: Counter[tuple[str, str]] = Counter()
        """(from, to) of those that are cut now, and how often."""
        self.loss = self.doubling = 0.0
        self.sent: Counter[str] = Counter()
        self.lost = 0
        """Messages that never came."""
        self.dropped = self.doubled = 0
        """By chance alone."""
        self.stopped: Counter[tuple[str, str]] = Counter()
        """(from, to) of messages that a cut has met."""

    def send(self, source: str, target: str, kind: str, act: Callable[..., None], *arguments: Any) -> None:
        """A call: have `act` happen at `target`, if it gets there."""
        self.sent[kind] += 1
        twice = bool(self.doubling) and self._random() < self.doubling
        self.doubled += twice
        for _ in range(2 if twice else 1):
            if self._cuts and self._stops(source, target):
                self.lost += 1
            elif self.loss and self._random() < self.loss:
                self.lost += 1
                self.dropped += 1
            else:
                self._after(_LEAST + _SPREAD * self._random(), act, *arguments)

    def stream(self, source: str, target: str, kind: str, act: Callable[..., None], *arguments: Any) -> None:
        """On a kept connection."""
        self.sent[kind] += 1
        self._resend(source, target, act, *arguments)

    def _resend(self, source: str, target: str, act: Callable[..., None], *arguments: Any) -> None:
        if self._cuts and self._stops(source, target):
            self._after(RESEND_S, self._resend, source, target, act, *arguments)
        else:
            self._after(_LEAST + _SPREAD * self._random(), act, *arguments)

    def _stops(self, source: str, target: str) -> bool:
        cut = self.is_cut(source, target)
        self.stopped[source, target] += cut
        return cut

    def cut(self, source: str, target: str) -> None:
        """One way."""
        self._cuts[source, target] += 1

    def heal(self, source: str, target: str) -> None:
        self._cuts[source, target] -= 1
        if not self._cuts[source, target]:
            del self._cuts[source, target]

    def is_cut(self, source: str, target: str) -> bool:
        return source != target and (source, target) in self._cuts

    @property
    def is_cut_somewhere(self) -> bool:
        return bool(self._cuts)

    def reaches(self, one: str, other: str) -> bool:
        """A question gets there, and its answer back."""
        return not self.is_cut(one, other) and not self.is_cut(other, one)
