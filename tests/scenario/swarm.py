"""Random scenarios: topologies, workflows and faults, each decided by its seed."""

from __future__ import annotations

import random
from dataclasses import replace

from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.topology import DomainSpec
from ioi_dagster.simulate.scenario import Scenario, draw_faults, grid
from ioi_dagster.simulate.shapes import SHAPES, draw
from tests.quotas import share

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
    slots = rng.randint(1, 3)
    topology = grid(clusters, nodes, slots)
    if rng.random() < 0.5:
        topology = replace(
            topology, domains=tuple(with_shares(domain, nodes * slots, rng) for domain in topology.domains)
        )
    bare = Scenario(topology, workflows, seed=seed, noise=rng.choice([0.0, 0.5]))
    return replace(bare, faults=draw_faults(bare, rng.choice([2.0, 10.0, 40.0]), 90.0))


def with_shares(domain: DomainSpec, slots: int, rng: random.Random) -> DomainSpec:
    """Guarantees and limits that leave a slot for everybody."""
    shares, left = [], slots - 1
    for number in range(rng.randint(0, 3)):
        guarantee = rng.randint(0, left)
        left -= guarantee
        lends = rng.choice([None, rng.randint(0, guarantee)])
        borrows = rng.choice([None, rng.randint(0, 3) + (guarantee == 0)])
        shares.append(share(f"t{number}", rng.choice([0.5, 1.0, 4.0]), guarantee, lends, borrows))
    return replace(
        domain, clusters=tuple(replace(cluster, quotas=QuotaTree.flat(shares)) for cluster in domain.clusters)
    )
