"""Gangs of the flow governor: asked for, awarded, stopped and placed again together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ioi_dagster.governors import flow
from ioi_dagster.governors.failures import AT_MOST_ONCE, GANG_LOST, GANG_TODO
from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_messages import Place, SendAnnounce, SendAward, StartStep
from ioi_dagster.governors.flow_nearness import Nearness
from ioi_dagster.governors.flow_offers import Menu, Offers
from ioi_dagster.governors.flow_placing import LeastCost, objective_of
from ioi_dagster.governors.flow_steps import Steps, group_of
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.model.negotiation import Ask, AskGroup, Awarded, Bid, Effect, RejectedRequest, SupplyPoint
from ioi_dagster.model.refusal import Refusal
from tests.unit.governors.test_flow import Story, lease_for

NO = Refusal("cluster.full", "no room", "a")
INTERNAL = DataClass.INTERNAL


class Gang(Story):
    """A run with a gang of `a0`, `a1` and so on."""

    def members(self, size: int, **changes) -> list[Ask]:
        return [Ask("r", f"a{n}", "train", gang="fit", gang_size=size, **changes) for n in range(size)]

    def answer(self, cluster: str, gang: int, slots: int, price: float = 1.0, capability: str = "train") -> None:
        number = next(i.announce.round for i in reversed(self.wanted(SendAnnounce)) if i.cluster == cluster)
        points = (SupplyPoint(capability, INTERNAL, slots, price, gang=gang),)
        self.event(flow.BidReceived(Bid(cluster, cluster, "r", number, 1, points)))

    def begin(self, *asks: Ask) -> list[str]:
        """All of them run on nodes of cluster a; returns their keys."""
        self.ready(*asks)
        self.answer("a", gang=len(asks), slots=len(asks))
        self.grant()
        return [ask.step for ask in asks]

    def again(self) -> list[tuple[str, str, int]]:
        """What is awarded when all that wait has places and room: (step, gang, fence)."""
        self.event(flow.Tick(), later=1.0)
        for find in self.wanted(flow.FindPlaces)[-1:]:
            for one in find.asks:
                self.event(flow.PlacesFound(one.step, (Place("a", "a"),), (), False))
        group = self.last(SendAnnounce).announce.groups[0]
        self.answer("a", group.gang, group.count)
        return [(one.step, one.gang, one.fence) for one in self.last(SendAward).award.requests]

    def counts(self) -> dict[str, int]:
        return self.governor.snapshot().counts

    def codes(self, kind: type) -> dict[str, str]:
        return {one.step: one.refusal.code for one in self.wanted(kind)}


@pytest.fixture
def story() -> Gang:
    return Gang()


def test_a_gang_is_announced_when_it_is_whole_and_as_one_group(story):
    first, *others = story.members(3)
    story.ready(first)
    story.event(flow.Tick(), later=3.0)
    assert story.wanted(SendAnnounce) == []
    assert story.governor.snapshot().waiting == {"a0": "2 steps more of its gang 'fit' must be ready"}
    story.ready(*others)
    assert story.last(SendAnnounce).announce.groups == (AskGroup("train", INTERNAL, 3, gang=3),)


def test_what_is_ready_beside_a_gang_does_not_wait_for_it(story):
    story.ready(story.members(2)[0], Ask("r", "alone", "ocr"))
    assert story.last(SendAnnounce).announce.groups == (AskGroup("ocr", INTERNAL, 1),)


def test_a_gang_is_awarded_in_one_cluster_that_has_room_for_all_of_it(story):
    story.ready(*story.members(3), places=("a", "b"))
    story.answer("a", gang=3, slots=2, price=0.1)
    story.answer("b", gang=3, slots=3, price=9.0)
    award = story.last(SendAward).award
    assert (award.cluster, [(one.step, one.gang) for one in award.requests]) == (
        "b",
        [("a0", "fit"), ("a1", "fit"), ("a2", "fit")],
    )


def test_a_gang_waits_while_one_of_it_has_no_place(story):
    one, other = story.members(2)
    story.ready(one)
    story.event(flow.StepReady(other))
    story.event(flow.PlacesFound("a1", (), (("a", NO),), True))
    story.event(flow.Tick(), later=1.0)
    assert story.wanted(SendAnnounce) == []
    assert story.governor.snapshot().waiting["a0"] == "a1 of its gang has no place: a: no room"


def test_two_gangs_do_not_share_the_room_for_one(story):
    other = [Ask("r", f"b{n}", "train", gang="other", gang_size=2) for n in range(2)]
    story.ready(*story.members(2), *other)
    story.answer("a", gang=2, slots=2)
    assert [one.step for one in story.last(SendAward).award.requests] == ["a0", "a1"]
    assert set(story.governor.snapshot().waiting) == {"b0", "b1"}


def test_a_gang_that_was_leased_in_part_gives_that_back_and_starts_nothing(story):
    story.ready(*story.members(3))
    story.answer("a", gang=3, slots=3)
    award = story.last(SendAward).award
    leases = tuple(lease_for(award, one, "n") for one in award.requests[:2])
    story.event(flow.AwardAnswered(Awarded("a", leases, (RejectedRequest("a2", 1, NO),))))
    assert story.wanted(StartStep) == []
    assert story.wanted(flow.ReleaseLeases) == [flow.ReleaseLeases("a", (lease.id,)) for lease in leases]
    assert story.counts() == {"waiting": 3}
    assert story.again() == [("a0", "fit", 2), ("a1", "fit", 2), ("a2", "fit", 2)]


def test_a_gang_of_which_a_part_is_not_answered_starts_nothing(story):
    """As where an answer names neither a lease nor a refusal for one of it."""
    story.ready(*story.members(2))
    story.answer("a", gang=2, slots=2)
    award = story.last(SendAward).award
    story.event(flow.AwardMissed("a", ("a1",), "nothing for a1"))
    lease = lease_for(award, award.requests[0], "n")
    story.event(flow.AwardAnswered(Awarded("a", (lease,))))
    assert story.wanted(StartStep) == []
    assert story.wanted(flow.ReleaseLeases) == [flow.ReleaseLeases("a", (lease.id,))]
    assert story.counts() == {"waiting": 2}


@pytest.mark.parametrize(
    "event",
    [
        flow.StepLost("a1", 1, "n1", "the worker died"),
        flow.StepReturned("a1", 1, "it waited"),
        flow.StartRefused("a1", 1, "n1", Refusal("node.memory", "full", "n1")),
    ],
    ids=["lost", "taken back", "refused"],
)
def test_when_one_of_it_falls_the_others_are_stopped_and_all_start_again_together(story, event):
    story.begin(*story.members(3))
    story.event(event)
    assert [one.lease.step for one in story.wanted(flow.StopStep)] == ["a0", "a2"]
    assert story.counts() == {"waiting": 3}
    assert story.again() == [("a0", "fit", 2), ("a1", "fit", 2), ("a2", "fit", 2)]
    story.event(flow.StepEnded("a0", 1, "late", 1.0))
    assert not story.wanted(flow.CommitStep)


def test_what_of_it_is_over_is_not_done_again(story):
    story.begin(*story.members(3))
    story.event(flow.StepEnded("a0", 1, "x", 1.0))
    story.event(flow.ClusterLost("a", "its scheduler went away"))
    assert story.counts() == {"done": 1, "waiting": 2}
    story.event(flow.ClusterBack("a"))
    assert story.again() == [("a1", "fit", 2), ("a2", "fit", 2)]


def test_the_last_of_it_that_is_left_starts_by_itself(story):
    story.begin(*story.members(2))
    story.event(flow.StepEnded("a0", 1, "x", 1.0))
    story.event(flow.StepLost("a1", 1, "n1", "the worker died"))
    assert story.again() == [("a1", "", 2)]


def test_where_one_may_run_once_only_the_whole_gang_ends_with_the_one_that_was_lost(story):
    first, *others = story.members(3)
    story.begin(first, others[0], Ask("r", "a2", "train", gang="fit", gang_size=3, effect=Effect.AT_MOST_ONCE))
    story.event(flow.StepLost("a0", 1, "n1", "the worker died"))
    assert story.codes(flow.FailStep) == {"a2": AT_MOST_ONCE, "a1": GANG_LOST}
    assert story.codes(flow.RefuseStep) == {"a0": "flow.gang_broken"}
    refused = [one.refusal for one in (*story.wanted(flow.RefuseStep), *story.wanted(flow.FailStep))]
    assert [one.remedy for one in refused if one.code != AT_MOST_ONCE] == [GANG_TODO, GANG_TODO]
    assert [one.lease.step for one in story.wanted(flow.StopStep)] == ["a2", "a1"]


def test_a_gang_of_which_one_fails_for_good_is_stopped(story):
    story.begin(*story.members(2))
    story.event(flow.StepLost("a0", 1, "n1", "too much memory", flow.Cause.MEMORY))
    assert story.codes(flow.FailStep) == {"a0": "flow.memory", "a1": GANG_LOST}


@pytest.mark.parametrize("whole", [True, False])
def test_a_gang_that_lacks_one_for_ever_is_refused(story, whole):
    story.ready(*story.members(3)[: 3 if whole else 2])
    story.event(flow.PlacesFound("a0", (), (("a", NO),), False))
    assert story.codes(flow.RefuseStep) == {"a0": "flow.no_place"} | dict.fromkeys(
        ["a1", "a2"] if whole else ["a1"], "flow.gang_broken"
    )
    assert story.counts() == {"refused": 3 if whole else 2}


def test_a_gang_that_is_being_awarded_is_refused_when_one_of_it_is_dropped(story):
    story.ready(*story.members(2))
    story.answer("a", gang=2, slots=2)
    story.event(flow.StepDropped("a0", "nobody waits for it"))
    assert story.codes(flow.RefuseStep) == {"a1": "flow.gang_broken"}
    story.grant()
    assert story.wanted(StartStep) == []
    assert len(story.wanted(flow.ReleaseLeases)) == 2


@pytest.mark.parametrize(("sizes", "unfit"), [((2, 3), ["g1"]), ((0,), ["g0"]), ((5_000,), ["g0"])])
def test_a_gang_of_a_size_that_cannot_be_is_refused(story, sizes, unfit):
    for number, size in enumerate(sizes):
        story.event(flow.StepReady(Ask("r", f"g{number}", "train", gang="fit", gang_size=size)))
    assert [step for step, code in story.codes(flow.RefuseStep).items() if code == "flow.gang_unfit"] == unfit


def test_one_that_is_ready_anew_by_itself_is_no_part_of_the_old_gang(story):
    """The user's retry of one that raised, while the others run on."""
    story.begin(*story.members(3))
    story.event(flow.StepEnded("a0", 1, "raised", 1.0))
    story.ready(Ask("r", "a0", "train"))
    assert story.last(SendAnnounce).announce.groups == (AskGroup("train", INTERNAL, 1),)
    story.event(flow.StepLost("a1", 1, "n1", "the worker died"))
    assert [one.lease.step for one in story.wanted(flow.StopStep)] == ["a2"]


def test_a_gang_that_the_budget_does_not_pay_is_refused_whole():
    story = Gang()
    story.governor = flow.FlowGovernor("r", "home", budget=2.5)
    story.ready(*story.members(3))
    story.answer("a", gang=3, slots=3, price=1.0)
    assert story.codes(flow.RefuseStep) == {}
    for _ in range(32):
        story.event(flow.Tick(), later=1.0)
        if story.governor.snapshot().waiting:
            story.answer("a", gang=3, slots=3, price=1.0)
    assert story.codes(flow.RefuseStep) == dict.fromkeys(["a0", "a1", "a2"], "flow.budget")


def test_what_a_step_takes_of_its_node_is_asked_for_and_requested(story):
    takes = (("gpu", 1.0),)
    story.ready(Ask("r", "s", "train", resources=takes, priority=3, checkpointable=True))
    assert story.last(SendAnnounce).announce.groups == (AskGroup("train", INTERNAL, 1, priority=3, resources=takes),)
    story.answer("a", gang=0, slots=1)
    assert story.wanted(SendAward) == [], "an offer for what takes nothing is none for it"
    story.event(flow.Tick(), later=1.0)
    number = story.last(SendAnnounce).announce.round
    points = (SupplyPoint("train", INTERNAL, 1, 1.0, resources=takes),)
    story.event(flow.BidReceived(Bid("a", "a", "r", number, 1, points)))
    (request,) = story.last(SendAward).award.requests
    assert (request.resources, request.priority, request.checkpointable, request.gang) == (takes, 3, True, "")


def prioritise(story: Gang, step: str, value: int) -> None:
    story.event(flow.Intervened(Intervention("r", Action.PRIORITISE, step, value)))


def urgent(count: int, priority: int) -> tuple[AskGroup, ...]:
    return (AskGroup("train", INTERNAL, count, priority=priority, gang=count),)


@pytest.mark.parametrize("value", [5, -5])
@pytest.mark.parametrize("when", ["before it is ready", "while it gathers", "while it waits"])
def test_a_gang_of_which_one_is_prioritised_is_asked_for_and_starts_as_one_still(story, when, value):
    """Its groups would be one curve to who bids, of room for one."""
    first, second = story.members(2)
    if when == "before it is ready":
        prioritise(story, "a0", value)
    story.ready(first)
    if when == "while it gathers":
        prioritise(story, "a0", value)
    story.ready(second)
    if when == "while it waits":
        story.answer("a", gang=2, slots=0)
        prioritise(story, "a0", value)
        story.event(flow.Tick(), later=1.0)
    assert story.last(SendAnnounce).announce.groups == urgent(2, value)
    story.answer("a", gang=2, slots=2)
    assert [(one.step, one.priority) for one in story.last(SendAward).award.requests] == [("a0", value), ("a1", value)]


def test_what_was_said_last_of_one_of_a_gang_holds_for_all_of_it(story):
    story.ready(*story.members(2))
    story.answer("a", gang=2, slots=0)
    for step, value in (("a0", 5), ("a1", 3), ("other", 9)):
        prioritise(story, step, value)
    story.answer("a", gang=2, slots=0)
    story.event(flow.Tick(), later=1.0)
    assert story.last(SendAnnounce).announce.groups == urgent(2, 3)
    prioritise(story, "", 1)
    story.answer("a", gang=2, slots=0)
    story.event(flow.Tick(), later=1.0)
    assert story.last(SendAnnounce).announce.groups == urgent(2, 1)


def test_a_gang_whose_steps_differ_in_priority_is_as_urgent_as_the_most_urgent_of_them(story):
    first, second = story.members(2)
    story.ready(first, replace(second, priority=4))
    assert story.last(SendAnnounce).announce.groups == urgent(2, 4)


@pytest.mark.parametrize(("slots", "cost"), [(1, []), (2, [2.0])])
def test_what_a_gang_costs_is_reckoned_by_curve_whatever_else_tells_its_steps_from_each_other(slots, cost):
    steps = Steps()
    unit = [steps.add(Ask("r", f"a{n}", "train", gang="fit", gang_size=2)) for n in range(2)]
    for priority, step in enumerate(unit):
        step.group, step.places = group_of(step.ask, 1)._replace(priority=priority), (Place("a", "a"),)
    points = (SupplyPoint("train", INTERNAL, slots, 1.0, gang=1), SupplyPoint("other", INTERNAL, 4, 1.0))
    menu = Menu(
        Offers([Bid("a", "a", "r", 1, 1, points)]),
        LeastCost(objective_of("balanced")),
        Nearness(steps),
        ColdStarts(),
        lambda _: 1.0,
    )
    assert [offer.price for offer in menu.of(unit, unit[0].places)] == cost
