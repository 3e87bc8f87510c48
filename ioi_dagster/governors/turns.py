"""Which of a cluster's nodes may be replaced now: where the code of several has changed, one after another.

Meanwhile the others take the steps of runs that had begun before. Where there is no such run, nobody would take anything, and all
may go at once, so that the run whose code is new has its nodes soonest. Times are monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ASKS_S = 1.0
"""Who has not asked for so long asks no longer."""
STILL_S = 2.0
"""When no run that had begun before has done anything for so long, none is there."""
COMES_S = 60.0
"""So long the others wait for one that has gone."""


@dataclass(frozen=True, slots=True)
class _Ask:
    life: str
    busy: int
    at: float


class Turns:
    """Of one cluster. A node is known by its name and the life of its process."""

    def __init__(self) -> None:
        self._asks: dict[str, _Ask] = {}
        self._whose, self._life = "", ""
        self._gone_at: float | None = None
        self._revoked = False
        self._loud_at = -math.inf

    def asks(self, node: str, life: str, busy: int, quiet: bool, now: float) -> bool:
        """May this process take nothing new any more, so that it can be replaced when the `busy` steps that run there have
        ended? `quiet`: it has had nothing to do with runs that had begun before for `STILL_S`. It asks until it goes; a no takes
        an earlier yes back, and who still runs something makes way for who runs nothing."""
        self._asks[node] = _Ask(life, busy, now)
        self._asks = {name: ask for name, ask in self._asks.items() if now - ask.at <= ASKS_S}
        if not quiet:
            self._loud_at = now
        if now - self._loud_at > STILL_S:
            return True
        if self._gone_at is not None and now - self._gone_at > COMES_S:
            self._free()
        if (self._whose, self._life) == (node, life):
            if not self._revoked:
                return True
            self._free()
        if self._whose:
            holder = self._asks.get(self._whose)
            self._revoked = self._revoked or (holder is not None and holder.busy > 0 and not busy)
            return False
        if busy > min(ask.busy for ask in self._asks.values()):
            return False
        self._whose, self._life = node, life
        return True

    def joined(self, node: str, life: str) -> None:
        if node == self._whose and life != self._life:
            self._free()

    def left(self, node: str, life: str, now: float) -> None:
        self._asks.pop(node, None)
        if (node, life) == (self._whose, self._life):
            self._gone_at = now

    def _free(self) -> None:
        self._whose, self._life, self._gone_at, self._revoked = "", "", None, False
