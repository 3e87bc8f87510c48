"""What a cluster answers that does not keep its word, made of what its governor says in truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ioi_dagster.model.negotiation import Announce, Award, Awarded, Bid, RejectedRequest, SupplyPoint
from ioi_dagster.model.refusal import Refusal


def for_nothing(message: Any, honest: Any) -> Any:
    """Everything is free and for nothing, and none of it is given."""
    if isinstance(message, Announce) and isinstance(honest, Bid):
        points = tuple(
            SupplyPoint(g.capability, g.data_class, g.count, 0.0, g.count, idle=g.idle, part=g.part)
            for g in message.groups
        )
        return replace(honest, points=points, refusals=())
    if isinstance(message, Award) and isinstance(honest, Awarded):
        no = Refusal("cluster.full", "not today", honest.cluster)
        return Awarded(honest.cluster, (), tuple(RejectedRequest(r.step, r.fence, no) for r in message.requests))
    return honest


def too_many(awarded: Awarded) -> Awarded:
    """With each lease a second one for the same request, and one for a step of nobody."""
    seconds = [replace(lease, id=f"{lease.id}/again") for lease in awarded.leases]
    nobodys = [replace(lease, id=f"{lease.id}/more", step=f"{lease.step}/more") for lease in awarded.leases]
    return replace(awarded, leases=(*awarded.leases, *seconds, *nobodys))
