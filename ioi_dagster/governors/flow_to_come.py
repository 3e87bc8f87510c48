"""What a flow governor is told of its run's graph before the steps are ready: the same of live runs and of simulated ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.model.placement import Edge, Link, Made, Step


@dataclass(frozen=True, slots=True)
class ToCome:
    """A step as its run's plan has it: it begins when all that it `needs` are over. `memory` in bytes; `domains`: the only ones
    allowed (None: any); `reads`: the values that it is sent, each by the op that makes it and the output of that."""

    key: str
    needs: tuple[str, ...]
    capability: str
    memory: float = 0.0
    gpus: float = 0.0
    domains: frozenset[str] | None = None
    reads: tuple[tuple[str, str], ...] = ()


def op_of(step: str) -> str:
    """What a step is a step of: all that an op was mapped to are of that op."""
    return step.partition("[")[0]


def graph_to_come(
    steps: Collection[ToCome],
    over: Collection[str],
    took: Mapping[str, float],
    made: Mapping[tuple[str, str], Made],
    home: str,
    links: Iterable[Link],
) -> GraphKnown:
    """The graph without the steps that are `over`. `took`: seconds of work by op, as earlier runs had it; `made`: what those
    made, by op and output; what is not there is taken to be nothing. All that steps are sent and make passes through the domain
    `home`; `links`: what is told of what lies between that and others."""
    makes: dict[str, float] = {}
    for (op, _), its in made.items():
        makes[op] = makes.get(op, 0.0) + its.whole
    left = {step.key: step for step in steps if step.key not in over}

    def known(step: ToCome) -> Step:
        op = op_of(step.key)
        moves = sum(made[one].each for one in step.reads if one in made), makes.get(op, 0.0)
        return Step(
            step.key,
            0.0,
            memory=step.memory,
            gpus=step.gpus,
            domains=step.domains,
            kind=op,
            capability=step.capability,
            through=home if any(moves) else "",
            brings=moves[0],
            makes=moves[1],
        )

    return GraphKnown(
        tuple(map(known, left.values())),
        tuple(Edge(need, step.key) for step in left.values() for need in step.needs if need in left),
        tuple(links),
        tuple(sorted(took.items())),
    )
