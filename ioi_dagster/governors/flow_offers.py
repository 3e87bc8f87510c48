"""What is on offer in a round of a flow governor: the supply that is left, and what of it a step, or a gang, can have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.governors.flow_nearness import Nearness
from ioi_dagster.governors.flow_placing import Offer, Placing
from ioi_dagster.governors.flow_steps import Group, Step
from ioi_dagster.model.negotiation import Bid, SupplyPoint


@dataclass(slots=True)
class _Rung:
    """A point of a supply curve, of which `slots` are left."""

    price: float
    slots: int
    warm: int


class Offers:
    """Supply that is left in a round. Each curve is used from its cheapest point on; those of one cluster share its slots."""

    def __init__(self, bids: Iterable[Bid]) -> None:
        self._curves: dict[tuple[Any, ...], list[_Rung]] = {}
        """By cluster and what a step is to it, dearest first: what is taken next stands at the end."""
        for bid in bids:
            for point in bid.points:
                if point.slots:
                    key = (bid.cluster, *_curve_of(point))
                    self._curves.setdefault(key, []).append(_Rung(point.price, point.slots, point.warm))
        self._left: dict[str, int] = {}
        for (cluster, *_), rungs in self._curves.items():
            rungs.sort(key=lambda rung: (-rung.price, rung.warm))
            self._left[cluster] = max(self._left.get(cluster, 0), sum(rung.slots for rung in rungs))
        for (*its, idle), rungs in list(self._curves.items()):
            if idle:
                # What was offered to copies alone does for a step that is ready by now.
                self._curves.setdefault((*its, False), rungs)
        self._open = len(self._left)
        self.changed: list[str] = []
        """A cluster whenever one of its prices is another, or it has nothing left."""

    @property
    def exhausted(self) -> bool:
        return not self._open

    def price(self, cluster: str, group: Group, count: int = 1) -> float | None:
        """Of the next `count` steps together; None where it has no room for them, or for as many as start together."""
        rungs, left = self._rungs(cluster, group), max(count, group.gang)
        if not rungs or self._left[cluster] < left:
            return None
        if left == 1:
            return rungs[-1].price
        total = 0.0
        for rung in reversed(rungs):
            total += rung.price * max(0, min(rung.slots, count))
            count, left = count - rung.slots, left - rung.slots
            if left <= 0:
                return total
        return None

    def left(self, cluster: str, group: Group) -> bool:
        return self.price(cluster, group) is not None

    def room(self, cluster: str) -> int:
        """For so many steps of any kind at most."""
        return self._left.get(cluster, 0)

    def cut(self, cluster: str, slots: int) -> None:
        """It has no more than so many, whatever it bids."""
        left = self._left.get(cluster, 0)
        self._left[cluster] = min(left, slots)
        self._open -= left > 0 and slots <= 0

    def is_warm(self, cluster: str, group: Group) -> bool:
        """Does the next step there find a replica that has loaded?"""
        rungs = self._rungs(cluster, group)
        return bool(rungs) and rungs[-1].warm > 0

    def take(self, cluster: str, group: Group) -> float:
        """A slot for one step, the cheapest that is left of its kind; its price."""
        rungs = self._rungs(cluster, group)
        rung = rungs[-1]
        rung.slots, rung.warm = rung.slots - 1, rung.warm - 1
        self._left[cluster] -= 1
        if not self._left[cluster]:
            self._open -= 1
        if not rung.slots:
            rungs.pop()
        if not rung.slots or not self._left[cluster]:
            self.changed.append(cluster)
        return rung.price

    def _rungs(self, cluster: str, group: Group) -> list[_Rung]:
        return self._curves.get((cluster, *_curve_of(group)), [])


def _curve_of(one: SupplyPoint | Group) -> tuple[Any, ...]:
    return one.capability, one.data_class, one.resources, one.gang, one.part, one.idle


@dataclass(slots=True)
class _Alike:
    """`by_cluster` and `offers` are the same, as they were when so many changes had been `seen`."""

    places: tuple[Place, ...]
    places_of: dict[str, Place]
    by_cluster: dict[str, Offer]
    offers: list[Offer]
    seen: int


class Menu:
    """By the offers of one round. `trust`: see `Offer`."""

    def __init__(
        self, offers: Offers, placing: Placing, nearness: Nearness, cold: ColdStarts, trust: Callable[[str], float]
    ) -> None:
        self._offers, self._placing, self._nearness, self._cold, self._trust = offers, placing, nearness, cold, trust
        self._alike: dict[tuple[Group, int], _Alike] = {}
        """What steps of one group and with the same places can have; places are known by their identity, and kept for that."""

    def of(self, unit: Sequence[Step], places: tuple[Place, ...]) -> Sequence[Offer]:
        """What all of `unit` can have at one of `places`; of a gang, what they cost together, and how long the longest takes."""
        step = unit[0]
        if len(unit) > 1 or self._nearness.wishes(step.ask) or self._cold.known(step.ask.capability):
            return self._for(unit, [one.group for one in unit], places)
        its = self._alike.get((step.group, id(places)))
        changed = self._offers.changed
        if its is None:
            found = {offer.place.cluster: offer for offer in self._for(unit, [step.group], places)}
            its = _Alike(places, {place.cluster: place for place in places}, found, list(found.values()), len(changed))
            self._alike[step.group, id(places)] = its
        elif its.seen < len(changed):
            for cluster in its.by_cluster.keys() & changed[its.seen :]:
                anew = self._for(unit, [step.group], (its.places_of[cluster],))
                # The order stays that of the places.
                if anew:
                    its.by_cluster[cluster] = anew[0]
                else:
                    del its.by_cluster[cluster]
            its.offers, its.seen = list(its.by_cluster.values()), len(changed)
        return its.offers

    def of_copy(self, step: Step, places: tuple[Place, ...]) -> Sequence[Offer]:
        """What a copy of `step` can have, of what nobody else wants."""
        return self._for([step], [step.group._replace(idle=True)], places)

    def _for(self, unit: Sequence[Step], groups: Sequence[Group], places: tuple[Place, ...]) -> list[Offer]:
        # Groups of one curve share what it has, whatever else tells them from each other.
        curves = {_curve_of(group): group for group in groups}
        counts = Counter(map(_curve_of, groups))
        others = [{place.cluster: place for place in step.places} for step in unit[1:]]
        offered = []
        for place in places:
            cluster = place.cluster
            if self._offers.room(cluster) < len(unit) or not all(cluster in its for its in others):
                continue
            prices = [self._offers.price(cluster, group, counts[its]) for its, group in curves.items()]
            if any(price is None for price in prices):
                continue
            moves_s = max([place.transfer_s, *(its[cluster].transfer_s for its in others)])
            seconds = max(map(self._seconds, unit, groups, repeat(cluster))) + moves_s
            price = sum(price for price in prices if price is not None)
            beside = sum(self._nearness.near(step.ask, cluster) for step in unit)
            offered.append(Offer(place, price, seconds, self._trust(cluster), beside=beside))
        return offered

    def _seconds(self, step: Step, group: Group, cluster: str) -> float:
        """That it is expected to run there, the loading of its block included."""
        capability = step.ask.capability
        loads_s = 0.0 if self._offers.is_warm(cluster, group) else self._cold.expect(capability, cluster)
        return self._placing.expect(capability, cluster) + loads_s
