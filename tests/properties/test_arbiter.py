"""Whatever is asked, ended, lost and changed in whatever order: quotas hold, nothing is promised twice, evictions end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.fairness import Arbiter, Request, Rules
from ioi_dagster.model.quota import ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota

NODES = {"n0": {"cpu": 4.0, "gpu": 0.0}, "n1": {"cpu": 4.0, "gpu": 2.0}, "n2": {"cpu": 8.0, "gpu": 0.0}}
TENANTS = ("a", "b", "c", "d")
RULES = Rules(aging_s=10.0, min_run_s=2.0, evictions=3, window_s=50.0)
SMALL = st.sampled_from([0.0, 1.0])


ASKS = st.builds(
    Request,
    id=st.just(""),
    tenant=st.sampled_from(TENANTS),
    amounts=st.sampled_from(
        [{"cpu": 0.5}, {"cpu": 1.0}, {"cpu": 1.0}, {"cpu": 3.0}, {"cpu": 5.0}, {"cpu": 1.0, "gpu": 1.0}]
    ),
    nodes=st.none() | st.frozensets(st.sampled_from(sorted(NODES)), min_size=1),
    block_class=st.sampled_from(["", "ocr", "llm"]),
    priority=st.integers(-1, 2),
    copies=st.sampled_from([1, 1, 1, 2, 3]),
    checkpointable=st.booleans(),
    seconds=st.sampled_from([0.0, 3.0, 60.0]),
)


@st.composite
def quotas(draw) -> Quota:
    guarantee = {"cpu": draw(SMALL)}
    lends = {"cpu": draw(st.sampled_from([0.0, guarantee["cpu"]]))} if draw(st.booleans()) else {}
    borrows = {"cpu": draw(st.sampled_from([0.0, 1.0, 4.0]))} if draw(st.booleans()) else {}
    return Quota(guarantee, lends, borrows)


@st.composite
def trees(draw) -> QuotaTree:
    weights = st.sampled_from([0.5, 1.0, 3.0])
    classes = (ClassQuota("ocr", 2.0), ClassQuota("llm", 1.0))
    a, b, c, d = (TenantQuota(name, draw(weights), draw(quotas())) for name in TENANTS)
    d = TenantQuota("d", d.weight, Quota(), classes)
    return QuotaTree((CohortQuota("x", (a, b)), CohortQuota("y", (c,)), CohortQuota("z", (d,), parent="y")))


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.there = {name: dict(amounts) for name, amounts in NODES.items()}
        self.tree = QuotaTree.of_weights(dict.fromkeys(TENANTS, 1.0))
        self.arbiter = Arbiter(NODES, self.tree, RULES)
        self.asked: dict[str, Request] = {}
        self.runs: dict[str, list[str]] = {}
        self.now = 0.0
        self.number = 0

    @initialize(tree=trees())
    def begins(self, tree: QuotaTree) -> None:
        self.other_quotas(tree)

    @rule(tree=trees())
    def other_quotas(self, tree: QuotaTree) -> None:
        there = {name: sum(amounts[name] for amounts in self.there.values()) for name in ("cpu", "gpu")}
        if tree.errors(there):
            with pytest.raises(BadInputError):
                self.arbiter.on_quota(tree)
            return
        for gone, _ in self.arbiter.on_quota(tree):
            assert gone not in self.runs
            del self.asked[gone]
        self.tree = tree

    @rule(burst=st.lists(ASKS, min_size=1, max_size=8))
    def asks(self, burst: list[Request]) -> None:
        for asked in burst:
            self.number += 1
            one = replace(asked, id=f"r{self.number}", arrived=self.now)
            if self.arbiter.on_request(one) is None:
                self.asked[one.id] = one
        self.arbitrates(1.0)

    @rule(pick=st.randoms(use_true_random=False), count=st.integers(1, 4))
    def ends(self, pick, count: int) -> None:
        for name in pick.sample(sorted(self.runs), min(count, len(self.runs))):
            self.arbiter.on_finished(name)
            del self.runs[name], self.asked[name]
        self.arbitrates(1.0)

    @rule(pick=st.randoms(use_true_random=False))
    def is_cancelled(self, pick) -> None:
        if self.asked:
            name = pick.choice(sorted(self.asked))
            self.arbiter.on_finished(name)
            self.runs.pop(name, None)
            del self.asked[name]

    @rule(name=st.sampled_from(sorted(NODES)), back=st.booleans())
    def node_changes(self, name: str, back: bool) -> None:
        if back:
            self.arbiter.on_node(name, NODES[name])
            self.there[name] = dict(NODES[name])
            return
        lost = self.arbiter.on_node_left(name)
        assert set(lost) == {one for one, where in self.runs.items() if name in where}
        for one in lost:
            del self.runs[one], self.asked[one]
        self.there.pop(name, None)

    @rule(passes=st.sampled_from([0.0, 1.0, 5.0, 60.0]))
    def arbitrates(self, passes: float) -> None:
        self.now += passes
        granted = self.arbiter.arbitrate(self.now)
        for name, node in granted:
            one = self.asked[name]
            assert node in self.there
            assert one.nodes is None or node in one.nodes
            self.runs.setdefault(name, []).append(node)
        for name, where in self.runs.items():
            assert len(where) == self.asked[name].copies, "a gang starts whole"
        started = {self.asked[name].tenant for name, _ in granted}
        for tenant in (tenant for _, tenant in self.tree.tenants() if tenant.name in started):
            for resource, most in tenant.quota.borrows.items():
                its = [one for one in map(self.asked.__getitem__, self.runs) if one.tenant == tenant.name]
                used = sum(one.amounts.get(resource, 0.0) * one.copies for one in its)
                asked = any(one.amounts.get(resource) for one in its if one.id in dict(granted))
                assert not asked or used <= tenant.quota.guarantee.get(resource, 0.0) + most + 1e-6

    @rule()
    def evicts_until_nobody_is(self) -> None:
        """Who is told to stop does, and asks again. It ends, within the budget of each tenant."""
        self.arbitrates(5.0)
        evicted = 0
        limits = any(tenant.quota.borrows for _, tenant in self.tree.tenants())
        for _ in range(40):
            told = self.arbiter.evict(self.now)
            if not told:
                break
            evicted += len(told)
            for one in told:
                request = self.asked[one.victim]
                self.arbiter.on_finished(one.victim)
                del self.runs[one.victim]
                del self.asked[one.victim]
                if self.arbiter.on_request(request) is None:
                    self.asked[request.id] = request
            self.arbitrates(0.0)
        else:
            raise AssertionError("evictions do not end")
        assert evicted <= RULES.evictions * len(TENANTS) or limits

    @invariant()
    def adds_up(self) -> None:
        self.arbiter.validate()
        free = {name: dict(amounts) for name, amounts in self.there.items()}
        for name, where in self.runs.items():
            for node in where:
                for resource, amount in self.asked[name].amounts.items():
                    free[node][resource] -= amount
        assert all(amount > -1e-6 for amounts in free.values() for amount in amounts.values())
        snapshot = self.arbiter.snapshot(self.now)
        assert sum(view.running for view in snapshot.tenants.values()) == len(self.runs)
        assert sum(view.waiting for view in snapshot.tenants.values()) == len(self.asked) - len(self.runs)

    @invariant()
    def each_wait_has_a_reason(self) -> None:
        for name in self.asked:
            assert (self.arbiter.explain(name, self.now) is None) == (name in self.runs)

    @invariant()
    def nothing_that_could_start_waits_in_an_idle_cluster(self) -> None:
        if self.runs or not self.asked:
            return
        self.arbitrates(0.0)
        waiting = [one for name, one in self.asked.items() if name not in self.runs]
        if waiting and not self.runs:
            codes = {reason.code for one in waiting if (reason := self.arbiter.explain(one.id, self.now))}
            assert codes & {"fair.no_node", "fair.limit", "fair.kept"}, codes


TestArbiter = Machine.TestCase
TestArbiter.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
