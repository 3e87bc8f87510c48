"""Slots in Dagster's concurrency pools, given back while their steps wait for a place: others of the pool may have one meanwhile.

Dagster claims a step's slot when it vends the step. Under a governor a step may then wait for a node for long, and a pool of one
would stand still over all runs. So a slot is given back after a while, and claimed again when there is a place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ioi_dagster.host.private import ExecutionStep, InstanceConcurrencyContext
from ioi_dagster.host.work import Work

PATIENCE_S = 2.0
"""So long a step keeps its slot without a place: most find one sooner, and each claim is a transaction."""
_KEY, _PRIORITY = "dagster/concurrency_key", "dagster/priority"


def pool_of(step: Any) -> str:
    """The pool in which a step of a plan takes a slot, by its name or by the tag; empty where it is in none."""
    return step.pool or (step.tags or {}).get(_KEY, "")


@dataclass(slots=True)
class _Pooled:
    pool: str
    priority: int
    work: Work
    holds: bool = True
    out: bool = False
    """It had a place and no slot: it is out of the governor's hands until it has one."""


class PoolSlots:
    """Of one run, whose claims `pools` keeps."""

    def __init__(self, pools: InstanceConcurrencyContext) -> None:
        self._pools = pools
        self._pooled: dict[str, _Pooled] = {}

    def vended(self, step: ExecutionStep, work: Work) -> None:
        """Dagster has claimed its slot, if it is in a pool."""
        pool = pool_of(step)
        if pool:
            self._pooled[step.key] = _Pooled(pool, _integer(step.tags.get(_PRIORITY, "0")), work)

    def over(self, step: str) -> None:
        """Its outcome is there; Dagster gives its slot back."""
        self._pooled.pop(step, None)

    def give_back(self, waits_since: Callable[[str], float | None], now: float) -> list[str]:
        """Of steps that have waited too long for a place (monotonic s; None: it does not wait); returns their keys."""
        given = []
        for key, pooled in self._pooled.items():
            since = waits_since(key) if pooled.holds and not pooled.out else None
            if since is not None and now - since > PATIENCE_S:
                self._pools.free_step(key)
                pooled.holds = False
                given.append(key)
        return given

    def may_start(self, key: str) -> bool:
        """It has a place: does it have its slot, or get it back now? Where it does not, it comes with `again` when it has."""
        pooled = self._pooled.get(key)
        if pooled is None or self._claim(key, pooled):
            return True
        pooled.out = True
        return False

    def again(self) -> list[Work]:
        """Steps that had a place and no slot, and have one now."""
        back = [pooled for key, pooled in self._pooled.items() if pooled.out and self._claim(key, pooled)]
        for pooled in back:
            pooled.out = False
        return [pooled.work for pooled in back]

    def _claim(self, key: str, pooled: _Pooled) -> bool:
        pooled.holds = pooled.holds or self._pools.claim(pooled.pool, key, pooled.priority)
        return pooled.holds


def _integer(text: str) -> int:
    """As Dagster reads it."""
    try:
        return int(text)
    except ValueError:
        return 0
