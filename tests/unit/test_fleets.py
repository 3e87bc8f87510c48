"""Fleets that keep count of a cluster by themselves."""

from __future__ import annotations

import queue
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ioi_dagster.adapters.dask.client import WORKER_DIED
from ioi_dagster.adapters.dask.local_cluster import LocalCluster
from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.clock import ManualClock
from ioi_dagster.compound.invocation import invoke
from ioi_dagster.errors import FinalError, RetryableError
from ioi_dagster.governors.cluster import ClusterGovernor
from ioi_dagster.host import step_runner
from ioi_dagster.host.alone_fleets import (
    AHEAD_BYTES,
    MAX_AHEAD,
    MAX_SHARED,
    AddressFleet,
    EmbeddedFleet,
    _AloneFleet,
    _Queue,
    tasks_of,
)
from ioi_dagster.host.federated_fleets import InvokeFleet
from ioi_dagster.host.fleets import Start
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Award, Lease, LeaseRequest, RenewRequest
from ioi_dagster.model.start import StartAnswer
from ioi_dagster.signing import SigningKey


class Answers:
    """A scheduler that has said which workers it has, or has not answered yet (None). One that is asked would be waited for."""

    def __init__(self, *answers):
        self._answers, self.closed = list(answers), frozenset()

    def nodes(self):
        raise AssertionError("the run's loop waits for an answer")

    def known_nodes(self):
        return self._answers.pop(0)


def fleet(*answers) -> AddressFleet:
    made, clock = AddressFleet.__new__(AddressFleet), ManualClock()
    made._governor = ClusterGovernor("alone", "alone", 1, 0.0)
    made._clock, made._lock, made._dask = clock, threading.Lock(), Answers(*answers)  # pyright: ignore
    made._known, made._queues = {}, {}
    made._queueing = threading.Lock()
    return made


def test_a_scheduler_that_does_not_answer_costs_nobody_the_lease():
    alone = fleet({"a": 1}, None, {})
    award = Award("alone", "r", 1, "alone", (LeaseRequest("r", "s", 1, "dagster.step", DataClass.PUBLIC),))
    (lease,) = alone.award(award).leases
    assert alone.at_once("a") == 1
    assert alone._governor.snapshot().nodes["a"]["slots"] == 1
    assert alone.renew(RenewRequest("r", (lease.id,))).held == (lease.id,)
    assert alone.renew(RenewRequest("r", (lease.id,))).lost == (lease.id,)


@pytest.mark.parametrize(
    ("size", "starts"), [(5_000, MAX_AHEAD), (AHEAD_BYTES // 4, 5), (AHEAD_BYTES, 2), (10 * AHEAD_BYTES, 2)]
)
def test_of_what_is_sent_ahead_a_node_holds_so_many_bytes(size: int, starts: int) -> None:
    """And one start more than it runs, however large."""
    queue = _Queue(2)
    for _ in range(30):
        queue.weigh(size)
        queue.learn(0.001)
    assert queue.wanted == 2 * starts


def brief(step: str, node: str = "a", seconds: float = 0.005, priority: int = 0) -> Start:
    lease = Lease(step, "r", step, 1, 0, OWN_STEP, "alone", "alone", node, 1)
    return Start(lease.key, lease, None, OWN_STEP, b"", None, priority, brief_s=seconds)


def shared(starts: list[Start], threads: int = 1) -> list[list[str]]:
    return [[start.lease.step for start in task] for task in tasks_of(starts, lambda node: threads)]


def test_short_starts_of_one_node_share_a_task():
    assert shared([brief(str(number)) for number in range(MAX_SHARED + 2)]) == [
        [str(number) for number in range(MAX_SHARED)],
        [str(MAX_SHARED), str(MAX_SHARED + 1)],
    ]


def test_starts_of_other_nodes_other_priorities_or_unknown_length_share_none():
    starts = [brief("1"), brief("2", node="b"), brief("3", priority=1), brief("4", seconds=0.0), brief("5")]
    assert sorted(shared(starts)) == [["1", "5"], ["2"], ["3"], ["4"]]


def test_a_node_with_threads_has_a_task_for_each():
    assert shared([brief("1"), brief("2"), brief("3")], threads=2) == [["1", "2"], ["3"]]


def test_what_shares_a_task_takes_a_tenth_of_a_second_at_most():
    starts = [brief(str(number), seconds=0.03) for number in range(5)]
    assert shared(starts) == [["0", "1", "2"], ["3", "4"]]


class Gateway:
    """Of a domain that answers each call in one way."""

    def __init__(self, answer: Exception) -> None:
        self._answer = answer

    def invoke(self, *_, timeout: float):
        raise self._answer


SPEC = BlockSpec("ocr", "1", "ocr", "blocks:Ocr", Contract("ocr", "ocr"))


def called(monkeypatch, answer: Exception | GatewayClient) -> tuple[StartAnswer | None, str | None]:
    """How a start ends whose step says of its call what that raised."""

    def step(_work: bytes) -> bytes:
        try:
            invoke(SPEC, Payload({}))
        except Exception as error:
            return f"{type(error).__name__}: {error}".encode()
        return b"ended well"

    monkeypatch.setattr(step_runner, "run", step)
    lease = Lease("l", "r", "s", 1, 0, "ocr", "cloud-c", "cloud", "cloud-1", 1)
    ended: queue.Queue = queue.Queue()
    gateway = answer if isinstance(answer, GatewayClient) else Gateway(answer)
    abroad = InvokeFleet("cloud", "cloud-c", gateway)  # pyright: ignore[reportArgumentType]
    permit = SigningKey.generate("home").sign({})
    abroad.start([Start(lease.key, lease, permit, "ocr", b"", Payload({}))], lambda *end: ended.put(end[1:]))
    end = ended.get(timeout=30)
    abroad.close()
    return end


def test_an_error_of_a_foreign_block_is_an_error_of_its_step(monkeypatch):
    answer, why = called(monkeypatch, FinalError("cloud: ValueError at ocr.py:7: no such page"))
    assert why is None
    assert answer is not None
    assert answer.result == b"FinalError: cloud: ValueError at ocr.py:7: no such page"
    assert answer.node == "cloud-1"
    assert 0 < answer.started <= answer.ended


@pytest.mark.parametrize(
    ("status", "body", "refused", "lost"),
    [
        (403, b'{"error": {"code": "permit.expired", "text": "the permit expired"}}', "gateway.refused", ""),
        (413, b"too large", "gateway.refused", ""),
        (500, b"", "", "cloud answered 500"),
        (503, b'{"error": {"code": "gateway.too_much", "text": "too much"}}', "gateway.too_much", ""),
        (503, b'{"error": {"code": "gateway.too_many", "text": "too many"}}', "gateway.too_many", ""),
        (
            503,
            b'{"error": {"code": "order.none", "text": "it cannot be written"}}',
            "",
            "cloud: it cannot be written",
        ),
        (200, b"rubbish", "", "cloud"),
    ],
)
def test_what_a_foreign_gateway_makes_of_a_call_is_no_error_of_its_step(monkeypatch, status, body, refused, lost):
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gateway = GatewayClient(f"http://127.0.0.1:{server.server_port}", "cloud")
        answer, why = called(monkeypatch, gateway)
        gateway.close()
        server.shutdown()
    if refused:
        assert answer is not None and answer.refusal is not None
        assert (answer.refusal.code, answer.refusal.by) == (refused, "cloud")
    else:
        assert answer is None and why is not None and why.startswith(lost)


def test_what_a_foreign_domain_lost_is_a_loss(monkeypatch):
    assert called(monkeypatch, RetryableError("cloud: node cloud-1 is unreachable")) == (
        None,
        "cloud: node cloud-1 is unreachable",
    )


def test_a_node_that_is_being_replaced_is_given_nothing_but_what_its_own_steps_wait_for():
    alone = fleet(*[{"a": 1}] * 9)
    requests = [LeaseRequest("r", step, 1, "dagster.step", DataClass.PUBLIC) for step in ("first", "second", "third")]
    (parent,) = alone.award(Award("alone", "r", 1, "alone", (requests[0],))).leases
    alone._queues["a"].started[parent.key] = (brief("first"), lambda *_: None)
    alone._dask.closed = frozenset({"a"})  # pyright: ignore
    assert not alone.award(Award("alone", "r", 2, "alone", (requests[1],))).leases
    assert alone.renew(RenewRequest("r", (parent.id,))).held == (parent.id,), "what runs there goes on"
    alone.waits(parent, True)
    assert alone.award(Award("alone", "r", 3, "alone", (requests[1],))).leases
    alone.waits(parent, False)
    assert not alone.award(Award("alone", "r", 4, "alone", (requests[2],))).leases


class Process(subprocess.Popen):
    """Remembers for how long it was waited for."""

    def wait(self, timeout: float | None = None) -> int:
        self.__dict__.setdefault("waited", []).append(timeout)
        return super().wait(timeout)


class Dask:
    """Takes starts and keeps what is to be called with their answers."""

    def submit(self, key, request, node, priority, on_done, once) -> None:
        self.key, self.on_done = key, on_done


def test_how_a_worker_ended_is_not_waited_for_when_it_has_been_started_again():
    dead = Process(["sh", "-c", "exit 7"], start_new_session=True)
    dead.wait()
    other = Process(["sleep", "600"], start_new_session=True)
    alone = EmbeddedFleet.__new__(EmbeddedFleet)
    _AloneFleet.__init__(alone)
    alone._dask_cluster = LocalCluster("tcp://", other, {"a": dead}, lambda name: other, lambda: other)
    try:
        alone._dask = dask = Dask()  # pyright: ignore[reportAttributeAccessIssue]
        alone._join("a", 1, 0.0)
        ended: list = []
        alone.start([brief("s", seconds=0.0)], lambda *end: ended.append(end[1:]))
        alone._look(1.0)
        dask.on_done(dask.key, None, WORKER_DIED)
        assert ended == [(None, f"{WORKER_DIED} with exit status 7")]
        assert not any(other.__dict__.get("waited", []))
    finally:
        alone._dask_cluster.close()
