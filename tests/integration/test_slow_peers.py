"""Peers that drip a byte at a time, read nothing, or open all connections that there are: others are answered meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import pytest

from ioi_dagster.adapters.http import gateway, serving, who_asks
from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.adapters.http.protocol import PERMIT_HEADER, PROOF_HEADER, AnnounceTo
from ioi_dagster.errors import UnreachableError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Announce, AskGroup, Award, Awarded, Bid, LeaseRequest, ReleaseRequest
from ioi_dagster.policy.proof import prove
from ioi_dagster.signing import digest_bytes
from tests.conftest import eventually
from tests.integration.test_waiting_for_room import HOME, PERMIT, Lab
from tests.unit.test_gateway import run_permit

ELSEWHERE = "127.0.0.2"
SOON = 0.3
ANNOUNCE = Announce("r", 1, "library", (AskGroup("echo", DataClass.PUBLIC, 1),), 5.0)
AWARD = Award("lab-c", "r", 1, "library", (LeaseRequest("r", "s", 1, "echo", DataClass.PUBLIC),))


@pytest.fixture
def lab(tmp_path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.close()


@pytest.fixture
def run(lab: Lab) -> Iterator[GatewayClient]:
    client = GatewayClient(lab.url, "lab", HOME, PERMIT)
    yield client
    client.close()


@pytest.fixture
def peer(lab: Lab) -> Iterator[Callable[..., socket.socket]]:
    """Connections of somebody on another machine."""
    port = int(lab.url.rpartition(":")[2])
    with ExitStack() as stack:
        yield lambda address=ELSEWHERE: stack.enter_context(
            socket.create_connection(("127.0.0.1", port), 20, source_address=(address, 0))
        )


def hung_up(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65_536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def answer(connection: socket.socket) -> bytes:
    """One, whole."""
    told = b""
    while b"\r\n\r\n" not in told:
        told += connection.recv(65_536) or pytest.fail(f"hung up after {told!r}")
    head, _, body = told.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65_536) or pytest.fail(f"hung up after {body!r}")
    return head + body


def is_answered(run: GatewayClient) -> None:
    """A run's announcement and award are, and what it got is given back."""
    bid = run.announce("lab-c", ANNOUNCE)
    assert [point.slots for point in bid.points] == [1]
    awarded = run.award(AWARD)
    assert len(awarded.leases) + len(awarded.rejected) == 1
    run.release("lab-c", ReleaseRequest("r", tuple(lease.id for lease in awarded.leases)))


def head(body: bytes, length: int) -> bytes:
    """Of an announcement that is signed and permitted, and of `length` bytes."""
    path = "/v1/announce"
    proof = prove(HOME, audience="lab", method="POST", path=path, body=digest_bytes(body), now=time.time())
    lines = (f"POST {path} HTTP/1.1", "host: lab", f"content-length: {length}", f"{PROOF_HEADER}: {proof}")
    return "\r\n".join((*lines, f"{PERMIT_HEADER}: {run_permit()}", "", "")).encode()


def test_who_sends_nothing_or_a_head_that_never_ends_is_hung_up_on(lab, run, peer, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_S", SOON)
    silent, begun = [peer() for _ in range(20)], [peer() for _ in range(20)]
    for one in begun:
        one.sendall(b"POST /v1/announce HTT")
    is_answered(run)

    def all_gone() -> bool:
        for one in begun:
            try:
                one.send(b"P")
            except OSError:
                continue
        return all(map(hung_up, [*silent, *begun]))

    eventually(all_gone, 30, "the end of forty slow connections")


def test_a_body_that_drips_is_refused_by_name_and_hung_up_on(lab, run, peer, monkeypatch):
    monkeypatch.setattr(who_asks, "BODY_S", SOON)
    body = msgspec.json.encode(AnnounceTo("lab-c", ANNOUNCE))
    slow = [peer() for _ in range(20)]
    for one in slow:
        one.sendall(head(body, len(body)) + body[:1])
    is_answered(run)
    for one in slow:
        told = answer(one)
        assert b" 408 " in told
        assert b"gateway.too_slow" in told
        eventually(lambda one=one: hung_up(one), 30, "the end of the connection")
    assert lab.parked == 0


def test_a_body_that_takes_its_time_and_keeps_coming_is_read(lab, run, peer, monkeypatch):
    monkeypatch.setattr(who_asks, "BODY_S", 5.0)
    body = msgspec.json.encode(AnnounceTo("lab-c", ANNOUNCE))
    one = peer()
    one.sendall(head(body, len(body)))
    for at in range(0, len(body), 64):
        one.sendall(body[at : at + 64])
    assert b" 200 " in answer(one)


def test_who_reads_no_answer_is_hung_up_on(lab, run, peer, monkeypatch):
    monkeypatch.setattr(serving, "UNREAD_S", SOON)
    deaf = peer()
    deaf.setblocking(False)

    def gone() -> bool:
        try:
            while True:
                deaf.send(b"GET /v1/health HTTP/1.1\r\nhost: lab\r\n\r\n" * 100)
        except BlockingIOError:
            return False
        except OSError:
            return True

    is_answered(run)
    eventually(gone, 60, "the end of a connection on which nothing is read")
    is_answered(run)


def test_one_domain_cannot_have_all_connections(lab, run, peer, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 11 + serving.MAX_TOLD)
    kept = [peer() for _ in range(5)]
    for one in kept:
        one.sendall(b"GET /v1/health HTTP/1.1\r\nhost: lab\r\n\r\n")
        assert b" 200 " in answer(one)
    more = peer()
    more.sendall(b"GET /v1/health HTTP/1.1\r\nhost: lab\r\n\r\n")
    told = answer(more)
    assert b" 503 " in told
    assert b"gateway.too_many" in told
    is_answered(run)
    kept[0].close()

    def let_in() -> bool:
        one = peer()
        one.sendall(b"GET /v1/health HTTP/1.1\r\nhost: lab\r\n\r\n")
        return b" 200 " in answer(one)

    eventually(let_in, 30, "room for one more")


def test_several_together_cannot_have_all_connections_either(lab, run, peer, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 30)
    monkeypatch.setattr(serving, "MAX_TOLD", 4)
    open_ = [peer(f"127.0.0.{last}") for last in (2, 3, 4) for _ in range(30)]
    eventually(lambda: sum(map(hung_up, open_)) >= 90 - 30, 30, "the end of what is too many")
    assert sum(not hung_up(one) for one in open_) < 28
    is_answered(run)


def test_one_domain_cannot_have_all_that_may_wait(lab, run, peer, monkeypatch):
    monkeypatch.setattr(gateway, "MAX_WAITING", 2)
    assert len(run.award(AWARD).leases) == 1
    body = msgspec.json.encode(AnnounceTo("lab-c", replace(ANNOUNCE, wait_s=50.0)))
    waits, more = peer(), peer()
    waits.sendall(head(body, len(body)) + body)
    eventually(lambda: lab.parked == 1, 30, "one that waits")
    more.sendall(head(body, len(body)) + body)  # the other place is for others
    assert b"cluster.full" in answer(more)


# At the run's side ----------------------------------------------------------------------------------------------------


class Dripping:
    """A gateway that takes every request and answers with a byte now and then."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._drip, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _drip(self, connection: socket.socket) -> None:
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b" " * 100_000
        with connection:
            for at in range(len(answer)):
                try:
                    connection.sendall(answer[at : at + 1])
                except OSError:
                    return
                if self._ended.wait(0.02):
                    return

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(10)


def test_a_gateway_that_drips_costs_its_deadline_and_others_are_asked_meanwhile(lab, run):
    dripping = Dripping()
    slow = GatewayClient(dripping.url, "slow", HOME, PERMIT)
    failed: list[Exception] = []

    def ask(what: Callable[[], Bid | Awarded]) -> None:
        try:
            what()
        except UnreachableError as error:
            failed.append(error)

    asked = [
        threading.Thread(target=ask, args=(lambda: slow.announce("c", Announce("r", 1, "library", (), 0.5)),)),
        threading.Thread(target=ask, args=(lambda: slow.award(AWARD),)),
    ]
    for one in asked:
        one.start()
    is_answered(run)
    for one in asked:
        one.join(30)
    assert len(failed) == 2
    slow.close()
    dripping.close()
