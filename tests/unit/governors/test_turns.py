"""Shares of a cluster's slots, in numbers and as its governor gives them out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.governors.cluster import (
    BUDGET,
    BUDGET_S,
    MIN_RUN_S,
    ClusterGovernor,
    NodeJoined,
    NodeLeft,
    Reply,
    SharesChanged,
    StopStep,
    Tick,
)
from ioi_dagster.governors.turns import ASKS_S, Turns, Wanted
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
from ioi_dagster.model.topology import TenantShare


@pytest.mark.parametrize(
    ("weights", "used", "waiting", "entitled"),
    [
        ({}, {}, {"a": 9, "b": 9}, {"a": 5.0, "b": 5.0}),
        ({"a": 4.0}, {}, {"a": 99, "b": 99}, {"a": 8.0, "b": 2.0}),
        ({}, {"a": 10}, {"a": 5, "b": 2}, {"a": 8.0, "b": 2.0}),
        ({}, {"a": 3}, {"b": 2}, {"a": 3.0, "b": 2.0}),
        ({}, {}, {"a": 1, "b": 3, "c": 99}, {"a": 1.0, "b": 3.0, "c": 6.0}),
        ({}, {}, {"a": 7, "b": 7, "c": 7}, {"a": 10 / 3, "b": 10 / 3, "c": 10 / 3}),
    ],
)
def test_parts_of_ten_slots(weights, used, waiting, entitled):
    parts = Turns(by_weight(weights)).parts(10, used, waiting)
    assert {name: part.entitled for name, part in parts.items()} == pytest.approx(entitled)


def by_weight(weights: dict[str, float]) -> list[TenantShare]:
    return [TenantShare(name, weight) for name, weight in weights.items()]


@pytest.mark.parametrize(
    ("shares", "used", "waiting", "entitled"),
    [
        pytest.param(
            [TenantShare("a", guarantee=4)], {}, {"a": 9, "b": 9, "c": 9}, {"a": 4, "b": 3, "c": 3}, id="floor"
        ),
        pytest.param([TenantShare("a", guarantee=4)], {}, {"a": 1, "b": 99}, {"a": 1, "b": 9}, id="lent"),
        pytest.param([TenantShare("a", guarantee=4, lends=1)], {}, {"b": 99}, {"a": 0, "b": 7}, id="kept"),
        pytest.param(
            [TenantShare("a", guarantee=4, lends=1)], {"a": 2}, {"b": 99}, {"a": 2, "b": 7}, id="kept in part"
        ),
        pytest.param([TenantShare("a", guarantee=2, borrows=1)], {}, {"a": 99}, {"a": 3}, id="limit"),
        pytest.param(
            [TenantShare("a", borrows=0)], {"a": 5}, {"a": 1, "b": 2}, {"a": 0, "b": 2}, id="nothing of its own"
        ),
        pytest.param(
            [TenantShare("a", guarantee=12), TenantShare("b", guarantee=8)],
            {},
            {"a": 99, "b": 99, "c": 99},
            {"a": 6, "b": 4, "c": 0},
            id="nodes are missing",
        ),
    ],
)
def test_guarantees_and_limits_of_ten_slots(shares, used, waiting, entitled):
    parts = Turns(shares).parts(10, used, waiting)
    assert {name: part.entitled for name, part in parts.items()} == pytest.approx(entitled)


COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 30), max_size=5)


@given(st.integers(0, 60), COUNTS, COUNTS, st.dictionaries(st.sampled_from("abcde"), st.floats(0.1, 9.0)))
def test_all_that_is_wanted_is_given_out_and_not_more(slots, used, waiting, weights):
    turns = Turns(by_weight(weights))
    parts = turns.parts(slots, used, waiting)
    wants = {name: used.get(name, 0) + waiting.get(name, 0) for name in {*used, *waiting}}
    assert sum(part.entitled for part in parts.values()) == pytest.approx(min(slots, sum(wants.values())))
    for name, part in parts.items():
        assert part.entitled <= wants[name] + 1e-9
        assert int(part.entitled) <= part.whole <= part.entitled + 1
        if part.entitled < wants[name] - 1e-6:
            # Nobody who wants more has less by weight than another one has.
            level = part.entitled / turns.weight(name)
            assert all(other.entitled / turns.weight(who) <= level + 1e-6 for who, other in parts.items())
    if sum(used.values()) < slots and sum(waiting.values()):
        assert any(part.more(slots) for part in parts.values()), "a free slot is somebody's who waits for it"


@st.composite
def shares_of(draw) -> list[TenantShare]:
    found = []
    for name in draw(st.sets(st.sampled_from("abcde"))):
        guarantee = draw(st.integers(0, 9))
        lends, borrows = (draw(st.none() | st.integers(0, most)) for most in (guarantee, 9))
        found.append(TenantShare(name, draw(st.floats(0.1, 9.0)), guarantee, lends, borrows))
    return found


@given(st.integers(0, 60), COUNTS, COUNTS, shares_of())
def test_guarantees_are_kept_limits_hold_and_what_is_not_lent_stays(slots, used, waiting, shares):
    turns = Turns(shares)
    parts = turns.parts(slots, used, waiting)
    wants = {name: min(part.used + part.waiting, turns.share(name).limit) for name, part in parts.items()}
    idle = sum(max(0, turns.share(name).own - want) for name, want in wants.items())
    assert sum(part.entitled for part in parts.values()) == pytest.approx(
        min(max(0, slots - idle), sum(wants.values()))
    )
    promised = sum(min(turns.share(name).guarantee, want) for name, want in wants.items())
    for name, part in parts.items():
        assert part.entitled <= wants[name] + 1e-9
        if promised <= slots - idle:
            assert part.entitled >= min(turns.share(name).guarantee, wants[name]) - 1e-9
        assert part.used + part.more(slots) <= max(part.used, turns.share(name).limit)
    assert sum(part.whole for part in parts.values()) <= slots


def test_who_asks_no_more_holds_back_nobody():
    turns = Turns()
    turns.asks("r1", [Wanted("a", "ocr", 3)], 0.0)
    turns.asks("r2", [Wanted("b", "ocr", 3)], 0.1)
    turns.got("r2", "b", "ocr")
    assert turns.waiting({"ocr"}, 0.2) == {"a": 3, "b": 2}
    assert turns.waiting({"llm"}, 0.2) == {}
    assert not turns.unlimited("a")
    turns.asks("r1", [], 0.3)
    assert turns.waiting(None, 0.3) == {"b": 2}
    assert turns.waiting(None, 0.1 + ASKS_S) == {}
    turns.asks("r1", [Wanted("a", "ocr", 1)], 0.2 + ASKS_S)
    assert turns.unlimited("a")


class Cluster:
    """Four slots, and what runs ask of them."""

    def __init__(self, *shares: TenantShare) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0, shares=shares)
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
    none = {"guarantee": 0, "limit": None, "lent": 0, "stopping": 0}
    assert cluster.governor.snapshot().tenants == {
        "a": {"weight": 1.0, "used": 1, "waiting": 96, "entitled": 2.0, **none},
        "b": {"weight": 1.0, "used": 2, "waiting": 1, "entitled": 2.0, **none},
    }


def test_weights_count_and_what_others_leave_is_free_for_all():
    cluster = Cluster(TenantShare("a", 3.0))
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
    assert cluster.governor.snapshot().tenants["a"]["used"] == 2


@pytest.mark.parametrize(("weights", "expected"), [({}, "abababab"), ({"a": 3.0}, "abaaabaa")])
def test_one_slot_goes_to_each_in_turn_by_weight_however_fast_one_of_them_asks(weights, expected):
    cluster = Cluster(*by_weight(weights))
    cluster.event(NodeLeft("n1"))
    cluster.event(NodeJoined("n2", 1, frozenset({"ocr"})))
    order = ""
    cluster.bid("rb", "b", 99)
    for number in range(len(expected)):
        # The first one asks whenever there is something, the other one after it.
        for tenant in "ab":
            if cluster.slots(f"r{tenant}", tenant, 99):
                (lease,) = cluster.award(f"r{tenant}", tenant, f"s{number}").leases
                order += tenant
                cluster.event(ReleaseRequest(f"r{tenant}", (lease.id,)))
                break
    assert order == expected


def stopped(out: list) -> list[str]:
    return [one.lease.step for one in out if isinstance(one, StopStep)]


def announce(run: str, tenant: str, count: int) -> Announce:
    return Announce(run, 1, "home", (AskGroup("ocr", DataClass.PUBLIC, count, tenant),))


def full(*shares: TenantShare) -> Cluster:
    """`a` has borrowed all four slots: two steps since 0 s, two since 10 s; it is 20 s."""
    cluster = Cluster(*shares)
    cluster.award("flood", "a", "s1", "s2")
    cluster.now = 10.0
    cluster.award("flood", "a", "s3", "s4")
    cluster.now = 20.0
    return cluster


def test_a_guarantee_is_taken_back_from_the_youngest_of_who_borrowed():
    cluster = full(TenantShare("b", guarantee=2))
    out = cluster.event(announce("late", "b", 9))
    assert stopped(out) == ["s4", "s3"], "as many as are guaranteed, and no more"
    assert {one.why for one in out if isinstance(one, StopStep)} == {
        "b asks for what it is guaranteed: 0 of 2 slots are its"
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
    cluster = full(TenantShare("b", guarantee=2))
    (lease, *_) = [one["id"] for one in cluster.governor.snapshot().leases]
    cluster.event(ReleaseRequest("flood", (lease,)))
    assert len(stopped(cluster.event(announce("late", "b", 9)))) == 1


def test_who_runs_within_its_guarantee_or_once_only_or_only_just_is_not_stopped():
    both = (TenantShare("a", guarantee=2), TenantShare("b", guarantee=2))
    assert stopped(full(*both).event(announce("late", "b", 9))) == ["s4", "s3"]
    cluster = full(TenantShare("a", guarantee=4))
    assert stopped(cluster.event(announce("late", "b", 9))) == []
    cluster = Cluster(TenantShare("b", guarantee=4))
    once = LeaseRequest("flood", "once", 1, "ocr", DataClass.PUBLIC, tenant="a", preemptible=False)
    cluster.event(Award("lab-c", "flood", 1, "home", (once,)))
    cluster.award("flood", "a", "s2", "s3", "s4")
    cluster.now = MIN_RUN_S / 2
    assert stopped(cluster.event(announce("late", "b", 9))) == []
    cluster.now = MIN_RUN_S
    assert stopped(cluster.event(announce("late", "b", 9))) == ["s4", "s3", "s2"]


def test_of_a_tenant_only_so_many_are_stopped_in_a_time():
    cluster = Cluster(TenantShare("b", guarantee=1))
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
    cluster = Cluster(TenantShare("a", guarantee=1, borrows=1), TenantShare("b", guarantee=2, lends=1))
    bid = cluster.bid("r", "a", 9)
    assert [point.slots for point in bid.points] == [2]
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
    assert stopped(cluster.event(SharesChanged((TenantShare("a", borrows=1),)))) == ["s4", "s3", "s2"]
    assert stopped(cluster.event(Tick())) == []
    cluster.now += 40.0
    assert [lease["step"] for lease in cluster.governor.snapshot().leases] == ["s1", "s2", "s3", "s4"]
    cluster.event(Tick())
    assert cluster.governor.snapshot().leases == (), "a run that releases nothing loses its leases with their time"
    assert cluster.slots("flood", "a", 9) == 1
    cluster.event(SharesChanged(()))
    assert cluster.slots("flood", "a", 9) == 4
