"""Federations of machines that differ in all that they may: each step ends, and none fails for a reason that there is not."""

from __future__ import annotations

import pytest

from tests.scenario.mixed import mixed, wrong_with

MORE = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 17)]


@pytest.mark.parametrize("seed", [*range(6), *MORE])
def test_each_step_runs_or_fails_for_a_reason_that_there_is(seed: int) -> None:
    assert wrong_with(mixed(seed)) == [], f"keep it: python -m tests.scenario.seeds 'mixed {seed}' 'what was wrong'"
