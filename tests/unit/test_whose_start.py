"""Two domains call a run and its step the same, and have a slot of one node each: neither touches the other's start there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import pytest

from ioi_dagster.adapters.dask import mapping, stores
from ioi_dagster.adapters.dask.node import NodeHost, begun_topic, over_topic, shed_topic
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.adapters.dask.run_scope import RunScope
from ioi_dagster.clock import ManualClock
from ioi_dagster.compound.attempt import Attempt
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import StepStoppedError
from ioi_dagster.governors.answers import Held, checked_award
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.node import Admit, NodeGovernor, Refuse, StartAsked
from ioi_dagster.host.fleets import EarlierStart
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Award, Awarded, Lease, LeaseRequest
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.start import StartAnswer, StartRequest

REQUEST = LeaseRequest("r", "s", 1, OWN_STEP, DataClass.PUBLIC)
begun, let = threading.Semaphore(0), threading.Event()


def run_step(work: bytes) -> bytes:
    begun.release()
    while not let.wait(0.01):
        continue
    return work


def awarded(*origins: str) -> list[Awarded]:
    """What a cluster of one node answers to the same award of each."""
    governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
    governor.handle(NodeJoined("n", len(origins), frozenset({OWN_STEP})), 0.0)
    answers = []
    for origin in origins:
        (reply,) = governor.handle(Award("lab-c", "r", 1, origin, (REQUEST,)), 0.0)
        assert isinstance(reply, Reply)
        assert isinstance(reply.answer, Awarded)
        answers.append(reply.answer)
    return answers


class Node:
    def __init__(self) -> None:
        clock = ManualClock()
        governor = NodeGovernor("n", "lab-c", frozenset({OWN_STEP}), governed=False)
        self.host = NodeHost(
            "n", governor, ReplicaHost([], "n", clock), lambda request: None, clock, f"{__name__}:run_step"
        )
        self._threads = ThreadPoolExecutor(2)
        begun._value, _ = 0, let.clear()  # pyright: ignore[reportAttributeAccessIssue]

    def start(self, lease: Lease) -> Future[bytes]:
        request = StartRequest("step", lease, None, OWN_STEP, lease.origin.encode())
        return self._threads.submit(self.host.start, msgspec.msgpack.encode(request))

    def under_way(self, lease: Lease) -> Future[bytes]:
        future = self.start(lease)
        assert begun.acquire(timeout=20)
        return future


def read(future: Future[bytes]) -> StartAnswer:
    return from_msgpack(future.result(20), StartAnswer)


@pytest.fixture
def two() -> tuple[Lease, Lease]:
    ours, theirs = (answer.leases[0] for answer in awarded("library", "cloud"))
    same = (ours.run, ours.step, ours.fence, ours.copy, ours.node)
    assert same == (theirs.run, theirs.step, theirs.fence, theirs.copy, theirs.node)
    return ours, theirs


@pytest.mark.parametrize(
    ("stop", "why", "cause"),
    [
        (lambda host, key: host.running.stop([key], StepStoppedError), "the run stopped it", ""),
        (lambda host, key: host.revoke({key: "over its quota"}), "over its quota", Cause.LEASE_LOST),
    ],
)
def test_a_stop_is_for_the_start_of_who_says_it(
    two: tuple[Lease, Lease], stop: Callable[[NodeHost, str], list[str]], why: str, cause: str
) -> None:
    ours, theirs = two
    node = Node()
    our_answer, their_answer = node.under_way(ours), node.under_way(theirs)
    assert stop(node.host, theirs.key) == [theirs.key]
    assert (read(their_answer).error, read(their_answer).cause) == (why, cause)
    let.set()
    assert read(our_answer).result == b"library"


def test_what_is_revoked_before_it_begins_never_does_and_says_why(two: tuple[Lease, Lease]) -> None:
    ours, theirs = two
    node = Node()
    assert node.host.revoke({theirs.key: "over its quota"}) == []
    refusal = read(node.start(theirs)).refusal
    assert refusal is not None
    assert (refusal.code, refusal.text) == ("node.taken_back", "over its quota")
    our_answer = node.under_way(ours)
    let.set()
    assert read(our_answer).result == b"library"


def test_what_is_cancelled_is_refused_for_good_whether_it_has_begun_or_not(two: tuple[Lease, Lease]) -> None:
    ours, theirs = two
    node = Node()
    their_answer = node.under_way(theirs)
    # It is asked to stop already, for something that would have it placed again, and may have stopped for that.
    node.host.revoke({theirs.key: "over its quota"})
    stopping = node.host.cancel({theirs.key: "a bad model", ours.key: "a bad model"})
    begun, not_begun = read(their_answer), read(node.start(ours))
    refused = [one for one in (begun, not_begun) if one.refusal]
    assert refused == [begun, not_begun] if stopping else refused[-1] == not_begun
    assert {(one.result, one.error, one.refusal.code, one.refusal.text) for one in refused if one.refusal} == {
        (None, None, "node.cancelled", "a bad model")
    }


def test_what_is_told_of_a_run_is_told_to_its_own_domain(two: tuple[Lease, Lease]) -> None:
    for topic in (begun_topic, over_topic, shed_topic, mapping.topic, stores.topic):
        ours, theirs = (topic(Attempt(run=lease.run, origin=lease.origin).run_key) for lease in two)
        assert ours == topic(two[0].run_key) != theirs


def test_what_steps_of_a_run_share_at_a_node_is_not_shared_with_another_domains(two: tuple[Lease, Lease]) -> None:
    scope, made = RunScope(), []

    def shared(lease: Lease) -> int:
        def set_up(_stack: ExitStack) -> int:
            made.append(lease.origin)
            return len(made)

        with scope.shared(lease.run_key, "connection", set_up) as value:
            return value

    ours, theirs = two
    assert [shared(ours), shared(theirs), shared(ours)] == [1, 2, 1]
    scope.end(theirs.run_key)
    assert [shared(ours), shared(theirs)] == [1, 3]


def test_a_lease_that_was_granted_to_another_domain_is_no_answer() -> None:
    (ours, theirs) = awarded("library", "cloud")
    award = Award("lab-c", "r", 1, "library", (REQUEST,))
    assert checked_award(ours, award, "lab") == Held(ours)
    assert checked_award(theirs, award, "lab") == Held(Awarded("lab-c"), ("s",), theirs.leases)


def test_a_start_is_found_again_under_its_own_key(two: tuple[Lease, Lease]) -> None:
    for lease in two:
        assert EarlierStart(REQUEST, "n", lease.origin).key == lease.key


def test_a_node_takes_a_lease_with_a_permit_of_whom_it_was_granted_to_only(two: tuple[Lease, Lease]) -> None:
    ours, _ = two
    node = NodeGovernor("n", "lab-c", frozenset({OWN_STEP}), governed=True)

    def start(lease: Lease, issuer: str) -> str:
        permit = StepPermit(
            "r", "s", 1, 0, lease.id, OWN_STEP, DataClass.PUBLIC, "lab", "lab-c", "n", "", 0.0, 9e9, "nonce", issuer
        )
        (said,) = node.handle(StartAsked(StartRequest("step", lease, None, OWN_STEP, b""), permit), time.monotonic())
        assert isinstance(said, Admit | Refuse)
        return said.refusal.code if isinstance(said, Refuse) else "admitted"

    assert start(ours, "cloud") == "node.other_origin"
    assert start(replace(ours, origin=""), "library") == "node.other_origin"
    assert start(ours, "library") == "admitted"
