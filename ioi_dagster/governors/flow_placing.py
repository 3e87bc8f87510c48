"""Which step is served first, and which of the offers it takes: the rule that a flow governor goes by, apart from all else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.governors.flow_steps import Step


@dataclass(frozen=True, slots=True)
class Objective:
    """How much a second and a credit weigh when offers are compared."""

    second: float
    credit: float


OBJECTIVES = {
    "fastest": Objective(1.0, 0.01),
    "balanced": Objective(1.0, 1.0),
    "cheapest": Objective(0.01, 1.0),
}


def objective_of(name: str) -> Objective:
    """Raises `BadInputError` for a name that is not known."""
    if name not in OBJECTIVES:
        raise BadInputError(f"no objective {name!r}", todo=f"take one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


@dataclass(frozen=True, slots=True)
class Offer:
    """What one step can have: a slot at `place` for `price` credits, in which it is expected to end `seconds` after its start,
    the time to move its inputs included. `trust`: the part of its bids that the cluster keeps, above 0 and at most 1."""

    place: Place
    price: float
    seconds: float
    trust: float

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "cluster": self.place.cluster,
            "price": self.price,
            "seconds": round(self.seconds, 3),
            "trust": round(self.trust, 3),
        }


class Placing(Protocol):
    """The rule. It is asked anew in each round, and told what was learnt."""

    def order(self, waiting: Iterable[Step]) -> Sequence[Step]:
        """Those that wait, in the order in which they choose."""
        ...

    def choose(self, step: Step, offers: Sequence[Offer]) -> Offer | None:
        """One of the offers, all of which can be paid; None where it rather waits."""
        ...

    def expect(self, capability: str, cluster: str) -> float:
        """Seconds that a step of this capability is expected to run there."""
        ...

    def learn(self, capability: str, cluster: str, seconds: float) -> None:
        """One ran there for so long."""
        ...


class LeastCost:
    """Each step by itself takes what costs least in seconds and credits, as the objective weighs them."""

    def __init__(self, objective: Objective) -> None:
        self._weights = objective
        self._seconds: dict[str, dict[str, float]] = {}
        """By capability, by cluster."""
        self._means: dict[str, float] = {}
        """By capability, over its clusters; worked out when it is asked for."""

    def order(self, waiting: Iterable[Step]) -> Sequence[Step]:
        """Priority first; then who has the fewest places, lest others take their only one; then age."""
        return sorted(waiting, key=lambda step: (-step.ask.priority, len(step.places), step.order))

    def choose(self, step: Step, offers: Sequence[Offer]) -> Offer | None:
        return min(offers, key=lambda offer: self._rank(step, offer), default=None)

    def _rank(self, step: Step, offer: Offer) -> tuple[bool, float, str]:
        # A bid that is not kept costs a round, so what is offered is worth as much of it as is kept.
        cost = (self._weights.second * offer.seconds + self._weights.credit * offer.price) / offer.trust
        return offer.place.cluster == step.turned_down_by, cost, offer.place.cluster

    def expect(self, capability: str, cluster: str) -> float:
        """Where nothing is known, the mean of the others, so that all get tried."""
        known = self._seconds.get(capability, {})
        if cluster in known:
            return known[cluster]
        if capability not in self._means:
            self._means[capability] = sum(known.values()) / len(known) if known else 1.0
        return self._means[capability]

    def learn(self, capability: str, cluster: str, seconds: float) -> None:
        known = self._seconds.setdefault(capability, {})
        known[cluster] = 0.7 * known.get(cluster, seconds) + 0.3 * seconds
        self._means.pop(capability, None)
