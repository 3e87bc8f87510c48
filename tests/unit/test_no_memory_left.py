"""Others eat the memory of a node's machine: a step goes and begins elsewhere. A real process eats it, of a small machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import psutil
import pytest

from ioi_dagster import checkpoint
from ioi_dagster.adapters.dask.machine import Machine
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.clock import ManualClock
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.load import MachineSeen
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.negotiation import OWN_STEP, Effect, Lease
from ioi_dagster.model.start import StartAnswer, StartRequest
from tests.conftest import eventually

MIB = 2**20
EATS = "import sys, threading; held = bytearray(b'x') * (200 << 20); print(flush=True); threading.Event().wait()"
FULL, ROOM = MachineSeen(0.0, 0.99), MachineSeen(0.0, 0.2)
at_work, let = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    let.set()


def waits(_: bytes) -> bytes:
    checkpoint.ready(grace_s=15)
    at_work.set()
    while not (checkpoint.wanted or let.is_set()):
        threading.Event().wait(0.01)
    return b"whole" if let.is_set() else checkpoint.leave(b"half")


class Waits:
    def load(self) -> None: ...

    def unload(self) -> None: ...

    def invoke(self, batch: list[Payload]) -> list[Payload]:
        at_work.set()
        assert let.wait(60)
        return batch


def block(effect: Effect) -> BlockSpec:
    return BlockSpec("waits", "1", "wait", f"{__name__}:Waits", Contract("wait", "wait", effect=effect.value))


class Node:
    """One that is looked at once a second of its own clock."""

    def __init__(self, *blocks: BlockSpec) -> None:
        at_work.clear()
        let.clear()
        self.clock = ManualClock()
        governor = NodeGovernor("n", "c", frozenset({OWN_STEP, "wait"}), governed=False)
        replicas = ReplicaHost(list(blocks), "n", self.clock)
        self.host = NodeHost("n", governor, replicas, lambda _: None, self.clock, f"{__name__}:waits")

    def start(self, request: StartRequest) -> Callable[[], StartAnswer]:
        answers: list[bytes] = []
        thread = threading.Thread(target=lambda: answers.append(self.host.start(msgspec.msgpack.encode(request))))
        thread.start()

        def answer() -> StartAnswer:
            thread.join(30)
            return from_msgpack(answers[0], StartAnswer)

        return answer

    def sees(self, look: Callable[[], MachineSeen], seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.host.seen(look())


def request(step: str, capability: str = OWN_STEP) -> StartRequest:
    lease = Lease(f"l-{step}", "r", step, 1, 0, capability, "c", "d", "n", 1)
    kind, payload = ("step", b"") if capability == OWN_STEP else ("block", encode_payload(Payload({"a": 1})))
    return StartRequest(kind, lease, None, capability, payload)


@contextmanager
def somebody_elses() -> Iterator[psutil.Process]:
    """A process that holds 200 MiB and is none of ours: whoever has started it is gone."""
    command = f'"{sys.executable}" -c "{EATS}" & echo $!'
    began = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
    assert began.stdout is not None
    process = psutil.Process(int(began.stdout.readline()))
    try:
        assert began.wait(30) == 0
        began.stdout.readline()  # it holds all
        yield process
    finally:
        process.kill()
        psutil.wait_procs([process], 30)


def test_a_process_that_eats_the_machines_memory_costs_a_step_its_place_and_nothing_else():
    node = Node()
    own = psutil.Process().memory_info().rss
    there = int((own + 200 * MIB) * 1.02)

    with somebody_elses() as hog:

        def used() -> tuple[int, int]:
            theirs = hog.memory_info().rss if hog.is_running() else 0
            return psutil.Process().memory_info().rss + theirs, there

        machine = Machine(memory=used, allotted=there)
        answer = node.start(request("s"))
        assert at_work.wait(30)
        node.sees(machine.look, 20)
        its = answer()
        assert (its.result, its.refusal, its.cause, its.checkpoint) == (None, None, Cause.SHED, b"half")
        assert (its.error or "").startswith("its node gave it up, since its machine has no memory left: others have ")
        refused = node.start(request("t"))().refusal
        assert refused is not None
        assert refused.code == "node.overloaded"

    node.sees(machine.look, 20)
    let.set()
    assert node.start(request("t"))().result == b"whole"


def test_a_step_that_may_run_once_only_stays():
    node = Node()
    answer = node.start(replace(request("s"), preemptible=False))
    assert at_work.wait(30)
    node.sees(lambda: FULL, 60)
    let.set()
    assert answer().result == b"whole"


@pytest.mark.parametrize("effect", list(Effect))
def test_who_calls_a_block_that_is_given_up_hears_that_the_node_has_no_room_but_one_that_may_run_once_stays(effect):
    node = Node(block(effect))
    answer = node.start(request("s", "wait"))
    assert at_work.wait(30)
    node.sees(lambda: FULL, 30)
    if effect is Effect.AT_MOST_ONCE:
        let.set()
        assert decode_payload(answer().result or b"").document == {"a": 1}
    else:
        its = answer()
        let.set()
        assert its.refusal is not None
        assert (its.error, its.cause, its.refusal.code) == (None, "", "node.overloaded")
        assert "its node gave it up" in its.refusal.text


def test_replicas_that_nobody_uses_go_before_any_step():
    node = Node(block(Effect.PURE))
    let.set()
    assert node.start(request("s", "wait"))().result is not None
    assert node.host.replicas.warm() == {"wait"}
    node.sees(lambda: FULL, 7)
    eventually(lambda: not node.host.replicas.warm(), 30, "the replica's end")
