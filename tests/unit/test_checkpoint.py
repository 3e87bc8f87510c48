"""A step that is stopped for somebody else may leave something first: it is asked, has its grace, and ends by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
import pytest

from ioi_dagster import block_op, checkpoint
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.adapters.dask.running import end_revoked
from ioi_dagster.clock import SystemClock
from ioi_dagster.compound.checkpoint import Checkpoint, current_checkpoint
from ioi_dagster.compound.kept_pieces import KeptPieces
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import FinalError
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.block import MAX_PIECE, NOBODY, Payload
from ioi_dagster.model.capability import BlockSpec, Contract
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


def a_node() -> NodeHost:
    clock = SystemClock()
    governor = NodeGovernor("n", "c", frozenset({OWN_STEP}), governed=False)
    return NodeHost("n", governor, ReplicaHost([], "n", clock), lambda _: None, clock, f"{__name__}:runner")


REQUEST = msgspec.msgpack.encode(StartRequest("step", LEASE, None, OWN_STEP, b""))


def answered(step: Callable[[], bytes]) -> StartAnswer:
    steps[:] = [step]
    return from_msgpack(a_node().start(REQUEST), StartAnswer)


def stopped(step: Callable[[], bytes], stop: Callable[[NodeHost], list[str]] = revoked) -> StartAnswer:
    """What a node answers of a step that it is told to stop while it is at work."""
    host = a_node()
    steps[:] = [step]
    at_work.clear()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(host.start(REQUEST)))
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


# Calls of blocks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tale:
    words: tuple[str, ...] = ()

    def to_payload(self) -> Payload:
        return Payload({})

    @classmethod
    def from_pieces(cls, pieces: Iterator[Payload]) -> Tale:
        return cls(tuple(piece.document["word"] for piece in pieces))

    @classmethod
    def from_payload(cls, payload: Payload) -> Tale:
        return cls((payload.document["word"],))


class Teller:
    """Tells five words, and stands still before the one of `stands`."""

    stands: int | None = None
    began: ClassVar[list[int]] = []
    size = 0

    def load(self) -> None:
        pass

    def unload(self) -> None:
        pass

    def stream(self, payload: Payload, after: int) -> Iterator[Payload]:
        self.began.append(after)
        for number in range(after, 5):
            if number == self.stands:
                waits_until(lambda: False)
            yield Payload({"word": f"w{number}"}, {"raw": bytes(self.size)})

    def invoke(self, batch: Sequence[Payload]) -> Sequence[Payload]:
        self.began.append(0)
        if self.stands is not None:
            waits_until(lambda: False)
        return [Payload({"word": "whole"}) for _ in batch]


TELLER = BlockSpec(
    "teller", "1", "tell", f"{__name__}:Teller", Contract("tell", "tells it", streams=True, resumes=True)
)


@pytest.fixture
def teller() -> Iterator[type[Teller]]:
    Teller.stands, Teller.size = None, 0
    Teller.began.clear()
    yield Teller
    Teller.stands, Teller.size = None, 0


def calls(block: BlockSpec, last: bytes | None = None) -> Callable[[], bytes]:
    """A step that is a call of `block`; the attempt before it left `last`."""
    its_op = block_op(block, Tale, name="tell", on_refusal=lambda *_: Tale())

    def step() -> bytes:
        its = current_checkpoint()
        assert its is not None
        its.last = last  # as the step runner does
        return " ".join(its_op(Tale()).words).encode()

    return step


ALL = b"w0 w1 w2 w3 w4"


def test_a_call_of_a_block_that_resumes_goes_on_after_the_pieces_that_came(teller):
    teller.stands = 3
    first = stopped(calls(TELLER))
    assert (first.result, first.cause, first.error) == (None, Cause.LEASE_LOST, "a needs the room")
    assert first.checkpoint is not None
    teller.stands = 4
    second = stopped(calls(TELLER, first.checkpoint))
    assert second.checkpoint is not None
    teller.stands = None
    assert answered(calls(TELLER, second.checkpoint)).result == ALL
    assert teller.began == [0, 3, 4]


def test_a_call_that_is_stopped_before_anything_new_came_leaves_its_run_what_it_has(teller):
    teller.stands = 3
    left = stopped(calls(TELLER)).checkpoint
    assert left is not None
    again = stopped(calls(TELLER, left))
    assert (again.cause, again.checkpoint) == (Cause.LEASE_LOST, None)
    teller.stands = 0
    nothing = stopped(calls(TELLER))
    assert (nothing.cause, nothing.checkpoint) == (Cause.LEASE_LOST, None)


@pytest.mark.parametrize("other", [{"version": "2"}, {"name": "other"}])
def test_pieces_of_another_block_or_version_are_no_beginning_of_a_call(teller, other):
    teller.stands = 3
    left = stopped(calls(TELLER)).checkpoint
    teller.stands = None
    assert answered(calls(replace(TELLER, **other), left)).result == ALL
    assert teller.began == [0, 0]


@pytest.mark.parametrize("last", [b"", b"what a step of the same name left before its code was changed", bytes(100)])
def test_what_no_call_left_is_no_beginning_of_one(teller, last):
    assert answered(calls(TELLER, last)).result == ALL
    assert teller.began == [0]


def test_pieces_of_a_call_that_was_given_something_else_are_no_beginning_of_one(teller):
    teller.stands = 3
    left = stopped(calls(TELLER)).checkpoint
    assert left is not None
    teller.stands = None
    kept = KeptPieces(Checkpoint(end_revoked, left), Payload({"text": "other"}))
    assert (kept.made, kept.after) == (NOBODY, 0)


def test_of_pieces_that_are_too_much_for_a_checkpoint_those_are_left_that_fit(teller):
    teller.stands, teller.size = 4, MAX_PIECE - 100
    left = stopped(calls(TELLER)).checkpoint
    assert left is not None
    assert len(left) <= MAX_CHECKPOINT
    teller.stands = None
    assert answered(calls(TELLER, left)).result == ALL
    assert teller.began == [0, 3]


def test_a_call_that_goes_on_nowhere_is_stopped_at_once_and_begins_anew(teller):
    teller.stands = 3
    yes = replace(TELLER, contract=replace(TELLER.contract, resumes=False))
    whole = replace(TELLER, contract=replace(TELLER.contract, resumes=False, streams=False))
    for block, result in ((yes, ALL), (whole, b"whole")):
        teller.stands = 3
        answer = stopped(calls(block))
        assert ended(answer) == (None, "a needs the room", Cause.LEASE_LOST, None)
        teller.stands = None
        assert answered(calls(block)).result == result
    assert teller.began == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("streams", "resumes", "effect", "tag"),
    [
        (True, True, "pure", "true"),
        (True, False, "pure", None),
        (False, False, "pure", None),
        (True, True, "at_most_once", None),
    ],
)
def test_who_can_go_on_is_stopped_before_others(streams, resumes, effect, tag):
    contract = replace(TELLER.contract, streams=streams, resumes=resumes, effect=effect)
    its_op = block_op(replace(TELLER, contract=contract), Tale, name="tell", on_refusal=lambda *_: Tale())
    assert its_op.tags.get("ioi/checkpointable") == tag
