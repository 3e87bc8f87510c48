"""Whatever a cluster answers to a run: it is taken, or counts as no answer. Every step is committed once, under its newest fence,
and no more is spent than may be."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import IoiError
from ioi_dagster.governors import flow
from ioi_dagster.governors.answers import checked_award, checked_bid
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import Place, SendAnnounce, SendAward, StartStep
from ioi_dagster.model.negotiation import Announce, Ask, Award, Awarded, Bid, Lease, NodeOutlook, SupplyPoint
from ioi_dagster.model.placement import Edge
from ioi_dagster.model.placement import Step as GraphStep
from tests.properties.test_fuzzed_gateway import ABSURD, places
from tests.unit.test_protocol import JSON

STEPS = ("a", "b", "c", "g1", "g2", "last")
BUDGET = 1_000.0
SLOTS = 3
"""What the bad cluster has, by its record."""
Mutations = list[tuple[str, int, Any]]
"""Which place of a document is replaced, of those under that key or of all, modulo how many there are; and by what."""


class Run:
    """A run of six steps, two of them a gang, before a good cluster and one that answers whatever it likes."""

    def __init__(self) -> None:
        self.governor = FlowGovernor("r", "home", budget=BUDGET, park_s=0.0)
        self.now, self.seen, self.heard = 0.0, 0, 0
        self.told = 0
        """How many answers the bad cluster gave."""
        self.done: list[flow.Instruction] = []
        self.running: dict[str, Lease] = {}
        self.committed: Counter[str] = Counter()
        self.refused: dict[str, str] = {}
        self.old: list[flow.Event] = []
        steps = tuple(GraphStep(step, 10.0, kind=step, capability="work") for step in STEPS)
        self.tell(flow.GraphKnown(steps, (Edge("a", "last"),)))
        for step in STEPS:
            gang = {"gang": "g", "gang_size": 2} if step.startswith("g") else {}
            self.tell(flow.StepReady(Ask("r", step, "work", copies=1, **gang)))

    def tell(self, event: flow.Event, later: float = 0.0) -> None:
        self.now += later
        self.done += self.governor.handle(event, self.now)
        self.governor.validate()
        assert sum(lease.cluster == "bad" for lease in self.governor.leases()) <= SLOTS
        assert -1e-6 <= self.governor.snapshot().spent <= BUDGET + 1e-6
        while self.heard < len(self.done):
            self._hear(self.done[self.heard])
            self.heard += 1

    def _hear(self, instruction: flow.Instruction) -> None:
        match instruction:
            case StartStep(ask, lease):
                self.running[f"{ask.step}/{lease.fence}/{lease.copy}"] = lease
            case flow.StopStep(lease):
                self.running.pop(f"{lease.step}/{lease.fence}/{lease.copy}", None)
            case flow.CommitStep(step, fence):
                assert fence == self.governor.fence(step)
                self.committed[step] += 1
            case flow.RefuseStep(step, refusal) | flow.FailStep(step, refusal):
                self.refused[step] = refusal.code

    def answer(self, mutations: Mutations | None) -> None:
        """All that is asked; by the bad cluster with these mutations, or not at all."""
        while self.seen < len(self.done):
            wanted = self.done[self.seen]
            self.seen += 1
            asked = isinstance(wanted, SendAnnounce) and wanted.cluster == "bad"
            awarded = isinstance(wanted, SendAward) and wanted.award.cluster == "bad"
            self.told += mutations is not None and (asked or awarded)
            match wanted:
                case flow.FindPlaces(asks):
                    for ask in asks:
                        found = (Place("good", "good"), Place("bad", "bad", slots=SLOTS))
                        self.tell(flow.PlacesFound(ask.step, found, (), True))
                case SendAnnounce(cluster, announce):
                    self._say(_bid(cluster, announce, mutations), flow.BidMissed(cluster, announce.round, "fuzzed"))
                case SendAward(award):
                    steps = tuple(request.step for request in award.requests)
                    for event in _awarded(award, mutations):
                        self._say(event, flow.AwardMissed(award.cluster, steps, "fuzzed"))
                case _:
                    pass

    def _say(self, event: flow.Event | None, missed: flow.Event) -> None:
        self.old.append(event or missed)
        self.tell(event or missed)

    def end_one(self) -> None:
        for key, lease in list(self.running.items())[:1]:
            del self.running[key]
            ended = flow.StepEnded(lease.step, lease.fence, f"of {key}", 1.0, lease.copy)
            self.old.append(ended)
            self.tell(ended)

    def lose_one(self) -> None:
        for key, lease in list(self.running.items())[:1]:
            del self.running[key]
            self.old.append(flow.StepEnded(lease.step, lease.fence, f"of {key}, late", 1.0, lease.copy))
            self.tell(
                flow.StepLost(lease.step, lease.fence, "", "its scheduler went", Cause.SCHEDULER_LOST, lease.copy)
            )


def _mutated(document: Any, mutations: Mutations) -> Any:
    plain = json.loads(msgspec.json.encode(document))
    for name, where, what in mutations:
        every = list(places(plain))
        there = [place for place in every if place[1] == name] or every
        container, key = there[where % len(there)]
        container[key] = what
    return from_json(json.dumps(plain).encode(), type(document))


def _bid(cluster: str, announce: Announce, mutations: Mutations | None) -> flow.Event | None:
    bad = cluster == "bad"
    if bad and mutations is None:
        return None
    points = tuple(
        SupplyPoint(one.capability, one.data_class, one.count, 1.0, gang=one.gang, idle=one.idle, part=one.part)
        for one in announce.groups
    )
    nodes = (NodeOutlook("n", 4, 4.0 if bad else 1.0, tuple(range(len(announce.about)))),) if announce.about else ()
    bid = Bid(cluster, cluster, "r", announce.round, 1, points, (), 2.0, nodes)
    try:
        return flow.BidReceived(checked_bid(_mutated(bid, mutations or []) if bad else bid, cluster, announce))
    except (IoiError, msgspec.MsgspecError, UnicodeEncodeError):
        return None


def _awarded(award: Award, mutations: Mutations | None) -> list[flow.Event | None]:
    bad = award.cluster == "bad"
    if bad and mutations is None:
        return [None]
    leases = tuple(
        Lease(
            f"{r.step}/{r.fence}/{r.copy}",
            "r",
            r.step,
            r.fence,
            r.copy,
            "work",
            award.cluster,
            award.cluster,
            "n",
            1,
            origin=award.origin,
        )
        for r in award.requests
    )
    answer = Awarded(award.cluster, leases)
    try:
        held = checked_award(_mutated(answer, mutations or []) if bad else answer, award, award.cluster)
    except (IoiError, msgspec.MsgspecError, UnicodeEncodeError):
        return [None]
    return [flow.AwardAnswered(held.awarded, held.missing, held.excess)]


KEYS = (
    "price",
    "slots",
    "warm",
    "gang",
    "capability",
    "speed",
    "able",
    "busy",
    "expires_s",
    "fence",
    "copy",
    "step",
    "node",
    "round",
    "",
)
FAIR = st.sampled_from([0, 1, 2, 7, 10**6, 0.0, 0.5, 400.0, 1e12, *STEPS])
"""What is read as what it says, however absurd."""
MUTATIONS = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 200), FAIR | ABSURD | JSON), max_size=3)
ACTION = st.one_of(
    st.tuples(st.just("answer"), MUTATIONS),
    st.tuples(st.just("turn"), MUTATIONS),
    st.tuples(st.just("turn"), MUTATIONS),
    st.tuples(st.just("old"), st.integers(0, 100)),
    st.tuples(st.just("end"), st.none()),
    st.tuples(st.just("lose"), st.none()),
    st.tuples(st.just("later"), st.sampled_from([0.1, 0.5, 3.0])),
)


def play(actions: list[tuple[str, Any]]) -> int:
    """How many answers the bad cluster gave."""
    run = Run()
    for what, how in actions:
        match what:
            case "answer":
                run.answer(how)
            case "turn":
                run.answer(how)
                run.tell(flow.Tick(), later=0.5)
            case "old" if run.old:
                run.tell(run.old[how % len(run.old)])
            case "end":
                run.end_one()
            case "lose":
                run.lose_one()
            case "later":
                run.tell(flow.Tick(), later=how)
    # It falls silent, and what runs there is lost with it.
    run.tell(flow.ClusterLost("bad", "it is gone"))
    run.running = {key: lease for key, lease in run.running.items() if lease.cluster != "bad"}
    for _ in range(200):
        if not run.running and run.committed.keys() | run.refused.keys() == set(STEPS):
            break
        run.answer(None)
        run.end_one()
        run.tell(flow.Tick(), later=0.5)
    ended = run.committed.keys() | run.refused.keys()
    assert ended == set(STEPS), (run.governor.snapshot(), run.refused)
    assert set(run.committed.values()) <= {1}
    assert not run.committed.keys() & run.refused.keys()
    # Prices are what it says they are: it may cost the run its budget, and steps their places, and nothing else.
    assert set(run.refused.values()) <= {"flow.budget", "flow.gang_broken", "flow.gang_lost"}
    return run.told


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTION, min_size=5, max_size=25))
def test_a_run_outlives_whatever_a_cluster_answers(actions: list[tuple[str, Any]]) -> None:
    play(actions)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_nor_do_a_hundred_thousand_answers_matter() -> None:
    told = 0

    @settings(max_examples=14_000, deadline=None)
    @given(st.lists(ACTION, min_size=60, max_size=80))
    def all_of(actions: list[tuple[str, Any]]) -> None:
        nonlocal told
        told += play(actions)

    all_of()
    assert told >= 100_000
