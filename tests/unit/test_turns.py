"""Nodes whose code has changed are replaced one after another, as long as runs that had begun before go on."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.dask.project_code import ProjectCode
from ioi_dagster.adapters.dask.replacing import TURN_S, Outdated
from ioi_dagster.governors.turns import COMES_S, STILL_S, Turns

BOOT_S = 6.0


def test_where_no_run_goes_on_all_go_at_once():
    turns = Turns()
    assert [turns.asks(node, "1", 0, quiet=True, now=5.0) for node in "abc"] == [True] * 3


def test_one_after_another_where_a_run_goes_on():
    turns = Turns()
    assert turns.asks("a", "1", 0, quiet=False, now=0.0)
    assert not turns.asks("b", "1", 0, quiet=False, now=0.1)
    turns.left("a", "1", 0.2)
    assert not turns.asks("b", "1", 0, quiet=False, now=5.0)
    turns.joined("a", "2")
    assert turns.asks("b", "1", 0, quiet=False, now=5.1)


def test_when_no_run_goes_on_any_more_the_others_do_not_wait():
    turns = Turns()
    assert turns.asks("a", "1", 0, quiet=False, now=0.0)
    turns.left("a", "1", 0.1)
    assert not turns.asks("b", "1", 0, quiet=True, now=0.2)
    assert turns.asks("b", "1", 0, quiet=True, now=0.1 + STILL_S)


def test_who_runs_nothing_goes_before_who_has_to_wait_for_its_steps():
    turns = Turns()
    assert turns.asks("a", "1", 2, quiet=False, now=0.0)
    assert not turns.asks("b", "1", 0, quiet=False, now=0.1), "nobody would take anything until a hears of it"
    assert not turns.asks("a", "1", 2, quiet=False, now=0.2)
    assert turns.asks("b", "1", 0, quiet=False, now=0.3)
    assert not turns.asks("a", "1", 2, quiet=False, now=0.4)


def test_who_does_not_come_back_is_not_waited_for_for_ever():
    turns = Turns()
    assert turns.asks("a", "1", 0, quiet=False, now=0.0)
    turns.left("a", "1", 1.0)
    assert not turns.asks("b", "1", 0, quiet=False, now=COMES_S)
    assert turns.asks("b", "1", 0, quiet=False, now=COMES_S + 1.1)


class Code(ProjectCode):
    file = ""

    def changed(self) -> str:
        return self.file


@dataclass
class Node:
    outdated: Outdated
    code: Code
    life: int = 1
    steps: list[float] = field(default_factory=list)
    """When each that runs here ends."""
    back_at: float | None = None


class Cluster:
    """Nodes as a domain has them, on time that a test lets pass."""

    def __init__(self, count: int) -> None:
        self.now, self.turns = 100.0, Turns()
        self.nodes = {f"n{number}": self._node() for number in range(count)}
        self.most_away = 0

    def _node(self, life: int = 1) -> Node:
        code = Code()
        outdated = Outdated("n", code=code, monotonic=lambda: self.now)
        outdated.turns = True
        return Node(outdated, code, life)

    def edit(self) -> None:
        for node in self.nodes.values():
            node.code.file = "ops.py"

    def start(self, name: str, run: str, seconds: float) -> bool:
        node = self.nodes[name]
        if node.back_at is not None or node.outdated.refusal(run, "s") is not None:
            return False
        node.outdated.begins(run, "s")
        node.steps.append(self.now + seconds)
        return True

    def anywhere(self, run: str, seconds: float) -> bool:
        return any(self.start(name, run, seconds) for name in self.nodes)

    def passes(self, seconds: float, run: str = "") -> None:
        """`run` has short steps all the time, which must find a node."""
        until = self.now + seconds
        while self.now < until:
            self.now += TURN_S
            for name, node in self.nodes.items():
                self._look(name, node)
                assert not run or self.anywhere(run, 0.1), "no node takes a step of a run that goes on"
            self.most_away = max(self.most_away, sum(node.back_at is not None for node in self.nodes.values()))

    def _look(self, name: str, node: Node) -> None:
        if node.back_at is not None:
            if node.back_at <= self.now:
                self.nodes[name] = self._node(node.life + 1)
                self.turns.joined(name, str(node.life + 1))
            return
        for _ in [at for at in node.steps if at <= self.now]:
            node.outdated.ends("old", "s")
        node.steps = [at for at in node.steps if at > self.now]
        its = node.outdated
        if not its.file:
            return
        busy = its.busy
        its.its_turn = self.turns.asks(name, str(node.life), busy, its.quiet, self.now)
        if its.its_turn and not busy and its.leave():
            self.turns.left(name, str(node.life), self.now)
            node.back_at = self.now + BOOT_S

    @property
    def replaced(self) -> int:
        return sum(node.life > 1 for node in self.nodes.values())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.5, 4.0, 30.0])), max_size=4),
)
def test_at_no_moment_is_there_no_node_for_a_run_that_goes_on_and_all_are_replaced_in_the_end(count, long):
    cluster = Cluster(count)
    for name in cluster.nodes:
        assert cluster.start(name, "old", 0.1)
    for number, seconds in long:
        assert cluster.start(f"n{number % count}", "old", seconds)
    cluster.edit()
    for name in cluster.nodes:
        assert not cluster.start(name, "new", 1.0)
    cluster.passes(40.0 + count * (BOOT_S + 2.0), run="old")
    assert cluster.replaced == count
    assert cluster.most_away < count


def test_a_run_whose_code_is_new_has_all_nodes_soonest_where_no_other_goes_on():
    cluster = Cluster(3)
    for name in cluster.nodes:
        assert cluster.start(name, "old", 0.1)
    cluster.passes(STILL_S + 1.0)
    cluster.edit()
    for name in cluster.nodes:
        assert not cluster.start(name, "new", 1.0)
    cluster.passes(BOOT_S + 2 * TURN_S)
    assert cluster.replaced == 3
