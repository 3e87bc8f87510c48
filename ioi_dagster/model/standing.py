"""What runs of a domain have come to know of clusters, as they tell their own gateway and as it tells the next run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from ioi_dagster.model.negotiation import Name

MAX_STANDINGS = 1_000
"""Clusters of which one gateway remembers something, and of which one message may tell."""
Evidence = Annotated[float, Meta(ge=0, le=1e6)]
Why = Annotated[str, Meta(max_length=300)]


@dataclass(frozen=True, slots=True)
class Experience:
    """Of one cluster, since it was told last: awards whose bids were `kept` and `broken` (an award that was kept in part counts
    as a part of each), answers that were `late` or never came, steps that were `lost` with their node or scheduler. `why`: the
    last thing that went wrong."""

    cluster: Name
    kept: Evidence = 0.0
    broken: Evidence = 0.0
    late: Evidence = 0.0
    lost: Evidence = 0.0
    why: Why = ""


@dataclass(frozen=True, slots=True)
class Experiences:
    """What run `run` has to tell; with nothing it only asks what others have told."""

    run: Name
    seen: Annotated[tuple[Experience, ...], Meta(max_length=MAX_STANDINGS)] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of all that was told of a cluster, as `Experience` has it, and what that makes of it: `trust`, 0 to 1.
    `told_s_ago`: when it was told of last."""

    cluster: Name
    trust: Annotated[float, Meta(ge=0, le=1)]
    kept: Evidence = 0.0
    broken: Evidence = 0.0
    late: Evidence = 0.0
    lost: Evidence = 0.0
    why: Why = ""
    told_s_ago: Annotated[float, Meta(ge=0)] = 0.0
