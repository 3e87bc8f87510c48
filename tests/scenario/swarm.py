"""Random scenarios: topologies, workflows and faults, each decided by its seed."""

from __future__ import annotations

import random
from dataclasses import replace

from ioi_dagster.simulate.scenario import Scenario, draw_faults, grid
from ioi_dagster.simulate.shapes import SHAPES, draw

MAY_FAIL = {"flow.poison_step"}
"""Where many faults hit one step, it looks like a cause of them."""


def scenario(seed: int) -> Scenario:
    rng = random.Random(f"swarm/{seed}")
    clusters, nodes = rng.randint(1, 5), rng.randint(1, 4)
    workflows = tuple(
        draw(
            rng.choice(sorted(SHAPES)),
            rng.randint(1, 25),
            seed * 100 + number,
            name=f"w{number}",
            seconds=rng.choice([0.05, 1.0, 5.0, 20.0]),
            arrives=rng.uniform(0, 20),
            tenant=f"t{number % 3}",
            domain=f"d{rng.randrange(clusters)}",
        )
        for number in range(rng.randint(1, 5))
    )
    bare = Scenario(grid(clusters, nodes, rng.randint(1, 3)), workflows, seed=seed, noise=rng.choice([0.0, 0.5]))
    return replace(bare, faults=draw_faults(bare, rng.choice([2.0, 10.0, 40.0]), 90.0))
