"""Matching with supply curves, whatever is bid: no point is taken for more than its slots, no budget is exceeded, and who wants
it cheapest pays no more than another matching of the round would have cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.governors import flow
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_messages import Place, SendAnnounce, SendAward
from ioi_dagster.governors.flow_nearness import Nearness
from ioi_dagster.governors.flow_offers import Menu, Offers
from ioi_dagster.governors.flow_placing import LeastCost, objective_of
from ioi_dagster.governors.flow_steps import Group, Steps
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import MAX_POINTS, Ask, Awarded, Bid, Lease, RejectedRequest, SupplyPoint
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

NO = Refusal("cluster.full", "all nodes are busy", "c")
CLUSTERS = ("a", "b", "c")
PRICES = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 7.25, 100.0])
CURVE = st.lists(st.tuples(st.integers(0, 4), PRICES), max_size=MAX_POINTS)
"""In whatever order: a foreign cluster may tell its points as it likes."""
MARKET = st.fixed_dictionaries({}, optional=dict.fromkeys(CLUSTERS, CURVE))
OBJECTIVE = objective_of("balanced")
OBJECTIVES = st.sampled_from(["fastest", "cheapest", "balanced"])


def bid(cluster: str, number: int, curve: list[tuple[int, float]], **more: Any) -> Bid:
    points = tuple(SupplyPoint("ocr", DataClass.INTERNAL, slots, price, **more) for slots, price in curve)
    return Bid(cluster, cluster, "r", number, 1, points)


class Round:
    """A run of `count` steps that are alike, or a gang, with places everywhere."""

    def __init__(self, count: int, objective: str, budget: float | None, gang: bool = False) -> None:
        self.governor = FlowGovernor("r", "home", objective, budget=budget)
        self.now, self.budget = 0.0, budget
        self.done: list[flow.Instruction] = []
        more: dict[str, Any] = {"gang": "g", "gang_size": count} if gang else {}
        places = tuple(Place(cluster, cluster) for cluster in CLUSTERS)
        for number in range(count):
            self.tell(flow.StepReady(Ask("r", f"s{number}", "ocr", **more)), more=True)
        for number in range(count):
            self.tell(flow.PlacesFound(f"s{number}", places, (), True), more=True)
        self.tell(flow.Tick())

    def tell(self, event: flow.Event, more: bool = False) -> None:
        self.done += self.governor.handle(event, self.now, more)
        self.governor.validate()
        if self.budget is not None:
            assert self.governor.snapshot().spent <= self.budget + 1e-9

    def wanted(self, kind: type) -> list[Any]:
        return [one for one in self.done if isinstance(one, kind)]

    def bids(self, market: dict[str, list[tuple[int, float]]], **more: Any) -> None:
        """Everybody's, to what was announced last."""
        number = max((one.announce.round for one in self.wanted(SendAnnounce)), default=0)
        asked = [one.cluster for one in self.wanted(SendAnnounce) if one.announce.round == number]
        for cluster in asked:
            self.tell(flow.BidReceived(bid(cluster, number, market.get(cluster, []), **more)), more=True)
        self.tell(flow.Tick())

    def awarded(self) -> Counter[str]:
        """How many steps, by cluster."""
        return Counter({one.award.cluster: len(one.award.requests) for one in self.wanted(SendAward)})

    def told(self) -> list[float]:
        """The prices that steps were told, each of the offer that it took."""
        facts = [one.facts for one in self.wanted(flow.Tell) if one.chapter is Chapter.BID and "taken" in one.facts]
        return [offer["price"] for its in facts for offer in its["offers"] if offer["cluster"] == its["taken"]]


@given(CURVE, st.integers(1, 30))
def test_a_curve_is_used_from_its_cheapest_slot_on_and_no_further_than_its_end(curve, wanted):
    offers = Offers([bid("a", 1, curve)])
    group = Group("ocr", DataClass.INTERNAL, "default", 0)
    slots = sorted(price for slots, price in curve for _ in range(slots))
    taken: list[float] = []
    while offers.left("a", group) and len(taken) < wanted:
        together = offers.price("a", group, 2)
        expected = slots[len(taken) : len(taken) + 2]
        assert together == (pytest.approx(sum(expected)) if len(expected) == 2 else None)
        assert offers.price("a", group) == slots[len(taken)]
        taken.append(offers.take("a", group))
    assert taken == slots[:wanted]
    assert offers.exhausted == (len(slots) <= wanted)


@given(MARKET, st.lists(st.tuples(st.sampled_from(CLUSTERS), st.booleans()), max_size=30))
def test_what_is_kept_of_offers_is_what_they_are(market, takes):
    """Steps that are alike are told what was worked out for the one before, but for what has changed since."""
    offers = Offers([bid(cluster, 1, curve) for cluster, curve in market.items()])
    placing, steps, places = LeastCost(OBJECTIVE), Steps(), tuple(Place(cluster, cluster) for cluster in CLUSTERS)
    step = steps.add(Ask("r", "s", "ocr"), 0.0)

    def menu() -> Menu:
        return Menu(offers, placing, Nearness(steps), ColdStarts(), lambda _: 1.0)

    kept = menu()
    for cluster, looks in takes:
        if offers.left(cluster, step.group):
            offers.take(cluster, step.group)
        if looks:
            assert list(kept.of([step], places)) == list(menu().of([step], places))
    assert list(kept.of([step], places)) == list(menu().of([step], places))


@given(MARKET, st.integers(1, 12), OBJECTIVES, st.none() | st.floats(0, 20))
def test_no_point_is_taken_for_more_than_it_has_and_each_step_is_told_what_it_costs(market, count, objective, budget):
    its = Round(count, objective, budget)
    its.bids(market)
    for cluster, steps in its.awarded().items():
        assert steps <= sum(slots for slots, _ in market[cluster])
    prices = Counter(its.told())
    for price, times in prices.items():
        assert times <= sum(slots for curve in market.values() for slots, its_price in curve if its_price == price)
    assert sum(its.told()) == pytest.approx(its.governor.snapshot().spent)
    assert its.awarded().total() == len(its.told())


@given(MARKET, st.integers(1, 12))
def test_who_wants_it_cheapest_pays_no_more_than_any_other_matching_of_the_round(market, count):
    """All clusters are as fast and as trusted; then the cheapest slots of all are the least that so many steps can cost."""
    its = Round(count, "cheapest", None)
    its.bids(market)
    every = sorted(price for curve in market.values() for slots, price in curve for _ in range(slots))
    assert sorted(its.told()) == every[:count]


@given(
    st.lists(st.tuples(MARKET, st.booleans()), max_size=6),
    st.integers(1, 8),
    OBJECTIVES,
    st.floats(0, 30),
    st.booleans(),
)
def test_no_budget_is_exceeded_round_by_round_whatever_is_granted(rounds, count, objective, budget, gang):
    its = Round(count, objective, budget, gang)
    for market, granted in rounds:
        its.bids(market, gang=count if gang and count > 1 else 0)
        for one in its.wanted(SendAward):
            award = one.award
            leases = tuple(
                Lease(f"{r.step}/{r.fence}", "r", r.step, r.fence, 0, "ocr", award.cluster, award.cluster, "n", 1)
                for r in award.requests
            )
            no = tuple(RejectedRequest(r.step, r.fence, NO) for r in award.requests)
            answer = Awarded(award.cluster, leases) if granted else Awarded(award.cluster, (), no)
            its.tell(flow.AwardAnswered(answer))
        its.done.clear()
        its.now += 3.0
        its.tell(flow.Tick())
        for find in its.wanted(flow.FindPlaces):
            for ask in find.asks:
                places = tuple(Place(cluster, cluster) for cluster in CLUSTERS)
                its.tell(flow.PlacesFound(ask.step, places, (), True))
