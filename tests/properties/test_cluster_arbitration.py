"""Whatever is asked, awarded, ended, lost and changed in whatever order, of several resources and in gangs: nothing is given
twice, limits hold, whole gangs start, and what is stopped for others ends."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.cluster import (
    ClusterGovernor,
    LeaseEnded,
    NodeJoined,
    NodeLeft,
    NodeReported,
    NodeResized,
    QuotasChanged,
    Reply,
    StopStep,
    Tick,
)
from ioi_dagster.governors.parked import OFFER_S
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    RenewRequest,
)
from ioi_dagster.model.quota import ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota

RUNS = st.sampled_from(["a1", "a2", "b1", "c1", "d1"])
NODES = st.sampled_from(["n1", "n2", "n3"])
CAPABILITIES = {"n1": {"ocr"}, "n2": {"ocr", "llm"}, "n3": {"llm"}}
RESOURCES = st.sampled_from([(), (), (("gpu", 1.0),), (("gpu", 0.5), ("memory", 2.0)), (("memory", 5.0),)])
AMOUNT = st.sampled_from([0.0, 1.0, 2.0])
WAIT_S = 5.0


@st.composite
def quotas(draw) -> Quota:
    guarantee = {"slots": draw(AMOUNT), "gpu": draw(AMOUNT)}
    lends = {"slots": draw(st.sampled_from([0.0, guarantee["slots"]]))} if draw(st.booleans()) else {}
    borrows = {draw(st.sampled_from(["slots", "gpu"])): draw(st.sampled_from([0.0, 1.0, 2.0, 4.0]))}
    return Quota(guarantee, lends, borrows if draw(st.booleans()) else {})


@st.composite
def trees(draw) -> QuotaTree:
    weights = st.sampled_from([0.5, 1.0, 3.0])
    classes = (ClassQuota("ocr", 2.0),) if draw(st.booleans()) else ()
    a, b, c = (TenantQuota(name, draw(weights), draw(quotas())) for name in "abc")
    c = TenantQuota("c", c.weight, Quota(), classes)
    parent = draw(st.sampled_from(["", "x"]))
    return QuotaTree((CohortQuota("x", (a, b)), CohortQuota("y", (c, TenantQuota("*")), parent=parent)))


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tree: QuotaTree | None = None
        self.now, self.count = 0.0, 0
        self.nodes: dict[str, dict[str, float]] = {}
        self.governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=1e6)
        self.open: dict[str, int] = {}
        self.with_gangs: set[str] = set()
        """Runs that ask for a gang."""
        self.leases: dict[str, tuple[Lease, LeaseRequest]] = {}
        self.offered: dict[str, tuple[Bid, float]] = {}
        """What those that waited were offered last, and until when it is kept: no longer than until nodes change, or steps that
        waited for others go on."""
        self.told: list[Bid] = []
        """What those that waited were answered."""
        self.stopping: set[str] = set()
        self.waiting: set[str] = set()

    @initialize(tree=trees(), limited=st.booleans())
    def begins(self, tree: QuotaTree, limited: bool) -> None:
        if limited:
            self.changes(tree)
        for node, slots, gpu, memory in (("n1", 2, 1.0, 0.0), ("n2", 3, 2.0, 8.0), ("n3", 2, 0.0, 8.0)):
            self.joins(node, slots, gpu, memory)

    def handle(self, event, requests: tuple[LeaseRequest, ...] = ()) -> Reply | None:
        own = None
        if isinstance(event, NodeJoined | NodeResized | NodeLeft | NodeReported | RenewRequest):
            self.offered = {run: (bid, self.now) for run, (bid, _) in self.offered.items()}
        for one in self.governor.handle(event, self.now):
            match one:
                case Reply(answer, granted, None):
                    own = one
                    by_step = {request.step: request for request in requests}
                    self.leases |= {lease.id: (lease, by_step[lease.step]) for lease in granted}
                case Reply(answer, _, (run, round_, _)):
                    assert self.open.pop(run) == round_, "each is answered once"
                    assert isinstance(answer, Bid)
                    self.told.append(answer)
                    if answer.points:
                        self.offered[run] = (answer, self.now + OFFER_S)
                    self.whole(answer)
                case LeaseEnded(lease, _):
                    del self.leases[lease.id]
                    self.stopping.discard(lease.id)
                    self.waiting.discard(lease.id)
                case StopStep(lease, _):
                    assert self.leases[lease.id][1].preemptible, "what may run once only is left alone"
                    assert lease.id not in self.stopping, "each is told once"
                    assert lease.id not in self.waiting
                    self.stopping.add(lease.id)
        return own

    def whole(self, bid: Bid) -> None:
        for point in bid.points:
            assert point.slots > 0
            assert not point.gang or point.slots % point.gang == 0

    # What comes -------------------------------------------------------------------------------------------------

    @rule(tree=trees())
    def changes(self, tree: QuotaTree) -> None:
        if tree.errors():
            with pytest.raises(BadInputError):
                self.handle(QuotasChanged(tree))
            return
        self.handle(QuotasChanged(tree))
        self.tree = tree

    @rule(
        node=NODES,
        change=st.sampled_from(["joins", "resizes", "leaves", "reports", "reports"]),
        slots=st.integers(0, 4),
        gpu=AMOUNT,
        memory=st.sampled_from([0.0, 0.0, 0.95]),
        closed=st.booleans(),
    )
    def node_changes(self, node, change, slots, gpu, memory, closed) -> None:
        match change:
            case "joins":
                self.joins(node, slots, gpu, 8.0)
            case "resizes":
                if node in self.nodes:
                    self.nodes[node]["slots"] = float(slots)
                self.handle(NodeResized(node, slots))
            case "leaves":
                self.handle(NodeLeft(node))
                self.nodes.pop(node, None)
            case "reports":
                self.handle(NodeReported(node, frozenset({"ocr"}), memory, (), closed))

    def joins(self, node: str, slots: int, gpu: float, memory: float) -> None:
        has = {"slots": float(slots), "gpu": gpu, "memory": memory}
        self.nodes[node] = has
        resources = tuple((name, amount) for name, amount in sorted(has.items()) if name != "slots" and amount)
        self.handle(NodeJoined(node, slots, frozenset(CAPABILITIES[node]), resources))

    @rule(
        run=RUNS,
        asked=st.lists(
            st.tuples(st.sampled_from(["ocr", "llm"]), st.integers(1, 4), RESOURCES, st.sampled_from([0, 0, 2])),
            min_size=1,
            max_size=3,
        ),
        waits=st.sampled_from([True, True, False]),
    )
    def announces(self, run, asked, waits) -> None:
        self.announces_of(run, asked, waits)

    def announces_of(self, run, asked, waits) -> None:
        self.count += 1
        (self.with_gangs.add if any(gang for *_, gang in asked) else self.with_gangs.discard)(run)
        groups = tuple(
            AskGroup(capability, DataClass.PUBLIC, count * max(1, gang), run[0], 0, resources, gang)
            for capability, count, resources, gang in asked
        )
        reply = self.handle(Announce(run, self.count, "x", groups, wait_s=WAIT_S if waits else 0.0))
        if reply is None:
            assert waits
            self.open[run] = self.count
        else:
            assert isinstance(reply.answer, Bid)
            self.whole(reply.answer)
            if reply.answer.points:
                self.offered.pop(run, None)  # it may be kept for it, in place of what it was offered before

    @rule(run=RUNS, others=st.sets(RUNS, min_size=1, max_size=3))
    def floods(self, run, others) -> None:
        """One takes all that there is, and others want it."""
        for capability in ("ocr", "llm"):
            self.awards_of(run, capability, (), 5, False, (True, False, [], []))
            for other in sorted(others):
                self.announces_of(other, [(capability, 2, (), 0)], True)

    @rule(
        run=RUNS,
        capability=st.sampled_from(["ocr", "llm"]),
        resources=RESOURCES,
        taken=st.integers(1, 3),
        gang=st.booleans(),
        more=st.tuples(st.booleans(), st.booleans(), st.lists(NODES, max_size=2), st.lists(NODES, max_size=2)),
    )
    def awards(self, run, capability, resources, taken, gang, more) -> None:
        self.awards_of(run, capability, resources, taken, gang, more)

    def awards_of(self, run, capability, resources, taken, gang, more) -> None:
        before = self.free()
        preemptible, checkpointable, avoid, prefer = more
        requests = []
        for _ in range(taken):
            self.count += 1
            requests.append(
                LeaseRequest(
                    run, f"s{self.count}", 1, capability, DataClass.PUBLIC, 0, run[0], tuple(avoid), tuple(prefer),
                    preemptible, checkpointable, 0, resources, f"g{self.count // 10}" if gang else "",
                )
            )  # fmt: skip
        reply = self.handle(Award("c", run, 1, "x", tuple(requests)), tuple(requests))
        assert reply is not None
        answer = reply.answer
        self.offered.pop(run, None)
        assert isinstance(answer, Awarded)
        assert {lease.step for lease in answer.leases} | {item.step for item in answer.rejected} == {
            request.step for request in requests
        }
        by_gang = Counter(request.gang for request in requests if request.gang)
        got = Counter(self.leases[lease.id][1].gang for lease in answer.leases)
        assert all(got[name] in (0, count) for name, count in by_gang.items()), "a gang is leased whole"
        after = self.free()
        for lease in answer.leases:
            assert capability in CAPABILITIES[lease.node]
            for name, amount in after[lease.node].items():
                asked = 1.0 if name == "slots" else dict(resources).get(name, 0.0)
                assert not asked or amount > -1e-6, f"{lease.node} had {before[lease.node]} for {resources}"

    @rule(run=RUNS)
    def takes_what_it_was_offered(self, run) -> None:
        """While no node has changed, whoever has come meanwhile."""
        if run not in self.offered:
            return
        bid, until = self.offered.pop(run)
        requests = []
        for point in bid.points:
            for number in range(point.slots):
                self.count += 1
                gang = f"{self.count - number % point.gang}" if point.gang else ""
                requests.append(
                    LeaseRequest(
                        run, f"s{self.count}", 1, point.capability, DataClass.PUBLIC, 0, run[0],
                        resources=point.resources, gang=gang,
                    )
                )  # fmt: skip
        reply = self.handle(Award("c", run, 1, "x", tuple(requests)), tuple(requests))
        assert reply is not None
        assert isinstance(reply.answer, Awarded)
        assert len(reply.answer.leases) == len(requests) or until <= self.now, "it is kept for it"

    @rule(data=st.data())
    def release(self, data) -> None:
        if self.leases:
            lease, _ = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
            self.handle(ReleaseRequest(lease.run, (lease.id,)))

    @rule(data=st.data(), waits=st.booleans())
    def some_wait(self, data, waits) -> None:
        if self.leases:
            lease, _ = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
            self.handle(RenewRequest(lease.run, (lease.id,), (lease.id,) if waits else ()))
            self.waiting = {one["id"] for one in self.governor.snapshot().leases if one["waiting"]}

    @rule(later=st.sampled_from([0.1, 1.0, 3.0, 70.0]))
    def passes(self, later) -> None:
        self.now += later
        self.handle(Tick())

    @rule()
    def stops_end(self) -> None:
        """Who is told to stop does. Nobody is stopped for ever, and limits hold then."""
        for _ in range(30):
            self.now += 1.0
            self.handle(Tick())
            if not self.stopping:
                break
            for name in sorted(self.stopping):
                self.handle(ReleaseRequest(self.leases[name][0].run, (name,)))
        assert not self.stopping, "evictions do not end"
        for _, tenant in self.tree.tenants() if self.tree else ():
            for resource, most in tenant.quota.borrows.items():
                its = [
                    (1.0 if resource == "slots" else dict(request.resources).get(resource, 0.0), request.preemptible)
                    for name, (lease, request) in self.leases.items()
                    if request.tenant == tenant.name and name not in self.waiting
                ]
                over = sum(amount for amount, _ in its) - tenant.quota.guarantee.get(resource, 0.0) - most
                assert over < 1e-6 or not any(amount and preemptible for amount, preemptible in its)

    # What holds -------------------------------------------------------------------------------------------------

    def free(self) -> dict[str, dict[str, float]]:
        """By node, what its leases leave."""
        left = {name: dict(has) for name, has in self.nodes.items()}
        for name, (lease, request) in self.leases.items():
            if name not in self.waiting:
                left[lease.node]["slots"] -= 1.0
                for resource, amount in request.resources:
                    left[lease.node][resource] -= amount
        return left

    @invariant()
    def adds_up(self) -> None:
        self.governor.validate()
        snapshot = self.governor.snapshot()
        assert {one["id"] for one in snapshot.leases} == self.leases.keys()
        assert snapshot.parked == len(self.open)
        used = Counter(request.tenant for name, (_, request) in self.leases.items() if name not in self.waiting)
        for name, its in snapshot.tenants.items():
            assert its["used"]["slots"] >= used[name] - 1e-6
            assert 0.0 <= its["entitled"] <= 1.0 + 1e-6
            assert its["limit"].get("slots", 1e9) >= its["guarantee"]["slots"] - 1e-6

    @rule()
    def nobody_waits_in_an_idle_cluster(self) -> None:
        """Where nothing runs and nothing is offered, what waits could not start for a reason that stays."""
        for lease, _ in list(self.leases.values()):
            self.handle(ReleaseRequest(lease.run, (lease.id,)))
        for node in self.nodes:
            self.handle(NodeReported(node, frozenset()))
        for _ in range(20):
            self.now += OFFER_S
            before = len(self.open)
            self.told.clear()
            self.handle(Tick())
            if not any(bid.points for bid in self.told):
                break
        else:
            raise AssertionError(f"offers do not end, {before} wait")
        waiting = dict(self.open)
        self.now += WAIT_S
        self.handle(Tick())
        assert not self.open
        codes = {refusal.code for bid in self.told if bid.run in waiting for refusal in bid.refusals}
        away = {"cluster.node_away"} if CAPABILITIES.keys() - self.nodes.keys() else set()
        assert codes <= away | {"cluster.not_offered", "cluster.never", "cluster.limit", "cluster.kept", "cluster.full"}
        if "cluster.full" in codes:
            # A gang may be more than the nodes that are left have together.
            empty = any(node["slots"] == 0 for node in self.nodes.values()) or not self.nodes
            assert empty or self.with_gangs & waiting.keys(), "some have no slots at all"


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
