"""The rule of a flow governor that knows its graph: a step goes where the plan of the whole has it, or waits for that place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.governors.flow_placing import LeastCost, Objective, Offer
from ioi_dagster.governors.flow_steps import Group, Step
from ioi_dagster.governors.placement.ahead import GraphPlan
from ioi_dagster.model.intervention import PART
from ioi_dagster.model.negotiation import MAX_GROUPS, MAX_PLANNED, Bid, Lease

BRIEF_S = 0.5
"""Where steps take less than this on average, waiting for a better place costs more than it brings."""
LOOK_AGAIN_S = 30.0
NOT_OFFERED = "cluster.not_offered"
"""A cluster has no node, not even a busy one."""
TOO_MANY = (
    f"no plan of the whole graph is made: its clusters tell of more than {MAX_PLANNED} nodes together; each step takes what "
    "costs it least, in the order of what is behind it"
)
TELLS_OF_NONE = (
    f"the plan of the graph leaves out {{cluster}}, which tells of no nodes, as a cluster does that has more than {MAX_PLANNED} "
    "for a run; a step goes there by what is offered alone"
)
NONE_S = 5.0
"""So long steps wait for room that the plan sees free and nobody offers them, and for room that was to be free by now at most so
long more than it was to take; then they take what they are offered."""


def kind_beside(step: str) -> str:
    """Of a step that no graph knows: the op that was mapped, or, of a part of a map inside a step, that step's with `PART`."""
    whole, part, _ = step.partition(PART)
    return whole.partition("[")[0] + part


class PlanAhead(LeastCost):
    """Where no graph is known, or a step is none of it, each step takes what costs it least."""

    def __init__(self, objective: Objective, home: str = "", cold: ColdStarts | None = None) -> None:
        """`home`: the domain in which what steps are sent lies; `cold`: what is learnt of what loading blocks takes."""
        super().__init__(objective)
        self._home = home
        self._plan = GraphPlan((cold or ColdStarts()).expect)
        self._about: dict[str, None] = {}
        self._now, self._planned = 0.0, False
        self._told_at, self._looked_at = float("-inf"), float("-inf")
        self._until: dict[tuple[Group, str], float] = {}
        """Steps that are alike, and a cluster that offers them nothing though the plan has them there: how long they wait for it.
        By what is alike, lest each step of a chain waits anew."""
        self._not_had: set[tuple[str, str]] = set()
        self._not_had_before: set[tuple[str, str]] = set()
        """Nodes, with their clusters, that the plan has for steps which waited long enough for an offer of them: in this round
        and in the last."""
        self._remarks: dict[str, bool] = {}
        """What people should know, and whether they were told."""
        self._bids: dict[str, tuple[float, float]] = {}
        """By cluster, what it asked last, and how far its bids are kept."""

    def know(self, graph: GraphKnown, now: float) -> None:
        self._plan.know(graph.steps, graph.edges, graph.links, now)
        self._plan.learnt(dict(graph.kinds))
        for step in graph.steps:
            if step.capability and len(self._about) < MAX_GROUPS:
                self._about[step.capability] = None

    def about(self, waiting: Collection[Step], now: float) -> tuple[str, ...]:
        """Where there is nothing to plan, only from time to time."""
        known = now < self._told_at + LOOK_AGAIN_S and not self._pays([step.ask.step for step in waiting])
        return () if known or self._plan.more_than(MAX_PLANNED, now) else tuple(self._about)

    def remaining_s(self) -> float:
        return self._plan.remaining_s

    def look(self, waiting: Collection[Step], bids: Iterable[Bid], trust: Callable[[str], float], now: float) -> None:
        self._now, self._looked_at, self._planned = now, now, False
        self._not_had_before, self._not_had = self._not_had, set()
        # A cluster that had none for them may have some by now.
        self._until = {key: until for key, until in self._until.items() if until > now - LOOK_AGAIN_S}
        if not self._about or self._plan.more_than(MAX_PLANNED, now):
            return
        about, newcomer = tuple(self._about), False
        for bid in bids:
            if not bid.points and any(refusal.code == NOT_OFFERED for refusal in bid.refusals):
                self._plan.away(bid.cluster)
            elif bid.nodes:
                self._told_at = now
                self._plan.see(bid, about, now)
            else:
                newcomer |= bool(bid.points) and bid.cluster not in self._bids
            self._bids[bid.cluster] = min((point.price for point in bid.points), default=0.0), trust(bid.cluster)
        if newcomer:
            # It was not asked how its nodes look, and is to be, in the next round.
            self._told_at = float("-inf")
        for step in waiting if self._home else ():
            self._plan.reads(step.ask.step, self._home, float(step.ask.input_bytes))
        self._make([step.ask.step for step in waiting], now)

    def _make(self, ready: Collection[str] | None, now: float) -> None:
        if self._plan.more_than(MAX_PLANNED, now):
            self._remark(TOO_MANY, ready or ())
            return
        if not self._pays(ready or ()):
            return
        usual = self._plan.usual(ready or ())
        worse: dict[str, float] = {}
        for cluster, (price, trust) in self._bids.items():
            worse[cluster] = (usual + self._weights.credit * price / self._weights.second) / trust - usual
        self._planned = self._plan.plan(ready, worse, now)

    def _pays(self, ready: Collection[str]) -> bool:
        """A plan is better than that each of them takes what costs it least."""
        return not self._plan.uniform() and self._plan.usual(ready) >= BRIEF_S

    def _remark(self, text: str, ready: Collection[str]) -> None:
        """Of a plan that would be made else."""
        if text not in self._remarks and self._plan.usual(ready) >= BRIEF_S:
            self._remarks[text] = False

    def remarks(self, waiting: Collection[Step], untold: Iterable[Bid]) -> list[str]:
        for bid in untold:
            if any(point.capability in self._about for point in bid.points):
                self._remark(TELLS_OF_NONE.format(cluster=bid.cluster), [step.ask.step for step in waiting])
        new = [text for text, told in self._remarks.items() if not told]
        self._remarks |= dict.fromkeys(new, True)
        return new

    def late(self, now: float) -> dict[str, tuple[str, str]] | None:
        if self._about and now > self._now:
            self._now, self._planned = now, False
            self._make(None, now)
        return self._plan.late if self._planned else None

    def order(self, waiting: Iterable[Step]) -> Sequence[Step]:
        """Within a priority, as it is planned; what is not planned comes last."""
        if not self._planned:
            rank = self._plan.rank
            return sorted(waiting, key=lambda s: (-s.ask.priority, len(s.places), -rank(s.ask.step), s.order))
        return sorted(waiting, key=lambda step: (-step.ask.priority, self._start(step), len(step.places), step.order))

    def _start(self, step: Step) -> float:
        planned = self._plan.planned(step.ask.step, self._now)
        return planned.start if planned is not None else float("inf")

    def _goes_by_plan(self, step: Step) -> bool:
        """What is to be near to others goes by where those are, and a gang where there is room for all of it."""
        return self._planned and not step.ask.gang and not step.ask.near and self._plan.knows(step.ask.step)

    def choose(self, step: Step, offers: Sequence[Offer]) -> Offer | None:
        if not self._goes_by_plan(step):
            return super().choose(step, offers)
        key = step.ask.step
        planned = self._plan.planned(key, self._now)
        if planned is None:
            # Others of the graph come first, unless no node is known that could take it.
            waits = not self._plan.could_be_planned(key) or self._waits_for(step, "", self._now)
            return super().choose(step, self._beside_plan(offers) if waits else offers)
        if planned.cluster == step.turned_down_by or all(place.cluster != planned.cluster for place in step.places):
            return super().choose(step, offers)
        offer = next((one for one in offers if one.place.cluster == planned.cluster), None)
        where = planned.cluster, planned.node
        if offer is None and not self._waits_for(step, planned.cluster, planned.start):
            self._not_had.add(where)
            return super().choose(step, offers)
        beside = super().choose(step, self._beside_plan(offers))
        if beside is not None and beside.seconds / beside.trust < planned.finish - self._now:
            return beside
        if offer is None:
            return None
        self._until.pop((step.group, planned.cluster), None)
        if not planned.now and (where in self._not_had or where in self._not_had_before):
            # Behind who gets nothing there it would wait for ever.
            return super().choose(step, offers)
        if not planned.now or not self._plan.take(key, planned):
            return None
        return replace(offer, seconds=planned.finish - self._now, prefer=(planned.node,))

    def _beside_plan(self, offers: Sequence[Offer]) -> list[Offer]:
        """Those of clusters that do not tell of their nodes, as the very large do not."""
        return [one for one in offers if not self._plan.knows_nodes_of(one.place.cluster)]

    def _waits_for(self, step: Step, cluster: str, start: float) -> bool:
        """What is free where the plan has it, or is to be so at `start`, is not offered: others have it, or its tenant has no
        right to more. Not for ever, and not at once, since the next round may have it."""
        until = max(start, self._now) + max(0.0, start - self._now) + NONE_S
        key = step.group, cluster
        self._until[key] = min(until, self._until.get(key, until))
        return self._now < self._until[key]

    def why_waits(self, step: Step) -> str:
        if not self._goes_by_plan(step):
            return ""
        planned = self._plan.planned(step.ask.step, self._now)
        if planned is None:
            return "what is planned comes before it"
        begins, ends = planned.start - self._now, planned.finish - self._now
        where = f"{planned.node} of {planned.cluster}"
        if planned.now:
            return f"by the plan of the graph it is to run on {where}, which had no slot for it in the last round"
        return f"by the plan of the graph it begins in {begins:.1f} s on {where}, to end in {ends:.1f} s"

    def is_warm(self, capability: str, cluster: str, node: str) -> bool | None:
        return self._plan.is_warm(capability, cluster, node, self._looked_at)

    def began(self, step: Step, cluster: str, node: str, now: float) -> None:
        self._beside(step)
        self._plan.began(step.ask.step, cluster, node, now)

    def ended(self, step: Step, lease: Lease, seconds: float, now: float) -> None:
        super().ended(step, lease, seconds, now)
        if not self._plan.knows(step.ask.step):
            kind = kind_beside(step.ask.step)
            return self._plan.beside_ended(step.ask.step, kind, lease.cluster, lease.node, seconds)
        self._plan.ended(step.ask.step, lease.cluster, lease.node, seconds, now)

    def copied(self, step: Step, lease: Lease, now: float) -> None:
        self._plan.copied(step.ask.step, lease.cluster, lease.node, now)

    def stopped(self, step: Step, lease: Lease) -> None:
        self._plan.stopped(step.ask.step, lease.cluster, lease.node)

    def again(self, step: Step) -> None:
        self._beside(step)
        self._plan.again(step.ask.step)

    def _beside(self, step: Step) -> None:
        if not self._plan.knows(step.ask.step):
            self._plan.beside(step.ask.step, kind_beside(step.ask.step))

    def gone(self, step: Step) -> None:
        self._plan.gone(step.ask.step)

    def away(self, cluster: str) -> None:
        self._bids.pop(cluster, None)
        self._plan.away(cluster)
