"""Announcements wait at a cluster that has no room, and are answered in turn when there is some."""

from __future__ import annotations

import pytest

from ioi_dagster.governors import flow
from ioi_dagster.governors.cluster import (
    ClusterGovernor,
    NodeJoined,
    NodeLeft,
    NodeResized,
    QuotasChanged,
    Reply,
    StopStep,
    Tick,
    Withdrawn,
)
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import Place, SendAnnounce, SendAward, WithdrawAnnounce
from ioi_dagster.governors.parked import AGING_S, MAX_PARKED, OFFER_S
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    Ask,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    SupplyPoint,
)
from ioi_dagster.model.quota import QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal
from tests.quotas import share

WAIT_S = 10.0


class Cluster:
    """A node of two slots, both taken by `holder` of the tenant `h` since long ago."""

    def __init__(self, *shares: TenantQuota) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0, quotas=QuotaTree.flat(shares), ttl_s=1e6)
        self.now = 0.0
        self.round = 0
        self.event(NodeJoined("n", 2, frozenset({"ocr", "llm"})))
        self.held = [lease.id for lease in self.award("holder", "h", "s1", "s2").leases]
        self.now = 100.0

    def event(self, event) -> list:
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        return out

    def ask(self, run: str, tenant: str = "t", *, count: int = 1, wait_s: float = WAIT_S, **more) -> list:
        self.round += 1
        group = AskGroup(more.pop("capability", "ocr"), DataClass.PUBLIC, count, tenant, more.pop("priority", 0))
        left = more.pop("remaining_s", 0.0)
        return self.event(Announce(run, self.round, "home", (group,), wait_s=wait_s, remaining_s=left))

    def waits(self, *runs: str, **more) -> None:
        """Each asks, a second after the one before, and is not answered."""
        for run in runs:
            assert self.ask(run, **more) == [], run
            self.now += 1.0

    def award(self, run: str, tenant: str, *steps: str) -> Awarded:
        requests = tuple(LeaseRequest(run, step, 1, "ocr", DataClass.PUBLIC, tenant=tenant) for step in steps)
        (answer,) = [
            one
            for one in self.event(Award("lab-c", run, 1, "home", requests))
            if isinstance(one, Reply) and one.waited is None
        ]
        assert isinstance(answer.answer, Awarded)
        return answer.answer

    def free(self, count: int = 1) -> list:
        """Slots are given back; who is answered for it."""
        gone = [self.held.pop() for _ in range(count)]
        return answered(self.event(ReleaseRequest("holder", tuple(gone))))


def answered(out: list) -> list[tuple[str, int]]:
    """Who of those that waited has an answer, and for how many slots."""
    return [
        (one.waited[0], sum(point.slots for point in one.answer.points))
        for one in out
        if isinstance(one, Reply) and one.waited is not None
    ]


def test_who_asks_where_there_is_room_is_answered_at_once():
    cluster = Cluster()
    cluster.free()
    (reply,) = cluster.ask("r")
    assert (reply.waited, reply.answer.points[0].slots) == (None, 1)
    assert cluster.governor.snapshot().parked == 0


def test_who_may_not_wait_is_refused_at_once():
    (reply,) = Cluster().ask("r", wait_s=0.0)
    assert [refusal.code for refusal in reply.answer.refusals] == ["cluster.full"]


def test_the_one_that_has_waited_longest_is_answered_when_a_slot_comes_free():
    cluster = Cluster()
    cluster.waits("first", "second")
    assert cluster.governor.snapshot().parked == 2
    assert cluster.free() == [("first", 1)]
    assert cluster.free() == [("second", 1)]
    assert cluster.governor.snapshot().parked == 0


def test_an_answer_names_the_round_that_it_is_for():
    cluster = Cluster()
    cluster.waits("r")
    (lease,) = [cluster.held.pop()]
    (reply,) = [one for one in cluster.event(ReleaseRequest("holder", (lease,))) if isinstance(one, Reply)]
    assert (reply.waited, reply.answer.run, reply.answer.round) == (("r", 1, "home"), "r", 1)
    assert reply.answer.expires_s == OFFER_S


@pytest.mark.parametrize("event", [NodeJoined("m", 1, frozenset({"ocr"})), NodeResized("n", 3)])
def test_room_that_comes_by_a_node_is_offered_too(event):
    cluster = Cluster()
    cluster.waits("r")
    assert answered(cluster.event(event)) == [("r", 1)]


def test_who_waits_for_something_else_is_passed_over_and_keeps_its_place():
    cluster = Cluster()
    cluster.waits("llm", capability="llm")
    cluster.event(NodeJoined("m", 0, frozenset({"ocr"})))
    cluster.waits("ocr")
    assert answered(cluster.event(NodeResized("m", 1))) == [("ocr", 1)]
    assert cluster.free() == [("llm", 1)]


def test_what_was_offered_is_nobody_elses_until_it_is_taken_or_lapses():
    cluster = Cluster()
    cluster.waits("r")
    assert cluster.free() == [("r", 1)]
    (reply,) = cluster.ask("quick", "other", wait_s=0.0)
    assert [refusal.code for refusal in reply.answer.refusals] == ["cluster.full"]
    (rejected,) = cluster.award("thief", "other", "s").rejected
    assert rejected.refusal.code == "cluster.full"
    assert len(cluster.award("r", "t", "s").leases) == 1


def test_what_was_offered_is_granted_though_another_tenant_has_come_meanwhile():
    cluster = Cluster()
    cluster.event(NodeLeft("n"))
    cluster.waits("r", tenant="c")
    assert answered(cluster.event(NodeJoined("n", 1, frozenset({"ocr"})))) == [("r", 1)]
    cluster.ask("late", "a", wait_s=0.0)
    assert len(cluster.award("r", "c", "s").leases) == 1


def test_where_more_was_offered_than_there_is_left_who_awards_first_has_it():
    cluster = Cluster()
    cluster.waits("first", "second")
    assert cluster.free(2) == [("first", 1), ("second", 1)]
    cluster.event(NodeResized("n", 1))
    assert len(cluster.award("second", "t", "s").leases) == 1
    assert [item.refusal.code for item in cluster.award("first", "t", "s").rejected] == ["cluster.full"]


def test_an_offer_that_is_declined_goes_to_the_next_at_once():
    cluster = Cluster()
    cluster.waits("first", "second")
    assert cluster.free() == [("first", 1)]
    assert answered(cluster.event(Award("lab-c", "first", 1, "home", ()))) == [("second", 1)]


def test_an_offer_that_nobody_takes_lapses_and_goes_to_the_next():
    cluster = Cluster()
    cluster.waits("first", "second")
    assert cluster.free() == [("first", 1)]
    cluster.now += OFFER_S
    assert answered(cluster.event(Tick())) == [("second", 1)]


def test_more_slots_than_one_wants_go_to_the_next():
    cluster = Cluster()
    cluster.waits("first", "second")
    assert cluster.free(2) == [("first", 1), ("second", 1)]


def test_who_waited_in_vain_is_told_why_and_keeps_its_place_when_it_asks_again():
    cluster = Cluster()
    cluster.waits("first", "second")
    cluster.now = 100.0 + WAIT_S
    (reply,) = cluster.event(Tick())
    assert (reply.waited, reply.answer.points) == (("first", 1, "home"), ())
    assert [refusal.text for refusal in reply.answer.refusals] == ["its only node is busy"]
    cluster.waits("first")
    assert cluster.free() == [("first", 1), ("second", 0)], "the other one has waited long enough by now, too"


def test_who_had_something_goes_to_the_end_of_the_queue():
    cluster = Cluster()
    cluster.waits("first", "second")
    assert cluster.free() == [("first", 1)]
    cluster.award("first", "t", "s")
    cluster.waits("first")
    assert cluster.free() == [("second", 1)]


def test_who_announces_anew_has_its_older_announcement_answered_with_nothing():
    cluster = Cluster()
    cluster.waits("r")
    (reply,) = cluster.ask("r", capability="llm")
    assert (reply.waited, reply.answer.points, reply.answer.refusals) == (("r", 1, "home"), (), ())
    assert cluster.free() == [("r", 1)]


def test_who_has_hung_up_gets_no_answer_and_holds_back_nobody():
    cluster = Cluster()
    cluster.waits("gone", "there")
    cluster.event(Withdrawn("gone", 7, "home"))
    assert cluster.governor.snapshot().parked == 2, "that was another round"
    cluster.event(Withdrawn("gone", 1, "home"))
    assert cluster.free() == [("there", 1)]
    assert cluster.governor.snapshot().tenants["t"]["waiting"] == 0


def test_priority_is_worth_a_minute_of_waiting_and_no_more():
    cluster = Cluster()
    cluster.waits("old", wait_s=59.0)
    cluster.waits("urgent", priority=1, wait_s=59.0)
    assert cluster.free() == [("urgent", 1)]
    cluster = Cluster()
    assert cluster.ask("old", wait_s=59.0) == []
    cluster.now += AGING_S - 1.0
    cluster.event(Tick())
    cluster.waits("old", wait_s=59.0)  # it asks again, and has waited for longer than that
    cluster.now += 1.0
    cluster.waits("urgent", priority=1)
    assert cluster.free() == [("old", 1)]


def test_within_a_tenant_those_with_least_work_left_come_first_but_not_before_who_has_waited_that_much_longer():
    cluster = Cluster()
    cluster.waits("long", remaining_s=500.0, wait_s=59.0)
    cluster.waits("short", remaining_s=100.0, wait_s=59.0)
    assert cluster.free(2) == [("short", 1), ("long", 1)]
    cluster = Cluster()
    cluster.waits("long", remaining_s=30.0, wait_s=59.0)
    cluster.now += 25.0
    cluster.waits("short", remaining_s=10.0, wait_s=30.0)
    assert cluster.free() == [("long", 1)]


def test_tenants_take_turns_by_weight_whatever_their_runs_have_waited():
    cluster = Cluster(share("b", 2.0))
    cluster.waits("a1", "a2", "a3", tenant="a")
    cluster.waits("b1", "b2", "b3", tenant="b")
    order = ""
    served = cluster.free()
    for _ in range(4):
        ((run, _),) = served
        order += run[0]
        (lease,) = cluster.award(run, run[0], "s").leases
        served = answered(cluster.event(ReleaseRequest(run, (lease.id,))))
    assert order == "bbab"


def test_a_guarantee_is_taken_back_for_who_waits():
    cluster = Cluster()
    cluster.waits("r", tenant="b")
    out = cluster.event(QuotasChanged(QuotaTree.flat((share("b", guarantee=1),))))
    assert [one.lease.step for one in out if isinstance(one, StopStep)] == ["s2"]
    assert answered(out) == []
    assert cluster.free() == [("r", 1)]


def test_a_flood_waits_in_bounded_memory_and_the_rest_is_answered_at_once():
    cluster = Cluster()
    for number in range(MAX_PARKED):
        assert (
            cluster.governor.handle(
                Announce(f"r{number}", 1, "x", (AskGroup("ocr", DataClass.PUBLIC, 10),), wait_s=9.0), 100.0
            )
            == []
        )
    (reply,) = cluster.ask("one more")
    assert (reply.waited, reply.answer.points) == (None, ())
    assert cluster.free() == [("r0", 1)]
    assert cluster.ask("one more") == []


def test_a_node_that_leaves_makes_no_room():
    cluster = Cluster()
    cluster.waits("r")
    assert answered(cluster.event(NodeLeft("n"))) == []
    assert answered(cluster.event(NodeJoined("n", 1, frozenset({"ocr"})))) == [("r", 1)]


# The run's side ---------------------------------------------------------------------------------------------------------


class Run:
    """A flow governor whose steps may go to `places`."""

    def __init__(self, *places: str) -> None:
        self.governor = FlowGovernor("r", "home")
        self.places = tuple(Place(place, place) for place in places)
        self.now = 0.0

    def event(self, event: flow.Event, later: float = 0.0) -> list[flow.Instruction]:
        self.now += later
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        found = [ask.step for one in out if isinstance(one, flow.FindPlaces) for ask in one.asks]
        for step in found:
            out = [*out, *self.event(flow.PlacesFound(step, self.places, (), False))]
        return out

    def ready(self, step: str = "s", capability: str = "ocr") -> list[flow.Instruction]:
        return self.event(flow.StepReady(Ask("r", step, capability)))

    def bid(self, cluster: str, round_: int, slots: int = 0, capability: str = "ocr") -> list[flow.Instruction]:
        points = (SupplyPoint(capability, DataClass.INTERNAL, slots, 1.0),) if slots else ()
        full = () if slots else (Refusal("cluster.full", "its only node is busy", cluster),)
        return self.event(flow.BidReceived(Bid(cluster, cluster, "r", round_, 1, points, full)))


def announced(out: list[flow.Instruction]) -> list[tuple[str, int, float]]:
    return [(one.cluster, one.announce.round, one.announce.wait_s) for one in out if isinstance(one, SendAnnounce)]


def awards(out: list[flow.Instruction]) -> list[tuple[str, list[str]]]:
    return [
        (one.award.cluster, [request.step for request in one.award.requests])
        for one in out
        if isinstance(one, SendAward)
    ]


def test_a_run_asks_once_and_then_waits_instead_of_asking_again():
    run = Run("a")
    assert announced(run.ready()) == [("a", 1, 0.0)]
    assert announced(run.bid("a", 1)) == []
    assert announced(run.event(flow.Tick(), later=0.25)) == [("a", 2, 10.0)]
    for _ in range(20):
        assert announced(run.event(flow.Tick(), later=0.25)) == []
    assert run.governor.holding() == {"a": 2}
    assert run.governor.snapshot().waiting == {"s": "a: its only node is busy"}
    assert awards(run.bid("a", 2, slots=1)) == [("a", ["s"])]
    assert run.governor.holding() == {}


def waiting(*places: str) -> Run:
    """A run whose one step waits at all of `places`, since round 2."""
    run = Run(*places)
    run.ready()
    for place in places:
        run.bid(place, 1)
    assert announced(run.event(flow.Tick(), later=0.25)) == [(place, 2, 10.0) for place in places]
    return run


def test_the_first_cluster_that_has_room_gets_the_step_and_the_others_are_told():
    run = waiting("a", "b")
    assert awards(run.bid("b", 2, slots=1)) == [("b", ["s"])]
    out = run.event(flow.StepDropped("nobody", ""), later=0.25)
    assert out == []
    out = run.ready("t", "llm")
    assert [one for one in out if isinstance(one, WithdrawAnnounce)] == [WithdrawAnnounce("a", 2)]


def test_an_offer_that_is_not_needed_any_more_is_declined():
    run = waiting("a", "b")
    run.bid("b", 2, slots=1)
    run.ready("t", "llm")
    out = run.event(flow.BidReceived(Bid("a", "a", "r", 2, 1, (SupplyPoint("ocr", DataClass.INTERNAL, 1, 1.0),))))
    for _ in range(3):
        out += run.event(flow.Tick(), later=0.6)
    assert awards(out) == [("a", [])]


def test_a_step_of_another_kind_is_asked_for_though_an_announcement_waits():
    run = waiting("a")
    out = run.ready("t", "llm")
    assert announced(out) == [("a", 3, 0.0)]
    (announce,) = [one.announce for one in out if isinstance(one, SendAnnounce)]
    assert [(group.capability, group.count) for group in announce.groups] == [("ocr", 1), ("llm", 1)]
    assert run.event(flow.BidReceived(Bid("a", "a", "r", 2, 1))) == [], "the older one is answered with nothing"
    assert awards(run.bid("a", 3, slots=1, capability="llm")) == [("a", ["t"])]


def test_a_cluster_that_answers_that_it_has_nothing_still_is_asked_to_wait_again():
    run = waiting("a")
    assert announced(run.bid("a", 2)) == []
    assert announced(run.event(flow.Tick(), later=0.25)) == [("a", 4, 10.0)]


def test_a_cluster_that_is_lost_is_waited_for_no_more():
    run = waiting("a", "b")
    run.event(flow.ClusterLost("a", "gone"))
    assert run.governor.holding() == {"b": 2}
    assert announced(run.event(flow.ClusterBack("a"), later=0.6)) == [("a", 3, 0.0)]


def test_where_a_step_of_the_run_has_ended_the_next_ask_is_answered_within_the_round():
    run = Run("a")
    run.ready("s")
    (award,) = [one.award for one in run.bid("a", 1, slots=1) if isinstance(one, SendAward)]
    request = award.requests[0]
    lease = Lease("l", "r", "s", request.fence, 0, "ocr", "a", "a", "n", 1)
    run.event(flow.AwardAnswered(Awarded("a", (lease,))))
    run.event(flow.StepEnded("s", request.fence, "x", 0.1), later=0.1)
    assert announced(run.ready("t")) == [("a", 2, 0.0)]


def test_a_run_whose_clusters_answer_at_once_does_not_wait():
    run = Run("a")
    run.governor = FlowGovernor("r", "home", park_s=0.0)
    run.ready()
    run.bid("a", 1)
    assert announced(run.event(flow.Tick(), later=0.25)) == [("a", 2, 0.0)]


def test_who_has_got_by_an_award_all_that_it_waits_for_is_answered_and_may_ask_anew():
    cluster = Cluster()
    cluster.waits("holder", tenant="h")
    again = LeaseRequest("holder", "s1", 2, "ocr", DataClass.PUBLIC, tenant="h")
    out = cluster.event(Award("lab-c", "holder", 1, "home", (again,)))
    answers = [one.answer for one in out if isinstance(one, Reply) and one.waited is not None]
    assert [(answer.points, answer.refusals) for answer in answers] == [((), ())]
    assert cluster.governor.snapshot().parked == 0
