"""What the story of a run tells of a step that waits: why, when that changes, how many rounds gave it nothing, and where its
announcement waits."""

from __future__ import annotations

import pytest

from ioi_dagster.governors import flow
from ioi_dagster.governors.flow_messages import Place, SendAnnounce
from ioi_dagster.governors.flow_waits import TOLD_CHANGES
from ioi_dagster.model.negotiation import Ask, Bid
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_flow import Story
from tests.unit.governors.test_flow_plan import Fleet


class Busy(Story):
    """One cluster, which has nothing, for a reason that it says."""

    def full(self, why: str, later: float = 0.6) -> None:
        """It answers what it was asked last, and the next round is asked for."""
        announce = self.last(SendAnnounce).announce
        refusal = Refusal("cluster.full", why, "a", "it is asked again")
        self.event(flow.BidReceived(Bid("a", "a", "r", announce.round, 1, (), (refusal,))))
        self.event(flow.Tick(), later=later)
        for step in self.governor.snapshot().waiting:
            self.event(flow.PlacesFound(step, (Place("a", "a"),), (), False))

    def waits(self, step: str = "s") -> list[str]:
        return [
            one.text for one in self.wanted(flow.Tell) if one.chapter is Chapter.WAIT and one.step == step and one.text
        ]


@pytest.fixture
def story() -> Busy:
    story = Busy()
    story.ready(Ask("r", "s", "work"))
    return story


def test_a_reason_is_told_once_while_it_stays_and_again_when_it_changes(story):
    for why in ["no memory", "no memory", "no memory", "busy", "busy", "no memory"]:
        story.full(why)
    assert [text.partition("; asked")[0] for text in story.waits()] == [
        "no place by round 4, after 1.2 s: a: no memory",
        "no place by round 8, after 2.4 s: a: busy",
        "no place by round 12, after 3.6 s: a: no memory",
    ]


def test_a_wait_that_was_short_is_not_told(story):
    story.full("busy", later=0.5)
    story.full("busy", later=0.3)
    story.bid("a")
    assert story.waits() == []


def test_where_its_announcement_waits_for_room_is_told_with_the_reason(story):
    for _ in range(4):
        story.full("busy")
    facts = [one.facts for one in story.wanted(flow.Tell) if one.chapter is Chapter.WAIT]
    assert story.last(SendAnnounce).announce.wait_s > 0
    assert [one["parked"] for one in facts] == [["a"]]
    assert story.waits()[0].endswith(": a: busy; asked to tell as soon as there is room: a")


def test_so_many_changes_are_told_and_the_others_counted(story):
    for number in range(TOLD_CHANGES + 12):
        story.full(f"reason {number}")
    told = story.waits()
    assert len(told) == TOLD_CHANGES
    assert [text.endswith("; what changes from here on is only counted") for text in told] == [
        *[False] * (TOLD_CHANGES - 1),
        True,
    ]
    story.bid("a")
    (over,) = [one for one in story.wanted(flow.Tell) if "seconds" in one.facts]
    assert "; why changed " in over.text
    assert over.text.endswith(" more times")


def test_a_cluster_that_is_away_is_told_though_no_round_was_opened(story):
    story.event(flow.ClusterLost("a", "its scheduler is gone"))
    for _ in range(10):
        story.event(flow.Tick(), later=0.5)
    assert [text for text in story.waits() if "a is away: its scheduler is gone" in text] == story.waits()[-1:]


def test_what_is_left_of_a_time_is_no_new_reason():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    said: list[flow.Tell] = []
    handle = fleet.governor.handle

    def listening(event: flow.Event, now: float, more: bool = False) -> list[flow.Instruction]:
        out = handle(event, now, more)
        said.extend(one for one in out if isinstance(one, flow.Tell) and one.chapter is Chapter.WAIT)
        return out

    fleet.governor.handle = listening
    fleet.busy["fast"] = [9.0]
    fleet.know({"s": 100.0})
    fleet.ready("s")
    for left in range(8, 2, -1):
        fleet.busy["fast"] = [float(left)]
        fleet.look(later=1.0)
    assert len(said) == 1
    assert "by the plan of the graph it begins in" in said[0].text


def test_those_that_wait_behind_many_others_are_not_each_told_of(story):
    for number in range(1, 700):
        story.governor.handle(flow.StepReady(Ask("r", f"s{number}", "work")), story.now, more=True)
    story.event(flow.Tick())
    for number in range(700):
        story.governor.handle(flow.PlacesFound(f"s{number}", (Place("a", "a"),), (), False), story.now, more=True)
    story.full("busy")
    story.full("busy")
    story.full("busy")
    assert len(story.waits("s5")) == 1
    assert story.waits("s650") == []
