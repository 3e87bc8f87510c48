"""What a cluster answers to an announcement or an award, held against what it was asked: it speaks for itself only, and grants
what it was asked for, once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ioi_dagster.errors import RetryableError
from ioi_dagster.model.negotiation import Announce, Award, Awarded, Bid, Lease, LeaseRequest


@dataclass(frozen=True, slots=True)
class Held:
    """An answer to an award: what of it counts, requests of which it says nothing that does (by their steps), and leases that
    nobody has asked for: of something else, or a second one for a request."""

    awarded: Awarded
    missing: tuple[str, ...] = ()
    excess: tuple[Lease, ...] = ()


def checked_bid(bid: Bid, cluster: str, announce: Announce) -> Bid:
    """`bid`, which answers `announce` however late it comes; raises `RetryableError` where it is of something else."""
    its, asked = (bid.cluster, bid.run, bid.round), (cluster, announce.run, announce.round)
    if its != asked:
        raise RetryableError(f"it answered with a bid of {_named(*its)}, asked was {_named(*asked)}")
    return bid


def checked_award(awarded: Awarded, award: Award, domain: str) -> Held:
    """`awarded`, which `domain` answers, held against `award`. Raises `RetryableError` where it is another cluster's."""
    if awarded.cluster != award.cluster:
        raise RetryableError(f"it answered in the name of cluster {awarded.cluster[:100]!r}")
    asked = {(request.step, request.fence): request for request in award.requests}
    leases: dict[str, Lease] = {}
    ids: set[str] = set()
    excess: list[Lease] = []
    for lease in awarded.leases:
        request = asked.get((lease.step, lease.fence))
        good = request is not None and _grants(lease, request, award, domain)
        if good and lease.step not in leases and lease.id not in ids:
            leases[lease.step] = lease
            ids.add(lease.id)
        else:
            excess.append(lease)
    rejected = tuple(item for item in awarded.rejected if (item.step, item.fence) in asked and item.step not in leases)
    named = {*leases, *(item.step for item in rejected)}
    missing = tuple(request.step for request in award.requests if request.step not in named)
    return Held(replace(awarded, leases=tuple(leases.values()), rejected=rejected), missing, tuple(excess))


def _grants(lease: Lease, request: LeaseRequest, award: Award, domain: str) -> bool:
    return (lease.run, lease.copy, lease.capability, lease.cluster, lease.domain, lease.origin) == (
        request.run,
        request.copy,
        request.capability,
        award.cluster,
        domain,
        award.origin,
    )


def _named(cluster: str, run: str, number: int) -> str:
    return f"{cluster[:100]!r} in round {number} of run {run[:100]!r}"
