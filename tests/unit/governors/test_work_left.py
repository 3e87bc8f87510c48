"""What a run has left, against what one comes to who adds all of it up each time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.governors.placement.work_left import WorkLeft

STEPS = st.sampled_from([f"s{number}" for number in range(6)])
KINDS = st.sampled_from("abc")
SECONDS = st.floats(0.01, 1e6)
OPENED = st.tuples(st.just("open"), STEPS, KINDS, st.one_of(st.just(0.0), SECONDS))
CLOSED = st.tuples(st.just("close"), STEPS)
TAKES = st.tuples(st.just("takes"), KINDS, SECONDS)


@given(st.lists(st.one_of(OPENED, CLOSED, TAKES), max_size=40))
def test_it_is_the_sum_of_what_is_open_by_what_is_known_now(told):
    left, opened, takes = WorkLeft(), {}, {}
    for what, *about in told:
        getattr(left, what)(*about)
        match what, about:
            case "open", [step, kind, work]:
                opened[step] = kind, work
            case "close", [step]:
                opened.pop(step, None)
            case "takes", [kind, seconds]:
                takes[kind] = seconds
        unknown = [kind for kind, work in opened.values() if not work and kind not in takes]
        usual = sum(takes.values()) / len(takes) if takes else 0.0
        expected = sum(work or takes.get(kind, usual) for kind, work in opened.values())
        assert left.seconds == pytest.approx(0.0 if unknown and not takes else expected, rel=1e-6, abs=1e-6)
