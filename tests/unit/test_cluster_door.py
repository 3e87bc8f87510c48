"""The door of a cluster governor, in the scheduler's process: who may pass, and how much at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.link import caller as caller_module
from ioi_dagster.adapters.link.caller import ClusterLine, RefusedError
from ioi_dagster.adapters.link.door import MAX_HELLO, MAX_LINES, Waiting, open_door
from ioi_dagster.adapters.link.frames import ERROR, HELLO, MAX_FRAME, OK, VERSION, Frames, Hello, address_of, pack
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError, UnreachableError
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply, Tick, Withdrawn
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Announce, AskGroup, Award, Awarded, Bid, LeaseRequest, ReleaseRequest

RELEASE = ReleaseRequest("r", ("l1",))
AWARD = Award("lab-c", "r", 1, "library", (LeaseRequest("r", "s", 1, "echo", DataClass.PUBLIC),))


def announcement(round_: int) -> Announce:
    return Announce("r", round_, "library", (AskGroup("echo", DataClass.PUBLIC, 1),), 5.0, 30.0)


class Cluster:
    """A governor of one node with one slot, as a scheduler's plugin has it."""

    def __init__(self) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        self.governor.handle(NodeJoined("one", 1, frozenset({"echo"})), 0.0)
        self.waiting = Waiting()
        self.asked: list[Any] = []
        self.broken = False

    def status(self) -> Any:
        return self.governor.snapshot()

    def request(self, message: Any) -> Any:
        self.asked.append(message)
        if self.broken:
            raise RuntimeError("a defect")
        answer = None
        for one in self.governor.handle(message, 1.0):
            if isinstance(one, Reply) and one.waited is not None:
                self.waiting.answer(one.waited, one.answer)
            elif isinstance(one, Reply):
                answer = one.answer
        return answer


def at(address: str, use: Callable[[Cluster], Awaitable[None]]) -> None:
    async def served() -> None:
        cluster = Cluster()
        server = await open_door(cluster, "own", address)
        try:
            async with asyncio.timeout(20):
                await use(cluster)
        finally:
            server.close()

    asyncio.run(served())


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/governor.sock"


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def test_messages_reach_the_governor_on_one_line(address: str):
    async def use(cluster: Cluster) -> None:
        line = ClusterLine("lab-c", address, "own")
        awarded, status, released = await asyncio.gather(
            line.ask("award", AWARD, Awarded, 5.0),
            line.ask("status", None, dict, 5.0),
            line.ask("release", RELEASE, dict, 5.0),
        )
        assert [lease.step for lease in awarded.leases] == ["s"]
        assert (status["epoch"], released) == (1, {})
        assert cluster.asked == [AWARD, RELEASE]
        line.close()

    at(address, use)


@pytest.mark.parametrize(
    ("door", "message", "code"),
    [
        ("release", {}, "cluster.malformed"),
        ("release", {"run": "", "leases": []}, "cluster.malformed"),
        ("award", {"cluster": "c", "run": "r", "round": -1, "origin": "o", "requests": []}, "cluster.malformed"),
        ("nowhere", {}, "cluster.unknown_door"),
        ("hello", {}, "cluster.unknown_door"),
    ],
)
def test_what_is_refused_is_told_with_a_code_and_the_line_goes_on(address: str, door: str, message: Any, code: str):
    async def use(cluster: Cluster) -> None:
        line = ClusterLine("lab-c", address, "own")
        with pytest.raises(RefusedError) as refused:
            await line.ask(door, message, dict, 5.0)
        assert refused.value.code == code
        assert cluster.asked == []
        assert await line.ask("release", RELEASE, dict, 5.0) == {}
        line.close()

    at(address, use)


def test_a_defect_at_one_request_ends_that_request_alone(address: str):
    async def use(cluster: Cluster) -> None:
        line, cluster.broken = ClusterLine("lab-c", address, "own"), True
        with pytest.raises(RefusedError, match=r"RuntimeError \[cluster.failed\]"):
            await line.ask("release", RELEASE, dict, 5.0)
        cluster.broken = False
        assert await line.ask("release", RELEASE, dict, 5.0) == {}
        line.close()

    at(address, use)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (pack(0, HELLO, msgspec.json.encode(Hello(VERSION, "guessed"))), "cluster.unauthorised"),
        (pack(0, HELLO, msgspec.json.encode(Hello(VERSION + 1, "own"))), "cluster.version"),
        (pack(0, HELLO, b"\xff"), "cluster.version"),
        (pack(1, "release", msgspec.json.encode(RELEASE)), "cluster.version"),
        (pack(0, HELLO, b" " * (MAX_HELLO + 1)), "cluster.too_large"),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", "cluster.too_large"),
    ],
)
def test_who_does_not_know_the_token_is_told_so_and_hung_up_on(address: str, frame: bytes, code: str):
    async def use(cluster: Cluster) -> None:
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        writer.write(frame + pack(2, "release", msgspec.json.encode(RELEASE)))
        ((number, word, body),) = Frames().feed(await reader.read())
        assert (number, word, from_json(body)["code"]) == (0, ERROR, code)
        assert cluster.asked == []
        writer.close()

    at(address, use)


def test_a_message_that_is_too_large_is_refused_by_its_length(address: str):
    async def use(cluster: Cluster) -> None:
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        writer.write(pack(0, HELLO, msgspec.json.encode(Hello(VERSION, "own"))))
        writer.write((MAX_FRAME + 1).to_bytes(4, "big") + b"12345")
        greeting, refusal = Frames().feed(await reader.read())
        assert (greeting[1], from_json(refusal[2])["code"]) == (HELLO, "cluster.too_large")
        writer.close()

    at(address, use)


def test_connections_are_bounded(address: str):
    async def use(cluster: Cluster) -> None:
        path = address.removeprefix("unix:")
        silent = [await asyncio.open_unix_connection(path) for _ in range(MAX_LINES)]
        reader, writer = await asyncio.open_unix_connection(path)
        assert b"cluster.too_many_lines" in await reader.read()
        silent.pop()[1].close()
        await until(lambda: writer.is_closing() or not writer.close())
        line = ClusterLine("lab-c", address, "own")
        while True:
            try:
                assert await line.ask("release", RELEASE, dict, 5.0) == {}
                break
            except UnreachableError:  # the one that was closed is being noticed
                await asyncio.sleep(0.001)
        line.close()
        for _, one in silent:
            one.close()

    at(address, use)


def test_an_announcement_waits_beside_other_requests_and_is_answered_or_cancelled(address: str):
    async def use(cluster: Cluster) -> None:
        line = ClusterLine("lab-c", address, "own")
        (lease,) = (await line.ask("award", AWARD, Awarded, 5.0)).leases
        waits = asyncio.create_task(line.ask("announce", announcement(2), Bid, 30.0))
        await until(lambda: cluster.governor.snapshot().parked == 1)
        await line.ask("release", ReleaseRequest("r", (lease.id,)), dict, 5.0)
        assert [point.slots for point in (await waits).points] == [1]

        await line.ask("award", Award("lab-c", "r", 2, "library", ()), Awarded, 5.0)
        await line.ask(
            "award",
            Award("lab-c", "q", 1, "library", (LeaseRequest("q", "s", 1, "echo", DataClass.PUBLIC),)),
            Awarded,
            5.0,
        )
        waits = asyncio.create_task(line.ask("announce", announcement(3), Bid, 30.0))
        await until(lambda: cluster.governor.snapshot().parked == 1)
        waits.cancel()
        await until(lambda: cluster.governor.snapshot().parked == 0)
        assert cluster.asked[-1] == Withdrawn("r", 3, "library")

        waits = asyncio.create_task(line.ask("announce", announcement(4), Bid, 30.0))
        await until(lambda: cluster.governor.snapshot().parked == 1)
        line.close()
        with pytest.raises(UnreachableError):
            await waits
        await until(lambda: cluster.governor.snapshot().parked == 0)
        cluster.request(Tick())

    at(address, use)


def test_a_governor_that_was_started_again_is_reached_by_the_same_line(tmp_path: Path):
    address = f"unix:{tmp_path}/governor.sock"
    line: list[ClusterLine] = []

    async def twice() -> None:
        line.append(ClusterLine("lab-c", address, "own"))
        with pytest.raises(UnreachableError):
            await line[0].ask("status", None, dict, 5.0)
        for _ in range(2):
            cluster = Cluster()
            server = await open_door(cluster, "own", address)
            assert (await line[0].ask("status", None, dict, 5.0))["epoch"] == 1
            server.close()
            line[0].close()

    asyncio.run(twice())


def test_one_that_does_not_answer_costs_its_deadline_and_a_bounded_number_of_requests(address: str, monkeypatch):
    monkeypatch.setattr(caller_module, "MAX_ASKED", 2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(9)
        writer.write(pack(0, HELLO, msgspec.json.encode(Hello(VERSION))))
        await reader.read()
        writer.close()

    async def use() -> None:
        server = await asyncio.start_unix_server(silent, address.removeprefix("unix:"))
        line = ClusterLine("lab-c", address, "own")
        asked = await asyncio.gather(*(line.ask("status", None, dict, 0.2) for _ in range(3)), return_exceptions=True)
        assert sorted(map(str, asked)) == [
            "lab-c is unreachable: 2 requests wait for their answers there",
            "lab-c is unreachable: no answer within 0.2 s",
            "lab-c is unreachable: no answer within 0.2 s",
        ]
        line.close()
        server.close()

    asyncio.run(use())


def test_a_governor_that_takes_connections_and_says_nothing_is_tried_once_for_all_who_wait(address: str, monkeypatch):
    """As one does that is frozen. What it finds when it goes on must not count as lines that are in use."""
    monkeypatch.setattr(caller_module, "CONNECT_S", 0.3)
    came, open_ = [], []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        open_.append(writer)
        await reader.read(MAX_HELLO)
        assert await reader.read() == b""
        open_.remove(writer)
        writer.close()

    async def use() -> None:
        server = await asyncio.start_unix_server(silent, address.removeprefix("unix:"))
        line = ClusterLine("lab-c", address, "own")
        asks = [line.ask("status", None, dict, 5.0) for _ in range(20)]
        told = await asyncio.gather(*asks, return_exceptions=True)
        assert {type(one) for one in told} == {UnreachableError}
        assert len(came) == 1
        with pytest.raises(UnreachableError, match=r"within 0.05 s"):
            await line.ask("status", None, dict, 0.05)
        await until(lambda: len(came) == 2 and not open_)
        server.close()

    asyncio.run(asyncio.wait_for(use(), 20))


def test_a_governor_that_reads_nothing_more_is_not_sent_more_than_a_bound(address: str, monkeypatch):
    monkeypatch.setattr(caller_module, "MAX_UNREAD", 4 * 2**20)

    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(MAX_HELLO)
        writer.write(pack(0, HELLO, msgspec.json.encode(Hello(VERSION))))
        await done.wait()
        writer.close()

    async def use() -> None:
        server = await asyncio.start_unix_server(greets, address.removeprefix("unix:"))
        line, told = ClusterLine("lab-c", address, "own"), []
        large = ReleaseRequest("r", tuple(f"{number:0>400}" for number in range(2_000)))
        while len(told) < 100 and not any("has not read the last" in one for one in told):
            with pytest.raises(UnreachableError) as error:
                await line.ask("release", large, dict, 0.01)
            told.append(str(error.value))
        assert len(told) < 12
        line.close()
        done.set()
        server.close()

    done = asyncio.Event()
    asyncio.run(asyncio.wait_for(use(), 20))


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.text("abc", max_size=9), st.binary(max_size=50))), st.data())
def test_frames_are_found_however_the_stream_is_cut(frames: list[tuple[int, str, bytes]], data: st.DataObject):
    stream, reader, found = b"".join(pack(*frame) for frame in frames), Frames(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == frames


@given(st.binary(max_size=200))
def test_rubbish_is_frames_or_refused_and_never_kept_beyond_the_limit(rubbish: bytes):
    reader = Frames(100)
    try:
        for frame in reader.feed(rubbish):
            assert len(frame[2]) <= 100
    except BadInputError:
        pass


@pytest.mark.parametrize("text", ["", "unix:", "http://127.0.0.1:1", "tcp://", "tcp://host", "tcp://host:port"])
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(BadInputError):
        address_of(text)


def test_addresses_are_paths_or_ports():
    assert (address_of("unix:/a b"), address_of("tcp://10.0.0.1:99")) == ("/a b", ("10.0.0.1", 99))
    assert OK != ERROR
