"""Which step is served first, and which of the offers it takes: the rule that a flow governor goes by, apart from all else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow_messages import GraphKnown, Place
from ioi_dagster.governors.flow_steps import Step
from ioi_dagster.model.negotiation import Bid, Lease


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
        raise BadInputError(f"there is no objective {name[:80]!r}", todo=f"take one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


@dataclass(frozen=True, slots=True)
class Offer:
    """What one step can have: a slot at `place` for `price` credits, in which it is expected to end `seconds` after its start,
    the time to move its inputs included. `trust`: the part of its bids that the cluster keeps, above 0 and at most 1."""

    place: Place
    price: float
    seconds: float
    trust: float
    prefer: tuple[str, ...] = ()
    """Nodes that the step rather has."""
    beside: int = 0
    """So many of those that it is to be near are in this cluster."""

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

    def know(self, graph: GraphKnown, now: float) -> None:
        """What is to come. Raises `BadInputError` for what is no graph."""
        ...

    def about(self, waiting: Collection[Step], now: float) -> tuple[str, ...]:
        """Capabilities for whose sake bids should tell of nodes, in a round for those that wait."""
        ...

    def remaining_s(self) -> float:
        """Seconds of work that are left; 0 where nobody knows."""
        ...

    def look(self, waiting: Collection[Step], bids: Iterable[Bid], trust: Callable[[str], float], now: float) -> None:
        """A round is over, with these bids, and steps are about to choose. `trust`: see `Offer`."""
        ...

    def remarks(self, waiting: Collection[Step], untold: Iterable[Bid]) -> Sequence[str]:
        """What people should know of how steps are placed, each once. `untold`: bids of who was asked how its nodes look, and
        tells of none."""
        ...

    def order(self, waiting: Iterable[Step]) -> Sequence[Step]:
        """Those that wait, in the order in which they choose."""
        ...

    def choose(self, step: Step, offers: Sequence[Offer]) -> Offer | None:
        """One of the offers, all of which can be paid; None where it rather waits."""
        ...

    def why_waits(self, step: Step) -> str:
        """Why it chose none of its offers in the last round; empty where it was not by choice."""
        ...

    def expect(self, capability: str, cluster: str) -> float:
        """Seconds that a step of this capability is expected to run there."""
        ...

    def is_warm(self, capability: str, cluster: str, node: str) -> bool | None:
        """Is there a replica that has loaded, as far as was told of this node in the last round? None where nothing was."""
        ...

    def began(self, step: Step, cluster: str, node: str, now: float) -> None:
        """It has a slot there, or is about to have it."""
        ...

    def ended(self, step: Step, lease: Lease, seconds: float, now: float) -> None:
        """It ran there for so long, and is done."""
        ...

    def late(self, now: float) -> Mapping[str, tuple[str, str]] | None:
        """Steps that run and of which a copy is worth its room, with the cluster and the node for it; None where it has no
        opinion."""
        ...

    def copied(self, step: Step, lease: Lease, now: float) -> None:
        """A copy of it has its slot too."""
        ...

    def stopped(self, step: Step, lease: Lease) -> None:
        """One of its starts is over without a result, and another goes on."""
        ...

    def again(self, step: Step) -> None:
        """It is not done, and runs nowhere."""
        ...

    def gone(self, step: Step) -> None:
        """It is not done, runs nowhere, and will not be asked for, unless somebody has it run again."""
        ...

    def away(self, cluster: str) -> None:
        """It is not there any more, or does not answer; it is there again when it bids."""
        ...


class LeastCost:
    """Each step by itself takes what costs least in seconds and credits, as the objective weighs them."""

    def __init__(self, objective: Objective) -> None:
        self._weights = objective
        self._seconds: dict[str, dict[str, float]] = {}
        """By capability, by cluster."""
        self._means: dict[str, float] = {}
        """By capability, over its clusters; worked out when it is asked for."""

    def know(self, graph: GraphKnown, now: float) -> None:
        pass

    def about(self, waiting: Collection[Step], now: float) -> tuple[str, ...]:
        return ()

    def remaining_s(self) -> float:
        return 0.0

    def look(self, waiting: Collection[Step], bids: Iterable[Bid], trust: Callable[[str], float], now: float) -> None:
        pass

    def remarks(self, waiting: Collection[Step], untold: Iterable[Bid]) -> Sequence[str]:
        return ()

    def order(self, waiting: Iterable[Step]) -> Sequence[Step]:
        """Priority first; then who has the fewest places, lest others take their only one; then age."""
        return sorted(waiting, key=lambda step: (-step.ask.priority, len(step.places), step.order))

    def choose(self, step: Step, offers: Sequence[Offer]) -> Offer | None:
        return min(offers, key=lambda offer: self._rank(step, offer), default=None)

    def why_waits(self, step: Step) -> str:
        return ""

    def is_warm(self, capability: str, cluster: str, node: str) -> bool | None:
        return None

    def began(self, step: Step, cluster: str, node: str, now: float) -> None:
        pass

    def ended(self, step: Step, lease: Lease, seconds: float, now: float) -> None:
        known = self._seconds.setdefault(step.ask.capability, {})
        known[lease.cluster] = 0.7 * known.get(lease.cluster, seconds) + 0.3 * seconds
        self._means.pop(step.ask.capability, None)

    def late(self, now: float) -> Mapping[str, tuple[str, str]] | None:
        return None

    def copied(self, step: Step, lease: Lease, now: float) -> None:
        pass

    def stopped(self, step: Step, lease: Lease) -> None:
        pass

    def again(self, step: Step) -> None:
        pass

    def gone(self, step: Step) -> None:
        pass

    def away(self, cluster: str) -> None:
        pass

    def _rank(self, step: Step, offer: Offer) -> tuple[bool, int, float, str]:
        # A bid that is not kept costs a round, so what is offered is worth as much of it as is kept.
        cost = (self._weights.second * offer.seconds + self._weights.credit * offer.price) / offer.trust
        return offer.place.cluster == step.turned_down_by, -offer.beside, cost, offer.place.cluster

    def expect(self, capability: str, cluster: str) -> float:
        """Where nothing is known, the mean of the others, so that all get tried."""
        known = self._seconds.get(capability, {})
        if cluster in known:
            return known[cluster]
        if capability not in self._means:
            self._means[capability] = sum(known.values()) / len(known) if known else 1.0
        return self._means[capability]
