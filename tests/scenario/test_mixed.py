"""Federations of machines that differ in all that they may: each step ends, and none fails for a reason that there is not."""

from __future__ import annotations

import pytest

from tests.scenario.mixed import mixed, wrong_with


@pytest.mark.parametrize("seed", range(17))
def test_each_step_runs_or_fails_for_a_reason_that_there_is(seed: int) -> None:
    assert wrong_with(mixed(seed)) == []
