"""Nothing that a run may still resume from goes, whatever the ledger and the ages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.tidying import RunFacts, may_go, seconds_of

NOW = 1e9
names = st.sampled_from([f"r{number}" for number in range(8)])
facts = st.builds(
    RunFacts,
    run=names,
    over=st.booleans(),
    touched=st.floats(NOW - 1e6, NOW + 1e3),
    parents=st.lists(names, max_size=2).map(tuple),
)


@given(st.lists(facts, max_size=8, unique_by=lambda one: one.run), st.floats(0.0, 1e6))
def test_only_what_is_over_old_and_needed_by_nobody_goes(runs: list[RunFacts], older_than_s: float) -> None:
    gone = may_go(runs, NOW, older_than_s)
    for run in runs:
        wanted = any(run.run in other.parents for other in runs if not other.over)
        assert (run.run in gone) == (run.over and not wanted and NOW - run.touched >= older_than_s)


@given(st.lists(facts, max_size=8, unique_by=lambda one: one.run), st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_a_greater_age_lets_less_go(runs: list[RunFacts], one: float, other: float) -> None:
    assert set(may_go(runs, NOW, max(one, other))) <= set(may_go(runs, NOW, min(one, other)))


@pytest.mark.parametrize(("text", "seconds"), [("30d", 2_592_000.0), ("12h", 43_200.0), ("1.5m", 90.0), ("0s", 0.0)])
def test_ages(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "30", "-1d", "nand", "infd", "3 weeks"])
def test_other_texts_are_no_ages(text: str) -> None:
    with pytest.raises(BadInputError, match="is no age"):
        seconds_of(text)
