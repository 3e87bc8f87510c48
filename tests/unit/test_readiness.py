"""A federation that starts slowly is waited for; one that stands still is given up, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.errors import UnreachableError
from ioi_dagster.local.federation import last_line
from ioi_dagster.local.home import TOPOLOGY, open_federation
from ioi_dagster.local.readiness import Missing, Readiness, Seen

WANTED = frozenset({("lab", "lab-c", "n1"), ("lab", "lab-c", "n2"), ("shop", "shop-c", "n3")})
GATES = frozenset({"lab", "shop"})
CLUSTERS = frozenset({("lab", "lab-c"), ("shop", "shop-c")})
STAGES = (
    Seen(),
    Seen(frozenset({"lab"})),
    Seen(GATES),
    Seen(GATES, frozenset({("lab", "lab-c")})),
    Seen(GATES, CLUSTERS),
    Seen(GATES, CLUSTERS, frozenset({("lab", "lab-c", "n1")})),
    Seen(GATES, CLUSTERS, frozenset({("lab", "lab-c", "n1"), ("lab", "lab-c", "n2")})),
)


def test_a_machine_that_is_slow_is_waited_for_as_long_as_something_comes():
    readiness, now = Readiness(WANTED, 10.0, 0.0), 0.0
    for stage in STAGES:
        now += 9.0
        assert not readiness.given_up(stage, now)
        assert not readiness.ready(stage)
    assert readiness.given_up(STAGES[-1], now + 10.1)
    assert readiness.ready(Seen(GATES, CLUSTERS, WANTED))


def test_what_comes_and_goes_is_nothing_new():
    readiness = Readiness(WANTED, 10.0, 0.0)
    looks = [readiness.given_up(STAGES[1] if second % 2 else Seen(), float(second)) for second in range(1, 13)]
    assert looks == [False] * 11 + [True]


def test_nothing_at_all_is_given_up_in_time():
    readiness = Readiness(WANTED, 10.0, 5.0)
    assert [readiness.given_up(Seen(), now) for now in (6.0, 15.0, 15.1)] == [False, False, True]


def test_what_is_missing_is_named_from_the_gateway_on():
    readiness = Readiness(WANTED, 10.0, 0.0)
    assert [readiness.missing(stage) for stage in STAGES] == [
        Missing("lab", "gateway", "the gateway of lab"),
        Missing("shop", "gateway", "the gateway of shop"),
        Missing("lab", "scheduler-lab-c", "the scheduler of lab-c (lab)"),
        Missing("shop", "scheduler-shop-c", "the scheduler of shop-c (shop)"),
        Missing("lab", "n1", "node n1 of lab-c (lab)"),
        Missing("lab", "n2", "node n2 of lab-c (lab)"),
        Missing("shop", "n3", "node n3 of shop-c (shop)"),
    ]


@given(st.lists(st.tuples(st.floats(0.0, 9.9), st.sampled_from(STAGES)), max_size=30))
def test_it_is_never_given_up_before_its_patience_is_over(looks):
    readiness, now, last_new, ever = Readiness(WANTED, 10.0, 0.0), 0.0, 0.0, set()
    for pause, seen in looks:
        now += pause
        there = {*seen.gateways, *seen.clusters, *seen.nodes}
        last_new = now if there - ever else last_new
        ever |= there
        assert readiness.given_up(seen, now) == (now - last_new > 10.0)


def test_the_last_words_of_a_log(tmp_path: Path):
    log = tmp_path / "gateway.log"
    assert last_line(log) == ""
    log.write_bytes(b"x" * 20_000 + b"\nOSError: address in use \xff\n\n")
    assert last_line(log) == "OSError: address in use \N{REPLACEMENT CHARACTER}"


def test_a_federation_that_does_not_come_says_what_is_missing_and_what_to_do(tmp_path: Path):
    federation = open_federation(tmp_path, TOPOLOGY, BLOCKS)
    federation.prepare()
    try:
        domain = federation.domain("cloud.example")
        (domain.logs / "gateway.log").write_text("OSError: address in use\n")
        with pytest.raises(UnreachableError) as caught:
            federation.wait_ready(0.2)
    finally:
        federation.stop()
    why, _, todo = str(caught.value).partition(" — ")
    assert why == (
        "the gateway of cloud.example is unreachable: nothing has joined for 0.2 s; "
        f"its log {domain.logs}/gateway.log ends with: OSError: address in use"
    )
    assert todo.startswith(("the machine is busy", "`ioi doctor` tells"))
