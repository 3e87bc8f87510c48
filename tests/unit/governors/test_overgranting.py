"""Clusters that grant more than they were asked for, or bid more than they have: it is noticed, told, and given back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ioi_dagster.errors import RetryableError
from ioi_dagster.governors import flow
from ioi_dagster.governors.answers import Held, checked_award
from ioi_dagster.governors.flow_messages import Place, ReleaseLeases, SendAnnounce, SendAward, StartStep
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
