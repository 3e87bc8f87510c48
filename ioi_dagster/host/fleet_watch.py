"""The clusters of a run, looked after: which went away and came back, and the leases there renewed in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, Protocol

from ioi_dagster.clock import Clock
from ioi_dagster.governors import flow
from ioi_dagster.governors.failures import Cause
from ioi_dagster.host.fleets import Fleet
from ioi_dagster.model.negotiation import Lease, RenewRequest

RENEW_EVERY_S = 3.0
"""Before the end of a step that its cluster governor stops and that does not stop by itself, so that nobody is blamed for it."""
RECOVER_EVERY_S = 1.0


class Fleets(Protocol):
    def fleet(self, cluster: str) -> Fleet: ...

    def fleets(self) -> list[Fleet]: ...


class FleetWatch:
    """What takes time is done in `pool`; what it finds out is posted as an event of the flow governor."""

    def __init__(self, run: str, fleets: Fleets, pool: Executor, post: Callable[[Any], None], clock: Clock) -> None:
        self._run, self._fleets, self._pool, self._post, self._clock = run, fleets, pool, post, clock
        self._renewed_at = clock.monotonic()
        self._recovering: set[str] = set()
        self._away: dict[str, float] = {}
        """Until when (monotonic, s) a cluster that went away is left alone."""

    def look(self) -> Iterator[str]:
        """The clusters that went away since the last call. Those that are away are asked again from time to time."""
        now = self._clock.monotonic()
        for fleet in self._fleets.fleets():
            fleet.look_after(now)
            cluster = fleet.cluster
            if cluster not in self._away and not fleet.alive():
                self._away[cluster] = now
                yield cluster
            elif cluster not in self._recovering and now >= self._away.get(cluster, now + 1.0):
                self._recovering.add(cluster)
                self._pool.submit(self._recover, fleet)

    def _recover(self, fleet: Fleet) -> None:
        back = False
        try:
            back = fleet.recover()
        except Exception:
            back = False  # still away; asked again in a second
        finally:
            if back:
                self._away.pop(fleet.cluster, None)
                self._post(flow.ClusterBack(fleet.cluster))
            else:
                self._away[fleet.cluster] = self._clock.monotonic() + RECOVER_EVERY_S
            self._recovering.discard(fleet.cluster)

    def renew(self, held: Callable[[], tuple[list[Lease], frozenset[str]]]) -> None:
        """Renew the leases that are due. `held`: the run's leases, and the keys of those whose steps wait for others."""
        now = self._clock.monotonic()
        if now - self._renewed_at < RENEW_EVERY_S:
            return
        self._renewed_at = now
        leases, waiting = held()
        for cluster in {lease.cluster for lease in leases}:
            mine = [lease for lease in leases if lease.cluster == cluster]
            waits = tuple(lease.id for lease in mine if lease.key in waiting)
            self._pool.submit(self._renew, cluster, mine, waits)

    def _renew(self, cluster: str, leases: list[Lease], waits: tuple[str, ...]) -> None:
        request = RenewRequest(self._run, tuple(lease.id for lease in leases), waits)
        try:
            renewed = self._fleets.fleet(cluster).renew(request)
        except Exception:
            return  # asked again before the lease expires
        lost = [lease for lease in leases if lease.id in renewed.lost]
        for lease in lost:
            why = f"{cluster} no longer holds the lease"
            self._post(flow.StepLost(lease.step, lease.fence, "", why, Cause.LEASE_LOST, lease.copy))
        if lost:
            # Its slot is somebody else's now. What still runs could not commit any more.
            self._fleets.fleet(cluster).cancel([lease.key for lease in lost])
