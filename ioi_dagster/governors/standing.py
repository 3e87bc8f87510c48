"""How clusters stand with a domain: what its own runs have told of them, forgotten by half in `HALF_LIFE_S`.

The part of a network governor that outlives runs. It goes by what the domain's own runs have seen and by nothing else: what other
members say of a cluster neither lowers nor raises it, so that nobody can be talked down (nor praise himself). As within a run it
is a Beta reputation (see `reputation`); an answer that came late and a step that was lost count half of a broken bid, since links
and machines fail in good faith.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ioi_dagster.model.standing import MAX_STANDINGS, Experience, Standing

HALF_LIFE_S = 6 * 3600.0
MISHAP = 0.5
MOST_TOLD = 20.0
"""Of each kind, in one telling: no run outweighs all others."""
MOST_KEPT = 50.0
"""So much in all is remembered of a cluster, old and new in proportion: who has mended can show it within a day's runs."""


def trust_of(kept: float, broken: float, late: float = 0.0, lost: float = 0.0) -> float:
    """0 < trust ≤ 1; 1 for who is not known."""
    return (kept + 1.0) / (kept + bad_of(broken, late, lost) + 1.0)


def bad_of(broken: float, late: float, lost: float) -> float:
    return broken + MISHAP * (late + lost)


@dataclass(slots=True)
class _Told:
    kept: float = 0.0
    broken: float = 0.0
    late: float = 0.0
    lost: float = 0.0
    why: str = ""
    at: float = 0.0
    """Until then it has faded."""
    heard: float = 0.0
    """When it was told of last."""

    @property
    def total(self) -> float:
        return self.kept + self.broken + self.late + self.lost

    def bound(self) -> None:
        if self.total > MOST_KEPT:
            self.times(MOST_KEPT / self.total)

    def times(self, factor: float) -> None:
        self.kept, self.broken = self.kept * factor, self.broken * factor
        self.late, self.lost = self.late * factor, self.lost * factor


class Standings:
    """All times are monotonic seconds."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def tell(self, seen: Iterable[Experience], now: float) -> None:
        """One of the domain's own runs has seen this since it told last."""
        for one in seen:
            its = self._faded(one.cluster, now)
            its.kept += min(one.kept, MOST_TOLD)
            its.broken += min(one.broken, MOST_TOLD)
            its.late += min(one.late, MOST_TOLD)
            its.lost += min(one.lost, MOST_TOLD)
            its.why, its.heard = one.why or its.why, now
            its.bound()

    def restore(self, standings: Iterable[Standing], since_s: float, now: float) -> None:
        """What an earlier process had, as it was `since_s` seconds ago."""
        passed = max(0.0, since_s)
        for one in standings:
            told = _Told(one.kept, one.broken, one.late, one.lost, one.why, now - passed, now - passed - one.told_s_ago)
            told.bound()
            self._room_for(one.cluster)
            self._told[one.cluster] = told

    def all(self, now: float) -> tuple[Standing, ...]:
        """By name, of each cluster of which there is something left to say."""
        found = []
        for name in sorted(self._told):
            its = self._faded(name, now)
            if its.total < 0.01:
                del self._told[name]
                continue
            trust = trust_of(its.kept, its.broken, its.late, its.lost)
            counts = (round(its.kept, 3), round(its.broken, 3), round(its.late, 3), round(its.lost, 3))
            found.append(Standing(name, round(trust, 3), *counts, its.why, round(max(0.0, now - its.heard), 1)))
        return tuple(found)

    def _faded(self, name: str, now: float) -> _Told:
        its = self._told.get(name)
        if its is None:
            self._room_for(name)
            its = self._told[name] = _Told(at=now)
        its.times(0.5 ** (max(0.0, now - its.at) / HALF_LIFE_S))
        its.at = max(its.at, now)
        return its

    def _room_for(self, name: str) -> None:
        """Of whom least is known is forgotten for it."""
        if name not in self._told and len(self._told) >= MAX_STANDINGS:
            del self._told[min(self._told, key=lambda one: (self._told[one].total, one))]

    def validate(self) -> None:
        assert len(self._told) <= MAX_STANDINGS
        for its in self._told.values():
            assert min(its.kept, its.broken, its.late, its.lost) >= 0.0
            assert its.total <= MOST_KEPT + 1e-6
