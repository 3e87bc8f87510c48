"""The leases that a cluster governor holds: by id and by start, until when, and which fences have been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TypeVar

from ioi_dagster.model.negotiation import Lease, LeaseRequest, Resources, Whose

MAX_FENCES = 100_000
T = TypeVar("T")


@dataclass(slots=True)
class Held:
    """`origin`: the domain whose run has it. `waits`: its step waits for others, which run in its place. `since`: when it was
    granted, for about `seconds` (0: nobody knows). `preemptible`: it may be stopped, and placed again; `checkpointable`: it may
    leave something before that."""

    lease: Lease
    origin: str
    until: float
    tenant: str
    waits: bool = False
    since: float = 0.0
    seconds: float = 0.0
    resources: Resources = ()
    preemptible: bool = True
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
        """A heap of (until, lease), one entry a lease and one more each time that it is shortened. It may have been renewed or
        released meanwhile."""
        self.capabilities: Counter[str] = Counter()
        self.tenants: Counter[str] = Counter()
        """How many run of each: one that waits for others does not."""
        self._awaiting: Counter[tuple[Whose, str, str]] = Counter()
        """By run, tenant and step, and by run and tenant, how many wait for others."""

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
            preemptible=request.preemptible,
            checkpointable=request.checkpointable,
        )
        self._by_start[start] = lease.id
        self._count(self.held[lease.id], 1)
        heappush(self._ends, (until, lease.id))
        # The newest fence of a step outlives its lease, or an award that was under way could bring an older one back.
        self._fences.pop(start, None)
        self._fences[start] = lease.fence
        if len(self._fences) > MAX_FENCES:
            del self._fences[next(iter(self._fences))]

    def renew(self, name: str, until: float) -> None:
        held = self.held[name]
        if until < held.until:
            heappush(self._ends, (until, name))
        held.until = until

    def waits(self, name: str, waits: bool) -> None:
        """Its step waits for others from now on, or goes on."""
        held = self.held[name]
        if waits != held.waits:
            self._count(held, -1)
            held.waits = waits
            self._count(held, 1)

    def awaits(self, whose: Whose, tenant: str, step: str = "") -> bool:
        """That step of the run, or any, waits for others; of that tenant."""
        return (whose, tenant, step) in self._awaiting

    def _count(self, held: Held, by: int) -> None:
        if held.waits:
            for key in _awaited(held):
                _add(self._awaiting, key, by)
        else:
            _add(self.capabilities, held.lease.capability, by)
            _add(self.tenants, held.tenant, by)

    def end(self, name: str) -> Held:
        held = self.held.pop(name)
        self._count(held, -1)
        del self._by_start[held.origin, held.lease.run, held.lease.step, held.lease.copy]
        return held

    def expired(self, now: float) -> list[str]:
        """Those whose time is over, the first of them first."""
        found: dict[str, None] = {}
        while self._ends and self._ends[0][0] <= now:
            _, name = heappop(self._ends)
            if name in self.held:
                if self.held[name].until > now:
                    heappush(self._ends, (self.held[name].until, name))
                else:
                    found[name] = None
        return list(found)

    def validate(self) -> None:
        for name, held in self.held.items():
            start = (held.origin, held.lease.run, held.lease.step, held.lease.copy)
            assert self._by_start[start] == name == held.lease.id
        assert len(self._by_start) == len(self.held)
        running = [held for held in self.held.values() if not held.waits]
        assert self.capabilities == Counter(held.lease.capability for held in running)
        assert self.tenants == Counter(held.tenant for held in running)
        waiting = [held for held in self.held.values() if held.waits]
        assert self._awaiting == Counter(key for held in waiting for key in _awaited(held))


def _awaited(held: Held) -> Iterator[tuple[Whose, str, str]]:
    whose = (held.origin, held.lease.run)
    yield whose, held.tenant, held.lease.step
    yield whose, held.tenant, ""


def _add(counts: Counter[T], name: T, by: int) -> None:
    counts[name] += by
    if not counts[name]:
        del counts[name]
