"""How evenly tenants are served while they all want more: Jain's index of their weighted shares.

(Σx)² / (n·Σx²) of the shares x of n tenants: 1 where all are equal, 1/n where one has everything (R. Jain, D. Chiu, W. Hawe,
"A Quantitative Measure of Fairness and Discrimination", DEC TR-301, 1984).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SAMPLE_S = 1.0


def jain(shares: Iterable[float]) -> float:
    """Of at least one share; 1.0 where nobody has anything."""
    its = list(shares)
    most = max(its)
    if not most:
        return 1.0
    parts = [share / most for share in its]  # the square of a tiny share would be 0
    return sum(parts) ** 2 / (len(parts) * sum(part * part for part in parts))


class Fairness:
    """Looked at every `SAMPLE_S`. A tenant counts where it waits and did when it was looked at before: whose steps are placed at
    once wants no more than it has. `weights`: 1 for those that are not among them."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._waited: set[str] = set()
        self._sum, self._samples = 0.0, 0

    def look(self, waiting: Mapping[str, int], running: Mapping[str, int]) -> None:
        """By tenant: steps that are ready and have no slot, and those that have one."""
        wait = {tenant for tenant, count in waiting.items() if count}
        backlogged = wait & self._waited
        self._waited = wait
        if len(backlogged) > 1:
            self._sum += jain(running.get(tenant, 0) / self._weights.get(tenant, 1.0) for tenant in sorted(backlogged))
            self._samples += 1

    @property
    def index(self) -> float | None:
        """The mean of all looks; None where no two tenants waited at the same time."""
        return round(self._sum / self._samples, 4) if self._samples else None
