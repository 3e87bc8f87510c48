"""The block governor of one node: which replicas are warm, when a failing block gets no more calls, what is evicted.

The circuit breaker is that of M. Nygard, "Release It!" (2007): closed, open after repeated failures, half-open to try.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ioi_dagster.model.refusal import Refusal

FAILURES_TO_OPEN = 5
OPEN_S = 20.0


class Warmth(StrEnum):
    COLD = "cold"
    WARM = "warm"


@dataclass(frozen=True, slots=True)
class CallAsked:
    capability: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    capability: str
    failed: bool


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The replica that a call needed did not load; the call ends besides."""

    capability: str


@dataclass(frozen=True, slots=True)
class MemoryShort:
    """Free something: the least recently used idle replica goes."""


@dataclass(frozen=True, slots=True)
class Load:
    capability: str


@dataclass(frozen=True, slots=True)
class Call:
    capability: str


@dataclass(frozen=True, slots=True)
class Unload:
    capability: str


@dataclass(frozen=True, slots=True)
class RefuseCall:
    refusal: Refusal


@dataclass(slots=True)
class _Replica:
    warmth: Warmth = Warmth.COLD
    busy: int = 0
    failures: int = 0
    open_until: float = float("-inf")
    used_at: float = 0.0


class BlockGovernor:
    """One per node, over all capabilities that it offers."""

    def __init__(self, offers: frozenset[str], node: str) -> None:
        self._node = node
        self._replicas = {capability: _Replica() for capability in sorted(offers)}

    def handle(
        self, event: CallAsked | CallEnded | LoadFailed | MemoryShort, now: float
    ) -> list[Load | Call | Unload | RefuseCall]:
        """Take one event at monotonic time `now` (seconds)."""
        match event:
            case CallAsked(capability):
                return self._asked(capability, now)
            case CallEnded(capability, failed):
                replica = self._replicas[capability]
                replica.busy -= 1
                replica.failures = replica.failures + 1 if failed else 0
                if replica.failures >= FAILURES_TO_OPEN:
                    replica.open_until = now + OPEN_S
                return []
            case LoadFailed(capability):
                self._replicas[capability].warmth = Warmth.COLD
                return []
            case MemoryShort():
                idle = [
                    (replica.used_at, name)
                    for name, replica in self._replicas.items()
                    if replica.warmth is Warmth.WARM and not replica.busy
                ]
                if not idle:
                    return []
                name = min(idle)[1]
                self._replicas[name].warmth = Warmth.COLD
                return [Unload(name)]

    def warm(self) -> frozenset[str]:
        return frozenset(name for name, replica in self._replicas.items() if replica.warmth is Warmth.WARM)

    def _asked(self, capability: str, now: float) -> list[Load | Call | Unload | RefuseCall]:
        replica = self._replicas.get(capability)
        if replica is None:
            return [RefuseCall(Refusal("block.not_offered", f"{capability} is not offered here", self._node))]
        if replica.open_until > now:
            text = f"{capability} failed {replica.failures} times in a row"
            return [RefuseCall(Refusal("block.circuit_open", text, self._node, "place it elsewhere"))]
        replica.busy += 1
        replica.used_at = now
        if replica.warmth is Warmth.COLD:
            replica.warmth = Warmth.WARM
            return [Load(capability), Call(capability)]
        return [Call(capability)]
