"""Steps that an earlier process of a run started and that are under way still: their answers are waited for, not made anew.

It is done where the fences say so: the ledger's newest fence of the step is the one it was started under, the place may still be
used (registry and policy are asked again), the node still knows of the start, and the cluster still holds its lease. Whatever is
missing, the step is placed again under a new fence, as after any loss.
"""

from __future__ import annotations

from collections.abc import Iterable

from ioi_dagster.adapters.sql.ledger import StepRow
from ioi_dagster.errors import IoiError
from ioi_dagster.host.fleets import EarlierStart
from ioi_dagster.host.work import Network
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Lease, LeaseRequest


def find_under_way(network: Network, run: str, rows: Iterable[StepRow]) -> dict[str, Lease]:
    """Leases by step, of those of `rows` that may be adopted. `rows`: what the ledger says of the run's steps."""
    by_kind: dict[tuple[str, DataClass], list[StepRow]] = {}
    for row in rows:
        # A chunk belongs to the step that waits for it, which asked the process that is gone.
        if row.state == "RUN" and "#" not in row.step and row.cluster and row.capability and row.data_class:
            by_kind.setdefault((row.capability, DataClass(row.data_class)), []).append(row)
    wanted: dict[str, list[EarlierStart]] = {}
    for (capability, data_class), its in by_kind.items():
        may = _clusters(network, capability, data_class)
        for row in its:
            if row.cluster in may:
                request = LeaseRequest(run, row.step, row.fence, capability, data_class)
                wanted.setdefault(row.cluster or "", []).append(EarlierStart(request, row.node or "", network.home))
    found: dict[str, Lease] = {}
    for cluster, its in wanted.items():
        try:
            found |= {lease.step: lease for lease in network.fleet(cluster).find(its)}
        except IoiError:
            continue  # who does not answer now has nothing that can be adopted
    return found


def _clusters(network: Network, capability: str, data_class: DataClass) -> set[str]:
    try:
        places = network.find(capability, data_class, (), False).places
    except IoiError:
        return set()
    return {place.cluster for place in places}
