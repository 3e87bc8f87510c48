"""Whatever is asked of a cluster governor in whatever order, its books balance."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ioi_dagster.governors.cluster import (
    STOP_S,
    AbandonedStopped,
    ClusterGovernor,
    NodeJoined,
    NodeLeft,
    NodeReported,
    Reply,
    StopAbandoned,
    Tick,
)
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    LeaseRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    VerifyRequest,
)

NODES = st.sampled_from(["n1", "n2", "n3"])
STEPS = st.sampled_from(["s1", "s2", "s3", "s4"])
CAPABILITIES = frozenset({"ocr", "trim"})


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=10.0)
        self.now = 0.0
        self.known: dict[str, tuple[str, int]] = {}
        self.abandoned: dict[str, tuple[str, float]] = {}
        """By lease that ran out, its node, and until when its slot is kept there."""

    def ask(self, event):
        out = self.governor.handle(event, self.now)
        self.abandoned = {name: its for name, its in self.abandoned.items() if its[1] > self.now}
        its = [one.lease for one in out if isinstance(one, StopAbandoned)]
        assert not {lease.id for lease in its} & self.abandoned.keys(), "each is told once"
        self.abandoned |= {lease.id: (lease.node, self.now + STOP_S) for lease in its}
        replies = [i.answer for i in out if isinstance(i, Reply)]
        return replies[0] if replies else None

    @rule(node=NODES, slots=st.integers(1, 3))
    def join(self, node, slots):
        self.ask(NodeJoined(node, slots, CAPABILITIES))
        self.gone(node)

    @rule(node=NODES)
    def leave(self, node):
        self.ask(NodeLeft(node))
        self.gone(node)

    def gone(self, node):
        self.abandoned = {name: its for name, its in self.abandoned.items() if its[0] != node}

    @rule(data=st.data())
    def what_was_abandoned_stops(self, data):
        if self.abandoned:
            name = data.draw(st.sampled_from(sorted(self.abandoned)))
            for _ in range(2):
                self.ask(AbandonedStopped(name))
            self.abandoned.pop(name, None)

    @rule(node=NODES, memory=st.floats(0, 1))
    def report(self, node, memory):
        self.ask(NodeReported(node, frozenset({"ocr"}), memory))

    @rule(
        steps=st.lists(st.tuples(STEPS, st.integers(1, 4), st.sampled_from(["", "g", "h"])), min_size=1, max_size=4),
        avoid=st.lists(NODES, max_size=2),
    )
    def award(self, steps, avoid):
        requests = tuple(
            LeaseRequest("r", s, f, "ocr", DataClass.PUBLIC, avoid=tuple(avoid), gang=g) for s, f, g in steps
        )
        answer = self.ask(Award("c", "r", 1, "home", requests))
        assert isinstance(answer, Awarded)
        assert len(answer.leases) + len(answer.rejected) == len(requests)
        assert len({lease.step for lease in answer.leases}) == len(answer.leases), "each step has one lease at most"
        again = self.ask(Award("c", "r", 1, "home", requests[-1:]))
        assert isinstance(again, Awarded)
        if (
            answer.leases
            and answer.leases[-1].step == requests[-1].step
            and answer.leases[-1].fence == requests[-1].fence
        ):
            assert again.leases == answer.leases[-1:], "the same award twice is the same lease"
        for lease in answer.leases:
            self.known[lease.id] = (lease.step, lease.fence)

    @rule(later=st.floats(0, 8))
    def wait(self, later):
        self.now += later
        self.ask(Tick())

    @rule(data=st.data())
    def release(self, data):
        if self.known:
            lease = data.draw(st.sampled_from(sorted(self.known)))
            self.ask(ReleaseRequest("r", (lease,)))
            renewed = self.ask(RenewRequest("r", (lease,)))
            assert isinstance(renewed, Renewed)
            assert renewed.lost == (lease,)

    @rule(data=st.data())
    def some_wait(self, data):
        """A step that waits for others lends its slot; told twice, or by another run, it changes nothing."""
        leases = self.governor.snapshot().leases
        if not leases:
            return
        waiting = {lease["id"] for lease in leases if lease["waiting"]}
        free = {name: node["free"] for name, node in self.governor.snapshot().nodes.items()}
        one = data.draw(st.sampled_from(leases))
        waits = data.draw(st.booleans())
        self.ask(RenewRequest("other", (one["id"],), () if one["waiting"] else (one["id"],)))
        for _ in range(2):
            self.ask(RenewRequest("r", (one["id"],), (one["id"],) if waits else ()))
        after = self.governor.snapshot()
        assert {lease["id"] for lease in after.leases if lease["waiting"]} == (waiting - {one["id"]}) | (
            {one["id"]} if waits else set()
        )
        slots = self.governor.snapshot().nodes[one["node"]]["slots"]
        busy = sum(lease["node"] == one["node"] and not lease["waiting"] for lease in after.leases + after.abandoned)
        assert after.nodes == {
            name: {**node, "free": max(0, slots - busy) if name == one["node"] else free[name]}
            for name, node in after.nodes.items()
        }

    @rule()
    def nobody_else_can_release(self):
        before = len(self.governor.snapshot().leases)
        self.ask(ReleaseRequest("other", tuple(self.known)))
        assert len(self.governor.snapshot().leases) == before

    @rule(count=st.integers(1, 100))
    def bid(self, count):
        bid = self.ask(
            Announce("r", 1, "home", (AskGroup("ocr", DataClass.PUBLIC, count), AskGroup("fly", DataClass.PUBLIC, 1)))
        )
        assert isinstance(bid, Bid)
        free = sum(node["free"] for node in self.governor.snapshot().nodes.values())
        assert sum(point.slots for point in bid.points) <= min(count, free)
        assert "cluster.not_offered" in {refusal.code for refusal in bid.refusals}

    @invariant()
    def balanced(self):
        self.governor.validate()
        snapshot = self.governor.snapshot()
        assert {one["id"]: one["node"] for one in snapshot.abandoned} == {
            name: node for name, (node, _) in self.abandoned.items()
        }


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase


def test_nothing_that_was_granted_is_held_for_ever():
    governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=10.0)
    governor.handle(NodeJoined("n", 1, CAPABILITIES), 0.0)
    governor.handle(Award("c", "r", 1, "home", (LeaseRequest("r", "s", 1, "ocr", DataClass.PUBLIC),)), 0.0)
    assert len(governor.snapshot().leases) == 1
    governor.handle(Tick(), 10.0)
    assert governor.snapshot().leases == ()


def test_a_fence_that_was_granted_is_not_granted_again_after_its_lease():
    governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=10.0)
    governor.handle(NodeJoined("n", 2, CAPABILITIES), 0.0)

    def award(fence):
        (reply,) = governor.handle(
            Award("c", "r", 1, "home", (LeaseRequest("r", "s", fence, "ocr", DataClass.PUBLIC),)), 0.0
        )[-1:]
        return reply.answer

    (lease,) = award(2).leases
    governor.handle(ReleaseRequest("r", (lease.id,)), 0.0)
    assert [item.refusal.code for item in award(1).rejected] == ["cluster.stale_fence"]
    assert [item.refusal.code for item in award(2).rejected] == ["cluster.stale_fence"]
    assert len(award(3).leases) == 1


def test_only_a_lease_that_is_held_as_it_stands_verifies():
    governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=10.0)
    governor.handle(NodeJoined("n", 1, CAPABILITIES), 0.0)
    request = LeaseRequest("r", "s", 1, "ocr", DataClass.PUBLIC)
    (lease,) = governor.handle(Award("c", "r", 1, "home", (request,)), 0.0)[-1].answer.leases

    def held(asked, now=0.0):
        return governor.handle(VerifyRequest(asked), now)[-1].answer.held

    assert held(lease) == (lease.id,)
    assert held(replace(lease, node="other")) == ()
    assert held(lease, 10.0) == ()


def test_nodes_without_memory_are_named_as_the_reason():
    governor = ClusterGovernor("d", "c", 1, 1.0)
    governor.handle(NodeJoined("n", 1, CAPABILITIES), 0.0)
    governor.handle(NodeReported("n", frozenset(), 0.95), 0.0)
    (reply,) = governor.handle(Announce("r", 1, "home", (AskGroup("ocr", DataClass.PUBLIC, 1),)), 0.0)
    assert [refusal.code for refusal in reply.answer.refusals] == ["cluster.no_memory"]


def test_a_node_that_is_being_replaced_takes_what_its_own_steps_wait_for_and_nothing_else():
    governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=10.0)
    governor.handle(NodeJoined("n", 1, CAPABILITIES), 0.0)

    def award(step):
        request = LeaseRequest("r", step, 1, "ocr", DataClass.PUBLIC)
        answer = governor.handle(Award("c", "r", 1, "home", (request,)), 0.0)[-1].answer
        governor.validate()
        return answer.leases

    (parent,) = award("first")
    governor.handle(NodeReported("n", frozenset(), closed=True), 0.0)
    assert not award("second")
    governor.handle(RenewRequest("r", (parent.id,), (parent.id,)), 0.0)
    (child,) = award("second")
    governor.handle(ReleaseRequest("r", (parent.id, child.id)), 0.0)
    assert not award("third")
    governor.handle(NodeJoined("n", 1, CAPABILITIES), 0.0)
    assert award("third")
