"""The flow governor, told as stories: events in, instructions out, no cluster anywhere."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors import flow
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import Place, SendAnnounce, SendAward, StartStep
from ioi_dagster.governors.flow_rounds import PARK_S
from ioi_dagster.governors.reputation import BEST, MANY, SAMPLED
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    MAX_GROUPS,
    Ask,
    Award,
    Awarded,
    Bid,
    Effect,
    Lease,
    RejectedRequest,
    SupplyPoint,
)
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

AWAY = Refusal("ras.no_live_instance", "no living node", "registry")
FORBIDDEN = Refusal("policy.data_class", "may handle public only", "cloud.example", "lower the class")


def ask(step: str = "s", **changes) -> Ask:
    return Ask(**{"run": "r", "step": step, "capability": "ocr", **changes})


class Story:
    """Feeds a governor and remembers what it wanted done."""

    def __init__(self) -> None:
        self.governor = FlowGovernor("r", "home")
        self.now = 0.0
        self.done: list[flow.Instruction] = []

    def event(self, event: flow.Event, later: float = 0.0) -> list[flow.Instruction]:
        self.now += later
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        self.done += out
        return out

    def wanted(self, kind: type) -> list:
        return [instruction for instruction in self.done if isinstance(instruction, kind)]

    def last(self, kind: type):
        return self.wanted(kind)[-1]

    def ready(self, *steps: Ask, places: tuple[str, ...] = ("a",)) -> None:
        for one in steps:
            self.event(flow.StepReady(one))
        for one in steps:
            self.event(flow.PlacesFound(one.step, tuple(Place(p, p) for p in places), (), False))

    def bid(self, cluster: str, slots: int = 1, price: float = 1.0) -> list[flow.Instruction]:
        announce = next(i.announce for i in reversed(self.wanted(SendAnnounce)) if i.cluster == cluster)
        points = tuple(SupplyPoint(g.capability, g.data_class, slots, price, part=g.part) for g in announce.groups)
        return self.event(flow.BidReceived(Bid(cluster, cluster, "r", announce.round, 1, points)))

    def grant(self, node: str = "n1") -> Award:
        award = self.last(SendAward).award
        self.event(flow.AwardAnswered(Awarded(award.cluster, tuple(lease_for(award, r, node) for r in award.requests))))
        return award

    def run_once(self, node: str = "n1") -> Lease:
        """Place the one waiting step and start it."""
        self.event(flow.Tick(), later=1.0)
        if not self.governor.snapshot().counts.get("running"):
            waiting = list(self.governor.snapshot().waiting)
            for step in waiting:
                self.event(flow.PlacesFound(step, (Place("a", "a"),), (), False))
            self.bid("a")
            self.grant(node)
        return self.last(StartStep).lease


def lease_for(award: Award, request, node: str) -> Lease:
    return Lease(
        id=f"{request.step}-{request.fence}",
        run="r",
        step=request.step,
        fence=request.fence,
        copy=0,
        capability=request.capability,
        cluster=award.cluster,
        domain=award.cluster,
        node=node,
        epoch=1,
        origin=award.origin,
    )


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_step_is_announced_awarded_started_and_committed_once(story):
    story.ready(ask())
    story.bid("a")
    story.grant()
    lease = story.last(StartStep).lease
    assert (lease.step, lease.fence, lease.node) == ("s", 1, "n1")
    story.event(flow.StepEnded("s", 1, "first", 2.0))
    assert story.wanted(flow.CommitStep) == [flow.CommitStep("s", 1, "first")]
    assert story.wanted(flow.ReleaseLeases) == [flow.ReleaseLeases("a", ("s-1",))]
    story.event(flow.StepEnded("s", 1, "second", 2.0))
    assert story.wanted(flow.CommitStep) == [flow.CommitStep("s", 1, "first")]
    assert story.last(flow.DiscardAttempt).attempt == "second"


def test_the_cheaper_cluster_gets_the_step_and_the_dearer_one_the_rest(story):
    story.ready(ask("s1"), ask("s2"), places=("a", "b"))
    story.bid("a", slots=1, price=0.3)
    story.bid("b", slots=1, price=1.0)
    awards = {i.award.cluster: [r.step for r in i.award.requests] for i in story.wanted(SendAward)}
    assert awards == {"a": ["s1"], "b": ["s2"]}


def test_a_step_with_one_place_goes_before_one_with_two(story):
    story.event(flow.StepReady(ask("free")))
    story.event(flow.StepReady(ask("bound", data_class=DataClass.RESTRICTED)))
    story.event(flow.PlacesFound("free", (Place("a", "a"), Place("b", "b")), (), False))
    story.event(flow.PlacesFound("bound", (Place("a", "a"),), (), False))
    story.bid("a", slots=0)
    story.bid("b", slots=0)
    story.event(flow.Tick(), later=1.1)
    story.event(flow.Tick(), later=0.3)
    story.event(flow.BidMissed("b", 2, "frozen"))
    story.bid("a")
    assert [r.step for r in story.last(SendAward).award.requests] == ["bound"]


def test_a_lost_step_is_placed_anew_under_a_higher_fence_and_the_late_answer_is_discarded(story):
    story.ready(ask())
    story.bid("a")
    story.grant()
    story.event(flow.StepLost("s", 1, "n1", "the worker was killed"))
    assert story.run_once("n2").fence == 2
    assert story.last(SendAward).award.requests[0].avoid == ("n1",)
    story.event(flow.StepEnded("s", 1, "zombie", 9.0))
    assert not story.wanted(flow.CommitStep)
    story.event(flow.StepEnded("s", 2, "good", 1.0))
    assert story.wanted(flow.CommitStep) == [flow.CommitStep("s", 2, "good")]


def test_a_step_that_takes_three_nodes_with_it_fails_and_is_named_as_the_cause(story):
    story.ready(ask())
    story.bid("a")
    story.grant("n0")
    for fence, node in enumerate(("n0", "n1", "n2"), start=1):
        story.event(flow.StepLost("s", fence, node, "killed"))
        if fence < 3:
            story.run_once(f"n{fence}")
    (failed,) = story.wanted(flow.FailStep)
    assert failed.refusal.code == "flow.poison_step"
    assert "n0, n1, n2" in failed.refusal.text


def test_a_step_that_nodes_give_up_for_want_of_memory_goes_on_elsewhere_and_is_not_blamed(story):
    story.ready(ask(effect=Effect.PURE))
    story.bid("a")
    story.grant("n0")
    for fence in range(1, 2 * flow.MAX_LOSSES):
        why = "its node gave it up, since its machine has no memory left"
        story.event(flow.StepLost("s", fence, f"n{fence - 1}", why, flow.Cause.SHED))
        story.run_once(f"n{fence}")
        assert story.last(SendAward).award.requests[0].avoid == (f"n{fence - 1}",)
    assert not story.wanted(flow.FailStep)
    told = [one.text for one in story.wanted(flow.Tell) if one.chapter is Chapter.LOSS]
    assert told[0] == "lost on n0 of a: its node gave it up, since its machine has no memory left"


def test_where_there_is_one_node_a_poison_step_is_stopped_too(story):
    story.ready(ask())
    story.bid("a")
    story.grant()
    for fence in range(1, flow.MAX_LOSSES + 1):
        story.event(flow.StepLost("s", fence, "n1", "killed"))
        if fence < flow.MAX_LOSSES:
            story.run_once()
    assert story.last(flow.FailStep).refusal.code == "flow.poison_step"


def test_a_scheduler_that_dies_is_not_held_against_the_nodes(story):
    story.ready(ask())
    story.bid("a")
    story.grant()
    for _ in range(flow.MAX_LOSSES + 2):
        story.event(flow.ClusterLost("a", "its scheduler went away"))
        story.event(flow.ClusterBack("a"))
        story.run_once()
    assert not story.wanted(flow.FailStep)


def test_an_at_most_once_step_is_never_placed_again_silently(story):
    story.ready(ask(effect=Effect.AT_MOST_ONCE))
    story.bid("a")
    story.grant()
    story.event(flow.StepLost("s", 1, "n1", "killed"))
    assert story.last(flow.FailStep).refusal.code == "flow.at_most_once"


def test_nobody_may_take_it_is_a_refusal_with_every_reason(story):
    story.event(flow.StepReady(ask()))
    story.event(flow.PlacesFound("s", (), (("cloud.example", FORBIDDEN),), False))
    refusal = story.last(flow.RefuseStep).refusal
    assert refusal.code == "flow.no_place"
    assert "may handle public only" in refusal.text
    assert refusal.remedy == "lower the class"


def test_nobody_there_now_is_a_wait_that_is_explained_and_looked_at_again(story):
    story.event(flow.StepReady(ask()))
    story.event(flow.PlacesFound("s", (), (("library-main", AWAY),), True))
    assert story.governor.snapshot().waiting == {"s": "library-main: no living node"}
    story.event(flow.Tick(), later=3.0)
    assert len(story.wanted(flow.FindPlaces)) == 2
    story.event(flow.PlacesFound("s", (Place("a", "a"),), (), False))
    story.bid("a")
    assert story.wanted(SendAward)


def test_a_silent_cluster_costs_the_deadline_once_and_its_late_bid_is_taken(story):
    story.ready(ask("s1"), ask("s2"), places=("a", "mute"))
    story.bid("a")
    assert not story.wanted(SendAward)
    story.event(flow.Tick(), later=1.1)
    assert [request.step for request in story.last(SendAward).award.requests] == ["s1"]
    story.grant()
    story.event(flow.Tick(), later=1.0)
    asked = [item.cluster for item in story.wanted(SendAnnounce)]
    assert asked.count("mute") == 1, "what it was asked is open still"
    story.bid("a", slots=0)
    assert story.governor.snapshot().reputation["mute"] == {"trust": 1.0, "suspect": "no bid within 1 s"}
    story.bid("mute")
    story.bid("a", slots=0)
    assert [request.step for request in story.last(SendAward).award.requests] == ["s2"]
    assert story.last(SendAward).award.cluster == "mute"
    assert story.governor.snapshot().reputation["mute"]["suspect"] == ""


def test_a_cluster_that_is_silent_again_and_again_is_asked_ever_less_and_nobody_waits_for_it(story):
    story.ready(ask(), places=("mute",))
    asked_at = []
    for _ in range(600):
        for item in story.wanted(SendAnnounce):
            asked_at.append(story.now)
            story.event(flow.BidMissed(item.cluster, item.announce.round, "no answer"))
        story.done = [item for item in story.done if not isinstance(item, SendAnnounce)]
        story.event(flow.PlacesFound("s", (Place("mute", "mute"),), (), False), later=0.1)
    pauses = [round(later - before, 1) for before, later in pairwise(asked_at)]
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0], abs=0.31)
    assert story.governor.snapshot().waiting == {"s": "mute does not answer: no answer"}


def test_who_does_not_keep_his_bids_loses_the_step_in_the_next_round_and_those_after_it(story):
    """The liar is cheap, and what he awards is nothing."""
    story.ready(ask("s1"), places=("honest", "liar"))
    nothing = Refusal("cluster.full", "no free slot", "liar")

    def round_(winner: str) -> None:
        story.bid("liar", price=0.1)
        story.bid("honest", price=0.8)
        award = story.last(SendAward).award
        assert award.cluster == winner
        if winner == "honest":
            story.grant()
            return
        rejected = tuple(RejectedRequest(r.step, r.fence, nothing) for r in award.requests)
        story.event(flow.AwardAnswered(Awarded("liar", (), rejected)))
        story.event(flow.PlacesFound("s1", (Place("honest", "honest"), Place("liar", "liar")), (), False), later=0.3)

    round_("liar")
    round_("honest")
    (_, second) = told(story, Chapter.BID)
    assert second.text == "offers: honest at 0.8 in 1 s, liar at 0.1 in 1 s, keeps 50% of its bids; taken: honest"
    story.event(flow.Tick(), later=1.1)
    story.ready(ask("s2"), places=("honest", "liar"))
    round_("honest")


def test_parts_of_a_map_are_asked_for_as_such(story):
    for step, part in (("fan#1.1/0", True), ("fan", False)):
        story.ready(ask(step), places=("a",))
        (group,) = story.last(SendAnnounce).announce.groups
        assert group.part is part
        story.bid("a")
        story.grant()


def test_what_an_owner_orders_after_a_bid_makes_no_liar_of_his_cluster(story):
    for step, code in (("s1", "cluster.paused"), ("s2", "cluster.capped"), ("s3", "cluster.full")):
        story.ready(ask(step), places=("a",))
        story.bid("a", price=0.1)
        no = Refusal(code, "by its owner", "a")
        rejected = tuple(RejectedRequest(r.step, r.fence, no) for r in story.last(SendAward).award.requests)
        story.event(flow.AwardAnswered(Awarded("a", (), rejected)))
        story.event(flow.StepDropped(step, "enough"))
        story.event(flow.Tick(), later=1.1)
    story.ready(ask("s4"), places=("a",))
    story.bid("a", price=0.1)
    trusted = ["keeps" not in one.text for one in told(story, Chapter.BID)]
    assert trusted == [True, True, True, False]


def test_a_run_tells_clusters_how_long_it_has_and_its_story_once_that_it_is_late(story):
    story.governor = FlowGovernor("r", "home", due=10.0)
    story.ready(ask())
    assert story.last(SendAnnounce).announce.due_s == 10.0
    late = []
    for later in (10.0, 0.1, 5.0):
        story.event(flow.Tick(), later)
        late.append([told for told in story.wanted(flow.Tell) if told.step == ""])
    assert (late[0], late[1]) == ([], late[2])
    assert late[2] == [flow.Tell("", Chapter.WAIT, "the run's deadline has passed; it goes on")]
    story.governor = FlowGovernor("r", "home", due=10.0)
    story.ready(ask())
    assert story.last(SendAnnounce).announce.due_s == 0.0


def test_a_run_spends_its_budget_and_no_more(story):
    story.governor = FlowGovernor("r", "home", budget=2.0)
    story.ready(*(ask(f"s{number}") for number in range(4)), places=("a",))
    story.bid("a", slots=4, price=0.9)
    award = story.last(SendAward).award
    assert [request.step for request in award.requests] == ["s0", "s1"]
    assert story.wanted(flow.RefuseStep) == []
    why = "the run may spend 2 credits and has spent 1.8; the least offer is 0.9"
    assert story.governor.snapshot().waiting == {"s2": why, "s3": why}
    assert story.governor.snapshot().spent == 1.8
    (first, second) = award.requests
    nothing = Refusal("cluster.full", "no free slot", "a")
    lease = lease_for(award, first, "n1")
    story.event(flow.AwardAnswered(Awarded("a", (lease,), (RejectedRequest(second.step, second.fence, nothing),))))
    assert story.governor.snapshot().spent == 0.9


FULL = -1.0


def offered(story: Story, seconds: int, *prices: float) -> None:
    """For so long clusters a, b, … answer in each round, at these prices, or that they are full."""
    for _ in range(seconds):
        last = max(item.announce.round for item in story.wanted(SendAnnounce))
        for cluster, price in zip("ab", prices, strict=False):
            if last == max(item.announce.round for item in story.wanted(SendAnnounce) if item.cluster == cluster):
                story.bid(cluster, slots=0 if price == FULL else 4, price=max(0.0, price))
        story.event(flow.Tick(), later=1.0)


def test_what_no_offer_fits_is_told_at_once_and_refused_when_that_has_held_for_a_while(story):
    story.governor = FlowGovernor("r", "home", budget=0.5)
    story.ready(ask("s0"), ask("s1"), places=("a",))
    offered(story, 5, 0.9)
    why = "the run may spend 0.5 credits and has spent 0; the least offer is 0.9"
    unless = f"{why}; it is refused unless that changes within 30 s"
    assert [(entry.step, entry.text) for entry in told(story, Chapter.WAIT)] == [("s0", unless), ("s1", unless)]
    offered(story, 24, 0.9)
    assert story.wanted(flow.RefuseStep) == []
    offered(story, 3, 0.9)
    assert [item.step for item in story.wanted(flow.RefuseStep)] == ["s0", "s1"]
    refusal = story.last(flow.RefuseStep).refusal
    assert (refusal.code, refusal.text) == ("flow.budget", why)
    assert len(told(story, Chapter.WAIT)) == 2


def test_who_may_spend_nothing_is_refused_at_once_what_costs_something_and_gets_what_is_free(story):
    story.governor = FlowGovernor("r", "home", budget=0.0)
    story.ready(ask("s0"), places=("a",))
    offered(story, 1, 0.9)
    refusal = story.last(flow.RefuseStep).refusal
    assert (refusal.code, refusal.text) == (
        "flow.budget",
        "the run may spend 0 credits and has spent 0; the least offer is 0.9",
    )
    story.ready(ask("s1"), places=("a", "b"))
    offered(story, 5, 0.9, FULL)
    assert len(story.wanted(flow.RefuseStep)) == 1
    offered(story, 2, 0.9, 0.0)
    assert [request.step for request in story.last(SendAward).award.requests] == ["s1"]


def test_a_price_that_falls_in_time_refuses_nobody(story):
    story.governor = FlowGovernor("r", "home", budget=0.5)
    story.ready(ask("s0"), places=("a",))
    offered(story, 25, 0.9)
    offered(story, 10, 0.4)
    assert [request.step for request in story.last(SendAward).award.requests] == ["s0"]
    assert story.wanted(flow.RefuseStep) == []


def test_while_one_of_its_places_has_no_room_nobody_knows_what_it_would_cost(story):
    story.governor = FlowGovernor("r", "home", budget=0.5)
    story.ready(ask("s0"), places=("a", "b"))
    offered(story, 25, 0.9, 0.9)
    offered(story, 3, 0.9, FULL)
    offered(story, 25, 0.9, 0.9)
    assert story.wanted(flow.RefuseStep) == []
    assert len(told(story, Chapter.WAIT)) == 1
    offered(story, 10, 0.9, 0.9)
    assert story.last(flow.RefuseStep).refusal.code == "flow.budget"


def test_where_nodes_come_and_go_it_is_believed_in_the_end_that_they_cost_too_much(story):
    story.governor = FlowGovernor("r", "home", budget=0.5)
    story.ready(ask("s0"), places=("a",))
    for _ in range(24):
        offered(story, 5, 0.9)
        offered(story, 5, FULL)
    assert story.wanted(flow.RefuseStep) == []
    for _ in range(7):
        offered(story, 5, 0.9)
        offered(story, 5, FULL)
    assert story.last(flow.RefuseStep).refusal.code == "flow.budget"


class ManyPlaces:
    """Of a run with a budget of 0.5; each cluster that is asked bids 0.9, or what is said of it."""

    def __init__(self, story: Story, count: int, **prices: float) -> None:
        self.story, self.prices, self._answered = story, prices, 0
        self.names = sorted(f"c{number}" for number in range(count))
        story.governor = FlowGovernor("r", "home", budget=0.5)
        story.ready(ask("s0"), places=tuple(self.names))

    def asked(self, rounds: int) -> list[set[str]]:
        """Whom each of so many rounds asks."""
        found = []
        for _ in range(rounds):
            announced = self.story.wanted(SendAnnounce)[self._answered :]
            self._answered += len(announced)
            found.append({one.cluster for one in announced})
            for one in announced:
                self.story.bid(one.cluster, price=self.prices.get(one.cluster, 0.9))
            self.story.event(flow.Tick(), later=1.0)
        return found


def test_of_many_places_all_are_asked_in_turn_before_it_is_said_to_cost_too_much(story):
    many = ManyPlaces(story, MANY + 10)
    asked = many.asked(len(many.names) // (BEST + SAMPLED))
    assert set().union(*asked) == set(many.names)
    assert [len(names) for names in asked] == [BEST + SAMPLED] * len(asked)
    many.asked(25)
    assert story.wanted(flow.RefuseStep) == []
    many.asked(10)
    assert story.wanted(SendAward) == []
    assert story.last(flow.RefuseStep).refusal.code == "flow.budget"


def test_of_many_places_the_only_one_that_is_cheap_enough_is_found(story):
    many = ManyPlaces(story, 4 * MANY, c7=0.1)
    many.asked(4 * MANY // (BEST + SAMPLED) + 1)
    assert [award.award.cluster for award in story.wanted(SendAward)] == ["c7"]
    assert story.wanted(flow.RefuseStep) == []


def told_prices(story: Story) -> float:
    """What an executor that resumes the run takes for spent."""
    paid = (*told(story, Chapter.AWARD), *told(story, Chapter.REFUSED))
    return sum(entry.facts.get("price", 0.0) for entry in paid)


def test_what_is_taken_back_before_it_ran_costs_nothing(story):
    story.governor = FlowGovernor("r", "home", budget=1.0)
    story.ready(ask())
    story.bid("a", price=0.9)
    story.grant()
    assert (story.governor.snapshot().spent, told_prices(story)) == (0.9, 0.9)
    story.event(flow.StepReturned("s", 1, "it waited behind a long step"))
    assert (story.governor.snapshot().spent, told_prices(story)) == (0.0, 0.0)
    story.event(flow.Tick(), later=1.0)
    story.bid("a", price=0.9)
    story.grant("n2")
    assert (story.governor.snapshot().spent, told_prices(story)) == (0.9, 0.9)


def test_what_is_dropped_before_it_is_granted_costs_nothing_and_what_has_begun_is_paid(story):
    story.governor = FlowGovernor("r", "home", budget=1.0)
    story.ready(ask("s1"))
    story.bid("a", price=0.9)
    story.event(flow.StepDropped("s1", "nobody waits for it"))
    story.grant()
    assert (story.governor.snapshot().spent, told_prices(story)) == (0.0, 0.0)
    story.ready(ask("s2"))
    story.event(flow.Tick(), later=1.0)
    story.bid("a", price=0.9)
    story.grant()
    story.event(flow.StepDropped("s2", "nobody waits for it"))
    assert (story.governor.snapshot().spent, told_prices(story)) == (0.9, 0.9)


def test_what_is_too_dear_waits_while_a_cheaper_place_may_have_room_later(story):
    story.governor = FlowGovernor("r", "home", budget=1.0)
    story.ready(ask(), places=("cheap", "dear"))
    story.bid("cheap", slots=0)
    story.bid("dear", price=5.0)
    assert story.wanted(flow.RefuseStep) == []
    assert story.governor.snapshot().waiting == {
        "s": "the run may spend 1 credits and has spent 0; the least offer is 5"
    }
    story.event(flow.Tick(), later=0.3)
    story.bid("dear", price=5.0)
    story.bid("cheap", price=0.5)
    story.bid("dear", price=5.0)
    assert story.last(SendAward).award.cluster == "cheap"


def test_an_objective_that_is_not_known_is_named():
    with pytest.raises(BadInputError, match=r"no objective 'fast'.*fastest, balanced, cheapest"):
        FlowGovernor("r", "home", "fast")


def test_a_rejected_request_waits_with_the_reason(story):
    story.ready(ask())
    story.bid("a")
    request = story.last(SendAward).award.requests[0]
    full = Refusal("cluster.full", "no free slot", "a")
    story.event(flow.AwardAnswered(Awarded("a", (), (RejectedRequest("s", request.fence, full),))))
    assert story.governor.snapshot().waiting == {"s": "no free slot"}


def told(story: Story, chapter: Chapter) -> list[flow.Tell]:
    return [item for item in story.wanted(flow.Tell) if item.chapter is chapter]


def test_why_a_cheaper_place_made_no_offer_is_told_with_those_that_did(story):
    story.event(flow.StepReady(ask()))
    places = (Place("near", "near"), Place("cheap", "cheap"), Place("mute", "mute"))
    story.event(flow.PlacesFound("s", places, (("cloud.example", FORBIDDEN),), False))
    (candidates,) = told(story, Chapter.CANDIDATES)
    assert candidates.text == (
        "may go to near, cheap, mute; rejected: cloud.example: may handle public only [policy.data_class]"
    )
    busy = Refusal("cluster.full", "all 2 nodes are busy", "cheap", "it is asked again")
    story.event(flow.BidReceived(Bid("cheap", "cheap", "r", 1, 1, (), (busy,))))
    story.bid("near")
    story.event(flow.Tick(), later=1.1)
    (bid,) = told(story, Chapter.BID)
    assert bid.text == ("offers: near at 1 in 1 s; no offer: cheap: all 2 nodes are busy; mute: it made no bid in time")
    assert bid.facts["silent"] == [
        {"cluster": "cheap", "why": "all 2 nodes are busy"},
        {"cluster": "mute", "why": "it made no bid in time"},
    ]
    assert bid.facts["taken"] == "near"


def test_a_wait_for_room_is_told_with_its_length_when_it_is_over(story):
    story.ready(ask())
    full = Refusal("cluster.full", "its only node is busy", "a", "it is asked again")
    for _ in range(3):
        announce = story.last(SendAnnounce).announce
        story.event(flow.BidReceived(Bid("a", "a", "r", announce.round, 1, (), (full,))))
        assert story.governor.snapshot().waiting == {"s": "a: its only node is busy"}
        story.event(flow.Tick(), later=4.0)
        story.event(flow.PlacesFound("s", (Place("a", "a"),), (), False))
    assert [entry for entry in told(story, Chapter.WAIT) if "seconds" in entry.facts] == []
    story.bid("a")
    assert told(story, Chapter.WAIT)[1:] == [
        flow.Tell(
            "s",
            Chapter.WAIT,
            "waited 12.0 s for a place, 3 rounds without one: a: its only node is busy",
            {"seconds": 12.0, "why": "a: its only node is busy", "rounds": 3},
        )
    ]
    chapters = [item.chapter for item in story.wanted(flow.Tell) if item.step == "s"]
    assert chapters == [Chapter.CANDIDATES, Chapter.WAIT, Chapter.WAIT, Chapter.BID]


def test_a_step_that_waits_for_a_cluster_that_is_away_says_so(story):
    """And not that it made no bid in time."""
    story.event(flow.StepReady(ask()))
    story.event(flow.ClusterLost("near", "its Dask scheduler went away"))
    story.event(flow.PlacesFound("s", (Place("near", "near"), Place("other", "other")), (), False))
    full = Refusal("cluster.full", "no node has a press", "other", "it is asked again")
    announce = story.last(SendAnnounce).announce
    story.event(flow.BidReceived(Bid("other", "other", "r", announce.round, 1, (), (full,))))
    why = "near: its Dask scheduler went away; other: no node has a press"
    assert story.governor.snapshot().waiting == {"s": why}


def test_of_many_places_only_those_that_were_asked_are_said_to_have_no_room(story):
    story.ready(ask(), places=tuple(f"c{number}" for number in range(200)))
    asked = {item.cluster: item.announce.round for item in story.wanted(SendAnnounce)}
    assert len(asked) == 5
    full = Refusal("cluster.full", "its only node is busy", "a", "it is asked again")
    for cluster, round_ in asked.items():
        story.event(flow.BidReceived(Bid(cluster, cluster, "r", round_, 1, (), (full,))))
    why = story.governor.snapshot().waiting["s"]
    assert sorted(why.split("; ")) == sorted(f"{cluster}: its only node is busy" for cluster in asked)


def test_a_step_that_is_placed_at_once_has_not_waited_and_the_wait_begins_anew_after_a_loss(story):
    story.ready(ask())
    story.bid("a")
    story.grant()
    assert told(story, Chapter.WAIT) == []
    story.event(flow.StepLost("s", 1, "n1", "killed"), later=60.0)
    story.run_once("n2")
    assert [entry.facts["seconds"] for entry in told(story, Chapter.WAIT)] == [1.0]


def test_a_resumed_run_continues_above_the_fences_of_the_older_process(story):
    story.governor.resume({"s": 7})
    story.ready(ask())
    story.bid("a")
    assert story.last(SendAward).award.requests[0].fence == 8


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_each_step_commits_once(seed):
    """A small simulated federation: bids vanish, nodes and schedulers die, answers come late and twice."""
    rng = random.Random(seed)
    story = Story()
    steps = [f"s{i}" for i in range(20)]
    clusters = {"a": 2, "b": 3}
    commits: dict[str, int] = {}
    late: list[tuple[str, int]] = []
    for step in steps:
        story.event(flow.StepReady(ask(step)))
    for _ in range(4_000):
        pending, story.done = story.done, []
        for item in pending:
            match item:
                case flow.FindPlaces(asks):
                    for one in asks:
                        story.event(flow.PlacesFound(one.step, tuple(Place(c, c) for c in clusters), (), True))
                case SendAnnounce(cluster, announce):
                    if rng.random() < 0.2:
                        story.event(flow.BidMissed(cluster, announce.round, "lost"))
                    else:
                        points = tuple(
                            SupplyPoint(g.capability, g.data_class, clusters[cluster], rng.random())
                            for g in announce.groups
                        )
                        story.event(flow.BidReceived(Bid(cluster, cluster, "r", announce.round, 1, points)))
                case SendAward(award):
                    if rng.random() < 0.1:
                        story.event(flow.AwardMissed(award.cluster, tuple(r.step for r in award.requests), "no answer"))
                    else:
                        leases = tuple(lease_for(award, r, f"n{rng.randrange(8)}") for r in award.requests)
                        story.event(flow.AwardAnswered(Awarded(award.cluster, leases)))
                case StartStep(_, lease):
                    roll = rng.random()
                    if roll < 0.1:
                        story.event(flow.ClusterLost(lease.cluster, "scheduler died"))
                        story.event(flow.ClusterBack(lease.cluster))
                        late.append((lease.step, lease.fence))
                    elif roll < 0.15:
                        story.event(flow.StepLost(lease.step, lease.fence, "", "link"))
                        late.append((lease.step, lease.fence))
                    else:
                        story.event(flow.StepEnded(lease.step, lease.fence, f"x{rng.random()}", 0.1))
                        late.append((lease.step, lease.fence))
                case flow.CommitStep(step, _, _):
                    commits[step] = commits.get(step, 0) + 1
        if late and rng.random() < 0.3:
            step, fence = late.pop(rng.randrange(len(late)))
            story.event(flow.StepEnded(step, fence, f"late{rng.random()}", 0.1))
        story.event(flow.Tick(), later=0.3)
        if len(commits) == len(steps) and not story.done:
            break
    assert commits == dict.fromkeys(steps, 1), f"seed {seed}"


def test_places_are_looked_up_again_though_an_award_overtook_the_answer(story):
    """The answer came when the step was running and was not taken; after a loss it is asked again."""
    story.ready(ask())
    story.bid("a", slots=0)
    story.event(flow.Tick(), later=10.0)
    asked = len(story.wanted(flow.FindPlaces))
    story.bid("a")
    story.grant()
    story.event(flow.StepLost("s", 1, "n1", "the worker died"))
    story.event(flow.Tick(), later=10.0)
    assert len(story.wanted(flow.FindPlaces)) > asked


def test_a_dropped_step_gives_back_what_it_holds():
    story = Story()
    story.ready(ask("waits"), ask("runs"))
    story.event(flow.StepDropped("waits", "nobody waits"))
    story.bid("a", 2)
    lease = story.grant().requests[0]
    assert [request.step for request in story.last(SendAward).award.requests] == ["runs"]
    dropped = story.event(flow.StepDropped("runs", "nobody waits"))
    assert [type(one) for one in dropped] == [flow.Tell, flow.ReleaseLeases]
    assert story.event(flow.StepLost("runs", lease.fence, "n1", "cancelled")) == []
    assert story.governor.snapshot().counts == {"dropped": 2}


def test_a_step_dropped_while_it_is_awarded_releases_what_it_is_granted():
    story = Story()
    story.ready(ask("s"))
    story.bid("a")
    story.event(flow.StepDropped("s", "nobody waits"))
    story.grant()
    assert story.wanted(StartStep) == []
    assert len(story.wanted(flow.ReleaseLeases)) == 1


def test_steps_behind_the_window_can_be_dropped():
    story = Story()
    for number in range(flow.WINDOW + 2):
        story.event(flow.StepReady(ask(f"s{number}")))
    for number in range(flow.WINDOW + 2):
        story.event(flow.StepDropped(f"s{number}", "nobody waits"))
    assert story.governor.snapshot().counts == {"dropped": flow.WINDOW + 2}


def test_a_step_that_is_under_way_since_an_earlier_process_is_waited_for_under_its_fence():
    story = Story()
    story.governor.resume({"s": 3})
    lease = Lease("a/1/1", "r", "s", 3, 0, "ocr", "a", "a", "n1", 1)
    story.event(flow.StepFound(ask(), lease))
    assert story.wanted(flow.AdoptStep) == [flow.AdoptStep(ask(), lease)]
    assert story.wanted(StartStep) == []
    story.event(flow.StepEnded("s", 3, "a1", 1.0))
    assert story.last(flow.CommitStep) == flow.CommitStep("s", 3, "a1")
    assert story.wanted(flow.ReleaseLeases) == [flow.ReleaseLeases("a", ("a/1/1",))]


def test_what_was_adopted_and_is_lost_is_placed_again_under_a_newer_fence():
    story = Story()
    story.governor.resume({"s": 3})
    story.event(flow.StepFound(ask(), Lease("a/1/1", "r", "s", 3, 0, "ocr", "a", "a", "n1", 1)))
    story.event(flow.StepLost("s", 3, "n1", "the worker died"))
    story.event(flow.PlacesFound("s", (Place("a", "a"),), (), False))
    story.bid("a")
    assert [request.fence for request in story.last(SendAward).award.requests] == [4]


def test_a_start_of_an_older_fence_is_not_adopted():
    story = Story()
    story.governor.resume({"s": 4})
    story.event(flow.StepFound(ask(), Lease("a/1/1", "r", "s", 3, 0, "ocr", "a", "a", "n1", 1)))
    assert story.wanted(flow.AdoptStep) == []
    assert story.wanted(flow.ReleaseLeases) == [flow.ReleaseLeases("a", ("a/1/1",))]
    assert story.wanted(flow.FindPlaces) == [flow.FindPlaces((ask(),))]


def test_what_happened_together_is_one_round():
    governor = FlowGovernor("r", "home")
    places = (Place("c", "home", 0.0),)
    out: list[flow.Instruction] = []
    for step in ("a", "b"):
        out += governor.handle(flow.StepReady(ask(step)), 0.0, more=True)
        out += governor.handle(flow.PlacesFound(step, places, (), False), 0.0, more=True)
    assert not [one for one in out if isinstance(one, SendAnnounce)]
    (announced,) = [one for one in governor.handle(flow.Tick(), 0.0) if isinstance(one, SendAnnounce)]
    assert [group.count for group in announced.announce.groups] == [2]


@pytest.mark.parametrize(
    "code",
    [
        "node.replaced",
        "node.overloaded",
        "node.memory",
        "node.draining",
        "node.out_of_contact",
        "gateway.too_much",
        "gateway.too_many",
    ],
)
def test_a_start_at_a_node_that_takes_none_for_now_waits_as_long_as_that_takes_and_is_not_blamed(story, code):
    refusal = Refusal(code, "not now", "node n1")
    story.ready(ask(effect=Effect.AT_MOST_ONCE))
    for fence in range(1, 101):
        story.bid("a")
        assert [request.avoid for request in story.last(SendAward).award.requests] == [("n1",) if fence > 1 else ()]
        story.grant("n1")
        story.event(flow.StartRefused("s", fence, "n1", refusal))
        story.event(flow.PlacesFound("s", (Place("a", "a"),), (), False), later=3.0)
    assert not story.wanted(flow.RefuseStep) + story.wanted(flow.FailStep)
    assert not [told for told in story.wanted(flow.Tell) if told.chapter is Chapter.LOSS]
    story.event(flow.Tick(), later=3.0)
    story.bid("a")
    assert [request.avoid for request in story.last(SendAward).award.requests] == [()], (
        "it may be another process by now"
    )


def test_three_crowded_nodes_in_a_row_fail_no_step(story):
    crowded = Refusal("node.overloaded", "the machine has nothing left for it", "node")
    story.ready(ask())
    for fence, node in enumerate(("n1", "n2", "n3"), 1):
        story.bid("a")
        story.grant(node)
        story.event(flow.StartRefused("s", fence, node, crowded), later=0.1)
        story.event(flow.PlacesFound("s", (Place("a", "a"),), (), False), later=3.0)
    assert not story.wanted(flow.RefuseStep)
    story.bid("a")
    assert [(one.fence, one.avoid) for one in story.last(SendAward).award.requests] == [(4, ("n3",))]
    story.grant("n4")
    assert story.governor.snapshot().counts == {"running": 1}


def test_of_more_groups_than_an_announcement_has_room_for_the_most_urgent_are_asked_for_and_the_others_in_turn(story):
    """Each time for as long as an announcement may wait at the cluster: who asks anew all the time never gets its turn there."""
    plain = [f"c{number}" for number in range(MAX_GROUPS + 6)]
    asks = [ask(f"of {name}", capability=name) for name in plain]
    story.ready(*asks, ask("urgent", capability="urgent", priority=5))
    announced: list[tuple[float, float, set[str]]] = []
    answered = 0
    while story.now < 40.0:
        sent = [one.announce for one in story.wanted(SendAnnounce)]
        if len(sent) > len(announced):
            groups = {group.capability for group in sent[-1].groups}
            announced.append((story.now, sent[-1].wait_s, groups))
        at, wait_s, _ = announced[-1]
        if answered < len(sent) and story.now >= at + wait_s:
            answered = len(sent)
            story.bid("a", slots=0)
        story.event(flow.Tick(), later=0.1)
    full = [groups for _, _, groups in announced if len(groups) == MAX_GROUPS]
    assert all("urgent" in groups for groups in full)
    assert set().union(*full) == {*plain, "urgent"}
    assert len(full) <= 2 * 40.0 / PARK_S
    waited = [groups for _, wait_s, groups in announced if wait_s]
    assert set().union(*waited) == {*plain, "urgent"}
