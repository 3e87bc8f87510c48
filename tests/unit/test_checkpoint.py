"""A step that is stopped for somebody else may leave something first: it is asked, has its grace, and ends by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from ioi_dagster import checkpoint
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.clock import SystemClock
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import FinalError
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.negotiation import OWN_STEP, Lease
from ioi_dagster.model.start import MAX_CHECKPOINT, StartAnswer, StartRequest

LEASE = Lease("c/1/1", "r", "s", 1, 0, OWN_STEP, "c", "d", "n", 1)
steps: list[Callable[[], bytes]] = []
at_work = threading.Event()


def runner(_: bytes) -> bytes:
    return steps.pop()()


def waits_until(condition: Callable[[], bool]) -> None:
    """The step is at work until then."""
    at_work.set()
    while not condition():
        threading.Event().wait(0.01)


def revoked(host: NodeHost) -> list[str]:
    return host.revoke({LEASE.key: "a needs the room"})


def stopped(step: Callable[[], bytes], stop: Callable[[NodeHost], list[str]] = revoked) -> StartAnswer:
    """What a node answers of a step that it is told to stop while it is at work."""
    clock = SystemClock()
    host = NodeHost(
        "n",
        NodeGovernor("n", "c", frozenset({OWN_STEP}), governed=False),
        ReplicaHost([], "n", clock),
        lambda _: None,
        clock,
        f"{__name__}:runner",
    )
    steps[:] = [step]
    at_work.clear()
    answers: list[bytes] = []
    request = msgspec.msgpack.encode(StartRequest("step", LEASE, None, OWN_STEP, b""))
    thread = threading.Thread(target=lambda: answers.append(host.start(request)))
    thread.start()
    assert at_work.wait(10)
    assert stop(host) == [LEASE.key]
    thread.join(20)
    return from_msgpack(answers[0], StartAnswer)


def ended(answer: StartAnswer) -> tuple[bytes | None, str | None, str, bytes | None]:
    return answer.result, answer.error, answer.cause, answer.checkpoint


def test_who_is_ready_is_asked_and_leaves_something():
    def step() -> bytes:
        checkpoint.ready(grace_s=15)
        waits_until(lambda: checkpoint.wanted)
        return checkpoint.leave(b"half")

    assert ended(stopped(step)) == (None, "a needs the room", Cause.LEASE_LOST, b"half")


def test_who_runs_on_a_node_that_is_emptied_is_asked_once_however_often_that_is_said():
    said = threading.Event()

    def step() -> bytes:
        checkpoint.ready(grace_s=15)
        waits_until(lambda: checkpoint.wanted and said.is_set())
        return checkpoint.leave(b"half")

    def graces() -> set[threading.Thread]:
        return {one for one in threading.enumerate() if isinstance(one, threading.Timer)}

    def emptied(host: NodeHost) -> list[str]:
        host.drain("a new disk")
        before, told = graces(), [host.revoke_all(), host.revoke_all()]
        assert (told, len(graces() - before)) == ([[LEASE.key], [LEASE.key]], 1)
        said.set()
        return told[0]

    assert ended(stopped(step, emptied)) == (None, "its node is drained: a new disk", Cause.LEASE_LOST, b"half")


def test_who_is_done_within_its_grace_is_done():
    def step() -> bytes:
        checkpoint.ready(grace_s=15)
        waits_until(lambda: checkpoint.wanted)
        return b"whole"

    assert ended(stopped(step)) == (b"whole", None, "", None)


@pytest.mark.parametrize("grace_s", [0.0, 0.2])
def test_who_is_not_ready_or_leaves_nothing_in_time_is_stopped(grace_s):
    def step() -> bytes:
        checkpoint.ready(grace_s)
        waits_until(lambda: False)
        raise AssertionError

    assert ended(stopped(step)) == (None, "a needs the room", Cause.LEASE_LOST, None)


@pytest.mark.parametrize("data", [bytes(MAX_CHECKPOINT + 1), "text"])
def test_what_is_too_large_or_no_bytes_is_the_steps_own_error(data):
    said: list[str] = []

    def step() -> bytes:
        checkpoint.ready(grace_s=15)
        waits_until(lambda: checkpoint.wanted)
        with pytest.raises(FinalError) as error:
            checkpoint.leave(data)
        said.append(str(error.value))
        return checkpoint.leave(b"little")

    assert stopped(step).checkpoint == b"little"
    assert said[0].startswith("a checkpoint of")


def test_outside_of_a_node_there_is_nothing_and_nobody_asks():
    checkpoint.ready(3)
    assert (checkpoint.last(), checkpoint.wanted) == (None, False)
    with pytest.raises(FinalError, match="nobody wants a checkpoint"):
        checkpoint.leave(b"x")
    with pytest.raises(FinalError, match="from 0 to 15"):
        checkpoint.ready(16)
