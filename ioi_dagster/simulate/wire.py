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


class Wire:
    """`loss` and `doubling`: the part of messages that never comes, and that comes twice."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self._engine, self._rng = engine, rng
        self._cuts: Counter[frozenset[str]] = Counter()
        self.loss = self.doubling = 0.0
        self.sent: Counter[str] = Counter()
        self.lost = 0

    def send(self, source: str, target: str, kind: str, act: Callable[..., None], *arguments: Any) -> None:
        """A call: have `act` happen at `target`, if it gets there."""
        self.sent[kind] += 1
        for _ in range(2 if self.doubling and self._rng.random() < self.doubling else 1):
            if self.is_cut(source, target) or (self.loss and self._rng.random() < self.loss):
                self.lost += 1
            else:
                self._engine.after(self._rng.uniform(*LATENCY_S), act, *arguments)

    def stream(self, source: str, target: str, kind: str, act: Callable[..., None], *arguments: Any) -> None:
        """On a kept connection."""
        self.sent[kind] += 1
        self._resend(source, target, act, *arguments)

    def _resend(self, source: str, target: str, act: Callable[..., None], *arguments: Any) -> None:
        if self.is_cut(source, target):
            self._engine.after(RESEND_S, self._resend, source, target, act, *arguments)
        else:
            self._engine.after(self._rng.uniform(*LATENCY_S), act, *arguments)

    def cut(self, one: str, other: str) -> None:
        self._cuts[frozenset((one, other))] += 1

    def heal(self, one: str, other: str) -> None:
        self._cuts[frozenset((one, other))] -= 1

    def is_cut(self, one: str, other: str) -> bool:
        return one != other and self._cuts[frozenset((one, other))] > 0
