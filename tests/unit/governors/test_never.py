"""What no cluster could ever do is told at once, with what it would need, and refused when nothing has changed for a while."""

from __future__ import annotations

import pytest

from ioi_dagster.governors import flow
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, NodeLeft, Reply
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_hopeless import NEVER_S
from ioi_dagster.governors.flow_messages import RefuseStep, SendAnnounce, SendAward, StartStep, Tell
from ioi_dagster.governors.reputation import MANY
from ioi_dagster.model.amounts import MEMORY
from ioi_dagster.model.negotiation import Ask, Awarded, Bid
from ioi_dagster.model.quota import CohortQuota, Quota, QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_flow import Story

GIB = 2.0**30
TREE = QuotaTree((CohortQuota("x", (TenantQuota("t"), TenantQuota("small", quota=Quota(borrows={MEMORY: GIB})))),))


class Wired(Story):
    """A run before real cluster governors, of two slots each, which answer at once."""

    def __init__(self, *clusters: str) -> None:
        super().__init__()
        self.clusters = {name: ClusterGovernor("d", name, 1, 1.0, quotas=TREE) for name in clusters}
        for name in clusters:
            self.joins(name, "n1")
            self.joins(name, "n2")
        self._answered = 0
        self.unheard: tuple[tuple[str, Refusal], ...] = ()

    def joins(self, cluster: str, node: str, *resources: tuple[str, float]) -> None:
        having = tuple(sorted(((MEMORY, 4 * GIB), *resources)))
        self.clusters[cluster].handle(NodeJoined(node, 1, frozenset({"work"}), having), self.now)

    def passes(self, seconds: float) -> None:
        """Time goes on, and everything is answered."""
        until = self.now + seconds
        while self.now < until:
            self._answer()
            self.event(flow.Tick(), later=0.5)
            waiting = list(self.governor.snapshot().waiting)
            places = tuple(flow.Place(name, "d") for name in self.clusters)
            for step in waiting:
                self.event(flow.PlacesFound(step, places, self.unheard, bool(self.unheard)))

    def _answer(self) -> None:
        while self._answered < len(self.done):
            wanted = self.done[self._answered]
            self._answered += 1
            match wanted:
                case SendAnnounce(cluster, message):
                    replies = self.clusters[cluster].handle(message, self.now)
                case SendAward(message):
                    replies = self.clusters[message.cluster].handle(message, self.now)
                case _:
                    continue
            for out in replies:
                match out:
                    case Reply(Bid() as bid):
                        self.event(flow.BidReceived(bid))
                    case Reply(Awarded() as awarded):
                        self.event(flow.AwardAnswered(awarded))


def asks(**more) -> Ask:
    return Ask("r", more.pop("step", "s"), "work", tenant=more.pop("tenant", "t"), **more)


CASES = [
    pytest.param([asks(resources=(("tpu", 1.0),))], "a: no node has tpu", id="a resource that no node has"),
    pytest.param([asks(resources=((MEMORY, 64 * GIB),))], "a: it needs ", id="more than the largest node"),
    pytest.param([asks(tenant="who")], "a: 'who' is not one of the tenants (small, t)", id="a tenant without a quota"),
    pytest.param(
        [asks(tenant="small", resources=((MEMORY, 2 * GIB),))], "tenant small may use", id="more than its limit"
    ),
    pytest.param(
        [asks(step=f"s{n}", gang="g", gang_size=3) for n in range(3)], "2 of its 3 copies", id="a gang beyond all slots"
    ),
]


@pytest.mark.parametrize(("wanted", "says"), CASES)
def test_it_is_told_at_once_and_refused_after_a_while(wanted: list[Ask], says: str) -> None:
    story = Wired("a")
    for ask in wanted:
        story.event(flow.StepReady(ask))
    story.passes(3.0)
    told = {one.step: one.text for one in story.wanted(Tell) if one.chapter is Chapter.WAIT}
    assert told.keys() == {ask.step for ask in wanted}
    assert all(says in text and "it is refused unless that changes within 30 s" in text for text in told.values())
    story.passes(NEVER_S - 6.0)
    assert story.wanted(RefuseStep) == []
    story.passes(12.0)
    refused = {one.step: one.refusal for one in story.wanted(RefuseStep)}
    assert refused.keys() == told.keys()
    assert {refusal.code for refusal in refused.values()} == {"flow.never"}
    assert all(says in refusal.text and refusal.remedy for refusal in refused.values())


def test_a_gang_of_which_one_could_run_nowhere_is_refused_whole() -> None:
    story = Wired("a")
    story.event(flow.StepReady(asks(step="fits", gang="g", gang_size=2)))
    story.event(flow.StepReady(asks(step="fits not", gang="g", gang_size=2, resources=(("tpu", 1.0),))))
    story.passes(NEVER_S + 6.0)
    assert {one.step: one.refusal.code for one in story.wanted(RefuseStep)} == dict.fromkeys(
        ("fits", "fits not"), "flow.never"
    )


def test_a_node_that_comes_in_time_takes_it() -> None:
    story = Wired("a")
    story.event(flow.StepReady(asks(resources=(("tpu", 1.0),))))
    story.passes(NEVER_S - 10.0)
    story.joins("a", "n3", ("tpu", 1.0))
    story.passes(20.0)
    assert [one.lease.node for one in story.wanted(StartStep)] == ["n3"]
    assert story.wanted(RefuseStep) == []


def test_where_one_of_its_places_only_lacks_room_it_waits() -> None:
    story = Wired("a", "b")
    story.joins("b", "n3", ("tpu", 1.0))
    tpu = (("tpu", 1.0),)
    story.event(flow.StepReady(asks(step="first", resources=tpu)))
    story.passes(3.0)
    story.event(flow.StepReady(asks(step="second", resources=tpu)))
    story.passes(2 * NEVER_S)
    assert [one.ask.step for one in story.wanted(StartStep)] == ["first"]
    assert story.wanted(RefuseStep) == []
    assert list(story.governor.snapshot().waiting) == ["second"]


def test_a_node_that_is_away_is_waited_for_however_long_that_takes() -> None:
    story = Wired("a")
    story.joins("a", "n3", ("tpu", 1.0))
    story.clusters["a"].handle(NodeLeft("n3"), story.now)
    story.event(flow.StepReady(asks(resources=(("tpu", 1.0),))))
    story.passes(20 * NEVER_S)
    assert story.wanted(RefuseStep) == []
    assert "n3 could take it, and is away" in story.governor.snapshot().waiting["s"]
    story.joins("a", "n3", ("tpu", 1.0))
    story.passes(20.0)
    assert [one.lease.node for one in story.wanted(StartStep)] == ["n3"]


def test_so_is_one_that_has_not_come_yet() -> None:
    story = Wired("a")
    expected = NodeJoined("n3", 1, frozenset({"work"}), (("tpu", 1.0),))
    story.clusters["a"] = ClusterGovernor("d", "a", 2, 1.0, quotas=TREE, expected=[expected])
    story.joins("a", "n1")
    story.event(flow.StepReady(asks(resources=(("tpu", 1.0),))))
    story.passes(2 * NEVER_S)
    assert story.wanted(RefuseStep) == []
    assert "n3 could take it, and is away" in story.governor.snapshot().waiting["s"]


def test_while_a_domain_is_away_that_might_take_it_it_waits_and_says_for_whom() -> None:
    story, unheard = Wired("a"), (("b", Refusal("domain.unreachable", "b does not answer", "registry")),)
    story.unheard = unheard
    story.event(flow.StepReady(asks(resources=(("tpu", 1.0),))))
    story.passes(3 * NEVER_S)
    assert story.wanted(RefuseStep) == []
    told = [one.text for one in story.wanted(Tell) if "could run nowhere" in one.text]
    assert told[:1] == [
        "waits: could run nowhere that answers: a: no node has tpu; nodes have memory, slots; b: b does not answer"
    ]
    assert "b does not answer" in story.governor.snapshot().waiting["s"]
    story.unheard = ()
    story.passes(2 * NEVER_S)
    assert [one.refusal.code for one in story.wanted(RefuseStep)] == ["flow.never"]


def test_of_many_clusters_the_only_one_that_can_take_it_is_found() -> None:
    story = Wired(*(f"c{number}" for number in range(2 * MANY)))
    story.joins("c77", "n3", ("tpu", 1.0))
    story.event(flow.StepReady(asks(resources=(("tpu", 1.0),))))
    story.passes(2 * NEVER_S)
    assert [one.lease.node for one in story.wanted(StartStep)] == ["n3"]
    assert story.wanted(RefuseStep) == []


def test_where_none_of_many_clusters_can_take_it_it_is_refused() -> None:
    story = Wired(*(f"c{number}" for number in range(2 * MANY)))
    story.event(flow.StepReady(asks(resources=(("tpu", 1.0),))))
    story.passes(5.0)
    assert story.wanted(RefuseStep) == []
    story.passes(2 * NEVER_S)
    assert [one.refusal.code for one in story.wanted(RefuseStep)] == ["flow.never"]


def test_what_costs_too_much_where_it_could_run_at_all_is_refused() -> None:
    story = Wired("a", "b")
    story.governor = FlowGovernor("r", "home", budget=0.5)
    story.joins("b", "n3", ("tpu", 1.0))
    story.event(flow.StepReady(asks(resources=(("tpu", 1.0),))))
    story.passes(2 * NEVER_S)
    (refused,) = [one.refusal for one in story.wanted(RefuseStep)]
    assert refused.code == "flow.budget"
    assert "the least offer is 1" in refused.text
