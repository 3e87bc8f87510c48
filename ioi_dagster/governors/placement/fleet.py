"""The nodes and links by index, and graphs compiled against them: what every rule of placement computes with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.amounts import MEMORY, counted, shown
from ioi_dagster.model.placement import Edge, Link, Offer, Step
from ioi_dagster.model.refusal import Refusal

LEAST_WORK = 1e-6
"""Seconds: what took no time at all would find room in the middle of another step."""
Need = tuple[int, float, float]
"""Cores, memory, GPUs."""


class Fleet:
    """Nodes in the order of their offers; domains by name. Raises `BadInputError` for a name given twice or a link missing."""

    def __init__(self, offers: Iterable[Offer], links: Iterable[Link]) -> None:
        self.offers = tuple(offers)
        self.index = {offer.node: i for i, offer in enumerate(self.offers)}
        if len(self.index) < len(self.offers):
            twice = next(o.node for i, o in enumerate(self.offers) if self.index[o.node] != i)
            raise BadInputError("it is offered twice", where=f"node {twice!r}", todo="give each node a name of its own")
        between = {(link.source, link.target): link for link in links}
        homes = {offer.domain for offer in self.offers}
        self.domains = tuple(sorted(homes | {name for pair in between for name in pair}))
        self.domain_index = {name: i for i, name in enumerate(self.domains)}
        self.domain = [self.domain_index[offer.domain] for offer in self.offers]
        self.speed = [offer.speed for offer in self.offers]
        self.capacity: list[Need] = [(o.cores, o.memory, o.gpus) for o in self.offers]
        size = len(self.domains)
        self.latency = [[0.0] * size for _ in range(size)]
        self.per_byte = [[0.0] * size for _ in range(size)]
        for i, source in enumerate(self.domains):
            for j, target in enumerate(self.domains):
                link = between.get((source, target))
                if link is not None:
                    self.latency[i][j], self.per_byte[i][j] = link.latency, 1.0 / link.bandwidth
                elif i != j:
                    raise BadInputError(
                        "there is no such link", where=f"{source!r} → {target!r}", todo="say its latency and bandwidth"
                    )
        self._able: dict[tuple[object, ...], tuple[int, ...]] = {}
        self.mean_latency, self.mean_per_byte = self._mean_link()

    def able(self, step: Step) -> tuple[int, ...]:
        """The nodes whose capacity and policy let the step run, whatever runs there now; fastest first."""
        key = (step.cores, step.memory, step.gpus, step.min_trust, step.domains, step.capability)
        found = self._able.get(key)
        if found is None:
            if len(self._able) > 10_000:
                self._able.clear()
            able = [i for i, offer in enumerate(self.offers) if _fits(step, offer)]
            found = self._able[key] = tuple(sorted(able, key=lambda i: -self.offers[i].speed))
        return found

    def refusal(self, step: Step) -> Refusal:
        """Why no node can ever take the step: the one that lacks least, and what it lacks."""
        if not self.offers:
            return Refusal("placement.no_node", f"there is no node for {step.id}", "placement", "add a node")
        lacks = [(len(_lacks(step, offer)), i) for i, offer in enumerate(self.offers)]
        nearest = self.offers[min(lacks)[1]]
        wanted = ", ".join(_lacks(step, nearest))
        text = f"none of {counted(len(self.offers), 'node')} can ever take {step.id}; nearest is {nearest.node}"
        return Refusal("placement.impossible", text, "placement", f"it would need {wanted}")

    def _mean_link(self) -> tuple[float, float]:
        """Latency and seconds a byte, over all pairs of nodes (0 on one node)."""
        count = [self.domain.count(i) for i in range(len(self.domains))]
        pairs = max(1, len(self.offers)) ** 2
        latency = per_byte = 0.0
        for i, a in enumerate(count):
            for j, b in enumerate(count):
                weight = a * b - (a if i == j else 0)
                latency += weight * self.latency[i][j]
                per_byte += weight * self.per_byte[i][j]
        return latency / pairs, per_byte / pairs


def _fits(step: Step, offer: Offer) -> bool:
    return (
        offer.cores >= step.cores
        and offer.memory >= step.memory
        and offer.gpus >= step.gpus
        and offer.trust >= step.min_trust
        and (step.domains is None or offer.domain in step.domains)
        and (not step.capability or step.capability in offer.offers)
    )


def _lacks(step: Step, offer: Offer) -> list[str]:
    rows = (
        (offer.cores < step.cores, f"{step.cores} cores"),
        (offer.memory < step.memory, f"memory of {shown(MEMORY, step.memory)}"),
        (offer.gpus < step.gpus, f"{step.gpus:g} {'GPU' if step.gpus == 1 else 'GPUs'}"),
        (offer.trust < step.min_trust, f"trust of {step.min_trust}"),
        (
            step.domains is not None and offer.domain not in step.domains,
            f"a node in {' or '.join(sorted(step.domains or ())) or 'some domain that is allowed'}",
        ),
        (bool(step.capability) and step.capability not in offer.offers, f"a node that offers {step.capability}"),
    )
    return [text for lacking, text in rows if lacking]


@dataclass(slots=True)
class Graph:
    """A graph by index, in topological order. `doomed`: steps that nothing can take, and all that depends on them."""

    steps: list[Step]
    preds: list[list[tuple[int, float]]]
    succs: list[list[tuple[int, float]]]
    able: list[tuple[int, ...]]
    need: list[Need]
    work: list[float]
    fetch: list[list[float] | None]
    """Seconds until inputs from outside are at each node; None where there are none."""
    mean_run: list[float]
    doomed: dict[int, Refusal | None]
    index: dict[str, int] = field(default_factory=dict)
    moves: list[list[float] | None] = field(default_factory=list)
    """Seconds of its time on each node in which a step moves what it brings and makes; None where that is nothing."""

    def __len__(self) -> int:
        return len(self.steps)


def compile_graph(fleet: Fleet, steps: Sequence[Step], edges: Sequence[Edge]) -> Graph:
    """Raises `BadInputError` for a step given twice, an edge to no step, an unknown domain of inputs, or a cycle."""
    order = topological(steps, edges)
    index = {steps[i].id: position for position, i in enumerate(order)}
    ordered = [steps[i] for i in order]
    preds: list[list[tuple[int, float]]] = [[] for _ in order]
    succs: list[list[tuple[int, float]]] = [[] for _ in order]
    for edge in edges:
        a, b = index[edge.producer], index[edge.consumer]
        preds[b].append((a, edge.size))
        succs[a].append((b, edge.size))
    able = [fleet.able(step) for step in ordered]
    doomed: dict[int, Refusal | None] = {}
    for i, step in enumerate(ordered):
        if not able[i]:
            doomed[i] = fleet.refusal(step)
        elif any(producer in doomed for producer, _ in preds[i]):
            doomed[i] = None
    # What is never placed is waited for by nobody, in neither direction.
    for i in range(len(ordered)):
        preds[i] = [] if i in doomed else preds[i]
        succs[i] = [] if i in doomed else [(c, size) for c, size in succs[i] if c not in doomed]
    moves = [moves_of(fleet, step) for step in ordered]
    return Graph(
        steps=ordered,
        preds=preds,
        succs=succs,
        able=able,
        need=[(step.cores, step.memory, step.gpus) for step in ordered],
        work=[max(step.work, LEAST_WORK) for step in ordered],
        fetch=[_fetch(fleet, step) for step in ordered],
        mean_run=[
            max(s.work, LEAST_WORK) * _mean_slowness(fleet, able[i]) + _mean(moves[i], able[i])
            for i, s in enumerate(ordered)
        ],
        doomed=doomed,
        index=index,
        moves=moves,
    )


def _mean_slowness(fleet: Fleet, able: tuple[int, ...]) -> float:
    return sum(1.0 / fleet.speed[n] for n in able) / len(able) if able else 0.0


def _mean(seconds: list[float] | None, able: tuple[int, ...]) -> float:
    return sum(seconds[n] for n in able) / len(able) if seconds is not None and able else 0.0


def _fetch(fleet: Fleet, step: Step) -> list[float] | None:
    if not step.inputs:
        return None
    _must_know(fleet, step, step.inputs)
    sources = [(fleet.domain_index[name], size) for name, size in step.inputs.items()]
    row = [
        max(fleet.latency[s][d] + size * fleet.per_byte[s][d] for s, size in sources) for d in range(len(fleet.domains))
    ]
    return [row[d] for d in fleet.domain]


def moves_of(fleet: Fleet, step: Step) -> list[float] | None:
    """See `Graph.moves`. Raises `BadInputError` where the fleet does not know the domain that it moves through."""
    if not step.brings and not step.makes:
        return None
    _must_know(fleet, step, (step.through,))
    home, row = fleet.domain_index[step.through], [0.0] * len(fleet.domains)
    for d in range(len(row)):
        for size, source, target in ((step.brings, home, d), (step.makes, d, home)):
            if size:
                row[d] += fleet.latency[source][target] + size * fleet.per_byte[source][target]
    return [row[d] for d in fleet.domain]


def _must_know(fleet: Fleet, step: Step, domains: Iterable[str]) -> None:
    unknown = sorted(set(domains) - set(fleet.domain_index))
    if unknown:
        raise BadInputError(
            f"it reads from {unknown[0]!r}, which no link names", where=f"step {step.id!r}", todo="add the links"
        )


def topological(steps: Sequence[Step], edges: Sequence[Edge]) -> list[int]:
    """Positions in `steps`, each after those of its producers. Raises `BadInputError` as `compile_graph` does."""
    index = {step.id: i for i, step in enumerate(steps)}
    if len(index) < len(steps):
        twice = next(s.id for i, s in enumerate(steps) if index[s.id] != i)
        raise BadInputError("it is in the graph twice", where=f"step {twice!r}", todo="give each step an id of its own")
    missing = [0] * len(steps)
    after: list[list[int]] = [[] for _ in steps]
    for edge in edges:
        for end in (edge.producer, edge.consumer):
            if end not in index:
                raise BadInputError(
                    f"there is no step {end!r}",
                    where=f"edge {edge.producer!r} → {edge.consumer!r}",
                    todo="give the step with the graph, or leave the edge out",
                )
        after[index[edge.producer]].append(index[edge.consumer])
        missing[index[edge.consumer]] += 1
    order = [i for i, count in enumerate(missing) if not count]
    for i in order:
        for j in after[i]:
            missing[j] -= 1
            if not missing[j]:
                order.append(j)
    if len(order) < len(steps):
        left = sorted(steps[i].id for i, count in enumerate(missing) if count)
        raise BadInputError(
            f"{len(left)} steps wait for each other in a circle, {left[0]!r} among them",
            where="the graph",
            todo="take out the edge that closes the circle",
        )
    return order
