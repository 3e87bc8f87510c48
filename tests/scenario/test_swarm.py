"""Whatever happens to a federation, each step is committed once, under its newest fence, and nothing is held for ever."""

from __future__ import annotations

import pytest

from ioi_dagster.simulate.world import simulate
from tests.scenario.swarm import MAY_FAIL, scenario

SEEDS = 60
"""So many are tried each time; the rest of ten thousand by name (`make swarm`)."""


def try_seed(seed: int) -> None:
    its = scenario(seed)
    report = simulate(its)
    assert report.violations == (), f"seed {seed}"
    assert report.failures.keys() <= MAY_FAIL, f"seed {seed}"
    assert report.done + report.failed == sum(len(workflow.steps) for workflow in its.workflows), f"seed {seed}"


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_no_invariant_breaks_in_random_federations_under_random_faults(first: int) -> None:
    for seed in range(first, first + 20):
        try_seed(seed)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("first", range(SEEDS, 10_000, 1_400))
def test_nor_in_ten_thousand_of_them(first: int) -> None:
    for seed in range(first, first + 1_400):
        try_seed(seed)
