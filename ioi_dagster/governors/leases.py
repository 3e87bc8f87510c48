"""The leases that a cluster governor holds: by id and by start, until when, and which fences have been."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from ioi_dagster.model.negotiation import Lease, LeaseRequest, Resources

MAX_FENCES = 100_000


@dataclass(slots=True)
class Held:
    """`origin`: the domain whose run has it. `waits`: its step waits for others, which run in its place. `since`: when it was
    granted, for about `seconds` (0: nobody knows). `checkpointable`: it may leave something before it is stopped."""

    lease: Lease
    origin: str
    until: float
    tenant: str
    waits: bool = False
    since: float = 0.0
    seconds: float = 0.0
    resources: Resources = ()
    checkpointable: bool = False


_Start = tuple[str, str, str, int]
"""Origin, run, step and copy."""


class Leases:
    """All times are monotonic seconds. `origin` is the domain that asks."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self._by_start: dict[_Start, str] = {}
        self._fences: dict[_Start, int] = {}
        self._ends: list[tuple[float, str]] = []
        """A heap of (until, lease). One that was renewed or released meanwhile stands here still."""

    def __len__(self) -> int:
        return len(self.held)

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def __iter__(self) -> Iterator[Held]:
        return iter(self.held.values())

    def of(self, origin: str, request: LeaseRequest) -> Lease | None:
        """The lease of its start that is held, of whichever fence."""
        known = self.held.get(self._by_start.get((origin, request.run, request.step, request.copy), ""))
        return known.lease if known is not None else None

    def stale(self, origin: str, request: LeaseRequest) -> bool:
        """A lease of its fence or of a newer one was granted before."""
        return request.fence <= self._fences.get((origin, request.run, request.step, request.copy), 0)

    def held_by(self, origin: str, name: str) -> Held | None:
        """The lease, where it is of that domain. The cluster's own processes, which have no `origin`, may touch all."""
        held = self.held.get(name)
        return held if held is not None and origin in ("", held.origin) else None

    def add(self, lease: Lease, origin: str, request: LeaseRequest, until: float, now: float) -> None:
        start = (origin, lease.run, lease.step, lease.copy)
        self.held[lease.id] = Held(
            lease,
            origin,
            until,
            request.tenant,
            since=now,
            seconds=request.seconds,
            resources=request.resources,
            checkpointable=request.checkpointable,
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
        del self._by_start[held.origin, held.lease.run, held.lease.step, held.lease.copy]
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
            start = (held.origin, held.lease.run, held.lease.step, held.lease.copy)
            assert self._by_start[start] == name == held.lease.id
        assert len(self._by_start) == len(self.held)
