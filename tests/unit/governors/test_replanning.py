"""Graphs that come and go on nodes that fail, slow down and come back: what a placer answers is carried out by a small world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.governors.placement.lateness import RATIOS, gain, left
from ioi_dagster.governors.placement.placer import Placer
from ioi_dagster.model.placement import Assignment, Edge, Link, Offer, Step

HOMES = ("home", "lab")
LINKS = [Link(a, b, 0.0 if a == b else 0.1, 1e8 if a == b else 1e6) for a in HOMES for b in HOMES]
NODES = [
    Offer("a", "home", 2, 8.0, 1),
    Offer("b", "home", 1, 4.0, speed=2.0),
    Offer("c", "lab", 2, 8.0, speed=0.5),
    Offer("d", "lab", 1, 16.0),
]


@dataclass
class World:
    """Does what it is told: each node starts what is bound to it, has its inputs and fits, the least order first.

    Asserts what must hold of each answer. `told` is all that was answered, in order."""

    placer: Placer
    rng: Random
    now: float = 0.0
    told: list[Assignment] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)
    bound: dict[str, tuple[str, int]] = field(default_factory=dict)
    copies: dict[str, tuple[str, int]] = field(default_factory=dict)
    running: dict[str, dict[str, int]] = field(default_factory=dict)
    over: dict[str, str] = field(default_factory=dict)
    """Step → the node where its output is."""
    ended: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    speed: dict[str, float] = field(default_factory=lambda: {offer.node: offer.speed for offer in NODES})
    events: list[tuple[float, int, str, str, int]] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    def plan_for(self, at: float, kind: str, name: str, number: int = -1) -> None:
        heappush(self.events, (at, next(self.numbers), kind, name, number))

    def take(self, answer: Sequence[Assignment]) -> None:
        self.told += answer
        for one in answer:
            step = self.steps[one.step]
            if one.refusal is not None or one.node is None:
                self.refused.add(one.step)
                continue
            offer = next(offer for offer in NODES if offer.node == one.node)
            assert able(step, offer)
            assert one.node not in self.down, "nothing is bound to a node that is down"
            assert one.step not in self.over, "nothing is bound that is over"
            if one.copy:
                assert one.step in self.running and one.node not in self.running[one.step]
                self.copies[one.step] = one.node, one.order
            else:
                assert one.step not in self.running
                self.bound[one.step] = one.node, one.order
        self.dispatch()

    def dispatch(self) -> None:
        queue = [*self.bound.items(), *self.copies.items()]
        for name, (node, _) in sorted(queue, key=lambda item: (item[1][1], item[0])):
            copy = name in self.running
            if node in self.down or not all(need in self.over for need in self.needs[name]):
                continue
            here = [self.steps[other] for other, nodes in self.running.items() if node in nodes]
            offer = next(offer for offer in NODES if offer.node == node)
            step = self.steps[name]
            if (
                sum(s.cores for s in here) + step.cores > offer.cores
                or sum(s.gpus for s in here) + step.gpus > offer.gpus
            ):
                continue
            if sum(s.memory for s in here) + step.memory > offer.memory:
                continue
            del (self.copies if copy else self.bound)[name]
            number = next(self.numbers)
            self.running.setdefault(name, {})[node] = number
            took = step.work / self.speed[node] * self.rng.choice([0.7, 1.0, 1.0, 1.3, 6.0])
            self.plan_for(self.now + took, "finish", name, number)
            self.placer.on_started(name, node, self.now)

    def lose(self, node: str) -> None:
        self.down.add(node)
        lost = {name for name, (where, _) in self.bound.items() if where == node}
        for name, nodes in list(self.running.items()):
            nodes.pop(node, None)
            if not nodes:
                del self.running[name]
                lost.add(name)
        self.copies = {name: its for name, its in self.copies.items() if its[0] != node and name in self.running}
        gone = [name for name, where in self.over.items() if where == node]
        waiting = [name for name in self.steps if name not in self.over and name not in self.running]
        while waiting:
            for need in self.needs[waiting.pop()]:
                if need in gone:
                    gone.remove(need)
                    del self.over[need]
                    lost.add(need)
                    waiting.append(need)
        for name in lost:
            self.bound.pop(name, None)
        self.take(self.placer.on_node_lost(node, sorted(lost), self.now))

    def happen(self, kind: str, name: str, number: int) -> None:
        if kind == "finish" and number in self.running.get(name, {}).values():
            node = next(node for node, its in self.running.pop(name).items() if its == number)
            self.copies.pop(name, None)
            self.over[name] = node
            self.ended.append(name)
            self.dispatch()
            self.take(self.placer.on_finished(name, node, self.now))
        elif kind == "tick":
            self.take(self.placer.on_tick({name: list(nodes) for name, nodes in self.running.items()}, self.now))
        elif kind == "lose" and name not in self.down and len(self.down) < 2:
            self.lose(name)
            self.plan_for(self.now + self.rng.uniform(0.5, 5.0), "back", name)
        elif kind == "back" and name in self.down:
            self.down.remove(name)
            self.take(self.placer.on_node_back(name, self.now))
        elif kind == "slow":
            self.speed[name] *= self.rng.choice([0.3, 1.0, 2.0])
            self.take(self.placer.on_node_speed(name, self.speed[name], self.now))

    def arrive(self, steps: Sequence[Step], edges: Sequence[Edge]) -> None:
        self.steps |= {step.id: step for step in steps}
        self.needs |= {step.id: [edge.producer for edge in edges if edge.consumer == step.id] for step in steps}
        self.take(self.placer.on_graph(steps, edges, self.now))

    def run(self) -> None:
        """Until nothing is left to do; a tick each second."""
        for _ in range(20_000):
            if len(self.over) + len(self.refused) == len(self.steps) and all(e[2] != "graph" for e in self.events):
                return
            due = self.events[0][0] if self.events else self.now + 1.0
            if due > self.now + 1.0 or not self.events:
                self.now += 1.0
                self.happen("tick", "", -1)
                continue
            at, _, kind, name, number = heappop(self.events)
            self.now = max(self.now, at)
            self.happen(kind, name, number)
        raise AssertionError(f"not over: {sorted(set(self.steps) - set(self.over) - self.refused)}")


def drawn(seed: int) -> World:
    """Three graphs on nodes in trouble, all of it from the seed."""
    rng = Random(seed)
    world = World(Placer(NODES, LINKS, effort=2_000, seed=seed), rng)
    for _ in range(rng.randint(0, 4)):
        world.plan_for(rng.uniform(0.0, 8.0), rng.choice(["lose", "slow"]), rng.choice("abcd"))
    for graph in range(3):
        steps = [
            Step(
                f"g{graph}s{number}",
                rng.choice([0.5, 1.0, 3.0]),
                cores=rng.choice([1, 1, 2]),
                memory=rng.choice([0.0, 2.0, 8.0]),
                gpus=rng.choice([0, 0, 0, 1]),
                domains=rng.choice([None, None, frozenset({"home"})]),
                inputs=rng.choice([{}, {"home": 1e5}]),
            )
            for number in range(rng.randint(1, 8))
        ]
        edges = [
            Edge(f"g{graph}s{a}", f"g{graph}s{b}", rng.choice([0.0, 1e5]))
            for b in range(len(steps))
            for a in rng.sample(range(b), min(b, rng.randint(0, 2)))
        ]
        world.arrive(steps, edges)
    world.run()
    return world


def able(step: Step, offer: Offer) -> bool:
    fits = offer.cores >= step.cores and offer.memory >= step.memory and offer.gpus >= step.gpus
    return fits and (step.domains is None or offer.domain in step.domains)


def reaches(needs: dict[str, list[str]], name: str, goals: set[str]) -> bool:
    return name in goals or any(reaches(needs, need, goals) for need in needs[name])


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**9))
def test_all_that_can_be_placed_ends_whatever_happens_to_the_nodes(seed):
    world = drawn(seed)
    impossible = {name for name, step in world.steps.items() if not any(able(step, offer) for offer in NODES)}
    behind = {name for name in world.steps if reaches(world.needs, name, impossible)}
    assert world.refused == behind
    assert world.over.keys() == world.steps.keys() - behind


@pytest.mark.parametrize("seed", [3, 17, 4_711])
def test_the_same_events_get_the_same_answers(seed):
    assert drawn(seed).told == drawn(seed).told


def test_what_nothing_can_take_is_refused_with_what_it_would_need():
    placer = Placer(NODES, LINKS)
    answer = placer.on_graph([Step("large", 1.0, memory=99.0), Step("after", 1.0)], [Edge("large", "after")], now=0.0)
    told = {one.step: one for one in answer}
    assert told["large"].refusal is not None
    assert told["large"].refusal.remedy == "it would need memory of 99 B"
    assert (told["large"].node, told["after"].node) == (None, None)


def test_a_step_that_runs_late_is_copied_once_onto_a_node_that_is_free():
    placer = Placer(NODES, LINKS)
    (one,) = placer.on_graph([Step("s", 10.0)], [], now=0.0)
    assert one.node == "b", "the fastest"
    placer.on_started("s", "b", 0.0)
    assert placer.on_tick({"s": ["b"]}, now=5.0) == []
    (late,) = placer.on_tick({"s": ["b"]}, now=12.0)
    assert (late.step, late.copy) == ("s", True)
    assert late.node in ("a", "d")
    assert placer.on_tick({"s": ["b"]}, now=13.0) == [], "it has been asked for"
    placer.on_started("s", str(late.node), 13.0)
    assert placer.on_finished("s", str(late.node), now=20.0) == []


def test_nothing_is_moved_while_all_goes_as_planned():
    placer = Placer(NODES, LINKS)
    chain = [Step(f"s{number}", 4.0) for number in range(4)]
    first = placer.on_graph(chain, [Edge(f"s{n}", f"s{n + 1}") for n in range(3)], now=0.0)
    assert {one.node for one in first} == {"b"}
    for number in range(4):
        placer.on_started(f"s{number}", "b", 2.0 * number)
        assert placer.on_finished(f"s{number}", "b", now=2.0 * (number + 1)) == []


def test_what_waits_leaves_a_node_that_became_slow():
    placer = Placer(NODES, LINKS)
    placer.on_graph([Step("s0", 4.0), Step("s1", 4.0)], [Edge("s0", "s1")], now=0.0)
    placer.on_started("s0", "b", 0.0)
    placer.on_node_speed("b", 0.01, now=1.0)
    placer.on_started("s0", "a", 1.0)
    moved = [one for one in placer.on_finished("s0", "a", now=5.0) if one.step == "s1"] or [
        one for one in placer.on_tick({}, now=5.0) if one.step == "s1"
    ]
    assert all(one.node != "b" for one in moved)


def test_an_event_of_a_graph_that_is_over_changes_nothing():
    placer = Placer(NODES, LINKS)
    placer.on_graph([Step("s", 1.0)], [], now=0.0)
    placer.on_started("s", "b", 0.0)
    placer.on_finished("s", "b", now=0.5)
    assert placer.on_finished("s", "a", now=0.6) == []
    assert placer.on_node_lost("b", ["s"], now=0.7) == []
    assert placer.on_tick({"s": ["b"]}, now=0.8) == []


@given(st.floats(0.0, 20.0), st.floats(0.05, 5.0), st.floats(0.0, 10.0))
def test_a_copy_saves_the_less_the_later_it_comes_and_never_less_than_nothing(done, speed, copy):
    assert 0.0 <= gain(done, speed, copy + 1.0) <= gain(done, speed, copy) + 1e-9
    assert left(done) > 0.0


def test_what_has_run_for_long_is_expected_to_run_on():
    assert left(0.0) == pytest.approx(1.0, abs=0.05)
    assert left(3.0) > left(1.0)
    assert sum(RATIOS) / len(RATIOS) == pytest.approx(1.17, abs=0.05)
