"""A node that its cluster governor no longer hears starts nothing, and then stops what it runs. Virtual time."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import StepRevokedError
from ioi_dagster.governors.cluster import EVERYTHING
from ioi_dagster.governors.node import (
    FENCE_GRACE_S,
    NOTHING_NEW_AT,
    OUT_OF_CONTACT,
    Admit,
    DrainAsked,
    InContact,
    NodeGovernor,
    Refuse,
    RejoinAsked,
    StartAsked,
    StopAll,
    Tick,
)
from ioi_dagster.model.negotiation import OWN_STEP, Lease
from ioi_dagster.model.start import StartRequest

TTL = 30.0


def asked(number: int) -> StartAsked:
    lease = Lease(f"l{number}", "r", f"s{number}", 1, 0, OWN_STEP, "c", "d", "n", 1)
    return StartAsked(StartRequest("step", lease, None, OWN_STEP, b""), None)


def governor(ttl_s: float | None = TTL) -> NodeGovernor:
    return NodeGovernor("n", "c", EVERYTHING, governed=False, contact_ttl_s=ttl_s)


def code(out: list) -> str:
    (decision,) = out
    return decision.refusal.code if isinstance(decision, Refuse) else "admitted"


@pytest.mark.parametrize(
    ("silent_s", "expected"), [(0.0, "admitted"), (23.9, "admitted"), (24.0, OUT_OF_CONTACT), (1e6, OUT_OF_CONTACT)]
)
def test_nothing_starts_after_eight_tenths_of_the_time_of_a_lease_without_contact(silent_s, expected) -> None:
    node = governor()
    node.handle(InContact(100.0), 100.2)
    assert code(node.handle(asked(1), 100.0 + silent_s)) == expected


def test_contact_counts_from_when_the_beat_was_sent_and_an_older_answer_changes_nothing() -> None:
    node = governor()
    node.handle(InContact(100.0), 110.0)
    node.handle(InContact(90.0), 111.0)
    assert code(node.handle(asked(1), 123.9)) == "admitted"
    assert code(node.handle(asked(2), 124.0)) == OUT_OF_CONTACT
    node.handle(InContact(124.1), 124.2)
    assert code(node.handle(asked(3), 124.3)) == "admitted"


def test_what_runs_is_stopped_once_when_its_leases_have_run_out() -> None:
    node = governor()
    node.handle(InContact(0.0), 0.0)
    assert node.handle(Tick(), TTL + FENCE_GRACE_S - 0.1) == []
    (stop,) = node.handle(Tick(), TTL + FENCE_GRACE_S)
    assert isinstance(stop, StopAll)
    assert "33.0 s" in stop.why
    assert node.handle(Tick(), 100.0) == []
    assert node.snapshot(100.0) == {"draining": "", "out_of_contact_s": 100.0, "stopped": True}
    node.handle(InContact(101.0), 101.0)
    assert node.snapshot(101.0) == {"draining": "", "out_of_contact_s": 0.0, "stopped": False}
    assert len(node.handle(Tick(), 101.0 + TTL + FENCE_GRACE_S)) == 1


def test_where_there_is_no_cluster_governor_nobody_is_missed() -> None:
    node = governor(None)
    assert node.handle(Tick(), 1e9) == []
    assert code(node.handle(asked(1), 1e9)) == "admitted"


def test_a_node_that_has_never_been_answered_is_only_starting() -> None:
    node = governor()
    assert node.handle(Tick(), 1e9) == []
    assert code(node.handle(asked(1), 1e9)) == "admitted"


def test_a_drained_node_takes_nothing_until_it_rejoins_and_both_may_be_asked_twice() -> None:
    node = governor()
    for _ in range(2):
        node.handle(DrainAsked("new kernel"), 1.0)
        assert code(node.handle(asked(1), 1.0)) == "node.draining"
    for _ in range(2):
        node.handle(RejoinAsked(), 2.0)
    assert code(node.handle(asked(2), 2.0)) == "admitted"


events = st.sampled_from(["start", "tick", "contact", "late contact", "drain", "rejoin"])


@given(st.lists(st.tuples(events, st.floats(0.0, 20.0)), max_size=100))
def test_whatever_happens_nothing_is_admitted_and_nothing_runs_on_without_contact(steps) -> None:
    node, now, contact, number = governor(), 0.0, 0.0, 0
    node.handle(InContact(0.0), 0.0)
    for event, passed in steps:
        now += passed
        match event:
            case "start":
                number += 1
                (decision,) = node.handle(asked(number), now)
                assert not isinstance(decision, Admit) or now - contact < NOTHING_NEW_AT * TTL
            case "tick":
                was = node.snapshot(now)["stopped"]
                stops = bool(node.handle(Tick(), now))
                assert stops == (not was and now - contact >= TTL + FENCE_GRACE_S)
            case "contact" | "late contact":
                contact = max(contact, now if event == "contact" else now - passed)
                node.handle(InContact(contact), now)
            case _:
                node.handle(DrainAsked("why") if event == "drain" else RejoinAsked(), now)
        node.validate()


def test_a_step_that_runs_when_its_node_is_fenced_off_is_stopped_in_its_thread() -> None:
    clock = ManualClock()
    host = NodeHost("n", governor(), ReplicaHost([], "n", clock), lambda request: None, clock)
    host.in_contact(clock.monotonic())
    running, ended = threading.Event(), threading.Event()

    def step() -> None:
        try:
            with host.running.step("r/s/1/0"):
                running.set()
                while True:
                    threading.Event().wait(0.01)
        except StepRevokedError:
            ended.set()

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    assert running.wait(10)
    clock.advance(TTL)
    host.fence()
    assert not ended.is_set()
    clock.advance(FENCE_GRACE_S)
    host.fence()
    assert ended.wait(10)
    thread.join(10)
