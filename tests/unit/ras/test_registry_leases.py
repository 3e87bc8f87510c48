"""Leased state: its ends, its bounds, and what of it outlives a gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.files.lease_file import LeaseFile
from ioi_dagster.ras.leases import STEP_S, LeasedState

KEYS = st.sampled_from(["node/a", "node/b", "cluster/a", "plain"])
EVENTS = st.lists(
    st.tuples(KEYS, st.floats(0.05, 5) | st.just(0.1) | st.just(0.3), st.floats(0, 3) | st.just(0.1), st.booleans()),
    max_size=40,
)


@given(EVENTS)
def test_each_end_is_told_once_and_at_most_a_step_late(events):
    state, now, until = LeasedState(tells=True), 0.0, {}
    for key, ttl, later, drops in events:
        if drops:
            state.drop(key)
            until.pop(key, None)
        else:
            assert state.put(key, ttl, ttl, now) is None
            until[key] = (now + ttl, ttl)
        now += later
        told = state.expire(now)
        ended = {name: value for name, (end, value) in until.items() if end <= now}
        overdue = {name for name, (end, _) in until.items() if end <= now - STEP_S - 1e-9}
        assert dict(told).items() <= ended.items() and overdue <= dict(told).keys() and len(dict(told)) == len(told)
        for name, _ in told:
            del until[name]
        living = {name: value for name, (end, value) in sorted(until.items()) if end > now}
        assert state.items(now) == living
        assert state.items(now, "node/") == {name: value for name, value in living.items() if name.startswith("node/")}
        # What was set anew after its end is told as ended too, which the next round would have to know.
        while over := [name for name, (end, _) in until.items() if end <= now]:
            assert [state.get(name, now) for name in over] == [None] * len(over)
            now += STEP_S * 2
            for name, _ in state.expire(now):
                del until[name]


def test_renewals_take_no_memory_and_ends_leave_none():
    state = LeasedState()
    for number in range(10_000):
        state.put("node/a", number, 60 if number % 2 else 30, number * 0.001)
    held = sum(map(len, state._slots.values()))
    assert (held, len(state), len(state._slots) < 700) == (1, 1, True)
    assert state.items(1000.0) == {}
    assert (len(state), state._slots, state._due, dict(state._groups), dict(state._owned)) == (0, {}, [], {}, {})


def test_one_owner_fills_nothing_for_others():
    state = LeasedState(most=2)
    assert [state.put(f"node/{n}", n, 5, 0.0, "greedy") is None for n in range(3)] == [True, True, False]
    assert state.put("node/2", 2, 5, 0.0, "modest") is None
    refusals = [state.put("node/3", 3, 5, 0.0, "greedy"), state.put("node/2", 9, 5, 0.0, "greedy")]
    assert [refusal.code for refusal in refusals if refusal] == ["ras.too_many_leases", "ras.lease_of_another"]
    assert state.put("node/0", 7, 5, 1.0, "greedy") is None
    assert state.put("node/3", 3, 5, 5.5, "greedy") is None
    assert state.items(5.5) == {"node/0": 7, "node/3": 3}


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan"), 1e9])
def test_a_time_that_makes_no_sense_is_refused(ttl):
    refusal = LeasedState().put("node/a", 1, ttl, 0.0)
    assert refusal is not None and refusal.code == "ras.lease_length"


def test_a_gateway_that_starts_again_knows_what_has_not_ended_since(tmp_path: Path):
    state = LeasedState()
    file = LeaseFile(tmp_path / "state", state, every_s=5)
    state.put("node/short", {"slots": 1}, 5, 100.0, "lab")
    state.put("node/long", {"slots": [2, None, 0.5]}, 60, 100.0, "lab")
    assert [file.save(100.0, 1e9), file.save(104.9, 1e9 + 4.9)] == [True, False]
    for wall, left in ((1e9 + 10, 50), (1e9 - 3600, 60)):
        again = LeasedState()
        assert LeaseFile(tmp_path / "state", again).load(7.0, wall) == (1 if left == 50 else 2)
        assert again.get("node/long", 7.0 + left - 0.01) == {"slots": [2, None, 0.5]}
        assert again.get("node/long", 7.0 + left) is None
    again = LeasedState()
    LeaseFile(tmp_path / "state", again).load(7.0, 1e9)
    assert again.is_from_before("node/long")
    assert again.put("node/long", {}, 60, 8.0, "other") is not None
    again.put("node/long", {}, 60, 8.0, "lab")
    assert not again.is_from_before("node/long")


@pytest.mark.parametrize("written", [b"", b"rubbish", b"\x93\x02\x01\x90"])
def test_what_cannot_be_read_is_no_state(tmp_path: Path, written: bytes, caplog):
    (tmp_path / "state").write_bytes(written)
    assert LeaseFile(tmp_path / "state", LeasedState()).load(0.0, 0.0) == 0
    assert "was not read" in caplog.text
