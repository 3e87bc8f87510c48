"""Room for one call of a block in the domain's own clusters: announced, bid for, awarded, renewed while it runs, and released."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ioi_dagster.adapters.http.clusters import Clusters
from ioi_dagster.adapters.http.refusals import ProblemError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    LATE_S,
    MAX_WAIT_S,
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
)
from ioi_dagster.model.refusal import Refusal

AGAIN_S = 0.25
"""After what was waited for has not come."""
RENEWALS = 4
"""In the time for which a lease holds: two may be lost."""


@dataclass(slots=True)
class Room:
    """Of the call `run`, which the domain `origin` makes itself."""

    clusters: Clusters
    origin: str
    run: str
    capability: str
    data_class: DataClass
    _round: int = 0
    _fence: int = 0
    _why: dict[str, Refusal] = field(default_factory=dict)
    _never: set[str] = field(default_factory=set)

    async def lease(self, among: Sequence[str], left_s: float) -> Lease | Refusal:
        """In the cluster with the cheapest room; where there is none, in the first that has some within `left_s` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + left_s
        wait_s = 0.0
        while True:
            self._why = {}
            for cluster in await self._bidding(among, wait_s):
                granted = await self._awarded(cluster)
                if granted is not None:
                    return granted
            if wait_s:
                # One that turns it away at once does not wait.
                await asyncio.sleep(AGAIN_S)
            wait_s = min(until - loop.time() - LATE_S, MAX_WAIT_S)
            if wait_s <= 0 or self._never.issuperset(among):
                return self._no_room()

    async def _bidding(self, among: Sequence[str], wait_s: float) -> list[str]:
        """Clusters that have room, the cheapest first; with a wait, those that have some first of all. What others offer after
        that is declined."""
        self._round += 1
        group = AskGroup(self.capability, self.data_class, 1)
        announce = Announce(self.run, self._round, self.origin, (group,), wait_s=wait_s)
        asked = {
            asyncio.ensure_future(
                self.clusters.ask(name, "announce", announce, Bid, 1.0 + (wait_s + LATE_S if wait_s else 0.0))
            ): name
            for name in among
        }
        waiting, prices = set(asked), dict[str, float]()
        try:
            while waiting and not (wait_s and prices):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    self._heard(asked[one], one, prices)
        finally:
            # Whoever hangs up on a cluster waits there no longer.
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        order = sorted(prices, key=lambda name: (prices[name], name))
        if wait_s:
            for name in order[1:]:
                await self._decline(name)
            return order[:1]
        return order

    def _heard(self, cluster: str, answer: asyncio.Future[Bid], prices: dict[str, float]) -> None:
        try:
            bid = answer.result()
        except ProblemError as problem:
            self._why[cluster] = Refusal(problem.code, problem.text, cluster, problem.remedy)
            return
        room = [point.price for point in bid.points if point.slots and point.capability == self.capability]
        if room:
            prices[cluster] = min(room)
            return
        if bid.refusals:
            self._why[cluster] = bid.refusals[0]
        if bid.never:
            self._never.add(cluster)
            self._why[cluster] = bid.never[0].refusal

    async def _awarded(self, cluster: str) -> Lease | None:
        self._fence += 1
        request = LeaseRequest(self.run, "call", self._fence, self.capability, self.data_class, preemptible=False)
        award = Award(cluster, self.run, self._round, self.origin, (request,))
        try:
            awarded = await self.clusters.ask(cluster, "award", award, Awarded)
        except ProblemError as problem:
            self._why[cluster] = Refusal(problem.code, problem.text, cluster, problem.remedy)
            return None
        for rejected in awarded.rejected:
            self._why[cluster] = rejected.refusal
        return awarded.leases[0] if awarded.leases else None

    async def _decline(self, cluster: str) -> None:
        try:
            await self.clusters.ask(cluster, "award", Award(cluster, self.run, self._round, self.origin, ()), Awarded)
        except ProblemError:
            return  # what is offered lapses by itself

    def _no_room(self) -> Refusal:
        why = "; ".join(f"{name}: {refusal.text}" for name, refusal in sorted(self._why.items()))
        text = f"no room for {self.capability} came in time{f' ({why})' if why else ''}"
        return Refusal("ras.no_room", text[:1_000], self.origin, "wait longer, or ask later")

    @asynccontextmanager
    async def holding(self, lease: Lease) -> AsyncIterator[asyncio.Event]:
        """Renews it, and releases it at the end. Set: it is lost, and what runs under it counts no more."""
        lost = asyncio.Event()
        renewing = asyncio.create_task(self._renew(lease, lost))
        try:
            yield lost
        finally:
            renewing.cancel()
            request = ReleaseRequest(self.run, (lease.id,), self.origin)
            # Also when nobody waits any more; what is not heard ends by itself.
            await asyncio.shield(_quietly(self.clusters.ask(lease.cluster, "release", request, dict)))

    async def _renew(self, lease: Lease, lost: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + lease.ttl_s
        while loop.time() < until:
            await asyncio.sleep(lease.ttl_s / RENEWALS)
            request = RenewRequest(self.run, (lease.id,), origin=self.origin)
            try:
                renewed = await self.clusters.ask(lease.cluster, "renew", request, Renewed)
            except ProblemError:
                continue
            if lease.id not in renewed.held:
                break
            until = loop.time() + lease.ttl_s
        lost.set()


async def _quietly(asked: object) -> None:
    try:
        await asked  # pyright: ignore[reportGeneralTypeIssues]
    except ProblemError:
        return
