"""What each child of a node would have if room were a fluid: weighted dominant resource fairness by water-filling.

A. Ghodsi et al., "Dominant Resource Fairness: Fair Allocation of Multiple Resource Types" (NSDI 2011). All dominant shares
divided by weight rise together from what is guaranteed; one stops when it has what it wants, when it reaches its cap, or
when a resource that it needs is used up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Claim:
    """One child: how much of each resource it takes for each unit of dominant share (`mix`, its largest is 1), and from
    which dominant share (`floor`) to which (`cap`) it may rise."""

    weight: float
    mix: list[float]
    floor: float
    cap: float


def water_fill(claims: Sequence[Claim], limit: Sequence[float]) -> list[float]:
    """The dominant share of each claim when `limit` (parts of the cluster by resource) is shared out."""
    width = range(len(limit))
    left = [part - sum(claim.floor * claim.mix[r] for claim in claims) for r, part in enumerate(limit)]
    floors = [claim.floor for claim in claims]
    if any(part < -1e-9 for part in left):  # guarantees of a cluster that has shrunk since: then weights alone count
        floors, left = [0.0] * len(claims), list(limit)
    got = list(floors)
    events = sorted(
        [(floors[i] / claim.weight, 0, i) for i, claim in enumerate(claims) if claim.cap > floors[i]]
        + [(claim.cap / claim.weight, 1, i) for i, claim in enumerate(claims) if claim.cap > floors[i]]
    )
    speed = [0.0] * len(limit)
    rising: dict[int, None] = {}
    stopped: set[int] = set()
    level = 0.0

    def stop(i: int) -> None:
        del rising[i]
        stopped.add(i)
        got[i] = min(claims[i].cap, max(floors[i], level * claims[i].weight))
        for r in width:
            speed[r] -= claims[i].weight * claims[i].mix[r]

    for at, ends, i in events:
        while True:
            step = at - level
            full = -1
            for r in width:
                if speed[r] > 1e-12 and left[r] < speed[r] * step:
                    step, full = max(0.0, left[r] / speed[r]), r
            level += step
            for r in width:
                left[r] -= speed[r] * step
            if full < 0:
                break
            left[full] = 0.0
            for other in [j for j in rising if claims[j].mix[full] > 1e-12]:
                stop(other)
            speed[full] = 0.0
        if ends:
            if i in rising:
                stop(i)
        elif not any(claims[i].mix[r] > 1e-12 and left[r] <= 1e-12 for r in width):
            rising[i] = None
            for r in width:
                speed[r] += claims[i].weight * claims[i].mix[r]
    return got
