"""Nodes come and go with what is asked, whatever is asked: no work is lost, nothing costs more than it may, and nothing flaps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ioi_dagster.model.autoscale import Autoscale
from tests.autoscaled import QUICK, Cloud, group

CAPPED = replace(QUICK, max=5, per_hour=6.0, give_up_s=15)


class Scaled(RuleBasedStateMachine):
    """The cloud itself asserts that no node is given back while a lease is held there."""

    def __init__(self) -> None:
        super().__init__()
        self.cloud = Cloud(group(CAPPED, slots=2, memory=100.0), group(replace(QUICK, min=1), name="other"))
        self.steps = 0

    @rule(count=st.integers(1, 12), run=st.sampled_from("ab"), memory=st.sampled_from([0.0, 60.0, 100.0, 200.0]))
    def asks(self, count: int, run: str, memory: float) -> None:
        self.cloud.asks(count, run=run, resources=(("memory", memory),) if memory else ())

    @rule(count=st.integers(1, 6), run=st.sampled_from("ab"))
    def awards(self, count: int, run: str) -> None:
        names = [f"s{self.steps + number}" for number in range(count)]
        self.steps += count
        self.cloud.awards(*names, run=run)

    @rule(seconds=st.sampled_from([1, 3, 20, 29]), renews=st.booleans())
    def passes(self, seconds: int, renews: bool) -> None:
        if renews:
            self.cloud.renews()
        self.cloud.passes(seconds)

    @precondition(lambda self: self.cloud.leases)
    @rule(data=st.data())
    def ends(self, data) -> None:
        self.cloud.ends(data.draw(st.sampled_from(sorted(one.step for one in self.cloud.leases.values()))))

    @precondition(lambda self: self.cloud.there)
    @rule(data=st.data())
    def crashes(self, data) -> None:
        self.cloud.crashes(data.draw(st.sampled_from(sorted(self.cloud.there))))

    @precondition(lambda self: self.cloud.there)
    @rule(data=st.data(), engaged=st.booleans())
    def engages(self, data, engaged: bool) -> None:
        self.cloud.busy(data.draw(st.sampled_from(sorted(self.cloud.there))), engaged)

    @rule()
    def restarts(self) -> None:
        self.cloud.restart()

    @rule()
    def comes_or_not(self) -> None:
        self.cloud.comes = not self.cloud.comes

    @invariant()
    def no_more_than_it_may_cost(self) -> None:
        view = self.cloud.view()
        assert view["cost_hour"] <= CAPPED.per_hour
        assert len(self.cloud.names) <= CAPPED.most

    @invariant()
    def whoever_keeps_the_nodes_and_the_governor_want_the_same(self) -> None:
        wanted = self.cloud.wanted
        for name, want in wanted.items():
            view = self.cloud.view(name)
            # What has changed since the last tick is told at the next.
            assert abs(len(want.nodes) - view["wanted"] - view["leaving"]) <= 4
        assert self.cloud.there <= {node for want in wanted.values() for node in want.nodes}

    def teardown(self) -> None:
        """Left alone, everything goes but what is to be there always."""
        cloud = self.cloud
        cloud.comes = True
        for node in sorted(cloud.there):
            cloud.busy(node, False)
        cloud.passes(400)
        assert {name: want.nodes for name, want in cloud.wanted.items()} == {
            **({"g": ()} if "g" in cloud.wanted else {}),
            "other": cloud.wanted["other"].nodes,
        }
        assert len(cloud.wanted["other"].nodes) == 1
        assert cloud.there == set(cloud.wanted["other"].nodes)


Scaled.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestScaled = Scaled.TestCase


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 400)), min_size=1, max_size=6),
    st.sampled_from([Autoscale(max=4), replace(QUICK, max=4), Autoscale(max=4, idle_s=60, down_pause_s=30)]),
)
@settings(max_examples=8, deadline=None)
def test_demand_that_goes_up_and_down_brings_a_bounded_number_of_changes_an_hour(pattern, rules):
    cloud = Cloud(group(rules), boot_s=5)
    end, at = cloud.now + 3600.0, 0
    started: Counter[str] = Counter()
    before: set[str] = set()
    while cloud.now < end:
        want, seconds = pattern[at % len(pattern)]
        at += 1
        for _ in range(seconds):
            held = sorted(one.step for one in cloud.leases.values())
            if len(held) > want:
                cloud.ends(*held[want:])
            elif len(held) < want:
                cloud.asks(want - len(held))
                cloud.awards(*(f"s{cloud.rounds}-{number}" for number in range(want - len(held))))
            cloud.renews()
            cloud.passes(1)
            started.update(set(cloud.names) - before)
            before = set(cloud.names)
    lowered = sum(
        len(later) < len(earlier) for (_, earlier), (_, later) in zip(cloud.changes, cloud.changes[1:], strict=False)
    )
    lives = max(rules.idle_s, rules.min_age_s)
    assert all(count <= 3600 / lives + 1 for count in started.values()), started
    assert lowered <= 3600 / rules.down_pause_s + 1
    assert not [one for one in cloud.ended if one[1] != "released"]


@given(st.integers(1, 3), st.integers(1, 250))
@settings(max_examples=6, deadline=None)
def test_demand_that_swings_by_one_faster_than_a_node_is_idle_changes_nothing(least, seconds):
    cloud = Cloud(group(Autoscale(max=4)), boot_s=5)
    cloud.asks(least + 1)
    cloud.passes(8)
    changed = len(cloud.changes)
    for step in range(3600 // seconds):
        for one in range(seconds):
            held = sorted(one.step for one in cloud.leases.values())
            want = least + step % 2
            cloud.ends(*held[want:])
            if len(held) < want:
                cloud.asks(want - len(held))
                cloud.awards(*(f"s{cloud.rounds}-{number}" for number in range(want - len(held))))
            if one % 10 == 0:
                cloud.renews()
            cloud.passes(1)
    assert cloud.changes[changed:] == []
