"""What is heard of what runs: leased reports of instances, and what they say of their record together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote

from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.leases import LeasedState
from ioi_dagster.ras.summary import Liveness, Living

MAX_ENDED = 100_000
"""Names of which is remembered that something of them ran."""
MAX_INSTANCES = 1_000
"""Of one record."""
LEAST, MOST = ("load", "latency_ms"), ("quality", "locality", "reputation")


class LivingState:
    """Reports by record and instance; one whose lease has ended counts no more at once. Of a record of which nothing was ever
    reported it is not known whether it lives; when the last report of one has ended, nothing of it runs. Times are monotonic
    seconds, passed in."""

    def __init__(self, state: LeasedState | None = None) -> None:
        self._state = state if state is not None else LeasedState(tells=True)
        self._ended: dict[str, None] = {}

    def report(
        self, urn: str, instance: str, living: Living, ttl_s: float, now: float, owner: str = ""
    ) -> Refusal | None:
        """`owner` reports of an instance; a refusal where it has too many leases, or the instance is another's."""
        there = self._state.items(now, _group(urn))
        key = _group(urn) + quote(instance, safe="")
        if key not in there and len(there) >= MAX_INSTANCES:
            text = f"{urn} has {MAX_INSTANCES} instances here, and gets no more"
            return Refusal("ras.too_many_instances", text, "registry", "report several as one")
        return self._state.put(key, (urn, living), ttl_s, now, owner)

    def of(self, urn: str, now: float) -> Living | None:
        """All instances together: the least load and latency, the best quality, locality and reputation that is known."""
        self._look(now)
        there = [living for _, living in self._state.items(now, _group(urn)).values()]
        alive = [living for living in there if living.liveness is Liveness.ALIVE]
        if alive:
            return Living(
                Liveness.ALIVE,
                **{name: _best(min, alive, name) for name in LEAST},
                **{name: _best(max, alive, name) for name in MOST},
            )
        if there:
            dead = all(living.liveness is Liveness.DEAD for living in there)
            return Living(Liveness.DEAD if dead else Liveness.UNKNOWN)
        return Living(Liveness.DEAD) if urn in self._ended else None

    def at(self, now: float) -> Mapping[str, Living]:
        """Living state by URN, looked up when it is asked for."""
        return _At(self.of, self._urns, now)

    def __len__(self) -> int:
        """Leases that are held."""
        return len(self._state)

    def _urns(self, now: float) -> list[str]:
        return sorted({urn for urn, _ in self._state.items(now).values()})

    def _look(self, now: float) -> None:
        for _, (urn, _) in self._state.expire(now):
            self._ended.pop(urn, None)
            self._ended[urn] = None
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]


class _At(Mapping[str, Living]):
    def __init__(
        self, of: Callable[[str, float], Living | None], urns: Callable[[float], list[str]], now: float
    ) -> None:
        self._of, self._urns, self._now = of, urns, now

    def __getitem__(self, urn: str) -> Living:
        found = self._of(urn, self._now)
        if found is None:
            raise KeyError(urn)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._urns(self._now))

    def __len__(self) -> int:
        return len(self._urns(self._now))


def _group(urn: str) -> str:
    """Leases of one name lie together."""
    return quote(urn, safe=":") + "/"


def _best(better: Callable[[list[float]], float], there: list[Living], name: str) -> float | None:
    known = [value for one in there if (value := getattr(one, name)) is not None and math.isfinite(value)]
    return better(known) if known else None
