"""How far a gateway's clock is from ours, by what its answers tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.http.clocks import SLACK_S, PeerClock, ahead_of, told_as
from ioi_dagster.clock import ManualClock
from ioi_dagster.model.amounts import apart

MS = 0.002
"""A header has milliseconds."""


@given(
    ahead=st.floats(-1e6, 1e6),
    now=st.floats(1.6e9, 2e9),
    took=st.floats(0, 60),
    there=st.floats(0, 1),
)
def test_what_is_measured_is_as_exact_as_the_answer_is_quick(ahead, now, took, there):
    """`there`: the part of the time after which the gateway has written it."""
    measured = ahead_of(told_as(now - took + there * took + ahead), now, took)
    assert measured is not None
    if measured:
        assert abs(measured - ahead) <= took / 2 + MS
    else:
        assert abs(ahead) <= took + SLACK_S + MS


@pytest.mark.parametrize("told", [None, "", "soon", "nan", "inf", "-inf", "1e999"])
def test_what_is_no_clock_tells_nothing(told):
    assert ahead_of(told, 1.7e9, 0.0) is None


def test_requests_are_dated_by_a_clock_within_a_day_and_by_ours_else(caplog):
    own = ManualClock()
    clock = PeerClock("lab", own)
    assert clock.wall() == own.wall()

    def heard(ahead_s: float) -> float:
        clock.heard(told_as(own.wall() + ahead_s), 1e18)  # no time has passed since then
        return round(clock.ahead_s)

    assert [heard(ahead) for ahead in (720, 720.4, -86_000, 90_000, 0)] == [720, 720, -86_000, 0, 0]
    clock.heard("soon", 1e18)
    assert clock.ahead_s == 0.0
    assert [record.getMessage() for record in caplog.records] == [
        "the clock of lab is 12 min ahead of ours",
        "the clock of lab is 23.9 h behind of ours",
        "the clock of lab is 25 h ahead of ours, and by more than 24 h nothing can be asked of it",
        "the clock of lab is 0 s ahead of ours",
    ]


@pytest.mark.parametrize(
    ("ahead_s", "told"),
    [
        (5.4, "5 s ahead"),
        (-89.0, "89 s behind"),
        (720.0, "12 min ahead"),
        (-3_600.0, "60 min behind"),
        (5_400.0, "1.5 h ahead"),
        (-172_800.0, "2 days behind"),
    ],
)
def test_how_far_clocks_are_apart_in_words(ahead_s, told):
    assert apart(ahead_s) == told
