"""Slots that a run holds in clusters, so that what a cluster bids beside them can be held against what it has."""

from __future__ import annotations

from collections.abc import Iterable

from ioi_dagster.model.intervention import PART
from ioi_dagster.model.negotiation import Lease


class HeldSlots:
    """By cluster, the leases under which steps run. One whose step has mapped something is none of them: while it waits for the
    parts they have its slot, and when its cluster hears that it goes on is not known here."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[tuple[str, int], int]] = {}
        """By cluster, step and copy, the last round that the run had opened when it took the lease."""
        self._mapping: set[str] = set()
        """Steps that have had parts since they began."""

    def took(self, lease: Lease, round_: int) -> None:
        if lease.step not in self._mapping:
            self._rounds.setdefault(lease.cluster, {})[lease.step, lease.copy] = round_

    def left(self, lease: Lease) -> None:
        self._mapping.discard(lease.step)
        self._drop(lease)

    def maps(self, part: str, leases: Iterable[Lease]) -> None:
        """`part` is asked for by the step that runs under `leases`."""
        self._mapping.add(part.rpartition(PART)[0])
        for lease in leases:
            self._drop(lease)

    def count(self, cluster: str) -> int:
        return len(self._rounds.get(cluster, ()))

    def before(self, cluster: str, round_: int) -> int:
        """How many of those it took before that round, and has held since."""
        return sum(taken < round_ for taken in self._rounds.get(cluster, {}).values())

    def _drop(self, lease: Lease) -> None:
        its = self._rounds.get(lease.cluster, {})
        if its.pop((lease.step, lease.copy), None) is not None and not its:
            del self._rounds[lease.cluster]

    def validate(self, running: Iterable[Lease]) -> None:
        """`running`: all leases under which steps run."""
        counted = {(lease.cluster, lease.step, lease.copy) for lease in running if lease.step not in self._mapping}
        assert counted == {(cluster, *start) for cluster, starts in self._rounds.items() for start in starts}
