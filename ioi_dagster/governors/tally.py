"""What became of all that was asked of a cluster since it started, by tenant: a person sees whom it turns away, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.model.negotiation import Announce, Bid, Lease, LeaseRequest, RejectedRequest

MOST = 1_000
"""Tenants that are counted by themselves; what others ask counts for `OTHERS`."""
OTHERS = ""


@dataclass(slots=True)
class _Counts:
    """Announcements; bids with room and refusals in bids, by code; leases that were granted and requests that were not, by code;
    steps that were told to stop."""

    rounds: int = 0
    offered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    leased: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    stopped: int = 0

    def told(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "offered": self.offered,
            "refused": dict(self.refused),
            "leased": self.leased,
            "rejected": dict(self.rejected),
            "stopped": self.stopped,
        }


class Tally:
    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}

    def announced(self, announce: Announce) -> None:
        for its in self._of(announce):
            its.rounds += 1

    def bid(self, announce: Announce, bid: Bid) -> None:
        for its in self._of(announce):
            its.offered += bool(bid.points)
            its.refused.update({refusal.code for refusal in bid.refusals})

    def awarded(
        self, requests: Iterable[LeaseRequest], granted: Iterable[Lease], rejected: Iterable[RejectedRequest]
    ) -> None:
        """What was granted before under the same fence counts no second time."""
        leased = {(lease.step, lease.fence, lease.copy) for lease in granted}
        codes = {(one.step, one.fence): one.refusal.code for one in rejected}
        for request in requests:
            if (request.step, request.fence, request.copy) in leased:
                self._one(request.tenant).leased += 1
            elif (code := codes.get((request.step, request.fence))) is not None:
                self._one(request.tenant).rejected[code] += 1

    def stopped(self, tenant: str) -> None:
        self._one(tenant).stopped += 1

    def snapshot(self) -> dict[str, dict[str, Any]]:
        return {tenant: counts.told() for tenant, counts in sorted(self._counts.items())}

    def _of(self, announce: Announce) -> list[_Counts]:
        return [self._one(tenant) for tenant in {group.tenant for group in announce.groups}]

    def _one(self, tenant: str) -> _Counts:
        found = self._counts.get(tenant)
        if found is None:
            name = tenant if len(self._counts) < MOST else OTHERS
            found = self._counts.setdefault(name, _Counts())
        return found
