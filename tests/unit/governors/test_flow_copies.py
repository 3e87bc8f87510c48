"""Late copies of the flow governor: a step that is late for certain runs once more where room is idle, and one of them counts."""

from __future__ import annotations

import pytest

from ioi_dagster.governors import flow
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow_awards import COPY_AGAIN_S
from ioi_dagster.governors.flow_copies import KNOWN, LATE
from ioi_dagster.governors.flow_messages import Place, SendAnnounce, SendAward, StartStep
from ioi_dagster.governors.flow_offers import Offers
from ioi_dagster.governors.flow_steps import group_of
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.model.negotiation import Ask, AskGroup, Awarded, Bid, Effect, Lease, RejectedRequest, SupplyPoint
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_flow import Story

NO = Refusal("cluster.full", "no room", "b")
USUAL = 2.0


class Late(Story):
    """A run of mapped steps `ocr[…]`, of which each has taken `USUAL` seconds, until `ocr[x]` on node a1 of a takes longer."""

    def __init__(self, budget: float | None = None) -> None:
        super().__init__()
        self.governor = flow.FlowGovernor("r", "home", budget=budget)

    def begin(self, known: int = KNOWN, **changes) -> None:
        steps = [f"ocr[{number}]" for number in range(known)] + ["ocr[x]"]
        self.ready(*(Ask(**{"run": "r", "step": step, "capability": "ocr", "copies": 1, **changes}) for step in steps))
        self.bid("a", slots=len(steps))
        award = self.last(SendAward).award
        leases = [self.lease(request, "a", "a1") for request in award.requests]
        self.event(flow.AwardAnswered(Awarded("a", tuple(leases))))
        for step in steps[:-1]:
            self.event(flow.StepEnded(step, 1, f"of {step}", USUAL))
        self.done.clear()

    def lease(self, request, cluster: str, node: str) -> Lease:
        key = f"{request.step}/{request.fence}/{request.copy}@{cluster}"
        return Lease(key, "r", request.step, request.fence, request.copy, "ocr", cluster, cluster, node, 1)

    def late(self, places: tuple[str, ...] = ("a", "b"), times: float = LATE + 0.5) -> None:
        """`ocr[x]` has run for so many times its usual, and its places are known."""
        self.event(flow.Tick(), later=times * USUAL)
        for find in self.wanted(flow.FindPlaces):
            for ask in find.asks:
                self.event(flow.PlacesFound(ask.step, tuple(Place(place, place) for place in places), (), False))
        self.event(flow.Tick(), later=0.6)

    def offer(self, cluster: str, slots: int = 1, price: float = 1.0) -> None:
        number = next(one.announce.round for one in reversed(self.wanted(SendAnnounce)) if one.cluster == cluster)
        points = (SupplyPoint("ocr", DataClass.INTERNAL, slots, price, idle=True),) if slots else ()
        self.event(flow.BidReceived(Bid(cluster, cluster, "r", number, 1, points)))

    def copied(self, node: str = "b1") -> Lease:
        """A copy runs on a node of b."""
        self.late()
        self.offer("a", 0)
        self.offer("b")
        (request,) = self.last(SendAward).award.requests
        lease = self.lease(request, "b", node)
        self.event(flow.AwardAnswered(Awarded("b", (lease,))))
        return lease

    def told(self) -> list[str]:
        return [one.text for one in self.wanted(flow.Tell) if one.chapter is Chapter.COPY]


@pytest.fixture
def story() -> Late:
    story = Late()
    story.begin()
    return story


def test_a_late_step_is_asked_for_once_more_under_its_fence_and_away_from_its_node(story):
    story.late()
    groups = {one.cluster: one.announce.groups for one in story.wanted(SendAnnounce)}
    assert groups == dict.fromkeys(("a", "b"), (AskGroup("ocr", DataClass.INTERNAL, 1, idle=True),))
    assert {one.announce.wait_s for one in story.wanted(SendAnnounce)} == {0.0}
    story.offer("a")
    story.offer("b", 0)
    (request,) = story.last(SendAward).award.requests
    assert (request.step, request.fence, request.copy, request.avoid) == ("ocr[x]", 1, 1, ("a1",))
    assert story.told() == ["late: it has run 5.6 s on a1 of a, its like took 2.0 s; a copy is asked of a"]


@pytest.mark.parametrize(
    ("known", "times", "changes"),
    [
        (KNOWN, LATE - 0.2, {}),
        (KNOWN - 1, 5.0, {}),
        (KNOWN, 5.0, {"copies": 0}),
        (KNOWN, 5.0, {"effect": Effect.AT_MOST_ONCE}),
        (KNOWN, 5.0, {"cluster": "a"}),
    ],
    ids=["not late", "too few of its like", "not wanted", "once only", "of one cluster"],
)
def test_what_is_not_late_for_certain_or_may_not_run_twice_has_no_copy(known, times, changes):
    story = Late()
    story.begin(known, **changes)
    story.late(times=times)
    assert story.wanted(SendAnnounce) == []


def test_one_of_its_like_that_took_as_long_makes_it_no_rarity():
    story = Late()
    story.begin(KNOWN)
    story.ready(Ask("r", "ocr[long]", "ocr", copies=1))
    story.bid("a")
    story.grant()
    story.event(flow.StepEnded("ocr[long]", 1, "of the long one", 6.0))
    story.done.clear()
    story.late()
    assert story.wanted(SendAnnounce) == []


def test_while_a_step_waits_for_room_no_other_runs_twice(story):
    story.ready(Ask("r", "other", "trim"))
    story.late()
    assert {group.capability for one in story.wanted(SendAnnounce) for group in one.announce.groups} == {"trim"}
    for cluster in {one.cluster for one in story.wanted(SendAnnounce)}:
        story.offer(cluster, 0)
    story.done.clear()
    story.event(flow.StepDropped("other", "nobody waits for it"))
    story.event(flow.Tick(), later=1.5)
    for find in story.wanted(flow.FindPlaces):
        for ask in find.asks:
            story.event(flow.PlacesFound(ask.step, (Place("b", "b"),), (), False))
    story.event(flow.Tick(), later=1.0)
    assert [group.idle for one in story.wanted(SendAnnounce) for group in one.announce.groups] == [True]


def test_a_step_that_gets_ready_meanwhile_comes_before_the_copy(story):
    story.late()
    story.event(flow.StepReady(Ask("r", "other", "ocr")))
    story.event(flow.PlacesFound("other", (Place("b", "b"),), (), False))
    story.offer("a", 0)
    story.offer("b")
    assert [(one.step, one.copy) for one in story.last(SendAward).award.requests] == [("other", 0)]


@pytest.mark.parametrize("first", ["the step", "its copy"])
def test_whichever_ends_first_is_committed_and_the_other_is_stopped(story, first):
    copy = story.copied()
    assert story.last(StartStep).lease is copy
    main = story.governor.lease("ocr[x]")
    assert main is not None and story.governor.leases() == [main, copy]
    winner, loser = (copy, main) if first == "its copy" else (main, copy)
    story.event(flow.StepEnded("ocr[x]", 1, "first", 1.0, winner.copy))
    story.event(flow.StepEnded("ocr[x]", 1, "second", 9.0, loser.copy))
    assert story.wanted(flow.CommitStep) == [flow.CommitStep("ocr[x]", 1, "first")]
    assert [one.attempt for one in story.wanted(flow.DiscardAttempt)] == ["second"]
    assert [one.lease for one in story.wanted(flow.StopStep)] == [loser]
    assert story.wanted(flow.ReleaseLeases) == [flow.ReleaseLeases(winner.cluster, (winner.id,))]
    assert story.governor.leases() == []


@pytest.mark.parametrize("event", ["lost", "returned", "refused", "cluster"])
@pytest.mark.parametrize("which", [0, 1])
def test_when_one_of_the_two_is_gone_the_other_goes_on(story, event, which):
    copy = story.copied()
    main = story.governor.lease("ocr[x]")
    assert main is not None
    gone, left = (copy, main) if which else (main, copy)
    story.event(
        {
            "lost": flow.StepLost("ocr[x]", 1, gone.node, "the worker died", Cause.NODE_LOST, which),
            "returned": flow.StepReturned("ocr[x]", 1, "it waited", which),
            "refused": flow.StartRefused("ocr[x]", 1, gone.node, Refusal("node.memory", "full", gone.node), which),
            "cluster": flow.ClusterLost(gone.cluster, "its scheduler went away"),
        }[event]
    )
    assert story.governor.leases() == [left]
    assert story.governor.lease("ocr[x]") is left
    assert story.governor.snapshot().counts["running"] == 1
    story.event(flow.StepEnded("ocr[x]", 1, "it", 1.0, left.copy))
    assert story.wanted(flow.CommitStep) == [flow.CommitStep("ocr[x]", 1, "it")]


def test_when_both_are_lost_it_is_placed_again_under_a_new_fence(story):
    story.copied()
    story.event(flow.StepLost("ocr[x]", 1, "a1", "the worker died"))
    story.event(flow.StepLost("ocr[x]", 1, "b1", "the worker died", copy=1))
    story.event(flow.Tick(), later=1.0)
    story.event(flow.PlacesFound("ocr[x]", (Place("c", "c"),), (), False))
    story.offer("c")
    (request,) = story.last(SendAward).award.requests
    assert (request.fence, request.copy, request.avoid) == (2, 0, ("a1", "b1"))


def test_a_copy_on_the_node_where_it_runs_is_given_back(story):
    story.late()
    story.offer("a")
    story.offer("b", 0)
    (request,) = story.last(SendAward).award.requests
    lease = story.lease(request, "a", "a1")
    story.event(flow.AwardAnswered(Awarded("a", (lease,))))
    assert story.wanted(StartStep) == []
    assert story.wanted(flow.ReleaseLeases) == [flow.ReleaseLeases("a", (lease.id,))]
    assert story.told()[-1] == "no copy: a has room on a1 only, where it runs"


@pytest.mark.parametrize("answer", ["rejected", "missed"])
def test_a_copy_that_is_not_granted_changes_nothing_for_its_step_and_is_asked_for_again(story, answer):
    story.late()
    story.offer("a", 0)
    story.offer("b")
    (request,) = story.last(SendAward).award.requests
    story.event(
        flow.AwardAnswered(Awarded("b", (), (RejectedRequest(request.step, request.fence, NO),)))
        if answer == "rejected"
        else flow.AwardMissed("b", (request.step,), "no answer")
    )
    assert story.governor.snapshot().counts["running"] == 1
    assert story.told()[-1].startswith("no copy: ")
    story.event(flow.Tick(), later=COPY_AGAIN_S - 1.0)
    story.done.clear()
    story.late(("a", "c"), times=0.5)
    story.offer("a", 0)
    story.offer("c")
    (again,) = story.last(SendAward).award.requests
    assert (again.step, again.fence, again.copy) == ("ocr[x]", 1, 2)
    story.event(flow.AwardAnswered(Awarded("c", (story.lease(again, "c", "c1"),))))
    assert [(one.lease.node, one.lease.copy) for one in story.wanted(StartStep)] == [("c1", 2)]


def test_a_copy_that_is_granted_when_the_step_has_ended_is_given_back(story):
    story.late()
    story.offer("a", 0)
    story.offer("b")
    (request,) = story.last(SendAward).award.requests
    story.event(flow.StepEnded("ocr[x]", 1, "it", 5.0))
    lease = story.lease(request, "b", "b1")
    story.event(flow.AwardAnswered(Awarded("b", (lease,))))
    assert story.wanted(StartStep) == []
    assert story.last(flow.ReleaseLeases) == flow.ReleaseLeases("b", (lease.id,))


def test_a_copy_costs_what_it_was_offered_for_and_only_where_that_can_be_paid():
    story = Late(budget=4.5)
    story.begin()
    assert story.governor.snapshot().spent == 4.0
    story.late()
    story.offer("a", price=0.6)
    story.offer("b", price=0.4)
    award = story.last(SendAward).award
    assert award.cluster == "b"
    story.event(flow.AwardAnswered(Awarded("b", (story.lease(award.requests[0], "b", "b1"),))))
    assert story.governor.snapshot().spent == pytest.approx(4.4)
    prices = [one.facts["price"] for one in story.wanted(flow.Tell) if "price" in one.facts]
    assert prices == [0.4]


def test_two_copies_together_do_not_cost_more_than_may_be_spent():
    story = Late(budget=6.5)
    steps = [f"ocr[{number}]" for number in range(KNOWN)] + ["ocr[x]", "ocr[y]"]
    story.ready(*(Ask("r", step, "ocr", copies=1) for step in steps))
    story.bid("a", slots=len(steps))
    leases = [story.lease(one, "a", f"a{one.step}") for one in story.last(SendAward).award.requests]
    story.event(flow.AwardAnswered(Awarded("a", tuple(leases))))
    for step in steps[:KNOWN]:
        story.event(flow.StepEnded(step, 1, f"of {step}", USUAL))
    assert story.governor.snapshot().spent == 5.0
    story.done.clear()
    story.late()
    story.offer("a", 0)
    story.offer("b", 2)
    (request,) = story.last(SendAward).award.requests
    story.event(flow.AwardAnswered(Awarded("b", (story.lease(request, "b", "b1"),))))
    assert story.governor.snapshot().spent == 6.0


def test_a_paused_run_has_no_copies_made(story):
    story.event(flow.Intervened(Intervention("r", Action.PAUSE, number=1)))
    story.late()
    assert story.wanted(SendAnnounce) == []


def test_a_copy_does_not_start_where_its_step_is_to_stay_away_from_by_now(story):
    story.late()
    story.offer("a", 0)
    story.offer("b")
    (request,) = story.last(SendAward).award.requests
    story.event(flow.Intervened(Intervention("r", Action.REROUTE, "ocr", away="b", number=1)))
    lease = story.lease(request, "b", "b1")
    story.event(flow.AwardAnswered(Awarded("b", (lease,))))
    assert story.wanted(StartStep) == []
    assert story.last(flow.ReleaseLeases) == flow.ReleaseLeases("b", (lease.id,))


def test_what_is_dropped_is_stopped_with_its_copy(story):
    copy = story.copied()
    story.event(flow.StepDropped("ocr[x]", "nobody waits for it"))
    assert [one.lease for one in story.wanted(flow.StopStep)] == [copy]
    assert story.governor.leases() == []


def test_it_runs_twice_at_most_under_one_fence(story):
    story.copied()
    story.event(flow.StepLost("ocr[x]", 1, "b1", "the worker died", copy=1))
    story.done.clear()
    story.late()
    assert story.wanted(SendAnnounce) == []


def test_where_steps_and_copies_are_asked_for_in_one_round_each_has_a_curve_over_the_same_slots():
    """A cluster answers both, and offers copies what is idle only."""
    points = tuple(SupplyPoint("ocr", DataClass.INTERNAL, slots, 1.0, idle=slots == 1) for slots in (3, 1))
    offers = Offers([Bid("a", "a", "r", 1, 1, points)])
    step = group_of(Ask("r", "s", "ocr"))
    copy = step._replace(idle=True)
    offers.take("a", step)
    assert (offers.room("a"), offers.price("a", step), offers.price("a", copy)) == (2, 1.0, 1.0)
    offers.take("a", copy)
    assert (offers.room("a"), offers.price("a", step), offers.price("a", copy)) == (1, 1.0, None)
    offers.take("a", step)
    assert (offers.exhausted, offers.price("a", step)) == (True, None)


@pytest.mark.parametrize(
    ("changes", "says"), [({}, USUAL), ({"effect": Effect.AT_MOST_ONCE}, 0.0), ({"step": "other"}, 0.0)]
)
def test_a_run_says_how_long_the_like_of_a_step_took_at_most_where_it_may_be_stopped(story, changes, says):
    story.event(flow.StepEnded("ocr[x]", 1, "of ocr[x]", USUAL / 2))
    story.ready(Ask(**{"run": "r", "step": "ocr[y]", "capability": "ocr", **changes}))
    story.event(flow.Tick(), later=1.0)
    assert [one.announce.groups[0].seconds for one in story.wanted(SendAnnounce)[-1:]] == [says]
