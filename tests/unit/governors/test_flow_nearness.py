"""Steps that rather run beside others, where their inputs lie, or apart from others; and what loading a block costs."""

from __future__ import annotations

import pytest

from ioi_dagster.governors import flow
from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_messages import Place, SendAnnounce, SendAward
from ioi_dagster.model.negotiation import Ask, Awarded, Bid, Lease, LeaseRequest, SupplyPoint
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_flow import Story


class Run(Story):
    """Two clusters, a dear one and a cheap one, with room for all."""

    prices = {"a": 5.0, "b": 1.0}

    def place(self, *asks: Ask, places: str = "ab") -> None:
        self.ready(*asks, places=tuple(places))
        self.round()

    def round(self, slots: int = 9, warm: int = 0) -> None:
        """Bids for what was announced last."""
        number = self.last(SendAnnounce).announce.round
        for one in [one for one in self.wanted(SendAnnounce) if one.announce.round == number]:
            points = tuple(
                SupplyPoint(group.capability, group.data_class, slots, self.prices[one.cluster], warm)
                for group in one.announce.groups
            )
            self.event(flow.BidReceived(Bid(one.cluster, one.cluster, "r", number, 1, points)))

    def requests(self) -> dict[str, tuple[str, LeaseRequest]]:
        """By step: the cluster that it was last asked of, and how."""
        return {
            request.step: (one.award.cluster, request)
            for one in self.wanted(SendAward)
            for request in one.award.requests
        }

    def grant_on(self, step: str, node: str) -> None:
        cluster, request = self.requests()[step]
        key = f"{step}/{request.fence}"
        lease = Lease(key, "r", step, request.fence, 0, request.capability, cluster, cluster, node, 1)
        self.event(flow.AwardAnswered(Awarded(cluster, (lease,))))

    def runs(self, step: str, cluster: str, node: str) -> None:
        self.place(Ask("r", step, "ocr"), places=cluster)
        self.grant_on(step, node)

    def awarded(self, step: str) -> str:
        return [one.text for one in self.wanted(flow.Tell) if one.step == step and one.chapter is Chapter.AWARD][-1]


@pytest.fixture
def run() -> Run:
    run = Run()
    run.runs("load", "a", "a1")
    return run


@pytest.mark.parametrize("ended", [False, True])
def test_what_is_to_be_near_goes_to_that_cluster_and_rather_to_that_node(run, ended):
    if ended:
        run.event(flow.StepEnded("load", 1, "x", 1.0))
    run.event(flow.Tick(), later=1.0)
    run.place(Ask("r", "s", "ocr", near=("load",)))
    cluster, request = run.requests()["s"]
    assert (cluster, request.prefer, request.avoid) == ("a", ("a1",), ())
    run.grant_on("s", "a1")
    assert run.awarded("s") == "awarded to a1 of a: beside load"


def test_where_there_is_no_room_near_it_runs_elsewhere_and_says_so(run):
    run.event(flow.Tick(), later=1.0)
    run.place(Ask("r", "s", "ocr", near=("load",)), places="b")
    cluster, request = run.requests()["s"]
    assert (cluster, request.prefer) == ("b", ())
    run.grant_on("s", "b1")
    assert run.awarded("s") == "awarded to b1 of b: not near load, which is on a1 of a"


def test_what_is_to_be_apart_avoids_the_node_and_says_where_that_was_not_to_be_had(run):
    run.event(flow.Tick(), later=1.0)
    run.place(Ask("r", "s", "ocr", apart=("load",)), places="a")
    _, request = run.requests()["s"]
    assert (request.prefer, request.avoid) == ((), ("a1",))
    run.grant_on("s", "a1")
    assert run.awarded("s") == "awarded to a1 of a: beside load, since there was no other node"


def test_what_is_near_to_one_and_apart_from_another_on_the_same_node_is_apart(run):
    run.event(flow.Tick(), later=1.0)
    run.place(Ask("r", "s", "ocr", near=("load",), apart=("load",)), places="a")
    _, request = run.requests()["s"]
    assert (request.prefer, request.avoid) == ((), ("a1",))


def test_replicas_that_are_ready_together_are_placed_one_after_the_other():
    run = Run()
    names = [f"replica[{number}]" for number in range(3)]
    asks = [Ask("r", name, "ocr", apart=tuple(other for other in names if other != name)) for name in names]
    run.ready(*asks, places=("a",))
    for number, name in enumerate(names):
        run.round()
        assert set(run.requests()) == set(names[: number + 1])
        assert run.requests()[name][1].avoid == tuple(f"a{other}" for other in range(number))
        run.grant_on(name, f"a{number}")
    assert run.awarded(names[-1]) == "awarded to a2 of a: apart as it asked"


def test_an_award_that_is_missed_does_not_keep_waiting_who_waits_for_its_node():
    run = Run()
    run.ready(Ask("r", "one", "ocr"), Ask("r", "two", "ocr", near=("one",)), places=("a",))
    run.round()
    assert set(run.requests()) == {"one"}
    run.event(flow.AwardMissed("a", ("one",), "no answer"))
    run.event(flow.Tick(), later=3.0)
    for step in ("one", "two"):
        run.event(flow.PlacesFound(step, (Place("b", "b"),), (), False))
    run.round()
    run.grant_on("one", "b1")
    run.round()
    assert [run.requests()[step][0] for step in ("one", "two")] == ["b", "b"]
    assert run.requests()["two"][1].prefer == ("b1",)


def test_a_step_rather_runs_where_most_of_its_inputs_lie(run):
    run.runs("more", "a", "a2")
    run.runs("most", "a", "a2")
    run.event(flow.Tick(), later=1.0)
    run.place(Ask("r", "s", "ocr", sources=("load", "more", "most", "unknown")), places="a")
    assert run.requests()["s"][1].prefer == ("a2", "a1")


def test_the_time_to_load_a_block_is_learnt_apart_from_what_its_steps_take():
    cold = ColdStarts()
    assert cold.learn("ocr", "a", 11.0, cold=True) == 11.0
    assert cold.expect("ocr", "a") == 0.0, "nobody knows yet what is loading"
    assert cold.learn("ocr", "a", 1.0, cold=False) == 1.0
    assert (cold.expect("ocr", "a"), cold.expect("ocr", "b"), cold.expect("trim", "a")) == (10.0, 10.0, 0.0)
    assert cold.learn("ocr", "b", 5.0, cold=True) == 1.0
    assert cold.expect("ocr", "b") == 4.0


def test_an_offer_without_a_warm_replica_is_expected_to_take_the_loading_time_too():
    run = Run()
    for number, (warm, seconds) in enumerate([(0, 9.0), (1, 1.0)]):
        run.ready(Ask("r", f"s{number}", "ocr"), places=("a",))
        run.round(warm=warm)
        run.grant_on(f"s{number}", "a1")
        run.event(flow.StepEnded(f"s{number}", 1, f"x{number}", seconds))
        run.event(flow.Tick(), later=1.0)
    for number, warm in enumerate([1, 0]):
        run.ready(Ask("r", f"t{number}", "ocr"), places=("a",))
        run.round(warm=warm)
        run.event(flow.Tick(), later=1.0)
    seconds = {
        one.step: one.facts["offers"][0]["seconds"]
        for one in run.wanted(flow.Tell)
        if one.chapter is Chapter.BID and one.step.startswith("t")
    }
    assert seconds["t1"] - seconds["t0"] == pytest.approx(8.0)
