"""Shares of a cluster's slots as its governor gives them out."""

from __future__ import annotations

import pytest

from ioi_dagster.governors.cluster import (
    BUDGET,
    BUDGET_S,
    MIN_RUN_S,
    ClusterGovernor,
    NodeJoined,
    NodeLeft,
    QuotasChanged,
    Reply,
    StopStep,
    Tick,
)
from ioi_dagster.governors.parked import ASKS_S
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    LeaseRequest,
    ReleaseRequest,
    RenewRequest,
)
from ioi_dagster.model.quota import QuotaTree, TenantQuota
from tests.quotas import share


def by_weight(weights: dict[str, float]) -> list[TenantQuota]:
    return [share(name, weight) for name, weight in weights.items()]


class Cluster:
    """Four slots, and what runs ask of them."""

    def __init__(self, *shares: TenantQuota) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0, quotas=QuotaTree.flat(shares))
        self.now = 0.0
        self.fences: dict[str, int] = {}
        for node in ("n1", "n2"):
            self.event(NodeJoined(node, 2, frozenset({"ocr"})))

    def event(self, event) -> list:
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        return out

    def bid(self, run: str, tenant: str, count: int) -> Bid:
        announce = Announce(run, 1, "home", (AskGroup("ocr", DataClass.PUBLIC, count, tenant),))
        (reply,) = [one for one in self.event(announce) if isinstance(one, Reply)]
        assert isinstance(reply.answer, Bid)
        return reply.answer

    def award(self, run: str, tenant: str, *steps: str) -> Awarded:
        requests = tuple(LeaseRequest(run, step, 1, "ocr", DataClass.PUBLIC, tenant=tenant) for step in steps)
        (reply,) = [one for one in self.event(Award("lab-c", run, 1, "home", requests)) if isinstance(one, Reply)]
        assert isinstance(reply.answer, Awarded)
        return reply.answer

    def slots(self, run: str, tenant: str, count: int) -> int:
        return sum(point.slots for point in self.bid(run, tenant, count).points)


def test_a_flood_gives_way_to_who_comes_later_as_its_slots_come_free():
    cluster = Cluster()
    assert cluster.slots("flood", "a", 100) == 4
    held = [lease.id for lease in cluster.award("flood", "a", "s1", "s2", "s3", "s4").leases]
    assert cluster.slots("late", "b", 3) == 0
    cluster.event(ReleaseRequest("flood", (held[0],)))
    bid = cluster.bid("flood", "a", 96)
    assert bid.points == ()
    assert bid.refusals[0].code == "cluster.not_its_turn"
    assert bid.refusals[0].text == "a uses 3 slots and is entitled to 2 while other tenants wait"
    (rejected,) = cluster.award("flood", "a", "s5").rejected
    assert rejected.refusal.code == "cluster.not_its_turn"
    assert cluster.slots("late", "b", 3) == 1
    assert len(cluster.award("late", "b", "t1").leases) == 1
    cluster.event(ReleaseRequest("flood", (held[1],)))
    assert cluster.slots("flood", "a", 96) == 0
    assert cluster.slots("late", "b", 2) == 1
    cluster.award("late", "b", "t2")
    cluster.event(ReleaseRequest("flood", (held[2],)))
    assert cluster.slots("flood", "a", 96) == 1, "two each: now the next is its turn again"
    none = {"slots": 0.0}
    its = {
        "cohort": "all",
        "weight": 1.0,
        "guarantee": none,
        "lent": none,
        "limit": {},
        "oldest_wait_s": 0.0,
        "stopping": 0,
        "over": {},
    }
    one, two = {"slots": 1.0}, {"slots": 2.0}
    assert cluster.governor.snapshot().tenants == {
        "a": {**its, "used": one, "borrowed": one, "share": 0.25, "entitled": 0.5, "running": 1, "waiting": 96},
        "b": {**its, "used": two, "borrowed": two, "share": 0.5, "entitled": 0.5, "running": 2, "waiting": 1},
    }


def test_weights_count_and_what_others_leave_is_free_for_all():
    cluster = Cluster(share("a", 3.0))
    cluster.bid("r2", "b", 9)
    assert cluster.slots("r1", "a", 9) == 3
    assert cluster.slots("r2", "b", 9) == 1
    cluster.now += 2 * ASKS_S
    assert cluster.slots("r2", "b", 9) == 4, "the other one asks no more"


def test_a_node_that_leaves_takes_its_leases_off_the_books():
    cluster = Cluster()
    cluster.bid("r", "a", 4)
    cluster.award("r", "a", "s1", "s2", "s3", "s4")
    cluster.event(NodeLeft("n1"))
    assert cluster.governor.snapshot().tenants["a"]["used"] == {"slots": 2.0}


@pytest.mark.parametrize(
    ("weights", "expected"), [({}, "abababab"), ({"a": 3.0}, "aabaaaba"), ({"b": 9.0}, "bbbbbabb")]
)
def test_one_slot_goes_to_each_in_turn_by_weight_though_each_is_entitled_to_a_part_of_it_only(weights, expected):
    cluster = Cluster(*by_weight(weights))
    cluster.event(NodeLeft("n1"))
    cluster.event(NodeJoined("n2", 1, frozenset({"ocr"})))
    (held,) = cluster.award("first", "c", "s").leases
    order = ""
    for tenant in "ab":
        assert cluster.event(announce(f"r{tenant}", tenant, 99, wait_s=60.0)) == []
    for number in range(len(expected)):
        (tenant,) = [
            one.waited[0][-1]
            for one in cluster.event(ReleaseRequest(held.run, (held.id,)))
            if isinstance(one, Reply) and one.waited is not None
        ]
        order += tenant
        (held,) = cluster.award(f"r{tenant}", tenant, f"s{number}").leases
        assert cluster.event(announce(f"r{tenant}", tenant, 99, wait_s=60.0)) == []
    assert order == expected


def stopped(out: list) -> list[str]:
    return [one.lease.step for one in out if isinstance(one, StopStep)]


def announce(run: str, tenant: str, count: int, wait_s: float = 0.0) -> Announce:
    return Announce(run, 1, "home", (AskGroup("ocr", DataClass.PUBLIC, count, tenant),), wait_s=wait_s)


def full(*shares: TenantQuota) -> Cluster:
    """`a` has borrowed all four slots: two steps since 0 s, two since 10 s; it is 20 s."""
    cluster = Cluster(*shares)
    cluster.award("flood", "a", "s1", "s2")
    cluster.now = 10.0
    cluster.award("flood", "a", "s3", "s4")
    cluster.now = 20.0
    return cluster


def test_a_guarantee_is_taken_back_from_the_youngest_of_who_borrowed():
    cluster = full(share("b", guarantee=2))
    out = cluster.event(announce("late", "b", 9))
    assert stopped(out) == ["s4", "s3"], "as many as are guaranteed, and no more"
    assert {one.why for one in out if isinstance(one, StopStep)} == {
        "b is within its guarantee (0 of 2 slots) and needs the room that a has borrowed"
    }
    assert stopped(cluster.event(announce("late", "b", 9))) == [], "asked again, they are on their way"
    leases = {lease["step"]: lease["id"] for lease in cluster.governor.snapshot().leases}
    renewed = cluster.event(RenewRequest("flood", tuple(leases.values())))[-1].answer
    assert renewed.lost == (leases["s3"], leases["s4"]), "a run that was not told by the node hears it here"
    assert cluster.slots("late", "b", 9) == 0, "the slot is held until its step has ended"
    assert cluster.governor.snapshot().tenants["a"]["stopping"] == 2
    cluster.event(ReleaseRequest("flood", (leases["s4"], leases["s3"])))
    assert cluster.slots("flood", "a", 2) == 0, "what was taken back is not borrowed again"
    assert cluster.slots("late", "b", 9) == 2
    cluster.award("late", "b", "t1", "t2")
    assert stopped(cluster.event(announce("late", "b", 7))) == [], "it has what it was guaranteed"


def test_what_is_free_is_used_before_anything_is_stopped():
    cluster = full(share("b", guarantee=2))
    (lease, *_) = [one["id"] for one in cluster.governor.snapshot().leases]
    cluster.event(ReleaseRequest("flood", (lease,)))
    assert len(stopped(cluster.event(announce("late", "b", 9)))) == 1


def test_who_runs_within_its_guarantee_or_once_only_or_only_just_is_not_stopped():
    both = (share("a", guarantee=2), share("b", guarantee=2))
    assert stopped(full(*both).event(announce("late", "b", 9))) == ["s4", "s3"]
    cluster = full(share("a", guarantee=4))
    assert stopped(cluster.event(announce("late", "b", 9))) == []
    cluster = Cluster(share("b", guarantee=4))
    once = LeaseRequest("flood", "once", 1, "ocr", DataClass.PUBLIC, tenant="a", preemptible=False)
    cluster.event(Award("lab-c", "flood", 1, "home", (once,)))
    cluster.award("flood", "a", "s2", "s3", "s4")
    cluster.now = MIN_RUN_S / 2
    assert stopped(cluster.event(announce("late", "b", 9))) == []
    cluster.now = MIN_RUN_S
    assert stopped(cluster.event(announce("late", "b", 9))) == ["s4", "s3", "s2"]


def test_of_a_tenant_only_so_many_are_stopped_in_a_time():
    cluster = Cluster(share("b", guarantee=1))
    count = 0
    for number in range(BUDGET + 5):
        leases = cluster.award("flood", "a", *(f"s{number}-{one}" for one in range(4))).leases
        cluster.now += MIN_RUN_S
        count += len(stopped(cluster.event(announce("late", "b", 1))))
        cluster.event(Announce("late", 1, "home", ()))
        cluster.event(ReleaseRequest("flood", tuple(lease.id for lease in leases)))
    assert count == BUDGET
    cluster.now += BUDGET_S
    cluster.award("flood", "a", "x1", "x2", "x3", "x4")
    cluster.now += MIN_RUN_S
    assert len(stopped(cluster.event(announce("late", "b", 1)))) == 1


def test_a_limit_holds_for_who_is_alone_and_says_so():
    cluster = Cluster(share("a", guarantee=1, borrows=1), share("b", guarantee=2, lends=1))
    bid = cluster.bid("r", "a", 9)
    assert [point.slots for point in bid.points] == [1, 1]
    cluster.award("r", "a", "s1", "s2")
    (refusal,) = cluster.bid("r", "a", 7).refusals
    assert (refusal.code, refusal.text) == ("cluster.limit", "a uses 2 slots and may use 2 at most")
    assert cluster.slots("guest", "c", 9) == 1
    cluster.award("guest", "c", "g1")
    cluster.event(Announce("r", 1, "home", ()))
    (refusal,) = cluster.bid("guest", "c", 9).refusals
    assert refusal.code == "cluster.kept"
    assert cluster.slots("its", "b", 9) == 1, (
        "what it lent it does not get back before it runs long enough to be stopped"
    )


def test_a_lowered_limit_is_enforced_on_what_runs():
    cluster = full()
    assert stopped(cluster.event(QuotasChanged(QuotaTree.flat((share("a", borrows=1),))))) == ["s4", "s3", "s2"]
    assert stopped(cluster.event(Tick())) == []
    cluster.now += 40.0
    assert [lease["step"] for lease in cluster.governor.snapshot().leases] == ["s1", "s2", "s3", "s4"]
    cluster.event(Tick())
    assert cluster.governor.snapshot().leases == (), "a run that releases nothing loses its leases with their time"
    assert cluster.slots("flood", "a", 9) == 0, "and what it runs is stopped first"
    cluster.now += 26.0
    cluster.event(Tick())
    assert cluster.slots("flood", "a", 9) == 1
    cluster.event(QuotasChanged(QuotaTree.flat(())))
    assert cluster.slots("flood", "a", 9) == 4


@pytest.mark.parametrize("wait_s", [0.0, 10.0])
def test_what_was_taken_back_is_not_given_to_who_waits_meanwhile(wait_s):
    """Who is guaranteed it asks again a moment later; who had borrowed it waits all the time."""
    cluster = full(share("b", guarantee=2))
    assert cluster.event(announce("flood", "a", 2, wait_s=60.0)) == []
    out = cluster.event(announce("late", "b", 2))
    assert stopped(out) == ["s4", "s3"]
    leases = {lease["step"]: lease["id"] for lease in cluster.governor.snapshot().leases}
    for step in ("s4", "s3"):
        out = [*cluster.event(ReleaseRequest("flood", (leases[step],))), *cluster.event(Tick())]
        assert [one for one in out if isinstance(one, Reply) and one.waited is not None] == []
    cluster.now += 0.4
    out = cluster.event(announce("late", "b", 2, wait_s))
    bids = [one.answer for one in out if isinstance(one, Reply) and one.waited is None]
    assert [sum(point.slots for point in bid.points) for bid in bids] == [2]
    assert [lease.step for lease in cluster.award("late", "b", "t1", "t2").leases] == ["t1", "t2"]


def test_what_was_taken_back_for_who_does_not_come_for_it_is_given_to_who_waits():
    cluster = full(share("b", guarantee=1))
    cluster.event(announce("flood", "a", 2, wait_s=60.0))
    assert stopped(cluster.event(announce("late", "b", 1))) == ["s4"]
    (lease,) = [lease["id"] for lease in cluster.governor.snapshot().leases if lease["step"] == "s4"]
    cluster.event(ReleaseRequest("flood", (lease,)))
    given = []
    for _ in range(3):
        cluster.now += 1.0
        given += [one.waited[0] for one in cluster.event(Tick()) if isinstance(one, Reply) and one.waited is not None]
    assert given == ["flood"]
