"""What a cluster tells a run that plans ahead of its nodes: how fast they are, and when what others run there should be over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ioi_dagster.governors.placement.lateness import left
from ioi_dagster.model.negotiation import MAX_BUSY, Busy, NodeOutlook, Resources


@dataclass(frozen=True, slots=True)
class Occupied:
    """A slot is held by the run of the key `run` since `since`, for about `seconds` in all (0: nobody knows)."""

    run: str
    since: float
    seconds: float = 0.0
    resources: Resources = ()


@dataclass(frozen=True, slots=True)
class NodeNow:
    node: str
    slots: int
    capabilities: Collection[str]
    occupied: Sequence[Occupied]
    speed: float = 1.0
    resources: Resources = ()
    warm: Collection[str] = ()
    """Capabilities that begin there at once."""


def outlook(nodes: Iterable[NodeNow], run: str, about: Sequence[str], now: float) -> tuple[NodeOutlook, ...]:
    """As the run of the key `run` sees them that asks `about` capabilities."""
    return tuple(
        NodeOutlook(
            node.node,
            node.slots,
            node.speed,
            _able(node, about),
            tuple(Busy(_rest(its, now), its.resources) for its in node.occupied if its.run != run)[:MAX_BUSY],
            node.resources,
            tuple(number for number in _able(node, about) if about[number] in node.warm),
        )
        for node in nodes
    )


def _able(node: NodeNow, about: Sequence[str]) -> tuple[int, ...]:
    return tuple(number for number, capability in enumerate(about) if capability in node.capabilities)


def _rest(its: Occupied, now: float) -> float:
    """Of what nobody knows as much is taken to be left as has passed: it is seen at a random moment of its length."""
    passed = max(0.0, now - its.since)
    rest = left(passed / its.seconds) * its.seconds if its.seconds else passed
    return min(max(rest, 0.0), 86_400.0)
