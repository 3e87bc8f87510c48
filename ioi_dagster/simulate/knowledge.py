"""What a simulated run knows of how long its steps take and how much they make, before they have run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from ioi_dagster.governors.flow_to_come import op_of


class Known(StrEnum):
    """What a run knows at its start, by op: what is declared, as if earlier runs had taken and made that, or what those of its
    job took and made that came before it in the simulation, and of the first nothing."""

    DECLARED = "declared"
    LEARNT = "learnt"


OUTPUT = "result"
"""What the one output of a simulated step is called."""


def by_op(seconds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """On average, of what several runs say of their steps."""
    found: dict[str, list[float]] = {}
    for its in seconds:
        for step, took in its.items():
            found.setdefault(op_of(step), []).append(took)
    return {op: sum(its) / len(its) for op, its in found.items()}
