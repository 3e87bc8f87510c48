"""The leases that a cluster governor holds: by id and by start, until when, and which fences have been."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from ioi_dagster.model.negotiation import Lease, LeaseRequest, Resources

MAX_FENCES = 100_000


@dataclass(slots=True)
class Held:
    """`waits`: its step waits for others, which run in its place. `since`: when it was granted, for about `seconds` (0: nobody
    knows)."""

    lease: Lease
    until: float
    tenant: str
    waits: bool = False
    since: float = 0.0
    seconds: float = 0.0
    resources: Resources = ()


class Leases:
    """All times are monotonic seconds."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self._by_start: dict[tuple[str, str, int], str] = {}
        self._fences: dict[tuple[str, str, int], int] = {}
        self._ends: list[tuple[float, str]] = []
        """A heap of (until, lease). One that was renewed or released meanwhile stands here still."""

    def __len__(self) -> int:
        return len(self.held)

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def __iter__(self) -> Iterator[Held]:
        return iter(self.held.values())

    def of(self, request: LeaseRequest) -> Lease | None:
        """The lease of its start that is held, of whichever fence."""
        known = self.held.get(self._by_start.get((request.run, request.step, request.copy), ""))
        return known.lease if known is not None else None

    def stale(self, request: LeaseRequest) -> bool:
        """A lease of its fence or of a newer one was granted before."""
        return request.fence <= self._fences.get((request.run, request.step, request.copy), 0)

    def add(self, lease: Lease, request: LeaseRequest, until: float, now: float) -> None:
        start = (lease.run, lease.step, lease.copy)
        self.held[lease.id] = Held(
            lease, until, request.tenant, since=now, seconds=request.seconds, resources=request.resources
        )
        self._by_start[start] = lease.id
        heappush(self._ends, (until, lease.id))
        # The newest fence of a step outlives its lease, or an award that was under way could bring an older one back.
        self._fences.pop(start, None)
        self._fences[start] = lease.fence
        if len(self._fences) > MAX_FENCES:
            del self._fences[next(iter(self._fences))]

    def renew(self, name: str, until: float) -> None:
        self.held[name].until = until
        heappush(self._ends, (until, name))

    def end(self, name: str) -> Held:
        held = self.held.pop(name)
        del self._by_start[held.lease.run, held.lease.step, held.lease.copy]
        return held

    def expired(self, now: float) -> list[str]:
        """Those whose time is over, the first of them first."""
        found: dict[str, None] = {}
        while self._ends and self._ends[0][0] <= now:
            _, name = heappop(self._ends)
            if name in self.held and self.held[name].until <= now:
                found[name] = None
        return list(found)

    def validate(self) -> None:
        for name, held in self.held.items():
            assert self._by_start[held.lease.run, held.lease.step, held.lease.copy] == name == held.lease.id
        assert len(self._by_start) == len(self.held)
