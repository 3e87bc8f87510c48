"""Which of several that would do is best: who beats whom on every count, and an order by the caller's weights.

A figure that is missing is no zero. For who beats whom, two compare only where both say the same figures. For the order, a
missing figure counts as the worst that any of the others has, so that saying nothing never pays; one that nobody has is left out,
and the other weights make up for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract, Evidence
from ioi_dagster.ras.summary import Living

MAX_COMPARED = 500
"""Candidates that are compared with each other."""


@dataclass(frozen=True, slots=True)
class Criterion:
    name: str
    unit: str
    more_is_better: bool


CRITERIA = (
    Criterion("relevance", "share of the request that is covered, 0..1", True),
    Criterion("cost", "of one call, in the currency that was asked for", False),
    Criterion("latency_ms", "milliseconds of a call, half of them take less", False),
    Criterion("quality", "value of the metric that was asked for", True),
    Criterion("load", "share of its capacity that is taken, 0..1", False),
    Criterion("locality", "1 beside who asks, 0 far away", True),
    Criterion("reputation", "share of its promises that it kept, 0..1", True),
)
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "relevance": 1.0,
    "cost": 0.5,
    "latency_ms": 0.5,
    "quality": 0.5,
    "load": 0.25,
    "locality": 0.25,
    "reputation": 0.5,
}


@dataclass(frozen=True, slots=True)
class Figures:
    """None: not known. Units: `CRITERIA`."""

    relevance: float | None = None
    cost: float | None = None
    latency_ms: float | None = None
    quality: float | None = None
    load: float | None = None
    locality: float | None = None
    reputation: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """`utility` in 0..1: the sum of `parts`. `missing`: figures that others have and it has not."""

    utility: float
    parts: dict[str, float]
    missing: tuple[str, ...]


def figures_of(
    contract: Contract | None, living: Living | None, relevance: float | None, currency: str = "", metric: str = ""
) -> Figures:
    """What was observed comes before what is promised. Costs in another currency, or for anything but a call, are not known."""
    living = living or Living()
    if contract is None:
        return Figures(
            relevance, None, living.latency_ms, living.quality, living.load, living.locality, living.reputation
        )
    costs = [charge.amount for charge in contract.charges if charge.unit == "call" and charge.currency == currency]
    promised = contract.slo.p50_ms if contract.slo.p50_ms > 0 else None
    return Figures(
        relevance,
        math.fsum(costs) if costs and len(costs) == len(contract.charges) else None,
        living.latency_ms if living.latency_ms is not None else promised,
        living.quality if living.quality is not None else _quality(contract, metric),
        living.load,
        living.locality,
        living.reputation,
    )


def _quality(contract: Contract, metric: str) -> float | None:
    """By the best evidence: observed, then attested, then declared; the lowest of equal evidence."""
    order = (Evidence.OBSERVED, Evidence.ATTESTED, Evidence.DECLARED)
    known = [(order.index(one.evidence), one.value) for one in contract.quality if one.metric == metric]
    return min(known)[1] if known else None


def checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Of criteria that are there, from 0, not all 0. Raises `BadInputError`."""
    names = [criterion.name for criterion in CRITERIA]
    for name, weight in weights.items():
        if name not in names:
            raise BadInputError(f"{name[:40]!r} is no criterion", where="weights", todo=f"one of {', '.join(names)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
            raise BadInputError(f"the weight of {name} is {weight!r}", where="weights", todo="write a number from 0")
    if not any(weights.values()):
        raise BadInputError("all weights are 0", where="weights", todo="weigh at least one criterion")
    return {name: float(weights.get(name, 0)) for name in names}


def scores(figures: Sequence[Figures], weights: Mapping[str, float]) -> list[Score]:
    """Each figure is 1 for the best of these and 0 for the worst, straight in between. Raises `BadInputError` for bad weights."""
    known = checked_weights(weights)
    scales = {c.name: scale for c in CRITERIA if (scale := _scale(c, figures)) is not None and known[c.name] > 0}
    total = math.fsum(known[name] for name in scales)
    found = []
    for one in figures:
        values = {name: getattr(one, name) for name in scales}
        parts = {
            name: known[name] / total * (0.0 if value is None else _on(scales[name], value))
            for name, value in values.items()
        }
        missing = tuple(name for name, value in values.items() if value is None)
        found.append(Score(round(math.fsum(parts.values()), 12), parts, missing))
    return found


def _scale(criterion: Criterion, figures: Sequence[Figures]) -> tuple[float, float] | None:
    """(worst, best), or None where nobody says."""
    values = [value for one in figures if (value := getattr(one, criterion.name)) is not None]
    if not values:
        return None
    return (min(values), max(values)) if criterion.more_is_better else (max(values), min(values))


def _on(scale: tuple[float, float], value: float) -> float:
    worst, best = scale
    return 1.0 if worst == best else (value - worst) / (best - worst)


def dominates(one: Figures, other: Figures) -> bool:
    """Is it as good on every count, and better on one? Only where both say the same figures."""
    better = False
    for criterion in CRITERIA:
        own, its = getattr(one, criterion.name), getattr(other, criterion.name)
        if own is None and its is None:
            continue
        if own is None or its is None or (own < its if criterion.more_is_better else own > its):
            return False
        better = better or own != its
    return better


def dominators(figures: Sequence[Figures]) -> list[tuple[int, ...]]:
    """Of each, the places of those that beat it; empty for those that nobody beats: the Pareto front. Raises `BadInputError`."""
    if len(figures) > MAX_COMPARED:
        raise BadInputError(
            f"{len(figures)} candidates to compare", where="utility", todo=f"{MAX_COMPARED} at most: narrow them"
        )
    return [
        tuple(place for place, one in enumerate(figures) if place != at and dominates(one, other))
        for at, other in enumerate(figures)
    ]
