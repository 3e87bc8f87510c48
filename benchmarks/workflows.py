"""The workflows of the simulator's families as `benchmarks/yardstick/placement/model.py` reads a trace: placement is measured on
them without any traces.

`{"name", "tasks": {id: {type, work, cores, memory}}, "edges": [[producer, consumer, bytes]], "external": {id: [(file, bytes)]}}`,
work in seconds at speed 1, memory in bytes (0: unknown).
"""

from __future__ import annotations

from typing import Any

from ioi_dagster.simulate import families
from ioi_dagster.simulate.families import FAMILIES as SHAPES

__all__ = ["SHAPES", "draw"]


def draw(shape: str, size: int, seed: int) -> dict[str, Any]:
    """A workflow of about `size` steps. Raises `KeyError` for a shape that is not in `SHAPES`."""
    steps = families.draw(shape, size, seed).steps
    return {
        "name": f"drawn/{shape}/{size}-{seed}",
        "tasks": {
            key: {"type": key.rpartition("-")[0], "work": its.seconds, "cores": 1, "memory": 0.0}
            for key, its in steps.items()
        },
        "edges": [[need, key, size] for key, its in steps.items() for need, size in its.inputs.items()],
        "external": {key: [(f"file-{key}", its.reads)] if its.reads else [] for key, its in steps.items()},
    }
