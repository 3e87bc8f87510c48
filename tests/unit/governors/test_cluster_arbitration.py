"""Resources, gangs, cohorts, classes and checkpoints, as a cluster governor deals with them."""

from __future__ import annotations

from typing import Any

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors import tally
from ioi_dagster.governors.cluster import (
    EVERYTHING,
    ClusterGovernor,
    NodeJoined,
    NodeLeft,
    NodeReported,
    NodeResized,
    QuotasChanged,
    Reply,
    StopStep,
    Tick,
)
from ioi_dagster.governors.fairness import arbiter
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
from ioi_dagster.model.quota import ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota

GPU, MEMORY = "gpu", "memory"
SERVES = frozenset({"ocr", "llm"})


class Cluster:
    def __init__(self, *nodes: NodeJoined, quotas: QuotaTree | None = None) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0, quotas=quotas, ttl_s=1e6)
        self.now = 0.0
        self.round = 0
        for node in nodes:
            self.event(node)

    def event(self, event: Any) -> list[Any]:
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        return out

    def ask(self, run: str, count: int, capability: str = "ocr", wait_s: float = 0.0, **more: Any) -> list[Any]:
        self.round += 1
        group = AskGroup(capability, DataClass.PUBLIC, count, more.pop("tenant", run), **more)
        return self.event(Announce(run, self.round, "home", (group,), wait_s=wait_s))

    def offered(self, run: str, count: int, capability: str = "ocr", **more: Any) -> int:
        """Slots that are bid for it."""
        return slots(self.ask(run, count, capability, **more)[-1].answer)

    def refusal(self, run: str, count: int, capability: str = "ocr", **more: Any) -> tuple[str, str]:
        (reply,) = self.ask(run, count, capability, **more)
        (refusal,) = reply.answer.refusals
        assert refusal.by == "lab-c"
        return refusal.code, refusal.text

    def award(self, run: str, *steps: str, capability: str = "ocr", fence: int = 1, **more: Any) -> Awarded:
        tenant = more.pop("tenant", run)
        return self._award(
            run, [LeaseRequest(run, step, fence, capability, DataClass.PUBLIC, tenant=tenant, **more) for step in steps]
        )

    def award_of(self, *steps: tuple[str, int, str]) -> Awarded:
        """Of step, fence and gang."""
        return self._award(
            "r",
            [
                LeaseRequest("r", step, fence, "ocr", DataClass.PUBLIC, tenant="r", gang=gang)
                for step, fence, gang in steps
            ],
        )

    def _award(self, run: str, requests: list[LeaseRequest]) -> Awarded:
        (reply,) = [
            one
            for one in self.event(Award("lab-c", run, 1, "home", tuple(requests)))
            if isinstance(one, Reply) and one.waited is None
        ]
        assert isinstance(reply.answer, Awarded)
        return reply.answer

    def release(self, run: str, *leases: str) -> list[Any]:
        return self.event(ReleaseRequest(run, leases))

    def tenant(self, name: str) -> dict[str, Any]:
        return self.governor.snapshot().tenants[name]


def slots(bid: Bid) -> int:
    return sum(point.slots for point in bid.points)


def waited(out: list[Any]) -> dict[str, int]:
    """By run, what those that waited are offered."""
    return {one.waited[0]: slots(one.answer) for one in out if isinstance(one, Reply) and one.waited is not None}


def stopped(out: list[Any]) -> list[str]:
    return [one.lease.step for one in out if isinstance(one, StopStep)]


def node(name: str, slots: int, serves: frozenset[str] = SERVES, **resources: float) -> NodeJoined:
    return NodeJoined(name, slots, serves, tuple(sorted(resources.items())))


def tree(*tenants: TenantQuota, cohort: str = "all") -> QuotaTree:
    return QuotaTree((CohortQuota(cohort, (*tenants, TenantQuota("*"))),))


def one_gpu(amount: float = 1.0) -> dict[str, Any]:
    return {"resources": ((GPU, amount),)}


# Resources ----------------------------------------------------------------------------------------------------------


def test_what_a_step_takes_besides_its_slot_is_taken_of_the_node_that_has_it():
    cluster = Cluster(node("plain", 4), node("fast", 4, gpu=2.0))
    assert cluster.offered("r", 9, **one_gpu()) == 2
    leases = cluster.award("r", "a", "b", **one_gpu()).leases
    assert [lease.node for lease in leases] == ["fast", "fast"]
    code, text = cluster.refusal("r", 1, **one_gpu())
    assert (code, text) == ("cluster.full", "no node has 1 slot, 1 gpu free for it")
    assert cluster.offered("r", 9) == 6, "slots alone are there still"
    cluster.release("r", leases[0].id)
    assert cluster.offered("r", 9, **one_gpu()) == 1


def test_a_bid_names_the_resources_that_it_answers():
    (reply,) = Cluster(node("fast", 4, gpu=2.0)).ask("r", 1, **one_gpu())
    assert [(point.resources, point.slots) for point in reply.answer.points] == [(((GPU, 1.0),), 1)]


def test_steps_that_need_nothing_rare_go_where_nothing_rare_is():
    cluster = Cluster(node("fast", 4, gpu=2.0), node("plain", 4))
    nodes = [lease.node for lease in cluster.award("r", *"abcdef").leases]
    assert nodes == ["plain"] * 4 + ["fast"] * 2


def test_a_resource_comes_with_the_node_that_has_it():
    cluster = Cluster(node("plain", 1))
    assert cluster.refusal("r", 1, **one_gpu())[0] == "cluster.never"
    (held,) = cluster.award("other", "s").leases
    assert cluster.ask("waits", 1, wait_s=50.0) == []
    assert waited(cluster.event(node("fast", 1, gpu=1.0))) == {"waits": 1}
    cluster.award("waits", "s")
    assert cluster.offered("r", 1, **one_gpu()) == 0, "its slot is taken"
    cluster.release("other", held.id)
    cluster.event(NodeResized("plain", 1, ((GPU, 2.0),)))
    assert cluster.offered("r", 1, **one_gpu(2.0)) == 1


def test_shares_are_of_what_a_tenant_takes_most_of():
    cluster = Cluster(node("n", 100, gpu=4.0))
    assert slots(cluster.ask("a", 99, tenant="a", wait_s=50.0, **one_gpu())[0].answer) == 4
    cluster.ask("b", 99, tenant="b", **one_gpu())
    assert cluster.offered("a", 99, **one_gpu()) == 2, "half of the gpus, though of slots it would have next to nothing"
    assert cluster.offered("c", 99) == 96, "who needs none of them has all slots but those that go with the gpus"


# What can never be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"resources": ((GPU, 3.0),)}, "the most on any of the 2 nodes allowed: 4 slots, 2 gpu"),
        ({"resources": (("tpu", 1.0),)}, "no node has tpu; nodes have gpu, slots"),
        ({"gang": 9, "count": 9}, "8 of its 9 copies would fit into the empty nodes"),
        ({"tenant": "small", "gang": 3, "count": 3}, "it needs 3 slots; tenant small may use 2 at most"),
        ({"gang": 4, "count": 3}, "a gang of 4 of 3 steps"),
        ({"count": 0}, "no step is asked for"),
    ],
)
def test_what_nothing_could_ever_satisfy_is_told_at_once_and_does_not_wait(asked, says):
    small = TenantQuota("small", quota=Quota({}, {}, {"slots": 2.0}))
    cluster = Cluster(node("plain", 4), node("fast", 4, gpu=2.0), quotas=tree(small))
    count = asked.pop("count", 1)
    code, text = cluster.refusal("r", count, wait_s=50.0, **asked)
    assert code == "cluster.never"
    assert says in text
    assert cluster.governor.snapshot().parked == 0
    more = {"gang": "g"} if asked.pop("gang", 0) else {}
    if not count or says.startswith("a gang"):
        return  # of an award nobody can say that
    steps = [f"s{number}" for number in range(count)]
    codes = {item.refusal.code for item in cluster.award("r", *steps, **more, **asked).rejected}
    assert codes == {"cluster.never"}


def test_tenants_that_are_not_named_are_forgotten_when_they_ask_for_nothing_and_too_many_at_a_time_are_refused(
    monkeypatch,
):
    monkeypatch.setattr(arbiter, "MAX_TENANTS", 3)
    cluster = Cluster(node("n", 9))
    for number in range(20):
        assert cluster.offered(f"t{number}", 1) == 1
        cluster.now += 1.0
    (held,) = cluster.award("holds", "s").leases
    for number in (1, 2):
        assert cluster.offered(f"r{number}", 1) == 1
    assert cluster.refusal("one-more", 1) == (
        "cluster.full", "3 tenants ask for something here, and 'one-more' would be one more",
    )  # fmt: skip
    cluster.release("holds", held.id)
    assert cluster.offered("one-more", 1) == 1


def test_a_capability_that_no_node_offers_yet_is_waited_for():
    cluster = Cluster(node("n", 1))
    assert cluster.ask("r", 1, "fly", wait_s=50.0) == []
    assert waited(cluster.event(node("m", 1, frozenset({"fly"})))) == {"r": 1}


def test_a_node_that_serves_whatever_is_asked_counts_what_it_says_that_it_has():
    cluster = Cluster(NodeJoined("n", 2, EVERYTHING, ((GPU, 1.0),)))
    assert cluster.offered("r", 9, "anything", resources=(("tpu", 5.0),)) == 2
    assert cluster.offered("r", 9, "anything", **one_gpu()) == 1


# Gangs --------------------------------------------------------------------------------------------------------------


def test_a_gang_is_offered_and_leased_whole():
    cluster = Cluster(node("n1", 3), node("n2", 3))
    assert cluster.offered("r", 8, gang=4) == 4
    leases = cluster.award("r", *"abcd", gang="g").leases
    assert len(leases) == 4
    assert cluster.offered("r", 4, gang=4) == 0
    rejected = cluster.award("r", *"efgh", gang="h").rejected
    assert [item.refusal.code for item in rejected] == ["cluster.full"] * 4
    assert "for each of 4 at once" in rejected[0].refusal.text
    assert len(cluster.award("r", *"ef", gang="i").leases) == 2
    cluster.release("r", leases[0].id)
    assert cluster.offered("r", 1) == 1, "each of them ends by itself"


def test_the_same_gang_twice_is_the_same_leases_and_a_stale_step_takes_the_others_with_it():
    cluster = Cluster(node("n", 4))
    first = cluster.award("r", "a", "b", gang="g")
    assert cluster.award("r", "a", "b", gang="g") == first
    again = cluster.award("r", "a", "b", gang="g", fence=2)
    assert len(again.leases) == 2
    cluster.release("r", *(lease.id for lease in again.leases))
    requests = (
        LeaseRequest("r", "a", 2, "ocr", DataClass.PUBLIC, tenant="r", gang="g"),
        LeaseRequest("r", "b", 3, "ocr", DataClass.PUBLIC, tenant="r", gang="g"),
    )
    (reply,) = cluster.event(Award("lab-c", "r", 1, "home", requests))
    assert reply.answer.leases == ()
    assert [item.refusal.code for item in reply.answer.rejected] == ["cluster.stale_fence", "cluster.gang"]


@pytest.mark.parametrize("gang", ["", "g"])
@pytest.mark.parametrize("fence", [1, 2])
def test_a_step_that_stands_twice_in_an_award_is_leased_once_and_its_slot_is_free_again(gang: str, fence: int):
    cluster = Cluster(node("n", 3))
    answer = cluster.award_of(("a", 1, gang), ("a", fence, gang), ("b", 1, gang))
    assert [(lease.step, lease.fence) for lease in answer.leases] == [("a", 1), ("b", 1)]
    assert [(one.step, one.fence, one.refusal.code) for one in answer.rejected] == [("a", fence, "cluster.twice")]
    told = cluster.governor.snapshot().asked["r"]
    assert (told["leased"], told["rejected"]) == (2, {"cluster.twice": 1})
    cluster.release("r", *(lease.id for lease in answer.leases))
    assert cluster.offered("r", 9) == 3


def test_a_gang_that_names_a_step_of_another_is_not_leased_without_it():
    cluster = Cluster(node("n", 4))
    answer = cluster.award_of(("a", 1, "g"), ("b", 1, "h"), ("a", 1, "h"), ("c", 1, ""), ("c", 1, "i"))
    assert [lease.step for lease in answer.leases] == ["a", "c"]
    told = [(one.step, one.refusal.code) for one in answer.rejected]
    assert told == [("b", "cluster.gang"), ("a", "cluster.twice"), ("c", "cluster.twice")]


def test_a_gang_of_steps_that_ask_for_different_things_is_refused():
    requests = tuple(
        LeaseRequest("r", step, 1, capability, DataClass.PUBLIC, gang="g")
        for step, capability in (("a", "ocr"), ("b", "llm"))
    )
    (reply,) = Cluster(node("n", 4)).event(Award("lab-c", "r", 1, "home", requests))
    assert [item.refusal.code for item in reply.answer.rejected] == ["cluster.mixed_gang"] * 2


def test_room_collects_for_a_gang_that_waits_while_small_ones_end():
    cluster = Cluster(node("n1", 2), node("n2", 2))
    held = list(cluster.award("flood", *"abcd").leases)
    assert cluster.ask("gang", 4, gang=4, wait_s=50.0) == []
    assert cluster.ask("flood", 9, wait_s=50.0) == []
    for number in range(3):
        assert waited(cluster.release("flood", held[number].id)) == {}, "those are kept for it"
    assert waited(cluster.release("flood", held[3].id)) == {"gang": 4}
    assert len(cluster.award("gang", *"abcd", gang="g").leases) == 4


# Cohorts, classes, guarantees ---------------------------------------------------------------------------------------


def cohorts() -> QuotaTree:
    return QuotaTree(
        (
            CohortQuota("x", (TenantQuota("a"), TenantQuota("b"))),
            CohortQuota("y", (TenantQuota("c"),), weight=1.0),
            CohortQuota("others", (TenantQuota("*"),), weight=0.5),
        )
    )


def test_cohorts_share_first_and_their_tenants_what_that_leaves():
    cluster = Cluster(node("n", 8), quotas=cohorts())
    for tenant in "abc":
        cluster.ask(tenant, 99)
    assert {tenant: cluster.offered(tenant, 99) for tenant in "abc"} == {"a": 2, "b": 2, "c": 4}
    assert cluster.tenant("a")["cohort"] == "x"
    assert cluster.tenant("c")["entitled"] == 0.5


def test_who_is_not_named_has_a_place_of_its_own_at_the_star():
    cluster = Cluster(node("n", 10), quotas=cohorts())
    for tenant in ("a", "c", "new", "newer"):
        cluster.ask(tenant, 99)
    assert [cluster.offered(tenant, 99) for tenant in ("a", "c", "new", "newer")] == [4, 4, 1, 1]
    assert cluster.tenant("new")["cohort"] == "others"


def test_without_a_star_who_is_not_named_has_nothing():
    cluster = Cluster(node("n", 1), quotas=QuotaTree((CohortQuota("x", (TenantQuota("a"),)),)))
    code, text = cluster.refusal("stranger", 1, wait_s=50.0)
    assert (code, text) == ("cluster.never", "'stranger' is not one of the tenants (a)")


def test_a_class_is_called_as_the_capability_that_is_asked_for():
    quotas = tree(TenantQuota("a", classes=(ClassQuota("ocr", 3.0), ClassQuota("llm", 1.0))))
    cluster = Cluster(node("n", 8), quotas=quotas)
    for capability in ("ocr", "llm"):
        cluster.ask(f"run-{capability}", 99, capability, tenant="a")
    assert cluster.offered("run-ocr", 99, "ocr", tenant="a") == 6
    assert cluster.offered("run-llm", 99, "llm", tenant="a") == 2


def test_guarantees_shrink_with_the_nodes_and_come_back_with_them():
    quotas = tree(TenantQuota("a", quota=Quota({"slots": 6.0})), TenantQuota("b", quota=Quota({"slots": 2.0})))
    cluster = Cluster(quotas=quotas)
    assert cluster.ask("a", 9, wait_s=50.0) == []
    assert waited(cluster.event(node("n1", 4))) == {"a": 4}
    cluster.award("a", "s1", "s2", "s3", "s4")
    assert cluster.tenant("a")["guarantee"] == {"slots": 3.0}
    cluster.now = 10.0
    assert stopped(cluster.ask("b", 1)) == ["s4"], "a quarter of what is there is guaranteed to it"
    cluster.event(node("n2", 4))
    assert cluster.tenant("a")["guarantee"] == {"slots": 6.0}


def test_quotas_that_make_no_sense_change_nothing():
    cluster = Cluster(node("n", 2), quotas=cohorts())
    cluster.award("a", "s")
    before = cluster.governor.snapshot()
    for bad in (
        QuotaTree((CohortQuota("x", (TenantQuota("a"),)), CohortQuota("y", (TenantQuota("a"),)))),
        QuotaTree((CohortQuota("x", parent="y"), CohortQuota("y", parent="x"))),
        tree(TenantQuota("a", weight=-1.0)),
    ):
        with pytest.raises(BadInputError):
            cluster.event(QuotasChanged(bad))
    assert cluster.governor.snapshot() == before


def test_what_waits_is_told_when_new_quotas_make_it_impossible():
    cluster = Cluster(node("n", 1))
    cluster.award("other", "s")
    assert cluster.ask("r", 1, wait_s=5.0) == []
    cluster.event(QuotasChanged(tree(TenantQuota("r", quota=Quota({}, {}, {"slots": 0.0})))))
    cluster.now = 5.0
    (reply,) = cluster.event(Tick())
    assert (reply.waited, [refusal.code for refusal in reply.answer.refusals]) == (("r", 1, "home"), ["cluster.never"])


def test_of_what_was_borrowed_steps_that_lose_little_are_stopped_first():
    cluster = Cluster(node("n", 3), quotas=tree(TenantQuota("owner", quota=Quota({"slots": 2.0}))))
    cluster.award("guest", "saves", checkpointable=True)
    cluster.award("guest", "old")
    cluster.now = 1.0
    cluster.award("guest", "young")
    cluster.now = 10.0
    assert stopped(cluster.ask("owner", 9)) == ["saves", "young"]


def test_a_lowered_limit_stops_what_may_be_stopped_at_once_and_never_what_may_run_only_once():
    cluster = Cluster(node("n", 4))
    cluster.award("r", "old")
    cluster.now = 1.0
    (once,) = cluster.award("r", "once", preemptible=False).leases
    cluster.now = 2.0
    cluster.award("r", "young")

    def limited(most: float) -> list[Any]:
        return cluster.event(QuotasChanged(tree(TenantQuota("r", quota=Quota({}, {}, {"slots": most})))))

    assert stopped(limited(2.0)) == ["young"]
    assert cluster.tenant("r")["over"] == {}, "it will have no more than its limit when that has ended"
    assert stopped(limited(0.0)) == ["old"]
    assert cluster.tenant("r")["over"] == {"slots": 1.0}
    for later in (3.0, 100.0):
        cluster.now = later
        assert stopped(cluster.event(Tick())) == []
    assert cluster.award("r", "more").leases == ()
    cluster.release("r", once.id)
    assert cluster.tenant("r")["over"] == {}


def test_a_guarantee_of_a_resource_is_taken_back_from_who_holds_it():
    cluster = Cluster(node("n", 8, gpu=2.0), quotas=tree(TenantQuota("owner", quota=Quota({GPU: 1.0}))))
    cluster.award("guest", "plain")
    cluster.award("guest", "g1", "g2", **one_gpu())
    cluster.now = 10.0
    assert stopped(cluster.ask("owner", 1, **one_gpu())) == [], "nothing is guaranteed of slots, which it needs too"
    both = tree(TenantQuota("owner", quota=Quota({GPU: 1.0, "slots": 1.0})))
    assert stopped(cluster.event(QuotasChanged(both))) == ["g2"]


# Copies of what runs already ----------------------------------------------------------------------------------------


def test_a_copy_has_idle_room_only_and_waits_for_nothing():
    cluster = Cluster(node("n", 4))
    cluster.award("a", "s1")
    assert cluster.offered("late", 9, idle=True, wait_s=50.0) == 3
    cluster.ask("b", 2)
    assert cluster.offered("late", 9, idle=True) == 1, "two of the three are asked for"
    assert len(cluster.award("late", "c1", copy=1).leases) == 1
    (rejected,) = cluster.award("late", "c2", copy=1).rejected
    assert (rejected.refusal.code, rejected.refusal.text) == (
        "cluster.not_its_turn", "what is free is wanted by others, and this is a copy of what runs already",
    )  # fmt: skip
    assert len(cluster.award("b", "t1", "t2").leases) == 2
    (reply,) = cluster.ask("late", 9, idle=True, wait_s=50.0)
    assert [refusal.code for refusal in reply.answer.refusals] == ["cluster.full"]
    assert cluster.governor.snapshot().parked == 0


def test_copies_are_stopped_before_anything_else():
    cluster = Cluster(node("n", 3), quotas=tree(TenantQuota("owner", quota=Quota({"slots": 1.0}))))
    cluster.award("guest", "copied", copy=1)
    cluster.now = 1.0
    cluster.award("guest", "saves", checkpointable=False)
    cluster.award("guest", "young")
    cluster.now = 10.0
    assert stopped(cluster.ask("owner", 1, idle=True)) == [], "nothing is stopped for a copy"
    assert stopped(cluster.ask("owner", 1)) == ["copied"]


# Nodes --------------------------------------------------------------------------------------------------------------


def test_a_step_rather_goes_where_its_inputs_lie_and_where_a_replica_is_warm():
    cluster = Cluster(node("n1", 2), node("n2", 2), node("n3", 2))
    cluster.event(NodeReported("n3", frozenset({"ocr"})))
    assert [lease.node for lease in cluster.award("r", "a").leases] == ["n3"]
    assert [lease.node for lease in cluster.award("r", "b", prefer=("n2", "gone")).leases] == ["n2"]
    assert [lease.node for lease in cluster.award("r", "c", avoid=("n3", "n2")).leases] == ["n1"]
    assert [lease.node for lease in cluster.award("r", "d", avoid=("n1", "n2", "n3")).leases] == ["n3"]


def test_an_offer_is_at_another_node_where_that_suits_better():
    cluster = Cluster(node("n1", 1), node("n2", 1))
    held = {lease.node: lease.id for lease in cluster.award("first", "a", "b").leases}
    assert cluster.ask("r", 1, wait_s=50.0) == []
    assert waited(cluster.release("first", held["n1"])) == {"r": 1}
    cluster.release("first", held["n2"])
    assert [lease.node for lease in cluster.award("r", "s", prefer=("n2",)).leases] == ["n2"]


def test_what_was_offered_at_a_node_that_left_is_given_elsewhere():
    cluster = Cluster(node("n1", 1))
    cluster.award("first", "a")
    assert cluster.ask("r", 1, wait_s=50.0) == []
    assert waited(cluster.event(node("n2", 1))) == {"r": 1}
    cluster.event(NodeLeft("n2"))
    cluster.event(node("n3", 1))
    assert [lease.node for lease in cluster.award("r", "s").leases] == ["n3"]


def test_a_node_that_comes_in_the_place_of_another_one_is_not_taken_for_it():
    cluster = Cluster(node("n", 1, frozenset({"llm"})))
    cluster.award("x", "s", capability="llm")
    assert cluster.ask("waits", 1, "llm", wait_s=50.0) == []
    assert waited(cluster.event(node("n", 1, frozenset({"ocr"})))) == {}


def test_a_step_that_waits_for_others_gives_up_its_resources_too():
    cluster = Cluster(node("n", 2, gpu=1.0))
    (parent,) = cluster.award("r", "p", **one_gpu()).leases
    assert cluster.offered("r", 1, **one_gpu()) == 0
    cluster.event(RenewRequest("r", (parent.id,), (parent.id,)))
    assert cluster.offered("r", 1, **one_gpu()) == 1
    assert cluster.tenant("r")["used"] == {GPU: 0.0, "slots": 0.0}
    cluster.award("r", "child", **one_gpu())
    cluster.event(RenewRequest("r", (parent.id,)))
    assert cluster.tenant("r")["used"] == {GPU: 2.0, "slots": 2.0}, "it goes on, be there room or not"


def test_who_waits_for_what_can_never_be_since_a_node_left_holds_up_nobody():
    withheld = TenantQuota("own", quota=Quota({"slots": 1.0}, {"slots": 0.0}))
    cluster = Cluster(node("n1", 2), node("n2", 2), quotas=tree(withheld))
    leases = cluster.award("x", "s", "t").leases
    assert cluster.ask("big", 2, gang=2, wait_s=50.0) == []
    cluster.event(NodeLeft("n2"))
    cluster.release("x", *(lease.id for lease in leases))
    assert cluster.offered("small", 2) == 1, "of two slots one is lent to nobody, so that a gang of two will not start"


def test_a_node_that_is_to_be_avoided_is_taken_where_no_other_could_take_the_step_at_all() -> None:
    cluster = Cluster(node("a", 2, gpu=1), node("b", 2))
    assert [one.node for one in cluster.award("r", "x", avoid=("a",), **one_gpu()).leases] == ["a"]
    assert cluster.award("r", "y", avoid=("a",), **one_gpu()).leases == ()
    assert [one.node for one in cluster.award("r", "z", avoid=("a",)).leases] == ["b"]


def test_what_became_of_what_was_asked_is_counted_by_tenant() -> None:
    cluster = Cluster(node("n", 2), quotas=tree(TenantQuota("owner", quota=Quota({"slots": 1.0}))))
    cluster.ask("guest", 2)
    cluster.award("guest", "a", "b")
    cluster.award("guest", "a", "b")
    assert len(cluster.award("guest", "c").rejected) == 1
    cluster.ask("guest", 1)
    cluster.now = 10.0
    assert stopped(cluster.ask("owner", 1, wait_s=5.0)) == ["b"]
    assert cluster.governor.snapshot().asked == {
        "guest": {
            "rounds": 2, "offered": 1, "refused": {"cluster.full": 1},
            "leased": 2, "rejected": {"cluster.full": 1}, "stopped": 1,
        },
        "owner": {"rounds": 1, "offered": 0, "refused": {}, "leased": 0, "rejected": {}, "stopped": 0},
    }  # fmt: skip


def test_tenants_beyond_a_thousand_are_counted_together() -> None:
    cluster = Cluster(node("n", 1))
    for number in range(tally.MOST + 5):
        cluster.ask(f"t{number}", 1)
    asked = cluster.governor.snapshot().asked
    assert (len(asked), asked[tally.OTHERS]["rounds"]) == (tally.MOST + 1, 5)


# Room reserved for a gang ---------------------------------------------------------------------------------------------


def reserved() -> Cluster:
    """One node is busy for 100 s, the other is free and held for a gang that needs both."""
    cluster = Cluster(node("one", 1), node("two", 1))
    cluster.award("long", "s", seconds=100.0)
    assert cluster.ask("train", 2, wait_s=50.0, gang=2) == []
    return cluster


@pytest.mark.parametrize(("seconds", "slots_"), [(90.0, 1), (110.0, 0), (0.0, 0)])
def test_who_says_that_it_is_over_before_a_gang_can_start_is_offered_a_node_that_is_held_for_it(seconds, slots_):
    cluster = reserved()
    out = cluster.ask("small", 1, wait_s=50.0, seconds=seconds)
    assert [slots(one.answer) for one in out] == [1] * slots_
    assert len(cluster.award("small", "s").leases) == slots_


def test_what_may_not_be_stopped_gets_no_node_that_is_held_for_a_gang():
    cluster = reserved()
    cluster.ask("small", 1, wait_s=50.0, seconds=90.0)
    (rejected,) = cluster.award("small", "s", preemptible=False).rejected
    assert rejected.refusal.code == "cluster.full"
    assert cluster.release("long", "lab-c/1/1")[-1].waited[0] == "train"


def test_a_step_that_runs_longer_than_was_said_on_a_held_node_is_stopped_when_the_gang_is_due():
    cluster = reserved()
    cluster.ask("small", 1, wait_s=50.0, seconds=10.0)
    (lease,) = cluster.award("small", "s", seconds=10.0).leases
    cluster.now = 45.0
    cluster.ask("train", 2, wait_s=60.0, gang=2)
    assert stopped(cluster.event(Tick())) == []
    cluster.now = 99.0
    cluster.release("long", "lab-c/1/1")
    cluster.now = 100.0
    (stop,) = [one for one in cluster.event(Tick()) if isinstance(one, StopStep)]
    assert (stop.lease, stop.why) == (
        lease,
        "it runs longer than the 10 s it said, on a node reserved for a gang of train",
    )
    assert waited(cluster.release("small", lease.id)) == {"train": 2}


@pytest.mark.parametrize(("checkpointable", "until"), [(False, 0.0), (True, 25.0)])
def test_a_run_hears_that_a_lease_is_lost_when_its_step_has_had_the_time_to_leave_something(checkpointable, until):
    cluster = Cluster(node("n", 1), quotas=tree(TenantQuota("owner", quota=Quota({"slots": 1.0}))))
    (lease,) = cluster.award("guest", "s", checkpointable=checkpointable).leases
    cluster.now = 10.0
    assert stopped(cluster.ask("owner", 1)) == ["s"]
    for later in (0.0, 24.0, 26.0):
        cluster.now = 10.0 + later
        (reply,) = [one for one in cluster.event(RenewRequest("guest", (lease.id,))) if isinstance(one, Reply)]
        assert reply.answer.held == ((lease.id,) if later < until else ())


def test_who_asks_and_has_its_turn_at_once_is_answered_and_not_as_one_that_waited():
    """What others of its tenant were offered in a first round makes it the next: it is answered though not in that round."""
    gpu, large = ((GPU, 1.0),), ((MEMORY, 8.0),)
    x = CohortQuota("x", (TenantQuota("a", 0.5), TenantQuota("b", 0.5)))
    y = CohortQuota("y", (TenantQuota("c", 0.5), TenantQuota("*")))
    cluster = Cluster(
        NodeJoined("n1", 2, frozenset({"ocr"}), gpu),
        NodeJoined("n2", 3, SERVES, ((GPU, 2.0), *large)),
        NodeJoined("n3", 2, frozenset({"llm"}), large),
        quotas=QuotaTree((x, y)),
    )

    def ask(run: str, *groups: tuple[str, int, tuple[tuple[str, float], ...], int]) -> list[Reply]:
        cluster.round += 1
        asked = [
            AskGroup(capability, DataClass.PUBLIC, count * max(1, gang), run[0], 0, its, gang)
            for capability, count, its, gang in groups
        ]
        return cluster.event(Announce(run, cluster.round, "home", tuple(asked), wait_s=5.0))

    one = ("ocr", 1, (), 0)
    ask("a2", one, one)
    ask("d1", one, one, one)
    ask("b1", one, one)
    ask("a1", ("ocr", 1, gpu, 0))
    ask("c1", one)
    ask("a1", ("ocr", 2, (), 0), one)
    ask("a2", ("llm", 1, gpu, 2))
    ask("b1", ("ocr", 2, (), 0))
    ask("a1", ("llm", 1, (), 0))
    *others, last = ask("a2", one)
    assert [reply.waited[0] for reply in others if reply.waited] == ["a2", "a1"]
    assert (last.waited, last.answer.run, last.answer.round, slots(last.answer)) == (None, "a2", cluster.round, 1)
