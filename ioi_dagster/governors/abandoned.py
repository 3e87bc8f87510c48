"""What runs on under leases that nobody has renewed in time: each keeps its slot until it has stopped, for a while at most."""

from __future__ import annotations

from collections.abc import Iterator

from ioi_dagster.governors.leases import Held


class Abandoned:
    """All times are monotonic seconds. `patience_s`: so long a slot is kept at most for what does not say that it has stopped."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._held: dict[str, tuple[Held, float]] = {}
        """By lease, in the order in which they ran out, and until when its slot is kept."""

    def __contains__(self, lease: object) -> bool:
        return lease in self._held

    def __getitem__(self, lease: str) -> Held:
        return self._held[lease][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: Held, now: float) -> None:
        self._held[held.lease.id] = held, now + self.patience_s

    def pop(self, lease: str) -> Held | None:
        """It keeps its slot no longer. None where it is none of these."""
        return self._held.pop(lease, (None, 0.0))[0]

    def over(self, now: float) -> list[str]:
        """Those that have had their time."""
        found = []
        for lease, (_, until) in self._held.items():
            if until > now:
                break
            found.append(lease)
        return found
