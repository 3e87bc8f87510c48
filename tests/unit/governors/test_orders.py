"""What an owner orders for blocks, tenants and nodes of a cluster: what may start, what waits, what is stopped, and
for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ioi_dagster.governors import flow_messages
from ioi_dagster.governors.cluster import (
    STOP_S,
    ClusterGovernor,
    LeaseEnded,
    NodeJoined,
    QuotasChanged,
    Reply,
    StopStep,
    Tick,
)
from ioi_dagster.governors.cluster_messages import AbandonedStopped, Expelled, Ordered, StopAbandoned, Withdrawn
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_steps import WINDOW
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    OWN_STEP,
    Announce,
    Ask,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    RenewRequest,
)
from ioi_dagster.model.order import Order, Orders, Target, Verb
from ioi_dagster.model.quota import QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal

BLOCK, TENANT = Target.BLOCK, Target.TENANT


class Cluster:
    def __init__(self, slots: int = 8, name: str = "lab-c") -> None:
        self.name, self.governor = name, ClusterGovernor("lab", name, 1, 1.0)
        self.orders, self.now, self._round, self._steps = Orders(), 0.0, 0, 0
        self.tell(NodeJoined("n", slots, frozenset({"ocr", "llm", OWN_STEP})))

    def tell(self, event: Any, after: float = 0.0) -> list[Any]:
        self.now += after
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        return out

    def order(self, target: Target, name: str, verb: Verb, value: int | None = None, **more: Any) -> list[Any]:
        self.orders, _ = self.orders.after(Order(target, name, verb, value, who="ann", why="a bad model", **more))
        return self.tell(Ordered(self.orders))

    def ask(self, capability: str = "ocr", count: int = 4, tenant: str = "t", wait_s: float = 0.0) -> Bid | None:
        self._round += 1
        group = AskGroup(capability, DataClass.PUBLIC, count, tenant)
        out = self.tell(Announce("r", self._round, "lab", (group,), wait_s=wait_s))
        (bid,) = bids(out) or [None]
        return bid

    def slots(self, **asked: Any) -> int:
        bid = self.ask(**asked)
        return sum(point.slots for point in bid.points) if bid is not None else 0

    def award(self, count: int = 1, capability: str = "ocr", tenant: str = "t") -> Awarded:
        requests = []
        for _ in range(count):
            self._steps += 1
            requests.append(LeaseRequest("r", f"s{self._steps}", 1, capability, DataClass.PUBLIC, tenant=tenant))
        (reply,) = [
            one
            for one in self.tell(Award(self.name, "r", self._round, "lab", tuple(requests)))
            if isinstance(one, Reply)
        ]
        assert isinstance(reply.answer, Awarded)
        return reply.answer

    def release(self, lease: Lease) -> list[Any]:
        return self.tell(ReleaseRequest("r", (lease.id,), "lab"))


def bids(out: list[Any]) -> list[Bid]:
    return [one.answer for one in out if isinstance(one, Reply) and isinstance(one.answer, Bid)]


def test_nothing_of_a_paused_block_starts_and_what_runs_goes_on() -> None:
    cluster = Cluster()
    assert cluster.slots() == 4
    (lease,) = cluster.award().leases
    assert [one for one in cluster.order(BLOCK, "ocr", Verb.PAUSE) if isinstance(one, StopStep)] == []
    bid = cluster.ask()
    assert bid is not None
    assert (bid.points, [(no.code, no.text) for no in bid.refusals]) == (
        (),
        [("cluster.paused", "block ocr is paused by ann: a bad model")],
    )
    assert [no.refusal.code for no in cluster.award(2).rejected] == ["cluster.paused"] * 2
    assert cluster.slots(capability="llm") == 4, "others do"
    assert cluster.release(lease)[0] == LeaseEnded(lease, "released")
    cluster.order(BLOCK, "ocr", Verb.RESUME)
    assert cluster.slots() == 4


def test_who_asks_for_what_is_paused_waits_and_is_answered_when_it_goes_on() -> None:
    cluster = Cluster()
    cluster.order(TENANT, "t", Verb.PAUSE)
    assert cluster.ask(wait_s=30.0) is None
    assert cluster.tell(Tick(), after=5.0) == []
    out = cluster.order(TENANT, "t", Verb.RESUME)
    assert [(one.waited, sum(point.slots for point in one.answer.points)) for one in out] == [(("r", 1, "lab"), 4)]
    cluster.order(TENANT, "t", Verb.PAUSE)
    assert cluster.ask(wait_s=30.0) is None
    (late,) = cluster.tell(Tick(), after=31.0)
    assert (late.waited, [no.code for no in late.answer.refusals]) == (("r", 2, "lab"), ["cluster.paused"])
    assert cluster.ask(wait_s=30.0) is None
    (older, *_) = cluster.tell(Announce("r", 9, "lab", (AskGroup("llm", DataClass.PUBLIC, 1, "u"),)))
    assert older.waited == ("r", 3, "lab"), "its run has announced anew"
    assert cluster.ask(wait_s=30.0) is None
    cluster.tell(Withdrawn("r", 4, "lab"))
    assert cluster.order(TENANT, "t", Verb.RESUME) == []


def test_no_more_of_a_capped_block_run_at_once_however_they_are_asked_for() -> None:
    cluster = Cluster()
    first = cluster.award(2).leases
    cluster.order(BLOCK, "ocr", Verb.CAP, 3)
    assert cluster.slots() == 1
    (third,) = cluster.award(1).leases
    assert [no.refusal.code for no in cluster.award(1).rejected] == ["cluster.capped"]
    assert cluster.ask(wait_s=30.0) is None
    (bid,) = bids(cluster.release(third))
    assert [point.slots for point in bid.points] == [1], "who waits is told when one has ended"
    cluster.order(BLOCK, "ocr", Verb.CAP, 1)
    assert cluster.slots() == 0
    assert all(lease.id in {one["id"] for one in cluster.governor.snapshot().leases} for lease in first)
    cluster.order(BLOCK, "ocr", Verb.CAP, None)
    assert cluster.slots() == 4


def test_a_gang_is_not_cut_by_a_cap() -> None:
    cluster = Cluster()
    cluster.order(BLOCK, "ocr", Verb.CAP, 3)
    gang = AskGroup("ocr", DataClass.PUBLIC, 4, "t", gang=2)
    (bid,) = bids(cluster.tell(Announce("r", 1, "lab", (gang,))))
    assert [point.slots for point in bid.points] == [2]
    cluster.award()
    (bid,) = bids(cluster.tell(Announce("r", 2, "lab", (replace(gang, count=3, gang=3),))))
    assert (bid.points, [no.code for no in bid.refusals], bid.never) == ((), ["cluster.capped"], ())


def test_a_gang_that_is_more_than_a_cap_is_told_so_at_once_and_waits_for_a_higher_one() -> None:
    """A pause is waited for too: nobody's run ends for what an owner orders, who may take it back."""
    cluster = Cluster()
    cluster.order(BLOCK, "ocr", Verb.CAP, 3)
    gang, other = AskGroup("ocr", DataClass.PUBLIC, 4, "t", gang=4), AskGroup("llm", DataClass.PUBLIC, 1, "t")
    text = "block ocr may run 3 at once, capped by ann: a bad model; a gang of 4 is more"
    refusal = Refusal("cluster.capped", text, "lab-c", "wait for a higher cap, or make the gang smaller")
    (bid,) = bids(cluster.tell(Announce("r", 1, "lab", (gang,))))
    assert (bid.points, bid.refusals, bid.never) == ((), (refusal,), ())
    (bid,) = bids(cluster.tell(Announce("r", 2, "lab", (gang, other))))
    assert ([point.capability for point in bid.points], bid.refusals, bid.never) == (["llm"], (refusal,), ())
    assert cluster.tell(Announce("r", 3, "lab", (gang,), wait_s=30.0)) == []
    (bid,) = bids(cluster.order(BLOCK, "ocr", Verb.CAP, 4))
    assert (bid.round, [point.slots for point in bid.points]) == (3, [4])
    cluster.award()
    (bid,) = bids(cluster.tell(Announce("r", 4, "lab", (gang,))))
    assert [no.remedy for no in bid.refusals] == ["it is asked again when one of them has ended"]


def test_what_runs_of_a_drained_block_is_stopped_when_its_time_is_over_and_once() -> None:
    cluster = Cluster()
    (lease,) = cluster.award().leases
    (other,) = cluster.award(capability="llm").leases
    assert cluster.order(BLOCK, "ocr", Verb.DRAIN, within_s=10.0) == []
    assert cluster.tell(Tick(), after=9.0) == []
    cluster.order(BLOCK, "ocr", Verb.CAP, 5)
    assert cluster.tell(Tick(), after=2.0) == [StopStep(lease, "ocr is drained by ann: a bad model")]
    assert cluster.tell(Tick(), after=1.0) == []
    assert other.id in {one["id"] for one in cluster.governor.snapshot().leases}


def test_what_is_taken_away_from_a_cluster_is_stopped_there_alone_and_may_return() -> None:
    here, elsewhere = Cluster(), Cluster(name="other-c")
    (lease,) = here.award().leases
    assert elsewhere.award().leases
    text = "block ocr is taken away from lab-c by ann: a bad model"
    for cluster in (elsewhere, here):
        out = cluster.order(BLOCK, "ocr", Verb.REROUTE, away="lab-c")
        assert out == ([StopStep(lease, text.removeprefix("block "))] if cluster is here else [])
    here.tell(Tick(), after=STOP_S)
    bid, other = here.ask(), elsewhere.ask()
    assert bid is not None
    assert other is not None
    todo = "it goes on after `ioi block reroute ocr --back-to lab-c`"
    assert (bid.points, bid.refusals) == ((), (Refusal("cluster.paused", text, "lab-c", todo),))
    assert other.points
    assert here.governor.snapshot().ordered == ("block ocr",)
    assert elsewhere.governor.snapshot().ordered == ()
    here.order(BLOCK, "ocr", Verb.PAUSE)
    here.order(BLOCK, "ocr", Verb.RETURN, away="lab-c")
    assert [no.remedy for bid in [here.ask()] if bid for no in bid.refusals] == [
        "it goes on after `ioi block resume ocr`"
    ]


def test_a_drain_stops_who_waits_too_gives_time_for_a_checkpoint_and_leaves_what_may_run_once_only() -> None:
    cluster = Cluster()
    first = LeaseRequest("r", "waits", 1, "ocr", DataClass.PUBLIC, tenant="t")
    requests = (
        first,
        replace(first, step="leaves", checkpointable=True),
        replace(first, step="once", preemptible=False),
    )
    (reply,) = cluster.tell(Award("lab-c", "r", 1, "lab", requests))
    waits, leaves, once = (lease.id for lease in reply.answer.leases)

    def held() -> tuple[str, ...]:
        (reply,) = cluster.tell(RenewRequest("r", (waits, leaves, once), (waits,), "lab"))
        return reply.answer.held

    assert held() == (waits, leaves, once)
    stops = cluster.order(BLOCK, "ocr", Verb.DRAIN, within_s=0.0)
    assert [one.lease.step for one in stops if isinstance(one, StopStep)] == ["waits", "leaves"]
    assert held() == (leaves, once)
    cluster.tell(Tick(), after=STOP_S)
    assert held() == (once,)


def test_a_tenant_weighs_what_is_ordered_also_when_quotas_change() -> None:
    cluster = Cluster(slots=4)
    cluster.order(TENANT, "t", Verb.PRIORITISE, 5)

    def weights() -> dict[str, float]:
        for tenant in "tu":
            cluster.ask(tenant=tenant)
            cluster.award(tenant=tenant)
        return {name: view["weight"] for name, view in cluster.governor.snapshot().tenants.items()}

    assert weights() == {"t": 5.0, "u": 1.0}
    cluster.tell(QuotasChanged(QuotaTree.flat((TenantQuota("t", 2.0), TenantQuota("u", 3.0)))))
    assert weights() == {"t": 5.0, "u": 3.0}
    cluster.order(TENANT, "t", Verb.PRIORITISE, None)
    assert weights() == {"t": 2.0, "u": 3.0}


def a_part(count: int = 2, wait_s: float = 30.0, round_: int = 50) -> Announce:
    return Announce("r", round_, "lab", (AskGroup(OWN_STEP, DataClass.PUBLIC, count, "t", part=True),), wait_s=wait_s)


@pytest.mark.parametrize(
    ("target", "name", "verb", "value", "code"),
    [
        (TENANT, "t", Verb.CAP, 1, "cluster.capped"),
        (TENANT, "t", Verb.PAUSE, None, "cluster.paused"),
        (BLOCK, OWN_STEP, Verb.PAUSE, None, "cluster.paused"),
        (BLOCK, OWN_STEP, Verb.DRAIN, None, "cluster.paused"),
    ],
)
def test_what_a_step_has_begun_to_wait_for_goes_on_so_that_it_can_end(
    target: Target, name: str, verb: Verb, value: int | None, code: str
) -> None:
    cluster = Cluster()
    # The first start of it is late: this is a copy.
    request = LeaseRequest("r", "fan", 1, OWN_STEP, DataClass.PUBLIC, 1, "t")
    (reply,) = cluster.tell(Award("lab-c", "r", 1, "lab", (request,)))
    (parent,) = reply.answer.leases
    cluster.order(target, name, verb, value)
    assert cluster.tell(a_part()) == [], "not while its step does not say that it waits"
    told = cluster.tell(RenewRequest("r", (parent.id,), (parent.id,), "lab"))
    assert [(bid.round, sum(point.slots for point in bid.points)) for bid in bids(told)] == [(50, 2)]
    chunks = [
        LeaseRequest("r", f"{step}#1.1/{number}", 1, OWN_STEP, DataClass.PUBLIC, tenant="t")
        for number, step in enumerate([parent.step, parent.step, "another"])
    ]
    (reply,) = cluster.tell(Award("lab-c", "r", 50, "lab", tuple(chunks)))
    assert [lease.step for lease in reply.answer.leases] == [chunk.step for chunk in chunks[:2]]
    assert [(no.step, no.refusal.code) for no in reply.answer.rejected] == [(chunks[2].step, code)]
    other = Announce("r2", 1, "lab", a_part().groups)
    assert [bid.points for bid in bids(cluster.tell(other))] == [()], "no step of that run waits"


def test_who_waits_for_others_is_none_of_those_that_a_cap_counts() -> None:
    cluster = Cluster()
    (parent,) = cluster.award().leases
    cluster.order(BLOCK, "ocr", Verb.CAP, 1)
    assert cluster.ask(count=1, wait_s=30.0) is None
    told = cluster.tell(RenewRequest("r", (parent.id,), (parent.id,), "lab"))
    assert [sum(point.slots for point in bid.points) for bid in bids(told)] == [1]
    assert len(cluster.award().leases) == 1
    cluster.tell(RenewRequest("r", (parent.id,), (), "lab"))
    assert cluster.slots() == 0


def test_what_a_cap_has_left_is_bid_to_one_of_those_who_wait_for_it() -> None:
    cluster = Cluster()
    (lease,) = cluster.award().leases
    cluster.order(BLOCK, "ocr", Verb.CAP, 1)
    group = AskGroup("ocr", DataClass.PUBLIC, 1, "t")
    for number in range(10):
        assert cluster.tell(Announce(f"r{number}", 1, "lab", (group,), wait_s=30.0)) == []
    assert [bid.run for bid in bids(cluster.release(lease)) if bid.points] == ["r0"]
    assert [bid.run for bid in bids(cluster.tell(Tick(), after=1.0))] == ["r1"], "the first has not taken it"
    (lease,) = cluster.award().leases
    assert bids(cluster.tell(Tick(), after=1.0)) == []
    cluster.order(BLOCK, "ocr", Verb.CAP, 4)
    assert cluster.governor.snapshot().parked == 5
    assert [bid.run for bid in bids(cluster.release(lease)) if bid.points] == ["r5", "r6", "r7", "r8"]


def test_who_waits_for_room_is_asked_for_no_more_while_it_is_paused_and_for_all_of_it_afterwards() -> None:
    cluster = Cluster(slots=2)
    held = [*cluster.award().leases, *cluster.award(tenant="u").leases]
    groups = (AskGroup("ocr", DataClass.PUBLIC, 3, "t"), AskGroup("llm", DataClass.PUBLIC, 3, "u"))
    assert cluster.tell(Announce("a", 1, "lab", groups[:1], wait_s=30.0)) == []
    assert cluster.tell(Announce("b", 1, "lab", groups, wait_s=30.0)) == []
    assert cluster.order(TENANT, "t", Verb.PAUSE) == []
    tenants = cluster.governor.snapshot().tenants
    assert (tenants["t"]["waiting"], tenants["u"]["waiting"]) == (0, 3)
    (bid,) = bids(cluster.release(held[0]))
    assert (bid.run, [(one.capability, one.slots) for one in bid.points]) == ("b", [("llm", 1)])
    assert [no.code for no in bid.refusals] == ["cluster.paused"], "why the rest of it may not is told all the same"
    assert cluster.tell(Announce("b", 2, "lab", groups, wait_s=30.0)) == []
    assert cluster.order(TENANT, "t", Verb.RESUME) == []
    assert {name: its["waiting"] for name, its in cluster.governor.snapshot().tenants.items()} == {"t": 6, "u": 3}


def test_a_newer_announcement_of_what_is_paused_takes_the_place_of_one_that_waits_for_room() -> None:
    cluster = Cluster(slots=1)
    (lease,) = cluster.award(capability="llm").leases
    cluster.order(BLOCK, "ocr", Verb.PAUSE)
    assert cluster.ask(capability="llm", wait_s=30.0) is None
    group = AskGroup("ocr", DataClass.PUBLIC, 1, "t")
    (older,) = cluster.tell(Announce("r", 9, "lab", (group,), wait_s=30.0))
    assert (older.waited, older.answer.points) == (("r", 1, "lab"), ())
    assert bids(cluster.release(lease)) == [], "nothing is kept for what its run wants no more"
    cluster.tell(Announce("r", 10, "lab", (group,)))
    assert cluster.governor.snapshot().asked["t"]["refused"] == {"cluster.paused": 2}


ORDERS = some.builds(
    lambda target, name, verb, value: Order(
        target, name, verb, value if verb in (Verb.CAP, Verb.PRIORITISE) else None,
        away="lab-c" if verb in (Verb.REROUTE, Verb.RETURN) else "",
    ),
    some.sampled_from([BLOCK, TENANT]), some.sampled_from(["ocr", "t"]), some.sampled_from(list(Verb)),
    some.none() | some.integers(1, 4),
)  # fmt: skip


@given(some.lists(ORDERS | some.sampled_from(["ask", "wait", "award", "release", "tick"]), max_size=40))
def test_whatever_is_ordered_no_cap_is_broken_by_a_grant_and_each_answer_comes_once(acts: list[Any]) -> None:
    cluster, waiting = Cluster(4), set[tuple[str, int, str]]()
    leases: list[Lease] = []

    def told(out: list[Any]) -> None:
        for one in out:
            if isinstance(one, Reply) and one.waited is not None:
                waiting.remove(one.waited)

    for act in acts:
        match act:
            case Order():
                before = cluster.orders
                cluster.orders, _ = before.after(act)
                again, _ = cluster.orders.after(act)
                assert again == cluster.orders, "said twice it is so once"
                told(cluster.tell(Ordered(cluster.orders)))
            case "ask" | "wait":
                cluster._round += 1
                its = ("r", cluster._round, "lab")
                waiting.add(its)
                group = AskGroup("ocr", DataClass.PUBLIC, 3, "t")
                out = cluster.tell(Announce(*its, (group,), wait_s=20.0 if act == "wait" else 0.0))
                waiting -= {its} if any(isinstance(one, Reply) and one.waited is None for one in out) else set()
                told(out)
            case "award":
                cluster._steps += 1
                request = LeaseRequest("r", f"s{cluster._steps}", 1, "ocr", DataClass.PUBLIC, tenant="t")
                out = cluster.tell(Award("lab-c", "r", cluster._round, "lab", (request,)))
                granted = [lease for one in out if isinstance(one, Reply) for lease in one.granted]
                leases += granted
                for its in (cluster.orders.of(BLOCK, "ocr"), cluster.orders.of(TENANT, "t")):
                    assert not granted or its.stopped is None
                    cap = its.capped.value if its.capped is not None else None
                    assert not granted or cap is None or len(leases) <= cap
                told(out)
            case "release" if leases:
                told(cluster.release(leases.pop()))
            case _:
                told(cluster.tell(Tick(), after=3.0))
    told(cluster.tell(Tick(), after=21.0))
    assert len(waiting) <= 1, "at most the newest of the run may wait for room"


def test_what_an_owner_holds_up_takes_nothing_from_the_parts_of_a_map_of_the_same_run() -> None:
    """More steps come before a part than a run negotiates for at a time: it alone is awarded what is bid for it."""
    cluster, run = Cluster(slots=1), FlowGovernor("r", "lab")
    (parent,) = cluster.award(capability=OWN_STEP).leases
    cluster.order(TENANT, "t", Verb.PAUSE)
    cluster.tell(RenewRequest("r", (parent.id,), (parent.id,), "lab"))
    keys = [f"late{number}" for number in range(2 * WINDOW)]
    asks = [Ask("r", key, OWN_STEP, DataClass.PUBLIC, tenant="t") for key in keys]
    asks.append(replace(asks[0], step=f"{parent.step}#1.1/0"))
    todo, started, awarded = list(map(flow_messages.StepReady, asks)), [], []
    for _ in range(20):
        while todo:
            event = todo.pop(0)
            for one in run.handle(event, cluster.now):
                match one:
                    case flow_messages.FindPlaces(asked):
                        places = (flow_messages.Place("lab-c", "lab"),)
                        todo += [flow_messages.PlacesFound(ask.step, places, (), False) for ask in asked]
                    case flow_messages.SendAnnounce(_, announce):
                        todo += map(flow_messages.BidReceived, bids(cluster.tell(announce)))
                    case flow_messages.SendAward(award):
                        awarded += [request.step for request in award.requests]
                        replies = [said for said in cluster.tell(award) if isinstance(said, Reply)]
                        todo += [flow_messages.AwardAnswered(reply.answer) for reply in replies]
                    case flow_messages.StartStep(ask, _):
                        started.append(ask.step)
            run.validate()
        cluster.now += 0.2
        todo.append(flow_messages.Tick())
    assert (started, awarded) == ([f"{parent.step}#1.1/0"], [f"{parent.step}#1.1/0"])
    assert "paused by ann" in run.snapshot().waiting["late0"]


def stops(out: list[Any]) -> list[tuple[str, str, bool]]:
    return [(one.lease.id, one.why, one.ends) for one in out if isinstance(one, StopStep)]


@pytest.mark.parametrize(
    ("target", "name"),
    [(BLOCK, "ocr"), (TENANT, "t"), (Target.NODE, "lab-c/n"), (Target.NODE, "lab-c/*")],
)
def test_what_is_cancelled_ends_for_good_and_what_comes_after_it_starts(target: Target, name: str) -> None:
    cluster = Cluster()
    first = LeaseRequest("r", "once", 1, "ocr", DataClass.PUBLIC, tenant="t", preemptible=False)
    (reply,) = cluster.tell(Award("lab-c", "r", 1, "lab", (first,)))
    (lease,) = reply.answer.leases
    other = cluster.award(capability="llm", tenant="u").leases
    ended = [lease, *other] if target is Target.NODE else [lease]
    why = "cancelled by ann: a bad model"
    assert stops(cluster.order(target, name, Verb.CANCEL, at=1.0)) == [(one.id, why, True) for one in ended]
    assert stops(cluster.tell(Tick(), after=1.0)) == []
    # Until its node has told its run, that has to hold it: what is lost is placed again.
    (reply,) = cluster.tell(RenewRequest("r", (lease.id,), (), "lab"))
    assert reply.answer.held == (lease.id,)
    cluster.release(lease)
    assert cluster.slots() == 4
    (again,) = cluster.award().leases
    assert stops(cluster.order(TENANT, "u", Verb.CAP, 3)) == [], "it was ordered before"
    assert (again.id, why, True) in stops(cluster.order(target, name, Verb.CANCEL, at=2.0)), "and now again"


def test_what_is_being_drained_is_cancelled_all_the_same() -> None:
    cluster = Cluster()
    (lease,) = cluster.award().leases
    assert stops(cluster.order(BLOCK, "ocr", Verb.DRAIN, within_s=0.0)) == [
        (lease.id, "ocr is drained by ann: a bad model", False)
    ]
    assert [one[0] for one in stops(cluster.order(BLOCK, "ocr", Verb.CANCEL))] == [lease.id]


def test_a_governor_that_begins_anew_ends_nothing_that_was_cancelled_before() -> None:
    before, cluster = Cluster(), Cluster()
    before.order(BLOCK, "ocr", Verb.CANCEL)
    cluster.tell(Ordered(before.orders))
    assert len(cluster.award().leases) == 1
    assert stops(cluster.tell(Ordered(before.orders))) == []
    assert cluster.governor.snapshot().ordered == ()


def test_what_runs_of_a_drained_tenant_is_placed_elsewhere_when_its_time_is_over() -> None:
    cluster = Cluster()
    (lease,) = cluster.award().leases
    cluster.award(tenant="u")
    assert stops(cluster.order(TENANT, "t", Verb.DRAIN, within_s=10.0)) == []
    assert stops(cluster.tell(Tick(), after=11.0)) == [(lease.id, "t is drained by ann: a bad model", False)]


def test_calls_of_a_block_that_is_ordered_to_come_first_do() -> None:
    def first(priority: int | None) -> str:
        cluster = Cluster(slots=1)
        (lease,) = cluster.award(capability="llm").leases
        cluster.order(BLOCK, "ocr", Verb.PRIORITISE, priority)
        for number, capability in enumerate(("llm", "ocr")):
            group = AskGroup(capability, DataClass.PUBLIC, 1, "t")
            assert cluster.tell(Announce(f"r{number}", 1, "lab", (group,), wait_s=30.0), after=0.1) == []
        (bid,) = bids(cluster.release(lease))
        return bid.points[0].capability

    assert [first(None), first(5)] == ["llm", "ocr"]


def test_who_waits_already_is_put_first_too_and_an_order_of_nodes_is_for_its_own_cluster() -> None:
    cluster = Cluster(slots=1)
    (lease,) = cluster.award(capability="llm").leases
    for number, capability in enumerate(("llm", "ocr")):
        group = AskGroup(capability, DataClass.PUBLIC, 1, "t")
        cluster.tell(Announce(f"r{number}", 1, "lab", (group,), wait_s=30.0), after=0.1)
    cluster.order(BLOCK, "ocr", Verb.PRIORITISE, 5)
    cluster.order(Target.NODE, "other-c/n", Verb.CAP, 1)
    assert cluster.governor.snapshot().ordered == ("block ocr",)
    assert stops(cluster.order(Target.NODE, "other-c/*", Verb.CANCEL)) == []
    (bid,) = bids(cluster.release(lease))
    assert bid.points[0].capability == "ocr"


def test_what_runs_for_a_domain_that_is_expelled_is_stopped_and_its_slots_are_free_when_it_has_ended() -> None:
    cluster = Cluster(slots=1)
    request = LeaseRequest("r", "s", 1, "ocr", DataClass.PUBLIC)
    (reply,) = cluster.tell(Award("lab-c", "r", 1, "cloud", (request,)))
    (lease,) = reply.answer.leases
    assert cluster.tell(Expelled(frozenset({"other"}))) == []
    assert cluster.tell(Expelled(frozenset({"cloud"}))) == [
        LeaseEnded(lease, "expelled"),
        StopAbandoned(lease, "its domain was expelled"),
    ]
    assert cluster.tell(Expelled(frozenset({"cloud"}))) == []
    assert cluster.slots() == 0
    cluster.tell(AbandonedStopped(lease.id))
    assert cluster.slots() == 1
