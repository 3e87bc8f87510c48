"""Plans of whole graphs: what they must respect, what they are never worse than, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.placement.fleet import Fleet, compile_graph
from ioi_dagster.governors.placement.listing import fill, upward
from ioi_dagster.governors.placement.placer import Placer
from ioi_dagster.governors.placement.timeline import Timeline
from ioi_dagster.model.placement import Assignment, Edge, Link, Offer, Step

DOMAINS = ("home", "lab")
LINKS = [Link(a, b, 0.0 if a == b else 0.1, 1e8 if a == b else 1e6) for a in DOMAINS for b in DOMAINS]
FEW = 2_000


def replay(steps: Sequence[Step], edges: Sequence[Edge], offers: Sequence[Offer], plan: Sequence[Assignment]) -> float:
    """Seconds until the last step has ended, where each node starts its steps in the plan's order as soon as their inputs are
    there and they fit. Asserts that everything that may be placed is, where it may be, and that nothing waits for ever."""
    node_of = {offer.node: offer for offer in offers}
    by_step = {one.step: one for one in plan}
    known = {step.id: step for step in steps}
    assert by_step.keys() == known.keys()
    placed = {one.step: one for one in plan if one.node is not None}
    for name, one in placed.items():
        step, offer = known[name], node_of[str(one.node)]
        assert (offer.cores, offer.memory, offer.gpus, offer.trust) >= (step.cores, 0, 0, step.min_trust)
        assert offer.memory >= step.memory
        assert offer.gpus >= step.gpus
        assert step.domains is None or offer.domain in step.domains
    queues = {name: sorted((o for o in placed.values() if o.node == name), key=lambda o: o.order) for name in node_of}
    link = {(one.source, one.target): one for one in LINKS}
    ends: dict[str, float] = {}
    running: dict[str, list[tuple[float, Step]]] = {name: [] for name in node_of}
    last = dict.fromkeys(node_of, 0.0)
    while any(queues.values()):
        begun = False
        for name, queue in queues.items():
            if not queue or any(edge.producer not in ends for edge in edges if edge.consumer == queue[0].step):
                continue
            step, offer = known[queue.pop(0).step], node_of[name]
            at = last[name]
            for source, size in step.inputs.items():
                at = max(at, link[source, offer.domain].latency + size / link[source, offer.domain].bandwidth)
            for edge in edges:
                if edge.consumer == step.id:
                    there = str(placed[edge.producer].node)
                    between = link[node_of[there].domain, offer.domain]
                    moves = 0.0 if there == name else between.latency + edge.size / between.bandwidth
                    at = max(at, ends[edge.producer] + moves)
            for end in sorted({at, *(end for end, _ in running[name] if end > at)}):
                busy = [other for until, other in running[name] if until > end + 1e-9]
                fits = sum(one.cores for one in busy) + step.cores <= offer.cores
                fits = fits and sum(one.memory for one in busy) + step.memory <= offer.memory * (1 + 1e-9)
                if fits and sum(one.gpus for one in busy) + step.gpus <= offer.gpus:
                    at = end
                    break
            last[name], ends[step.id] = at, at + step.work / offer.speed
            running[name].append((ends[step.id], step))
            begun = True
        assert begun, "the plan waits for itself"
    return max(ends.values(), default=0.0)


@st.composite
def networks(draw) -> list[Offer]:
    return [
        Offer(
            f"n{number}",
            draw(st.sampled_from(DOMAINS)),
            draw(st.integers(1, 4)),
            draw(st.sampled_from([4.0, 16.0])),
            draw(st.integers(0, 1)),
            draw(st.integers(0, 2)),
            draw(st.sampled_from([0.5, 1.0, 2.0])),
        )
        for number in range(draw(st.integers(1, 5)))
    ]


@st.composite
def graphs(draw) -> tuple[list[Step], list[Edge]]:
    steps = [
        Step(
            f"s{number}",
            draw(st.sampled_from([0.0, 0.5, 3.0, 20.0])),
            draw(st.integers(1, 3)),
            draw(st.sampled_from([0.0, 2.0, 8.0])),
            draw(st.sampled_from([0, 0, 0, 1])),
            draw(st.sampled_from([0, 0, 1])),
            draw(st.sampled_from([None, None, frozenset({"home"})])),
            draw(st.sampled_from([{}, {"home": 5e6}])),
        )
        for number in range(draw(st.integers(1, 14)))
    ]
    edges = [
        Edge(f"s{a}", f"s{b}", draw(st.sampled_from([0.0, 1e5, 1e7])))
        for b in range(len(steps))
        for a in sorted(draw(st.sets(st.integers(0, max(0, b - 1)), max_size=3)) if b else ())
    ]
    return steps, edges


@settings(max_examples=100, deadline=None)
@given(graphs(), networks())
def test_a_plan_can_be_carried_out_and_is_never_worse_than_the_list_schedule_that_it_began_with(graph, offers):
    steps, edges = graph
    plan = Placer(offers, LINKS, effort=FEW).plan(steps, edges, now=0.0)
    assert plan == Placer(offers, LINKS, effort=FEW).plan(steps, edges, now=0.0), "the same arguments, the same plan"
    length = replay(steps, edges, offers, plan)
    fleet = Fleet(offers, LINKS)
    compiled = compile_graph(fleet, steps, edges)
    heft = fill(fleet, compiled, upward(fleet, compiled), [Timeline(capacity) for capacity in fleet.capacity])
    assert length <= heft.length * (1 + 1e-9) + 1e-9
    nowhere = {one.step for one in plan if one.node is None}
    for step in steps:
        producers = {edge.producer for edge in edges if edge.consumer == step.id}
        assert (step.id in nowhere) == (not fleet.able(step) or bool(producers & nowhere))
    refused = {one.step for one in plan if one.refusal is not None}
    assert refused == {step.id for step in steps if not fleet.able(step)}


TWO = [Offer("slow", "home", 2, 8.0), Offer("fast", "lab", 2, 8.0, speed=4.0)]


def nodes(steps: list[Step], edges: list[Edge]) -> dict[str, str | None]:
    return {one.step: one.node for one in Placer(TWO, LINKS, effort=FEW).plan(steps, edges, now=0.0)}


def test_work_goes_to_the_fast_node_and_large_inputs_keep_it_at_home():
    assert nodes([Step("s", 8.0)], []) == {"s": "fast"}
    assert nodes([Step("s", 8.0, inputs={"home": 1e8})], []) == {"s": "slow"}
    chain = [Step("a", 1.0, domains=frozenset({"home"})), Step("b", 1.0)]
    assert nodes(chain, [Edge("a", "b", 1e8)]) == {"a": "slow", "b": "slow"}
    assert nodes([replace(one, work=50.0) for one in chain], [Edge("a", "b", 1e5)]) == {"a": "slow", "b": "fast"}


def test_what_no_node_can_take_says_what_it_would_need_and_stops_only_what_depends_on_it():
    steps = [Step("huge", 1.0, memory=99.0, gpus=1), Step("after", 1.0), Step("other", 1.0)]
    plan = {one.step: one for one in Placer(TWO, LINKS).plan(steps, [Edge("huge", "after")], now=0.0)}
    refusal = plan["huge"].refusal
    assert refusal is not None
    assert refusal.code == "placement.impossible"
    assert refusal.remedy == "it would need memory of 99 B, 1 GPU"
    assert (plan["after"].node, plan["after"].refusal) == (None, None)
    assert plan["other"].node == "fast"


@pytest.mark.parametrize(
    ("steps", "edges", "wrong"),
    [
        ([Step("a", 1.0)] * 2, [], "step 'a': it is in the graph twice"),
        ([Step("a", 1.0)], [Edge("a", "b")], "edge 'a' → 'b': there is no step 'b'"),
        ([Step("a", 1.0), Step("b", 1.0)], [Edge("a", "b"), Edge("b", "a")], "2 steps wait for each other in a circle"),
        ([Step("a", 1.0, inputs={"moon": 1.0})], [], "it reads from 'moon', which no link names"),
    ],
)
def test_what_is_no_graph_is_refused(steps, edges, wrong):
    with pytest.raises(BadInputError, match=wrong):
        Placer(TWO, LINKS).plan(steps, edges, now=0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Step("a", -1.0),
        lambda: Step("a", float("nan")),
        lambda: Step("a", 1.0, cores=0),
        lambda: Edge("a", "b", float("inf")),
        lambda: Offer("n", "home", 1, speed=0.0),
        lambda: Link("a", "b", 0.0, 0.0),
        lambda: Placer([TWO[0], TWO[0]], LINKS),
        lambda: Placer(TWO, LINKS[:1]),
    ],
)
def test_amounts_that_cannot_be_are_refused(make):
    with pytest.raises(BadInputError):
        make()
