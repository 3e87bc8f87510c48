"""What is on offer in a round of a flow governor: the supply that is left, and what of it a step, or a gang, can have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.governors.flow_nearness import Nearness
from ioi_dagster.governors.flow_placing import Offer, Placing
from ioi_dagster.governors.flow_steps import Group, Step
from ioi_dagster.model.negotiation import Bid, SupplyPoint


class Offers:
    """Supply that is left in a round. Points of one cluster share its slots."""

    def __init__(self, bids: Iterable[Bid]) -> None:
        self._points: dict[tuple[Any, ...], SupplyPoint] = {}
        for bid in bids:
            for point in bid.points:
                key = (bid.cluster, point.capability, point.data_class, point.resources, point.gang)
                known = self._points.get(key)
                # There are two where steps and copies of others were asked for in one round.
                self._points[key] = point if known is None or point.slots > known.slots else known
        self._warm = {key: point.warm for key, point in self._points.items()}
        self._left: dict[str, int] = {}
        for (cluster, *_), point in self._points.items():
            self._left[cluster] = max(self._left.get(cluster, 0), point.slots)

    @property
    def exhausted(self) -> bool:
        return not any(left > 0 for left in self._left.values())

    def price(self, cluster: str, group: Group) -> float | None:
        """Of one step; None where it has no room for one, or for as many as start together."""
        point = self._points.get((cluster, group.capability, group.data_class, group.resources, group.gang))
        together = max(1, group.gang)
        if point is None or point.slots < together or self._left.get(cluster, 0) < together:
            return None
        return point.price

    def left(self, cluster: str, group: Group) -> bool:
        return self.price(cluster, group) is not None

    def room(self, cluster: str) -> int:
        """For so many steps of any kind at most."""
        return self._left.get(cluster, 0)

    def is_warm(self, cluster: str, group: Group) -> bool:
        """Does the next step there find a replica that has loaded?"""
        return self._warm.get((cluster, group.capability, group.data_class, group.resources, group.gang), 0) > 0

    def take(self, cluster: str, group: Group) -> None:
        """A slot for one step."""
        self._left[cluster] -= 1
        key = (cluster, group.capability, group.data_class, group.resources, group.gang)
        self._warm[key] = self._warm.get(key, 0) - 1


class Menu:
    """By the offers of one round. `trust`: see `Offer`."""

    def __init__(
        self, offers: Offers, placing: Placing, nearness: Nearness, cold: ColdStarts, trust: Callable[[str], float]
    ) -> None:
        self._offers, self._placing, self._nearness, self._cold, self._trust = offers, placing, nearness, cold, trust
        self._alike: dict[tuple[Group, int], tuple[list[Offer], tuple[Place, ...]]] = {}
        """What steps of one group and with the same places can have; places are known by their identity, and kept for that."""

    def of(self, unit: Sequence[Step], places: tuple[Place, ...]) -> list[Offer]:
        """What all of `unit` can have at one of `places`; of a gang, what they cost together, and how long the longest takes."""
        step = unit[0]
        if len(unit) > 1 or self._nearness.wishes(step.ask) or self._cold.known(step.ask.capability):
            return self._for(unit, places)
        key = (step.group, id(places))
        if key not in self._alike:
            self._alike[key] = (self._for(unit, places), places)
        left = self._offers.room
        return [offer for offer in self._alike[key][0] if left(offer.place.cluster) > 0]

    def _for(self, unit: Sequence[Step], places: tuple[Place, ...]) -> list[Offer]:
        others = [{place.cluster: place for place in step.places} for step in unit[1:]]
        offered = []
        for place in places:
            cluster = place.cluster
            if self._offers.room(cluster) < len(unit) or not all(cluster in its for its in others):
                continue
            prices = [self._offers.price(cluster, step.group) for step in unit]
            if any(price is None for price in prices):
                continue
            moves_s = max([place.transfer_s, *(its[cluster].transfer_s for its in others)])
            seconds = max(self._seconds(step, cluster) for step in unit) + moves_s
            price = sum(price for price in prices if price is not None)
            beside = sum(self._nearness.near(step.ask, cluster) for step in unit)
            offered.append(Offer(place, price, seconds, self._trust(cluster), beside=beside))
        return offered

    def _seconds(self, step: Step, cluster: str) -> float:
        """That it is expected to run there, the loading of its block included."""
        capability = step.ask.capability
        loads_s = 0.0 if self._offers.is_warm(cluster, step.group) else self._cold.expect(capability, cluster)
        return self._placing.expect(capability, cluster) + loads_s
