"""Bids of more slots than a cluster has, by its record, beside what the run holds there: no more than that is taken of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ioi_dagster.governors.flow_held import HeldSlots
from ioi_dagster.governors.flow_messages import Instruction, Tell
from ioi_dagster.governors.flow_offers import Offers
from ioi_dagster.governors.reputation import Reputation
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.negotiation import Bid
from ioi_dagster.model.story import Chapter


class Overbids:
    """A cluster of unknown size is taken at its word."""

    def __init__(self, held: HeldSlots, reputation: Reputation) -> None:
        self._held, self._reputation = held, reputation
        self.slots: dict[str, int] = {}
        """What clusters have at most, by their records; 0 where that is not known."""
        self._told: dict[str, tuple[int, int]] = {}
        """Clusters that were told of for that they bid so many slots and have so many left."""
        self._doubted: dict[str, int] = {}
        """Clusters that bid more than seems to be left beside what the run holds there, and the round of the last such bid."""

    def cut(
        self, offers: Offers, bids: Mapping[str, Bid], awarded: Callable[[str], int], now: float
    ) -> list[Instruction]:
        """`offers` are those of `bids`, by cluster; `awarded`: how many slots a cluster is asked for by awards that it has not
        answered."""
        out: list[Instruction] = []
        for cluster, bid in bids.items():
            size, has = offers.room(cluster), self.slots.get(cluster, 0)
            if not has:
                continue
            ours = self._held.count(cluster) + awarded(cluster)
            if size + ours <= has:
                self._doubted.pop(cluster, None)
                continue
            offers.cut(cluster, max(0, has - ours))
            # What ran there may be lost, and the run has not heard it yet: only what the run held before the last bid of that
            # kind too, and holds still, is held against it.
            since = self._doubted.get(cluster, bid.round)
            self._doubted[cluster] = max(since, bid.round)
            proven = self._held.before(cluster, since) if since < bid.round else 0
            free = max(0, has - proven)
            if size > free:
                self._reputation.observe(cluster, free, size - free, now)
                out += self._tell(cluster, size, proven, free)
        return out

    def _tell(self, cluster: str, size: int, proven: int, free: int) -> list[Instruction]:
        if self._told.get(cluster) == (size, free):
            return []
        self._told[cluster] = size, free
        has = self.slots[cluster]
        text = f"{cluster} bids {counted(size, 'slot')} and has {has} by its record"
        text += f", of which this run holds {proven}" if proven else ""
        facts = {"cluster": cluster, "bid": size, "slots": has} | ({"held": proven} if proven else {})
        return [Tell("", Chapter.BID, f"{text}: no more are taken, and it is trusted less", facts)]
