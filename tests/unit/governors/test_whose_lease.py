"""Two domains call a run the same: what one asks for and holds, the other does not touch."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from ioi_dagster.governors.cluster import ClusterGovernor, LeaseEnded, NodeJoined, Reply, Withdrawn
from ioi_dagster.governors.node import Admit, NodeGovernor, StartAsked
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
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.start import StartRequest


class Cluster:
    def __init__(self, slots: int) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        self.tell(NodeJoined("n", slots, frozenset({"ocr"})))

    def tell(self, event: Any, now: float = 0.0) -> list[Any]:
        out = self.governor.handle(event, now)
        self.governor.validate()
        return out

    def award(self, origin: str, fence: int = 1) -> Awarded:
        request = LeaseRequest("r", "s", fence, "ocr", DataClass.PUBLIC)
        (answer,) = [
            one.answer for one in self.tell(Award("lab-c", "r", 1, origin, (request,))) if isinstance(one, Reply)
        ]
        assert isinstance(answer, Awarded)
        return answer

    def renewed(self, event: Any) -> Renewed:
        (reply,) = self.tell(event)
        return reply.answer

    def announce(self, origin: str, wait_s: float) -> list[Reply]:
        groups = (AskGroup("ocr", DataClass.PUBLIC, 1),)
        out = self.tell(Announce("r", 1, origin, groups, wait_s=wait_s))
        return [one for one in out if isinstance(one, Reply)]


def test_another_domain_neither_renews_nor_confirms_nor_releases_a_lease():
    cluster = Cluster(1)
    (lease,) = cluster.award("library").leases
    ids = (lease.id,)
    assert cluster.renewed(RenewRequest("r", ids, origin="cloud")) == Renewed((), ids)
    assert cluster.renewed(VerifyRequest(lease, "cloud")) == Renewed((), ids)
    assert cluster.tell(ReleaseRequest("r", ids, "cloud")) == []
    for origin in ("library", ""):
        assert cluster.renewed(RenewRequest("r", ids, origin=origin)) == Renewed(ids, ())
        assert cluster.renewed(VerifyRequest(lease, origin)) == Renewed(ids, ())
    assert [one["origin"] for one in cluster.governor.snapshot().leases] == ["library"]
    assert cluster.tell(ReleaseRequest("r", ids, "library")) == [LeaseEnded(lease, "released")]


@pytest.mark.parametrize("name", [field.name for field in fields(Lease)])
def test_a_lease_is_confirmed_as_it_was_granted_and_not_with_any_field_changed(name):
    """Who holds one makes the permits for it, so he could make them out for another node or more than was granted."""
    cluster = Cluster(1)
    (lease,) = cluster.award("library").leases
    value = getattr(lease, name)
    changed = replace(lease, **{name: value + 1 if isinstance(value, int | float) else f"{value}x"})
    assert cluster.renewed(VerifyRequest(changed, "library")) == Renewed((), (changed.id,))
    assert cluster.renewed(VerifyRequest(lease, "library")) == Renewed((lease.id,), ())


def test_another_domains_award_neither_gets_a_lease_nor_ends_it():
    cluster = Cluster(2)
    (lease,) = cluster.award("library").leases
    (other,) = cluster.award("cloud").leases
    assert other.id != lease.id
    assert cluster.award("cloud", fence=7).leases[0].id not in {lease.id, other.id}
    assert cluster.award("library").leases == (lease,), "it is held still, and no newer fence is known"


def test_another_domains_announcement_and_its_end_leave_one_that_waits():
    cluster = Cluster(1)
    cluster.award("other")
    assert cluster.announce("library", 9.0) == []
    assert [reply.waited for reply in cluster.announce("cloud", 0.0)] == [None]
    cluster.tell(Withdrawn("r", 1, "cloud"))
    (held,) = cluster.governor.snapshot().leases
    (reply,) = [one for one in cluster.tell(ReleaseRequest("r", (held["id"],), "other")) if isinstance(one, Reply)]
    assert reply.waited == ("r", 1, "library")
    assert cluster.award("cloud").leases == (), "what was offered is kept for whom it was offered to"
    assert len(cluster.award("library").leases) == 1


@pytest.mark.parametrize(("issuer", "admitted"), [("library", False), ("cloud", True)])
def test_another_domains_fence_does_not_hold_back_a_start(issuer, admitted):
    node = NodeGovernor("n", "lab-c", frozenset({"ocr"}), True)

    def start(by: str, fence: int) -> bool:
        lease = Lease(f"lab-c/1/{fence}", "r", "s", fence, 0, "ocr", "lab-c", "lab", "n", 1, origin=by)
        permit = StepPermit(
            "r", "s", fence, 0, lease.id, "ocr", DataClass.PUBLIC, "lab", "lab-c", "n", "", 0.0, 9e9, f"{by}{fence}", by
        )
        (said,) = node.handle(StartAsked(StartRequest("block", lease, None, "ocr", b""), permit, 0.0), 0.0)
        return isinstance(said, Admit)

    assert start("library", 9)
    assert start(issuer, 3) == admitted
