"""Runs that wait for room, in whatever order things happen: each announcement is answered once, and no slot is offered twice."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, NodeLeft, NodeResized, Reply, Tick, Withdrawn
from ioi_dagster.governors.parked import OFFER_S
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Announce, AskGroup, Award, Awarded, Bid, LeaseRequest, ReleaseRequest

RUNS = st.sampled_from(["a1", "a2", "b1", "b2", "c1"])
NODES = st.sampled_from(["n1", "n2"])
WAIT_S = 5.0


class Queue(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=1e6)
        self.now = 0.0
        self.open: dict[str, tuple[int, float]] = {}
        """Run → the round of its announcement that waits, and until when."""
        self.offers: dict[str, tuple[int, float]] = {}
        """Run → slots that it was offered after it had waited, and until when."""
        self.count = 0

    def handle(self, event) -> list[Reply]:
        replies = [one for one in self.governor.handle(event, self.now) if isinstance(one, Reply)]
        for one in replies:
            if one.waited is None:
                continue
            run, round_, _ = one.waited
            assert self.open.pop(run)[0] == round_, "who does not wait is not answered"
            assert isinstance(one.answer, Bid)
            slots = sum(point.slots for point in one.answer.points)
            if slots:
                self.offers[run] = (slots, self.now + OFFER_S)
        return [one for one in replies if one.waited is None]

    @rule(run=RUNS, count=st.integers(1, 4), waits=st.booleans(), priority=st.integers(0, 2))
    def announce(self, run, count, waits, priority):
        """Rounds come out of their order: the last that is heard counts, whatever its number."""
        self.count += 1
        number = self.count ^ 5
        group = AskGroup("ocr", DataClass.PUBLIC, count, run[0], priority)
        superseded = self.open.get(run)
        replies = self.handle(Announce(run, number, "x", (group,), wait_s=WAIT_S if waits else 0.0))
        assert superseded is None or self.open.get(run) is None
        if replies:
            (reply,) = replies
            assert sum(point.slots for point in reply.answer.points) <= count
        else:
            assert waits
            self.open[run] = (number, self.now + WAIT_S)

    @rule(run=RUNS, taken=st.integers(0, 3))
    def award(self, run, taken):
        offered, until = self.offers.pop(run, (0, 0.0))
        nodes = self.governor.snapshot().nodes
        requests = []
        for _ in range(taken):
            self.count += 1
            requests.append(LeaseRequest(run, f"s{self.count}", 1, "ocr", DataClass.PUBLIC, tenant=run[0]))
        (reply,) = self.handle(Award("c", run, 1, "x", tuple(requests)))
        assert isinstance(reply.answer, Awarded)
        kept = until > self.now and sum(node["free"] for node in nodes.values()) >= offered
        if kept:
            assert len(reply.answer.leases) >= min(offered, taken), "what was offered is kept while no node leaves"

    @rule(data=st.data())
    def release(self, data):
        leases = self.governor.snapshot().leases
        if leases:
            one = data.draw(st.sampled_from(leases))
            self.handle(ReleaseRequest(one["run"], (one["id"],)))

    @rule(node=NODES, slots=st.integers(0, 3))
    def join(self, node, slots):
        self.handle(NodeJoined(node, slots, frozenset({"ocr"})))

    @rule(node=NODES, slots=st.integers(0, 3))
    def resize(self, node, slots):
        self.handle(NodeResized(node, slots))

    @rule(node=NODES)
    def leave(self, node):
        self.handle(NodeLeft(node))

    @rule(run=RUNS)
    def hang_up(self, run):
        if run in self.open:
            round_, _ = self.open.pop(run)
            self.handle(Withdrawn(run, round_, "x"))

    @rule(later=st.floats(0, 4))
    def wait(self, later):
        self.now += later
        self.handle(Tick())
        overdue = [run for run, (_, until) in self.open.items() if until <= self.now]
        assert overdue == [], "who has waited long enough is told so"

    @invariant()
    def balanced(self):
        self.governor.validate()
        snapshot = self.governor.snapshot()
        assert snapshot.parked == len(self.open)

    @invariant()
    def nobody_waits_beside_idle_room(self):
        """One tenant alone waits for no turn, so that it waits only while all that is free is offered."""
        snapshot = self.governor.snapshot()
        offered = sum(slots for slots, until in self.offers.values() if until > self.now)
        if self.open and len(snapshot.tenants) == 1:
            assert sum(node["free"] for node in snapshot.nodes.values()) <= offered


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
