"""A lease that nobody renews runs out; what runs on under it is stopped, and its slot is nobody else's until then."""

from __future__ import annotations

from typing import Any

import pytest

from ioi_dagster.governors.cluster import (
    LEASE_TTL_S,
    STOP_S,
    AbandonedStopped,
    ClusterGovernor,
    LeaseEnded,
    NodeJoined,
    NodeLeft,
    QuotasChanged,
    Reply,
    StopAbandoned,
    StopStep,
    Tick,
)
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    VerifyRequest,
)
from ioi_dagster.model.quota import QuotaTree
from tests.quotas import share

WHY = "its run has not renewed its lease for 30 s"


class Cluster:
    """Of one node with one slot."""

    def __init__(self, **more: Any) -> None:
        self.governor, self.now = ClusterGovernor("lab", "lab-c", 1, 1.0, **more), 0.0
        self.tell(NodeJoined("n", 1, frozenset({"ocr"})))

    def tell(self, event: Any, at: float | None = None) -> list[Any]:
        self.now = self.now if at is None else at
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        return out

    def award(self, run: str, fence: int = 1, **more: Any) -> Awarded:
        request = LeaseRequest(run, "s", fence, "ocr", DataClass.PUBLIC, tenant=run, **more)
        (reply,) = [
            one
            for one in self.tell(Award("lab-c", run, 1, "home", (request,)))
            if isinstance(one, Reply) and not one.waited
        ]
        assert isinstance(reply.answer, Awarded)
        return reply.answer

    def held(self) -> tuple[list[str], list[str], int]:
        """Steps' runs by lease, those of what was abandoned, and what is free."""
        now = self.governor.snapshot()
        runs = [[one["run"] for one in its] for its in (now.leases, now.abandoned)]
        return runs[0], runs[1], sum(node["free"] for node in now.nodes.values())


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def run_out(cluster: Cluster, **more: Any) -> Lease:
    (lease,) = cluster.award("dead", **more).leases
    assert cluster.tell(Tick(), LEASE_TTL_S - 0.1) == []
    assert cluster.tell(Tick(), LEASE_TTL_S) == [LeaseEnded(lease, "expired"), StopAbandoned(lease, WHY)]
    return lease


@pytest.mark.parametrize("preemptible", [True, False])
def test_its_slot_is_free_when_its_step_has_stopped(cluster: Cluster, preemptible: bool) -> None:
    lease = run_out(cluster, preemptible=preemptible)
    assert cluster.held() == ([], ["dead"], 0)
    assert [one.refusal.code for one in cluster.award("next").rejected] == ["cluster.full"]
    assert cluster.tell(Tick(), LEASE_TTL_S + 1) == [], "it is told once"
    cluster.tell(AbandonedStopped(lease.id))
    assert cluster.held() == ([], [], 1)
    assert len(cluster.award("next").leases) == 1


def test_who_waits_for_room_is_answered_when_it_has_stopped(cluster: Cluster) -> None:
    lease = run_out(cluster)
    asked = (AskGroup("ocr", DataClass.PUBLIC, 1),)
    assert cluster.tell(Announce("next", 1, "home", asked, wait_s=20.0)) == []
    (reply,) = cluster.tell(AbandonedStopped(lease.id))
    assert (reply.waited, [point.slots for point in reply.answer.points]) == (("next", 1, "home"), [1])


def test_what_does_not_say_that_it_has_stopped_keeps_its_slot_for_a_while_only(cluster: Cluster) -> None:
    lease = run_out(cluster)
    cluster.tell(Tick(), LEASE_TTL_S + STOP_S - 0.1)
    assert cluster.held() == ([], ["dead"], 0)
    cluster.tell(Tick(), LEASE_TTL_S + STOP_S)
    assert cluster.held() == ([], [], 1)
    (other,) = cluster.award("next").leases
    cluster.tell(AbandonedStopped(lease.id))
    cluster.tell(AbandonedStopped(other.id))
    assert cluster.held() == (["next"], [], 0), "said too late, or of what is held, it changes nothing"


@pytest.mark.parametrize("event", [NodeLeft("n"), NodeJoined("n", 1, frozenset({"ocr"}))])
def test_a_node_that_leaves_or_comes_anew_has_stopped_it(cluster: Cluster, event: Any) -> None:
    run_out(cluster)
    assert cluster.tell(event) == []
    cluster.tell(NodeJoined("n", 1, frozenset({"ocr"})))
    assert cluster.held() == ([], [], 1)


def test_a_process_that_takes_the_run_over_in_time_keeps_it(cluster: Cluster) -> None:
    (lease,) = cluster.award("dead").leases
    for at in (29.0, 58.0):
        assert cluster.tell(VerifyRequest(lease, "home"), at) == [Reply(Renewed((lease.id,)))]
        assert cluster.tell(RenewRequest("dead", (lease.id,), origin="home")) == [Reply(Renewed((lease.id,)))]
    assert cluster.held() == (["dead"], [], 0)


def test_one_that_comes_too_late_gets_it_neither_back_nor_free(cluster: Cluster) -> None:
    lease, lost = run_out(cluster), Renewed((), ("lab-c/1/1",))
    assert cluster.tell(VerifyRequest(lease, "home")) == [Reply(lost)]
    assert cluster.tell(RenewRequest("dead", (lease.id,), (lease.id,), "home")) == [Reply(lost)]
    assert cluster.tell(ReleaseRequest("dead", (lease.id,), "home")) == []
    assert [one.refusal.code for one in cluster.award("dead").rejected] == ["cluster.stale_fence"]
    assert [one.refusal.code for one in cluster.award("dead", fence=2).rejected] == ["cluster.full"]
    assert cluster.held() == ([], ["dead"], 0)


def test_nobody_has_it_stopped_for_a_guarantee_besides() -> None:
    cluster = Cluster(quotas=QuotaTree.flat((share("owner", guarantee=1),)))
    run_out(cluster)
    asked = (AskGroup("ocr", DataClass.PUBLIC, 1, "owner"),)
    assert not [one for one in cluster.tell(Announce("r", 1, "home", asked, wait_s=20.0)) if isinstance(one, StopStep)]
    assert cluster.tell(QuotasChanged(QuotaTree.flat((share("dead", borrows=0), share("owner", guarantee=1))))) == []
    assert cluster.held() == ([], ["dead"], 0)


def test_one_whose_step_waits_for_others_keeps_no_slot(cluster: Cluster) -> None:
    (lease,) = cluster.award("dead").leases
    cluster.tell(RenewRequest("dead", (lease.id,), (lease.id,), "home"))
    cluster.tell(Tick(), LEASE_TTL_S)
    assert cluster.held() == ([], ["dead"], 1)
    cluster.tell(AbandonedStopped(lease.id))
    assert cluster.held() == ([], [], 1)


def test_where_whoever_holds_the_leases_stops_steps_itself_nothing_is_kept() -> None:
    cluster = Cluster(stop_s=0.0)
    (lease,) = cluster.award("alone").leases
    assert cluster.tell(Tick(), LEASE_TTL_S) == [LeaseEnded(lease, "expired")]
    assert cluster.held() == ([], [], 1)


def test_who_plans_ahead_hears_that_its_slot_is_free_soon(cluster: Cluster) -> None:
    lease = run_out(cluster, seconds=3600.0)
    asked = (AskGroup("ocr", DataClass.PUBLIC, 1),)
    (reply,) = cluster.tell(Announce("next", 1, "home", asked, about=("ocr",)))
    (node,) = reply.answer.nodes
    assert [busy.seconds for busy in node.busy] == [0.0], f"not the rest of the hour of {lease.step}"
