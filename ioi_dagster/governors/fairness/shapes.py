"""What requests ask for: those that ask for the same on the same nodes are of one shape."""

from __future__ import annotations

from typing import Any

from ioi_dagster.governors.fairness.pools import Pool

EPSILON = 1e-9
"""What sums of amounts and of credits may be off by."""

Need = tuple[tuple[int, float], ...]
"""What is asked, by the resource's number; nothing that is zero."""


class Shape:
    """Requests that ask for the same on the same nodes are one to the search.

    While it is `known` where it fits, that is on no node but, perhaps, those in `open`: whoever says so tells it of each node
    that has room for it from then on (`watch.py`). `full`: that was looked for since somebody has it first. `heads` counts the
    queues that it stands first in; `size` is its dominant share of the cluster, all copies. `least`: it asks for one resource
    only, and for no more of it than anybody does, so that whatever comes free is enough for it."""

    __slots__ = (
        "copies",
        "could",
        "could_at",
        "full",
        "heads",
        "known",
        "least",
        "need",
        "open",
        "pool",
        "shelves",
        "size",
        "total",
    )

    def __init__(self, need: Need, copies: int, pool: Pool) -> None:
        self.need, self.copies, self.pool = need, copies, pool
        self.total: Need = tuple((number, amount * copies) for number, amount in need)
        self.size = 0.0
        self.full = self.known = self.least = False
        self.open: dict[int, None] = {}
        self.heads = 0
        self.shelves: list[Any] = []
        """Where queues stand that have it first and wait until it fits somewhere (`tree.py`)."""
        self.could, self.could_at = 0, -1
        """How many copies fit into empty nodes, and of which time that is."""

    def forget(self) -> None:
        """Where it fits is no longer known."""
        self.full = self.known = False
        self.open.clear()
