"""Workflows of the usual shapes, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from ioi_dagster.simulate.scenario import Workflow, WorkflowStep


def draw(shape: str, size: int, seed: int, *, name: str = "", seconds: float = 5.0, **more: str | float) -> Workflow:
    """A workflow of about `size` steps that run for `seconds` on average (log-normal, σ = 0.6). Raises `KeyError` for a shape
    that is not in `SHAPES`."""
    rng = random.Random(f"{shape}/{size}/{seed}")
    needs = SHAPES[shape](max(1, size), rng)
    steps = {key: WorkflowStep(round(seconds * rng.lognormvariate(-0.18, 0.6), 3), its) for key, its in needs.items()}
    return Workflow(name or f"{shape}-{seed}", steps, **more)  # pyright: ignore[reportArgumentType]


def _bag(size: int, _rng: random.Random) -> dict[str, tuple[str, ...]]:
    return {f"s{number}": () for number in range(size)}


def _chain(size: int, _rng: random.Random) -> dict[str, tuple[str, ...]]:
    return {f"s{number}": (f"s{number - 1}",) if number else () for number in range(size)}


def _fork_join(size: int, rng: random.Random) -> dict[str, tuple[str, ...]]:
    """One step, many after it, one after those; again and again."""
    needs: dict[str, tuple[str, ...]] = {"s0": ()}
    last = "s0"
    while len(needs) < size:
        width = min(rng.randint(2, max(2, size // 4)), max(1, size - len(needs) - 1))
        middle = [f"s{len(needs) + number}" for number in range(width)]
        needs |= dict.fromkeys(middle, (last,))
        last = f"s{len(needs)}"
        needs[last] = tuple(middle)
    return needs


def _layers(size: int, rng: random.Random) -> dict[str, tuple[str, ...]]:
    """Levels of random width; each step needs one to three of the level before."""
    needs: dict[str, tuple[str, ...]] = {}
    before: list[str] = []
    while len(needs) < size:
        width = min(rng.randint(1, max(1, round(size**0.5 * 1.5))), size - len(needs))
        level = [f"s{len(needs) + number}" for number in range(width)]
        for key in level:
            needs[key] = tuple(sorted(rng.sample(before, min(len(before), rng.randint(1, 3)))))
        before = level
    return needs


SHAPES: dict[str, Callable[[int, random.Random], dict[str, tuple[str, ...]]]] = {
    "bag": _bag,
    "chain": _chain,
    "fork-join": _fork_join,
    "layers": _layers,
}
