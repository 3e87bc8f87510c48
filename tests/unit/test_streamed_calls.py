"""A streamed call between a real client and a real gateway, whose node is a stand-in that gives what a test says."""

from __future__ import annotations

import asyncio
import queue
import socket
import struct
import threading
import uuid
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn

from ioi_dagster.adapters.http import calls, invoking, streams
from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.adapters.http.protocol import MAX_FRAME, Invocation, Invoked, Streamed, Word
from ioi_dagster.adapters.http.streaming import written
from ioi_dagster.adapters.http.streams import Stream
from ioi_dagster.clock import SystemClock
from ioi_dagster.compound.invocation import stream
from ioi_dagster.compound.pieces import topic
from ioi_dagster.decoding import converted, from_msgpack
from ioi_dagster.errors import BadInputError, FinalError, RetryableError, UnreachableError
from ioi_dagster.framing import encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.host import step_runner
from ioi_dagster.host.federated_fleets import InvokeFleet
from ioi_dagster.host.fleets import Start
from ioi_dagster.host.partial import Partial, Partials
from ioi_dagster.model.block import MAX_PIECE, NOBODY, Begun, Made, Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest, Streaming
from ioi_dagster.policy.permits import decode
from ioi_dagster.signing import Signed, digest_bytes
from tests.conftest import eventually
from tests.unit.test_gateway import HOME, LEASE, Lab, run_permit, step_permit

SENT = Payload({"say": "hello"}, {"raw": b"\0"})


class Node:
    """Gives `count` pieces of `size` bytes, from the number on that it is asked for; `waits` before it gives that many."""

    def __init__(self, count: int = 3, size: int = 1, at_a_time: int = 1) -> None:
        self.count, self.size, self.at_a_time = count, size, at_a_time
        self.starts: list[tuple[str, int]] = []
        self.given = 0
        self.wait_at: int | None = None
        self.go, self.stopped, self.taken = threading.Event(), threading.Event(), threading.Event()
        self.taken.set()
        self.made = Made("telling", "1")
        self.end: dict[str, Any] = {"result": encode_payload(Payload({}))}
        self.lost = ""

    def _nonce(self, door: str, call: str) -> str:
        at, _, nonce = call.rpartition("/")
        assert at == door, "the same call at two doors"
        return nonce

    def piece(self, number: int) -> Payload:
        return Payload({"number": number}, {"raw": bytes([number % 256]) * self.size})

    async def run(self, request: bytes, key: str, call: str, node: str, timeout_s: float) -> bytes:
        self.starts.append((self._nonce("invoke", call), -1))
        try:
            while self.wait_at is not None and not self.go.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return msgspec.msgpack.encode(StartAnswer("a", node, 1.0, 2.0, result=encode_payload(SENT)))

    async def stream(
        self, request: bytes, stream: str, key: str, call: str, node: str, timeout_s: float
    ) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        asked = from_msgpack(request, StartRequest)
        assert asked.stream == stream
        after = asked.after if asked.made == self.made else 0
        self.starts.append((self._nonce("invoke/stream", call), after))
        try:
            while not self.taken.is_set():
                await asyncio.sleep(0.005)
            if "refusal" not in self.end:
                yield Begun(self.made, after)
            for first in range(after, self.count, self.at_a_time):
                while self.wait_at is not None and first >= self.wait_at and not self.go.is_set():
                    await asyncio.sleep(0.005)
                numbers = range(first, min(first + self.at_a_time, self.count))
                self.given = numbers[-1] + 1
                yield [encode_payload(self.piece(number)) for number in numbers]
            if self.lost:
                raise UnreachableError(f"node {node}", self.lost)
            yield msgspec.msgpack.encode(StartAnswer("a", node, 1.0, 2.0, **self.end))
        finally:
            self.stopped.set()


@contextmanager
def served(node: Node) -> Iterator[tuple[Lab, GatewayClient]]:
    """A gateway that listens, and a client of it with a run's permit."""
    lab = Lab(clock=SystemClock(), runner=node)
    server = uvicorn.Server(uvicorn.Config(lab.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    with client_of(listening.getsockname()[1]) as client:
        yield lab, client
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive(), "a connection is left open"


@contextmanager
def client_of(port: int) -> Iterator[GatewayClient]:
    permit = decode(run_permit())
    assert isinstance(permit, Signed)
    client = GatewayClient(f"http://127.0.0.1:{port}", "lab", HOME, permit)
    yield client
    client.close()


def signed_permit(nonce: str = "n") -> Signed:
    return converted(step_permit(encode_payload(SENT), nonce=nonce), Signed)


def ask(client: GatewayClient, nonce: str = "n", **change: Any) -> Stream | Refusal:
    given: dict[str, Any] = {"timeout": 60.0, "idle_s": 60.0} | change
    return client.stream(LEASE, signed_permit(nonce), "echo", SENT, **given)


def begun(client: GatewayClient, nonce: str = "n", **change: Any) -> Stream:
    stream = ask(client, nonce, **change)
    assert isinstance(stream, Stream)
    return stream


def numbers(stream: Stream) -> list[int]:
    return [piece.document["number"] for piece in stream]


def test_pieces_come_in_order_and_whole_and_then_it_is_told_where_they_were_made():
    node = Node(size=3)
    with served(node) as (_, client):
        its = begun(client)
        assert list(its) == [node.piece(number) for number in range(3)]
        assert (its.first, its.number, its.made) == (0, 3, Made("telling", "1"))
        assert its.end is not None
        assert (its.end.node, its.end.attempt, its.end.started) == ("lab-1", "a", 1.0)
        assert node.starts == [("n", 0)]


def test_a_hundred_thousand_tiny_pieces_are_no_trouble():
    with served(Node(100_000, at_a_time=2_000)) as (_, client):
        assert numbers(begun(client)) == list(range(100_000))


def test_a_piece_is_there_before_the_next_is_made():
    node = Node()
    node.wait_at = 1
    with served(node) as (_, client):
        pieces = iter(begun(client))
        assert next(pieces).document["number"] == 0
        assert node.given == 1
        node.go.set()
        assert [piece.document["number"] for piece in pieces] == [1, 2]


def test_a_slow_reader_slows_the_node_down():
    # What lies between: what the sockets of both sides may take, and some for the gateway's window and what is under way.
    between = sum(int(Path(f"/proc/sys/net/ipv4/tcp_{one}mem").read_text().split()[2]) for one in "rw") // 2**20 + 8
    node = Node(2 * between, 2**20)
    with served(node) as (_, client):
        for read, _ in enumerate(begun(client), 1):
            assert node.given <= read + between


@pytest.mark.parametrize("how", ["closed", "hung up"])
def test_who_wants_no_more_of_it_has_it_stopped(how: str):
    node = Node()
    node.wait_at = 1
    with served(node) as (_, client), ThreadPoolExecutor(1) as pool:
        its = begun(client)
        pieces = iter(its)
        next(pieces)
        rest = pool.submit(list, pieces)
        its.close() if how == "closed" else client.hang_up(LEASE.key)
        with pytest.raises(RetryableError):
            rest.result(60)
        assert node.stopped.wait(60)
        assert node.given == 1


def test_the_same_call_is_not_begun_again_but_joined_while_it_is_under_way_and_answered_when_it_has_ended():
    node = Node(5)
    node.wait_at = 3
    with served(node) as (_, client), client_of(int(client.url.rpartition(":")[2])) as other:
        first, second = begun(client), begun(other)
        one, two = iter(first), iter(second)
        assert [next(one).document["number"] for _ in range(3)] == [next(two).document["number"] for _ in range(3)]
        node.go.set()
        assert [piece.document["number"] for piece in one] == [3, 4]
        assert [piece.document["number"] for piece in two] == [3, 4]
        assert numbers(begun(client)) == list(range(5))
        assert node.starts == [("n", 0)]
        assert numbers(begun(client, "another")) == list(range(5))
        assert node.starts == [("n", 0), ("another", 0)]


def test_one_of_two_who_leaves_stops_nothing():
    node = Node()
    node.wait_at = 1
    with served(node) as (_, client), client_of(int(client.url.rpartition(":")[2])) as other:
        leaves, stays = begun(client), begun(other)
        pieces = iter(stays)
        next(pieces)
        leaves.close()
        assert not node.stopped.wait(calls.REJOIN_S + 0.5)
        node.go.set()
        assert [piece.document["number"] for piece in pieces] == [1, 2]


def test_a_whole_call_is_begun_once_too():
    node = Node()
    node.wait_at = 0
    with served(node) as (_, client), ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.invoke, LEASE, signed_permit(), "echo", SENT, timeout=60.0) for _ in range(2)]
        eventually(lambda: len(node.starts) == 1, 60, "it is begun")
        node.go.set()
        answers = [one.result(60) for one in asked]
        answers.append(client.invoke(LEASE, signed_permit(), "echo", SENT, timeout=60.0))
        assert [answer[0] for answer in answers if not isinstance(answer, Refusal)] == [SENT] * 3
        assert node.starts == [("n", -1)]


def test_a_permit_is_for_one_door():
    node, other = Node(), Node()
    with served(node) as (lab, client):
        assert numbers(begun(client)) == [0, 1, 2]
        refused = client.invoke(LEASE, signed_permit(), "echo", SENT, timeout=60.0)
        assert isinstance(refused, Refusal)
        assert (refused.code, refused.text) == ("gateway.other_door", "the permit is used at invoke/stream already")
        assert node.starts == [("n", 0)]
        assert lab.refused() == [("/v1/invoke", "gateway.other_door", 1)]
    with served(other) as (_, client):
        client.invoke(LEASE, signed_permit(), "echo", SENT, timeout=60.0)
        refused = ask(client)
        assert isinstance(refused, Refusal)
        assert (refused.code, other.starts) == ("gateway.other_door", [("n", -1)])


def test_a_call_that_is_cut_off_is_gone_on_with_where_it_was():
    node = Node(6)
    node.wait_at = 3
    with (
        served(node) as (_, client),
        cutting(int(client.url.rpartition(":")[2])) as (port, cut),
        client_of(port) as through,
    ):
        pieces = iter(begun(through))
        assert [next(pieces).document["number"] for _ in range(3)] == [0, 1, 2]
        cut()
        node.go.set()
        assert [piece.document["number"] for piece in pieces] == [3, 4, 5]
    assert node.starts == [("n", 0)]


def test_who_hangs_up_while_the_answer_has_not_begun_is_not_held_and_leaves_no_connection():
    silent, hung_up = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def listen() -> None:
        connection, _ = silent.accept()
        with connection:
            while connection.recv(2**16):
                asked.set()
            hung_up.set()

    asked, thread = threading.Event(), threading.Thread(target=listen, daemon=True)
    thread.start()
    with silent, client_of(silent.getsockname()[1]) as client, ThreadPoolExecutor(1) as pool:
        opening = pool.submit(ask, client)
        assert asked.wait(60)
        client.hang_up(LEASE.key)
        with pytest.raises(RetryableError, match="nobody waits"):
            opening.result(30)
        assert hung_up.wait(30)
        assert client._pool._under_way == 0
        thread.join(30)


def test_each_answer_is_closed_also_one_that_broke_before_the_call_was_gone_on_with():
    answers = [[BEGUN, piece(0)], [BEGUN_AT_1, piece(1)], [written(Streamed(Word.BEGUN, 2)), ENDED]]
    opened, closed = iter(enumerate(answers)), []

    def open_(_body: bytes, _timeout: float) -> streams.Opened:
        number, sends = next(opened)
        return streams.Opened(lambda: None, lambda _: sends.pop(0) if sends else b"", lambda: closed.append(number))

    invocation = Invocation(LEASE, {}, "echo", {})
    stream = Stream("lab", invocation, {}, open_, 60.0)
    assert stream.begin() is None
    assert numbers_only(stream) == 2
    assert sorted(set(closed)) == [0, 1, 2]


def test_what_is_cut_off_and_not_there_any_more_is_not_begun_again():
    node, other = Node(6), Node(6)
    node.wait_at = 3
    with served(node) as (_, client), served(other) as (_, after_restart):
        ports = [int(one.url.rpartition(":")[2]) for one in (client, after_restart)]
        with cutting(ports[0]) as (port, cut), client_of(port) as through:
            pieces = iter(begun(through))
            next(pieces)
            cut(ports[1])
            with pytest.raises(RetryableError, match=r"gateway\.no_call"):
                list(pieces)
    assert (node.starts, other.starts) == ([("n", 0)], [])


@pytest.mark.parametrize(
    ("made", "after", "first"),
    [(Made("telling", "1"), 2, 2), (Made("telling", "0"), 2, 0), (Made("other", "1"), 2, 0), (NOBODY, 0, 0)],
)
def test_what_another_place_began_is_gone_on_with_by_the_same_block_alone(made, after, first):
    node = Node(4)
    with served(node) as (_, client):
        stream = begun(client, after=after, made=made)
        assert (stream.first, numbers(stream)) == (first, list(range(first, 4)))
        assert node.starts == [("n", first)]


def test_who_gives_the_pieces_is_what_the_node_says():
    node = Node(2)
    node.made = Made("telling", "2")
    with served(node) as (_, client):
        stream = begun(client, after=1, made=Made("telling", "1"))
        assert (stream.made, stream.first, numbers(stream)) == (Made("telling", "2"), 0, [0, 1])


def test_a_call_that_the_node_refuses_is_no_stream():
    node = Node(0)
    node.end = {"refusal": Refusal("block.queue_full", "full", "n")}
    with served(node) as (_, client):
        assert ask(client) == node.end["refusal"]


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_call_that_is_cut_off_before_it_has_begun_is_gone_on_with_too(version: str):
    node = Node(4)
    node.made = Made("telling", version)
    node.taken.clear()
    with (
        served(node) as (_, client),
        cutting(int(client.url.rpartition(":")[2])) as (port, cut),
        client_of(port) as through,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(begun, through, after=2, made=Made("telling", "1"))
        eventually(lambda: len(node.starts) == 1, 60, "it is on its way")
        cut()
        node.taken.set()
        stream, first = asked.result(60), 2 if version == "1" else 0
        assert (stream.made, stream.first, numbers(stream)) == (node.made, first, list(range(first, 4)))
    assert node.starts == [("n", first)]


@pytest.mark.parametrize(
    ("end", "lost", "error", "text"),
    [
        ({"error": "ValueError at b.py:1: no"}, "", FinalError, "no"),
        ({"error": "the replica was lost", "cause": Cause.NODE_ERROR}, "", RetryableError, "the replica was lost"),
        ({}, "the worker died", RetryableError, "the worker died"),
    ],
    ids=["error", "replica", "worker"],
)
def test_what_came_before_it_broke_is_there_and_it_is_told_apart_why(end, lost, error, text):
    node, found = Node(), []
    node.end, node.lost = end, lost
    with served(node) as (_, client):
        stream = begun(client)
        with pytest.raises(error, match=text):
            found.extend(numbers_of(stream))
        assert (found, stream.number, stream.end) == ([0, 1, 2], 3, None)


def numbers_of(stream: Stream) -> Iterator[int]:
    return (piece.document["number"] for piece in stream)


def test_policy_has_its_word_on_what_still_goes_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(invoking, "LOOK_AGAIN_S", 0.0)
    node = Node(5)
    node.wait_at = 2
    with served(node) as (lab, client):
        pieces = iter(begun(client))
        assert [next(pieces).document["number"] for _ in range(2)] == [0, 1]
        lab.verdict = Decision("d", Verdict.DENY, (Refusal("policy.changed", "no more of that", "lab"),))
        node.go.set()
        with pytest.raises(RetryableError, match=r"policy\.changed"):
            next(pieces)
        assert node.stopped.wait(60)


def test_a_call_that_may_not_be_run_is_refused_before_it_begins():
    node = Node()
    with served(node) as (_, client):
        refused = client.stream(
            replace(LEASE, id="made-up"),
            converted(step_permit(encode_payload(SENT), replace(LEASE, id="made-up")), Signed),
            "echo",
            SENT,
            timeout=60.0,
            idle_s=60.0,
        )
        assert isinstance(refused, Refusal)
        assert (refused.code, node.starts) == ("gateway.no_lease", [])


def test_a_node_that_gives_nothing_is_waited_for_so_long():
    node = Node()
    node.wait_at = 1
    with served(node) as (_, client):
        with pytest.raises(UnreachableError, match=r"no end of [01] pieces for 0\.3 s"):
            numbers(begun(client, idle_s=0.3))
        assert node.stopped.wait(60)
        node.stopped.clear()
        with pytest.raises(UnreachableError, match=r"no end of [01] pieces within 1 s"):
            numbers(begun(client, "another", timeout=1.0))
        assert node.stopped.wait(60)


# Peers that keep to nothing -----------------------------------------------------------------------------------------


BEGUN = written(Streamed(Word.BEGUN, 0, block="b", version="1"))


BEGUN_AT_1 = written(Streamed(Word.BEGUN, 1, block="b", version="1"))
ENDED = written(Streamed(Word.ENDED, 2, end=Invoked(True)))


def piece(number: int, **parts: bytes) -> bytes:
    return written(Streamed(Word.PIECE, number, {}), parts)


@contextmanager
def peer(*sends: bytes, drips: bytes = b"") -> Iterator[GatewayClient]:
    """One that answers each request with this, and then with a byte of `drips` at a time, for ever."""
    server, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer() -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(2**16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"".join(sends))
                try:
                    while drips and not ended.wait(0.02):
                        connection.sendall(drips)
                except OSError:
                    continue

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with client_of(server.getsockname()[1]) as client:
        yield client
    ended.set()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(30)


def test_a_peer_that_drips_costs_its_deadline_and_no_more():
    with (
        peer(BEGUN, piece(0), struct.pack(">I", 10_000), drips=b"x") as client,
        pytest.raises(UnreachableError, match=r"no end of [01] pieces for 0\.4 s"),
    ):
        numbers_only(begun(client, idle_s=0.4))


def numbers_only(stream: Stream) -> int:
    return sum(1 for _ in stream)


@pytest.mark.parametrize(
    ("sends", "why"),
    [
        ((BEGUN, piece(1)), "piece 1 where piece 0"),
        ((BEGUN, piece(0), piece(0)), "piece 0 where piece 1"),
        ((BEGUN, BEGUN), "begun 0 where piece 0"),
        ((BEGUN, written(Streamed(Word.ENDED, 1))), "without saying how"),
        ((BEGUN, struct.pack(">I", MAX_FRAME + 1)), f"{MAX_FRAME} are the most"),
        ((BEGUN, struct.pack(">I", 4) + b"\x80\x04N."), "not a framed payload"),
        ((BEGUN, struct.pack(">I", 0)), "not a framed payload"),
        ((piece(0),), "begins a stream with piece"),
        ((written(Streamed(Word.BEGUN, 7)),), "begins a stream with begun 7"),
    ],
)
def test_what_is_no_stream_is_told_so(sends: tuple[bytes, ...], why: str):
    with peer(*sends) as client, pytest.raises(BadInputError, match=why):
        numbers_only(begun(client))


def test_a_peer_that_sends_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "MAX_STREAM", 2**20)
    large = [piece(number, raw=b"x" * (MAX_PIECE // 8)) for number in range(6)]
    with peer(BEGUN, *large) as client, pytest.raises(BadInputError, match="more than 1048576 bytes"):
        numbers_only(begun(client))


def test_a_peer_that_ends_in_the_middle_and_begins_anew_is_not_believed():
    with peer(BEGUN, piece(0)) as client, pytest.raises(BadInputError, match="begun 0 where piece 1"):
        numbers_only(begun(client))


@contextmanager
def cutting(port: int) -> Iterator[tuple[int, Any]]:
    """A way to a port, on which the connections of the moment can be cut, and later ones led to another."""
    server, open_ = socket.create_server(("127.0.0.1", 0)), []
    target = [port]

    def carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(2**16):
                sink.sendall(data)
        except OSError:
            return
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # the other thread may be reading it
                end.close()

    def accept() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", target[-1]))
            open_.append((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    def cut(other: int | None = None) -> None:
        target.append(other or port)
        for end in (end for pair in open_ for end in pair):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1], cut
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(30)


# What a run makes of it ---------------------------------------------------------------------------------------------


TELLING = BlockSpec("telling", "1", "echo", "b:B", Contract("echo", "tells", streams=True, resumes=True))


def step(_work: bytes) -> bytes:
    """Stands for Dagster's: its result is what its block call gave."""
    pieces = stream(TELLING, SENT)
    assert not isinstance(pieces, Refusal)
    return msgspec.json.encode([piece.document["number"] for piece in pieces])


def run_step(
    client: GatewayClient, partials: Partials, streams: Streaming = Streaming.RESUMES
) -> tuple[StartAnswer | None, str | None, list[dict]]:
    """How a start of a step ends at the domain of `client`, and what was told on the way."""
    ended: queue.Queue = queue.Queue()
    told: list[dict] = []
    fleet = InvokeFleet("lab", "lab-c", client, partials)
    fleet.listen(topic(LEASE.run_key), told.append)
    start = Start(LEASE.key, LEASE, signed_permit(uuid.uuid4().hex), "echo", b"", SENT, streams=streams)
    fleet.start([start], lambda *end: ended.put(end[1:]))
    answer, why = ended.get(timeout=60)
    fleet.close()
    return answer, why, told


@pytest.mark.parametrize("streams", [Streaming.RESUMES, Streaming.YES])
def test_what_came_before_a_loss_is_told_and_no_result_and_gone_on_with_where_the_block_can(monkeypatch, streams):
    monkeypatch.setattr(step_runner, "run", step)
    partials, breaks, goes_on = Partials(), Node(3), Node(5)
    breaks.lost = "the worker died"
    with served(breaks) as (_, client):
        answer, why, told = run_step(client, partials, streams)
        assert answer is None
        assert why is not None
        assert why.endswith("the worker died; 3 pieces had come, which are no result")
        size = sum(len(encode_payload(breaks.piece(number))) for number in range(3))
        assert told == [{"key": LEASE.key, "first": 0, "pieces": 3, "bytes": size, "broke": True}]
    with served(goes_on) as (_, client):
        answer, why, told = run_step(client, partials, streams)
        assert (why, told) == (None, [])
        assert answer is not None
        assert (answer.result, answer.node, answer.attempt) == (b"[0,1,2,3,4]", "lab-1", "a")
    assert goes_on.starts[0][1] == (3 if streams is Streaming.RESUMES else 0)
    assert partials.of(LEASE.step, digest_bytes(encode_payload(SENT))) is None


def test_of_what_another_block_began_nothing_is_in_the_result(monkeypatch):
    monkeypatch.setattr(step_runner, "run", step)
    partials, node = Partials(), Node(2)
    digest = digest_bytes(encode_payload(SENT))
    partials.keep(LEASE.step, Partial(Made("telling", "0"), digest, (Payload({"number": 77}),), 10))
    with served(node) as (_, client):
        answer, _, _ = run_step(client, partials)
    assert answer is not None
    assert answer.result == b"[0,1]"


def test_an_error_of_the_block_in_mid_stream_is_an_error_of_its_step(monkeypatch):
    def says(work: bytes) -> bytes:
        try:
            return step(work)
        except FinalError as error:
            return str(error).encode()

    monkeypatch.setattr(step_runner, "run", says)
    node = Node(2)
    node.end = {"error": "ValueError at b.py:1: no"}
    with served(node) as (_, client):
        answer, why, _ = run_step(client, Partials())
    assert why is None
    assert answer is not None
    assert answer.result == b"lab: ValueError at b.py:1: no"


def test_of_what_is_kept_of_broken_calls_the_oldest_goes_first_and_what_was_given_must_be_the_same():
    partials = Partials(kept=100)
    for name in "abc":
        partials.keep(name, Partial(Made("b", "1"), "same", (), 40))
    assert [name for name in "abc" if partials.of(name, "same")] == ["b", "c"]
    assert partials.of("b", "another") is None
