"""Supply curves: what a cluster bids rises with what it would cost it; a run takes the cheapest that is left, wherever it is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.governors import flow
from ioi_dagster.governors.cluster import NodeJoined, NodeReported, Reply
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import SendAnnounce, SendAward
from ioi_dagster.governors.prices import COLD_START, CONGESTION, MEMORY, Load, Rung, curve
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import MAX_POINTS, OWN_STEP, Announce, Ask, AskGroup, Bid, SupplyPoint
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_cluster_arbitration import Cluster
from tests.unit.governors.test_flow import Story

OCR = frozenset({"ocr"})


def told(points: Iterable[SupplyPoint]) -> list[tuple[int, int, float]]:
    return [(point.slots, point.warm, round(point.price, 4)) for point in points]


# What a cluster bids ------------------------------------------------------------------------------------------------


def test_each_slot_costs_what_the_cluster_is_full_with_it_and_cold_ones_come_last():
    assert curve(Load(1.0, 4, 1), 3, 1, 0) == [
        Rung(1, 1.0 + CONGESTION * 2 / 4, 1),
        Rung(1, 1.0 + CONGESTION * 3 / 4 + COLD_START, 0),
        Rung(1, 1.0 + CONGESTION + COLD_START, 0),
    ]


@given(
    st.builds(
        Load, st.floats(0, 100), st.integers(0, 10_000), st.integers(0, 20_000), st.sampled_from([0.0, 0.5, 1.0])
    ),
    st.integers(1, 500),
    st.integers(1, 8),
    st.integers(0, 5_000),
    st.integers(0, 10_000),
)
def test_a_curve_has_few_points_rises_and_holds_whole_gangs(load, times, together, warm, queued):
    slots = times * together
    rungs = curve(load, slots, warm, queued, together)
    assert 1 <= len(rungs) <= MAX_POINTS
    assert sum(rung.slots for rung in rungs) == slots
    assert sum(rung.warm for rung in rungs) == min(warm, slots)
    assert all(rung.slots > 0 and rung.slots % together == 0 and 0 <= rung.warm <= rung.slots for rung in rungs)
    assert all(one.price <= other.price and (one.warm == one.slots or not other.warm) for one, other in pairwise(rungs))
    waits = curve(load, slots, warm, queued + 1, together)
    pressed = curve(Load(load.base, load.slots, load.busy, 1.0), slots, warm, queued, together)
    for rung, other, third in zip(rungs, waits, pressed, strict=True):
        assert rung.price <= other.price <= rung.price + load.base
        assert rung.price <= third.price <= rung.price + load.base * MEMORY + 1e-9


def test_a_bid_tells_warm_slots_from_cold_ones_and_rises_as_its_queue_and_its_memory_do():
    cluster = Cluster(NodeJoined("n1", 2, OCR), NodeJoined("n2", 2, OCR))
    cluster.event(NodeReported("n1", OCR, 0.0))
    bid = cluster.ask("r", 4)[-1].answer
    assert told(bid.points) == [(1, 1, 1.125), (1, 1, 1.25), (1, 0, 1.575), (1, 0, 1.7)]
    cluster.event(NodeReported("n2", frozenset(), 0.7))
    pressed = cluster.ask("r", 4)[-1].answer
    assert told(pressed.points) == [(slots, warm, price + 0.125) for slots, warm, price in told(bid.points)]


def test_a_runs_own_code_loads_nothing_so_no_start_of_it_is_cold():
    own = frozenset({OWN_STEP, "ocr"})
    cluster = Cluster(NodeJoined("n1", 1, own), NodeJoined("n2", 1, own))
    at_once = cluster.ask("r", 2, OWN_STEP)[-1].answer
    assert told(at_once.points) == [(1, 1, 1.25), (1, 1, 1.5)]
    lease, _ = cluster.award("r", "s", "t", capability=OWN_STEP).leases
    assert cluster.ask("waits", 2, OWN_STEP, wait_s=50.0) == []
    (served,) = [one.answer for one in cluster.release("r", lease.id) if isinstance(one, Reply)]
    assert isinstance(served, Bid)
    assert (served.run, [point.warm for point in served.points]) == ("waits", [1])


def test_who_waits_for_other_room_makes_what_is_free_dearer():
    cluster = Cluster(NodeJoined("n1", 1, OCR), NodeJoined("n2", 1, frozenset({"llm"})))
    cluster.award("other", "s", capability="llm")
    before = cluster.ask("r", 1)[-1].answer
    assert cluster.ask("waits", 1, "llm", wait_s=50.0) == []
    after = cluster.ask("r", 1)[-1].answer
    assert [point.slots for point in after.points] == [1]
    assert after.points[0].price == pytest.approx(before.points[0].price + 0.5 / 9)


def test_groups_that_differ_in_priority_alone_share_a_curve():
    cluster = Cluster(NodeJoined("n1", 4, OCR))
    groups = tuple(AskGroup("ocr", DataClass.PUBLIC, count, "t", priority) for count, priority in ((3, 0), (4, 5)))
    (reply,) = cluster.event(Announce("r", 9, "home", groups))
    assert (sum(point.slots for point in reply.answer.points), reply.answer.refusals) == (4, ())


# What a run takes ---------------------------------------------------------------------------------------------------


class Market(Story):
    """A run before clusters that bid what is given."""

    def __init__(self, objective: str = "balanced", budget: float | None = None) -> None:
        super().__init__()
        self.governor = FlowGovernor("r", "home", objective, budget=budget)

    def offer(self, cluster: str, *points: SupplyPoint) -> None:
        number = next(one.announce.round for one in reversed(self.wanted(SendAnnounce)) if one.cluster == cluster)
        self.event(flow.BidReceived(Bid(cluster, cluster, "r", number, 1, points)))

    def taken(self) -> dict[str, list[str]]:
        return {one.award.cluster: [r.step for r in one.award.requests] for one in self.wanted(SendAward)}

    def prices(self) -> list[float]:
        """Of what was taken, as it is told."""
        stories = [one.facts for one in self.wanted(flow.Tell) if one.chapter is Chapter.BID and "taken" in one.facts]
        return [
            next(offer["price"] for offer in facts["offers"] if offer["cluster"] == facts["taken"]) for facts in stories
        ]


def points(*its: tuple[int, float], capability: str = "ocr", **more) -> tuple[SupplyPoint, ...]:
    return tuple(SupplyPoint(capability, DataClass.INTERNAL, slots, price, **more) for slots, price in its)


def asks(count: int, **more) -> list[Ask]:
    return [Ask("r", f"s{number}", "ocr", **more) for number in range(count)]


def test_steps_go_where_the_next_slot_is_cheapest_and_are_told_the_price_of_the_point_that_they_use():
    market = Market()
    market.ready(*asks(6), places=("a", "b"))
    market.offer("a", *points((2, 3.0), (2, 1.0)))
    market.offer("b", *points((1, 0.5), (9, 2.0)))
    assert market.prices() == [0.5, 1.0, 1.0, 2.0, 2.0, 2.0]
    assert market.taken() == {"a": ["s1", "s2"], "b": ["s0", "s3", "s4", "s5"]}
    assert market.governor.snapshot().spent == 8.5


def test_curves_of_one_cluster_share_its_slots():
    market = Market()
    market.ready(*asks(2), Ask("r", "x", "llm"), Ask("r", "y", "llm"))
    market.offer("a", *points((2, 1.0), (1, 2.0)), *points((3, 5.0), capability="llm"))
    assert sorted(market.taken()["a"]) == ["s0", "s1", "x"]
    assert market.governor.snapshot().spent == 7.0


def test_a_gang_costs_what_its_steps_cost_together_along_the_curve():
    market = Market(budget=7.0)
    market.ready(*asks(3, gang="g", gang_size=3), places=("a", "b"))
    market.offer("a", *points((1, 1.0), (8, 3.0), gang=3))
    market.offer("b", *points((3, 2.5), gang=3))
    assert {one.award.cluster for one in market.wanted(SendAward)} == {"a"}
    assert market.governor.snapshot().spent == 7.0


def test_what_is_left_of_the_budget_is_held_against_the_next_point():
    market = Market(budget=4.0)
    market.ready(*asks(4), places=("a",))
    market.offer("a", *points((2, 1.0), (2, 3.0)))
    assert market.taken() == {"a": ["s0", "s1"]}
    assert market.governor.snapshot().spent == 2.0
