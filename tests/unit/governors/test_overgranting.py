"""Clusters that grant more than they were asked for, or bid more than they have: it is noticed, told, and given back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ioi_dagster.errors import RetryableError
from ioi_dagster.governors import flow
from ioi_dagster.governors.answers import Held, checked_award
from ioi_dagster.governors.flow_held import HeldSlots
from ioi_dagster.governors.flow_messages import Place, ReleaseLeases, SendAnnounce, SendAward, StartStep
from ioi_dagster.model.intervention import PART
from ioi_dagster.model.negotiation import Ask, Award, Awarded, Lease, RejectedRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_flow import Story, lease_for

NO = Refusal("cluster.full", "its only node is busy", "a")


def award_of(*steps: str) -> tuple[Award, list[Lease]]:
    story = Story()
    story.ready(*(Ask("r", step, "ocr") for step in steps))
    story.bid("a", slots=len(steps))
    award = story.last(SendAward).award
    return award, [lease_for(award, request, "n1") for request in award.requests]


def test_what_was_asked_for_counts_once_and_all_else_is_in_excess():
    award, (one, two) = award_of("one", "two")
    twice, nobodys = replace(one, id="again"), replace(one, id="more", step="three")
    stale, elsewhere = replace(two, id="stale", fence=0), replace(two, id="elsewhere", cluster="b")
    shared = replace(two, id=one.id)
    answer = Awarded("a", (one, twice, nobodys, stale, elsewhere, shared, two))
    assert checked_award(answer, award, "a") == Held(
        Awarded("a", (one, two)), (), (twice, nobodys, stale, elsewhere, shared)
    )


def test_one_slot_granted_to_two_is_one_lease_and_what_is_left_out_is_missing():
    award, (one, two, three) = award_of("one", "two", "three")
    shared = replace(two, id=one.id)
    rejected = RejectedRequest("three", three.fence, NO)
    assert checked_award(Awarded("a", (one, shared), (rejected,)), award, "a") == Held(
        Awarded("a", (one,), (rejected,)), ("two",), (shared,)
    )
    with pytest.raises(RetryableError):
        checked_award(Awarded("b", (one,)), award, "a")


def test_a_request_that_is_granted_and_rejected_at_once_is_granted():
    award, (one,) = award_of("one")
    told = checked_award(Awarded("a", (one,), (RejectedRequest("one", one.fence, NO),)), award, "a")
    assert told == Held(Awarded("a", (one,)))


class Deal(Story):
    """One step is awarded to a, which a bit later answers what is given."""

    def __init__(self, *steps: str) -> None:
        super().__init__()
        self.ready(*(Ask("r", step, "ocr") for step in steps))
        self.bid("a", slots=len(steps))
        self.award = self.last(SendAward).award
        self.leases = [lease_for(self.award, request, "n1") for request in self.award.requests]
        self.done.clear()

    def answer(self, *leases: Lease) -> None:
        held = checked_award(Awarded("a", leases), self.award, "a")
        self.event(flow.AwardAnswered(held.awarded, held.missing, held.excess))

    @property
    def trust(self) -> float:
        trust = self.governor.snapshot().reputation["a"]["trust"]
        assert isinstance(trust, float)
        return trust


def test_what_is_granted_besides_is_given_back_told_and_held_against_the_cluster():
    deal = Deal("s")
    (lease,) = deal.leases
    deal.answer(lease, replace(lease, id="again"), replace(lease, id="more", step="three"))
    assert [one.lease for one in deal.wanted(StartStep)] == [lease]
    assert deal.governor.leases() == [lease]
    assert deal.wanted(ReleaseLeases) == [ReleaseLeases("a", ("again", "more"))]
    told = [one for one in deal.wanted(flow.Tell) if "leases" in one.facts]
    assert [(one.step, one.chapter, one.facts) for one in told] == [
        (step, Chapter.AWARD, {"cluster": "a", "leases": 2, "steps": ["s", "three"]}) for step in ("", "s")
    ]
    assert told[0].text == (
        "a granted 2 leases that it was not asked for (s, three); they are given back, and its bids are trusted less"
    )
    assert deal.trust == 0.667, "a third of what it granted was asked for"


def test_an_id_under_which_something_runs_is_not_given_back():
    deal = Deal("s", "t")
    s, t = deal.leases
    deal.answer(s, replace(s, id=t.id), t)
    assert deal.wanted(ReleaseLeases) == []
    assert deal.governor.leases() == [s, t]


def test_what_an_answer_leaves_out_counts_as_broken_and_is_announced_anew():
    deal = Deal("s", "t")
    s, _ = deal.leases
    deal.answer(s)
    assert [one.lease for one in deal.wanted(StartStep)] == [s]
    assert deal.trust == 0.75
    deal.event(flow.Tick(), later=5.0)
    assert [one.announce.groups[0].count for one in deal.wanted(SendAnnounce)] == [1]


def test_no_more_is_taken_of_a_bid_than_the_cluster_has_by_its_record():
    story = Story()
    for number in range(6):
        story.event(flow.StepReady(Ask("r", f"s{number}", "ocr")))
    places = (Place("a", "a", slots=2), Place("b", "b"))
    for number in range(6):
        story.event(flow.PlacesFound(f"s{number}", places, (), False))
    story.bid("a", slots=10, price=0.0)
    story.bid("b", slots=10)
    taken = {one.award.cluster: len(one.award.requests) for one in story.wanted(SendAward)}
    assert taken == {"a": 2, "b": 4}
    told = [one.text for one in story.wanted(flow.Tell) if "slots" in one.facts]
    assert told == ["a bids 10 slots and has 2 by its record: no more are taken, and it is trusted less"]
    reputation = story.governor.snapshot().reputation
    assert reputation["a"]["trust"] == 0.6
    assert reputation.get("b", {}).get("trust", 1.0) == 1.0


class Registered(Story):
    """Cluster a, with four slots by its record; what it is awarded it grants."""

    def asks(self, *steps: str) -> None:
        for step in steps:
            self.event(flow.StepReady(Ask("r", step, "ocr")), later=1.0)
        for step in steps:
            self.event(flow.PlacesFound(step, (Place("a", "a", slots=4),), (), False))

    def bids(self, slots: int = 4) -> int:
        """So many were awarded."""
        before = len(self.wanted(SendAward))
        self.bid("a", slots)
        new = self.wanted(SendAward)[before:]
        if new:
            self.grant()
        return sum(len(one.award.requests) for one in new)

    @property
    def told(self) -> list[str]:
        return [one.text for one in self.wanted(flow.Tell) if "slots" in one.facts]

    @property
    def trust(self) -> float:
        trust = self.governor.snapshot().reputation.get("a", {}).get("trust", 1.0)
        assert isinstance(trust, float)
        return trust


def test_what_the_run_holds_in_a_cluster_is_not_taken_twice_however_often_it_is_bid():
    story = Registered()
    story.asks("s1", "s2", "s3", "s4")
    assert story.bids() == 4
    story.asks("t1", "t2", "t3", "t4")
    assert story.bids() == 0
    assert (story.told, story.trust) == ([], 1.0), "something may have been lost there, and not be known here"
    for _ in range(3):
        story.event(flow.Tick(), later=11.0)
        assert story.bids() == 0
    assert len(story.governor.leases()) == 4
    assert story.told == [
        "a bids 4 slots and has 4 by its record, of which this run holds 4: no more are taken, and it is trusted less"
    ]
    assert story.trust < 0.5
    for step in ("s1", "s2"):
        story.event(flow.StepEnded(step, 1, "first", 2.0))
    story.event(flow.Tick(), later=11.0)
    assert story.bids() == 2, "what has ended there is free"


def test_what_is_being_awarded_is_held_too_and_breaks_no_bid():
    story = Registered()
    story.asks("s1", "s2", "s3", "s4")
    story.bid("a", 4)
    award = story.last(SendAward).award
    story.asks("t1")
    story.bid("a", 4)
    assert story.last(SendAward).award is award
    story.event(flow.Tick(), later=11.0)
    story.bid("a", 4)
    assert story.last(SendAward).award is award
    assert (story.told, story.trust) == ([], 1.0)


def test_a_node_that_is_back_before_its_loss_is_heard_breaks_no_bid():
    story = Registered()
    story.asks("s1", "s2")
    assert story.bids() == 2
    story.asks("t1", "t2", "t3")
    assert story.bids(4) == 2, "its nodes have started again: it has all of them"
    story.event(flow.StepLost("s1", 1, "n1", "the worker was killed"))
    story.event(flow.StepLost("s2", 1, "n1", "the worker was killed"))
    story.event(flow.Tick(), later=11.0)
    assert story.bids(2) == 2
    assert (story.told, story.trust) == ([], 1.0)


def test_a_step_that_waits_for_what_it_maps_leaves_its_slot_to_that():
    story = Registered()
    story.asks("s1", "s2", "s3", "s4")
    assert story.bids() == 4
    parts = [f"s1{PART}0.{number}" for number in range(2)]
    story.asks(*parts)
    assert story.bids(1) == 1
    assert story.bids(1) == 0
    story.event(flow.Tick(), later=11.0)
    assert story.bids(1) == 0, "its slot is its part's now"
    story.event(flow.Tick(), later=11.0)
    story.bids(1)
    assert story.told == [
        "a bids 1 slot and has 4 by its record, of which this run holds 4: no more are taken, and it is trusted less"
    ]


def test_a_cluster_whose_size_is_not_known_is_taken_at_its_word():
    story = Registered()
    for first in (0, 4):
        steps = [f"s{first + number}" for number in range(4)]
        for step in steps:
            story.event(flow.StepReady(Ask("r", step, "ocr")), later=1.0)
        for step in steps:
            story.event(flow.PlacesFound(step, (Place("a", "a"),), (), False))
        assert story.bids() == 4
    assert len(story.governor.leases()) == 8
    assert (story.told, story.trust) == ([], 1.0)


def test_copies_of_late_steps_are_held_as_what_they_are_copies_of():
    _, (lease,) = award_of("s")
    copy = replace(lease, copy=1, cluster="b")
    held = HeldSlots()
    held.took(lease, 1)
    held.took(copy, 2)
    assert (held.count("a"), held.count("b"), held.before("b", 2), held.before("b", 3)) == (1, 1, 0, 1)
    held.validate([lease, copy])
    held.left(lease)
    held.validate([copy])
    held.maps(f"s{PART}0", [copy])
    assert held.count("b") == 0
    held.validate([copy])
