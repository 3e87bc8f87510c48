"""What one run has come to think of the clusters that it deals with: who keeps his bids, and who answers at all.

It begins with how those stand with its domain (see `standing`), and tells that what it has seen.

Soft state: it fades, and may be lost. A bid that was kept or broken counts as one observation of a Beta distribution with a
prior of one kept bid (A. Jøsang, R. Ismail, "The Beta Reputation System", 2002), and half of what was seen is forgotten in
`HALF_LIFE_S` seconds, since a bid may be broken in good faith: between a bid and its award another run takes the slot.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ioi_dagster.governors.standing import bad_of, trust_of
from ioi_dagster.model.standing import Experience, Standing

HALF_LIFE_S = 60.0
FIRST_REST_S, LONGEST_REST_S = 0.5, 10.0
"""Who did not answer is asked again after this, doubled each time."""
MANY, BEST, SAMPLED = 50, 2, 3
"""Of more clusters than `MANY`, so many of the best and so many others are asked: load is spread, and nobody is forgotten."""
PRIOR = 4.0
"""What is known of a cluster before counts as so many observations at most, and does not fade within the run."""
REMEMBERED = 16
"""The best are looked for among those that were dealt with last."""


@dataclass(slots=True)
class _Seen:
    kept: float = 0.0
    broken: float = 0.0
    at: float = 0.0
    silent: int = 0
    why: str = ""
    rests_until: float = float("-inf")


class Reputation:
    """All times are monotonic seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._before: dict[str, tuple[float, float]] = {}
        """Cluster → how many of its bids were kept and broken before this run, as far as that counts."""
        self._untold: dict[str, Experience] = {}
        self._last: OrderedDict[str, None] = OrderedDict()
        self._asked_of: tuple[Sequence[str], frozenset[str]] = (), frozenset()
        """The clusters of `ask_whom`, as they were given last, and as a set."""

    def begin(self, standings: Iterable[Standing]) -> None:
        """How clusters stand with the run's domain."""
        for one in standings:
            bad = bad_of(one.broken, one.late, one.lost)
            part = min(1.0, PRIOR / (one.kept + bad)) if one.kept + bad else 0.0
            self._before[one.cluster] = one.kept * part, bad * part

    def experience(self) -> tuple[Experience, ...]:
        """What was seen since this was asked last, for the run's domain."""
        untold, self._untold = self._untold, {}
        return tuple(untold.values())

    def lost(self, cluster: str, why: str) -> None:
        """A step was lost there, with its node or its scheduler."""
        self._note(cluster, why, lost=1.0)

    def _note(self, cluster: str, why: str = "", **more: float) -> None:
        its = self._untold.get(cluster) or Experience(cluster)
        amounts = {name: getattr(its, name) + amount for name, amount in more.items()}
        self._untold[cluster] = replace(its, why=why[:300] or its.why, **amounts)

    def observe(self, cluster: str, kept: int, broken: int, now: float) -> None:
        """An award was answered: so many of the requests that the bid had room for were leased, so many were not."""
        if not kept + broken:
            return
        seen = self._faded(cluster, now)
        self._last[cluster] = None
        self._last.move_to_end(cluster)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        part = kept / (kept + broken)
        seen.kept, seen.broken = seen.kept + part, seen.broken + 1.0 - part
        why = f"{broken} of {kept + broken} of an award were not as it had bid" if broken else ""
        self._note(cluster, why, kept=part, broken=1.0 - part)

    def trust(self, cluster: str, now: float) -> float:
        """The part of its bids that it is expected to keep, 0 < trust ≤ 1; 1 for who is not known."""
        seen, (kept, broken) = self._seen.get(cluster), self._before.get(cluster, (0.0, 0.0))
        if (seen is None or not seen.broken) and not broken:
            return 1.0
        seen = self._faded(cluster, now)
        return trust_of(kept + seen.kept, broken + seen.broken)

    def missed(self, cluster: str, why: str, now: float) -> None:
        """It did not answer in time."""
        self._note(cluster, why, late=1.0)
        seen = self._faded(cluster, now)
        seen.rests_until = now + min(FIRST_REST_S * 2.0**seen.silent, LONGEST_REST_S)
        seen.silent, seen.why = min(seen.silent + 1, 30), why

    def answered(self, cluster: str) -> None:
        """It did, though perhaps late."""
        if cluster in self._seen:
            seen = self._seen[cluster]
            seen.silent, seen.why, seen.rests_until = 0, "", float("-inf")

    def suspect(self, cluster: str) -> str:
        """Why it is not waited for; empty for one that answered when it was last asked."""
        return self._seen[cluster].why if cluster in self._seen else ""

    def rests(self, cluster: str, now: float) -> bool:
        """It is not asked now."""
        return cluster in self._seen and now < self._seen[cluster].rests_until

    def ask_whom(self, clusters: Sequence[str], now: float, seed: str, passed: Collection[str] = ()) -> Collection[str]:
        """Of many clusters the best and a sample, drawn by `seed`; of few all. Those that are `passed` only after all others,
        which have a sample of their own."""
        if len(clusters) <= MANY:
            return clusters
        others = [name for name in clusters if name not in passed] if passed else []
        if others:
            return random.Random(seed).sample(others, min(BEST + SAMPLED, len(others)))
        if clusters is not self._asked_of[0]:
            # They seldom change, and a look through them costs as much as all else here.
            self._asked_of = clusters, frozenset(clusters)
        known = [(self._seen[name], name) for name in self._last if name in self._asked_of[1]]
        trusted = {name: self.trust(name, now) if seen.broken or name in self._before else 1.0 for seen, name in known}
        ranks = [(bool(seen.why), -trusted[name], name) for seen, name in known]
        best = [name for _, _, name in sorted(ranks)[:BEST]]
        drawn = random.Random(seed).sample(clusters, BEST + SAMPLED)
        return [*best, *[name for name in drawn if name not in best][: BEST + SAMPLED - len(best)]]

    def snapshot(self) -> dict[str, dict[str, object]]:
        """Of those of whom there is something to say, as it was when each was last dealt with."""
        return {
            name: {"trust": round(self.trust(name, seen.at), 3), "suspect": seen.why}
            for name, seen in sorted(self._seen.items())
        }

    def _faded(self, cluster: str, now: float) -> _Seen:
        seen = self._seen.setdefault(cluster, _Seen(at=now))
        left = 0.5 ** (max(0.0, now - seen.at) / HALF_LIFE_S)
        seen.kept, seen.broken, seen.at = seen.kept * left, seen.broken * left, max(now, seen.at)
        return seen
