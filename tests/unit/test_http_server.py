"""What one connection to a gateway may cost, and that others do not pay for it: malformed, endless, slow, half a request."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.http import server as module
from ioi_dagster.adapters.http.server import Answer, Head, Limits, Line, Reception, Server
from ioi_dagster.adapters.http.transport import BrokenAnswerError, Pool

MOST = 1_000
SLOW = Limits(head_s=0.05, bytes_per_s=1e6)


class Echo:
    """Answers with what it was sent; `/no` is refused by its head, `/wait` is not answered, `/break` is a defect."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.refused: Counter[str] = Counter()
        self.gone = 0

    def admit(self, head: Head) -> Reception | Answer:
        if head.path == "/no":
            return self.refuse(403, "no", "not you")
        return Reception(MOST, lambda body, line: self._take(head, body, line))

    def refuse(self, status: int, code: str, text: str) -> Answer:
        self.refused[code] += 1
        return Answer(status, json.dumps({"code": code}).encode())

    async def _take(self, head: Head, body: bytes, line: Line) -> Answer:
        self.taken.append(body)
        if head.path == "/break":
            raise RuntimeError("a defect")
        if head.path == "/wait":
            await line.hung_up()
            self.gone += 1
        return Answer(200, body)


Use = Callable[[Echo, Server, int], Awaitable[None]]


def served(use: Use, limits: Limits | None = None) -> None:
    async def serve() -> None:
        echo = Echo()
        server = Server(echo, limits)
        port = await server.listen("127.0.0.1", 0)
        try:
            async with asyncio.timeout(30):
                await use(echo, server, port)
                await until(lambda: server.held == 0)
        finally:
            await server.close(0.0)

    asyncio.run(serve())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


async def sent(port: int, *parts: bytes) -> bytes:
    """All that comes back of a connection on which `parts` are sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0)
    answer = await reader.read()
    writer.close()
    return answer


def post(path: str = "/", body: bytes = b"hello", more: str = "", close: bool = True) -> bytes:
    last = "connection: close\r\n" if close else ""
    return f"POST {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n{more}{last}\r\n".encode() + body


CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


async def flood(writer: asyncio.StreamWriter, part: bytes, holds: Callable[[], bool] = lambda: True) -> None:
    """Without an end."""
    while True:
        writer.write(part)
        await writer.drain()
        assert holds()


@given(st.lists(st.integers(1, 80), max_size=8), st.binary(max_size=40), st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_requests_are_answered_in_order_however_they_are_cut(cuts: list[int], first: bytes, second: bytes):
    async def use(echo: Echo, server: Server, port: int) -> None:
        stream, parts = post(body=first, close=False) + post(body=second), []
        for cut in cuts:
            parts.append(stream[:cut])
            stream = stream[cut:]
        answers = await sent(port, *filter(None, parts), stream)
        assert echo.taken == [first, second]
        assert answers.count(b"HTTP/1.1 200 OK") == 2
        assert answers.endswith(b"\r\n\r\n" + second)

    served(use)


def test_chunks_and_expectations_are_understood():
    async def use(echo: Echo, server: Server, port: int) -> None:
        chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert (await sent(port, chunked)).endswith(b"abcde")
        assert b"100 Continue\r\n\r\nHTTP/1.1 200 OK" in await sent(port, post(more="expect: 100-continue\r\n"))

    served(use)


@pytest.mark.parametrize(
    ("stream", "status", "code"),
    [
        (b"\x00rubbish\r\n\r\n", 400, "http.malformed"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400, "http.malformed"),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "http.malformed"),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400, "http.malformed"),
        (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", 400, "http.malformed"),
        (b"GET / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", 400, "http.upgrade"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 431, "http.head_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(20_000)), 431, "http.head_too_large"),
        (b"GET / HTTP/1.1\r\nh: " + b"v" * 400_000, 431, "http.head_too_large"),
        (post(body=b"x" * (MOST + 1)), 413, "gateway.too_large"),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\nconnection: close\r\n\r\n", 0, "gateway.too_large"),
        (
            CHUNKED + b"5dc\r\n" + b"x" * 1_500 + b"\r\n0\r\n\r\n",
            413,
            "gateway.too_large",
        ),
        (post("/no", b"x" * MOST), 403, "no"),
        (post("/break"), 500, "gateway.failed"),
        (post(close=False) * 40, 429, "http.pipelined"),
    ],
)
def test_what_is_no_good_request_is_refused_by_name_and_the_next_caller_is_served(stream, status, code):
    async def use(echo: Echo, server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(stream)
        if not status:  # what it announced never comes: it is told when its time is over, or hangs up
            await until(lambda: bool(echo.refused))
            writer.close()
        else:
            writer.write_eof() if stream.endswith(b"v") else None
            answer = b""
            while b'"code": "%s"' % code.encode() not in answer:
                answer += await reader.read(65_536) or pytest.fail(repr(answer[-300:]))
            assert b"HTTP/1.1 %d " % status in answer
            writer.close()
        assert echo.refused[code] == 1
        assert (await sent(port, post(body=b"others"))).endswith(b"others")

    served(use)


def test_a_body_that_is_refused_is_dropped_and_so_is_a_sender_who_goes_on():
    async def use(echo: Echo, server: Server, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED.replace(b"/", b"/no", 1))
        with pytest.raises(ConnectionError):
            await flood(writer, b"10000\r\n" + b"x" * 65_536 + b"\r\n", lambda: server.held == 0)
        writer.close()
        assert echo.taken == []

    served(use)


@pytest.mark.parametrize("stream", [b"", b"POST / HTTP", post()[:-1], post(close=False) + b"G"])
def test_who_drips_is_hung_up_on(monkeypatch, stream: bytes):
    monkeypatch.setattr(module, "SWEEP_S", 0.02)

    async def use(echo: Echo, server: Server, port: int) -> None:
        answer = await sent(port, stream)
        assert echo.refused == ({"gateway.too_slow": 1} if stream else {})
        assert (b"408 Request Timeout" in answer) is bool(stream)

    served(use, SLOW)


def test_who_does_not_read_his_answers_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(module, "SWEEP_S", 0.02)

    async def use(echo: Echo, server: Server, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(ConnectionError):
            await flood(writer, post(body=b"x" * MOST, close=False))
        writer.close()

    served(use, Limits(head_s=0.05, idle_s=0.05, bytes_per_s=1e9))


def test_many_connections_that_say_nothing_make_room_for_one_that_does():
    async def use(echo: Echo, server: Server, port: int) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert (await sent(port, post())).endswith(b"hello")
        assert len([1 for reader, _ in silent if reader.at_eof()]) >= 10
        for _, writer in silent:
            writer.close()

    served(use, Limits(connections=10))


def test_where_all_connections_are_busy_one_more_is_told_so_and_nobody_is_cut_off():
    async def use(echo: Echo, server: Server, port: int) -> None:
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in waiting:
            writer.write(post("/wait", close=False))
        await until(lambda: len(echo.taken) == 3)
        assert b"503 Service Unavailable" in await sent(port, b"")
        assert echo.refused == {"gateway.full": 1}
        for _, writer in waiting:
            writer.close()
        await until(lambda: echo.gone == 3)
        assert (await sent(port, post())).endswith(b"hello")

    served(use, Limits(connections=3))


def test_all_bodies_together_have_a_limit():
    async def use(echo: Echo, server: Server, port: int) -> None:
        half = post(body=b"x" * 900)[:-100]
        open_ = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in open_[:2]:
            writer.write(half)
        await until(lambda: server.held == 1_600)
        open_[2][1].write(half + b"x" * 100)
        assert b"503 Service Unavailable" in await open_[2][0].read()
        assert echo.refused == {"gateway.busy": 1}
        for _, writer in open_:
            writer.close()

    served(use, Limits(held_bytes=2_000))


def test_a_flood_on_one_connection_slows_nobody_and_grows_nothing():
    async def use(echo: Echo, server: Server, port: int) -> None:
        reader, many = await asyncio.open_connection("127.0.0.1", port)
        pool, stop = Pool(f"http://127.0.0.1:{port}"), asyncio.Event()

        async def send() -> None:
            while not stop.is_set():
                many.write(post(body=b"flood", close=False))
                await many.drain()
                await reader.readuntil(b"flood")

        sending = asyncio.create_task(send())
        for number in range(200):
            assert await pool.exchange("POST", "/", b"%d" % number) == (200, b"%d" % number)
        stop.set()
        await sending
        many.close()
        pool.close()
        assert server.held == 0

    served(use)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=300), st.just(post()), st.just(post("/no")), st.just(post()[:-1])), max_size=6
    )
)
def test_whatever_is_sent_the_next_one_is_served(parts: list[bytes]):
    async def use(echo: Echo, server: Server, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
        assert (await sent(port, post(body=b"others"))).endswith(b"others")
        writer.close()

    served(use)


# The other side ------------------------------------------------------------------------------------------------------


def asked(*answers: bytes, most: int = 100, close: bool = True) -> list[object]:
    """What a client makes of each answer, one after the other, of a server that sends them whatever it is asked."""

    async def ask() -> list[object]:
        its = iter(answers)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                try:
                    await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    break
                writer.write(next(its, b""))
                if close:
                    break
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        pool, found = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), []
        for _ in answers:
            try:
                async with asyncio.timeout(20):
                    found.append(await pool.exchange("GET", "/", most=most))
            except (OSError, ValueError) as error:
                found.append(error)
        pool.close()
        server.close()
        return found

    return asyncio.run(ask())


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 102 Processing\r\n\r\n" + GOOD,
    ],
)
def test_answers_are_read_in_all_their_forms(answer: bytes):
    assert asked(answer) == [(200, b"ok")]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed before the answer was complete"),
        (GOOD[:-1], "closed before the answer was complete"),
        (b"SMTP ready\r\n", "no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n" + b"x" * 101, "an answer of more than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nh: " + b"v" * 100_000, "a head of more than 65536 bytes"),
    ],
)
def test_what_is_no_answer_is_told_as_that(answer: bytes, why: str):
    (error,) = asked(answer)
    assert isinstance(error, BrokenAnswerError)
    assert why in str(error)


def test_a_kept_connection_that_was_closed_meanwhile_is_opened_again():
    assert asked(GOOD, GOOD, GOOD) == [(200, b"ok")] * 3
    assert asked(GOOD, GOOD, GOOD, close=False) == [(200, b"ok")] * 3


def test_who_is_not_waited_for_any_longer_sees_that():
    async def use(echo: Echo, server: Server, port: int) -> None:
        pool = Pool(f"http://127.0.0.1:{port}")
        waits = asyncio.create_task(pool.exchange("POST", "/wait"))
        await until(lambda: bool(echo.taken))
        waits.cancel()
        await until(lambda: echo.gone == 1)
        assert await pool.exchange("POST", "/", b"next") == (200, b"next")
        pool.close()

    served(use)


@pytest.mark.parametrize("name", ["/a b", "/a\r\nx: y", "/a\n"])
def test_nothing_is_smuggled_into_a_head(name: str):
    async def use(echo: Echo, server: Server, port: int) -> None:
        pool = Pool(f"http://127.0.0.1:{port}")
        with pytest.raises(ValueError, match="line breaks"):
            await pool.exchange("GET", name)
        with pytest.raises(ValueError, match="line breaks"):
            await pool.exchange("GET", "/", headers={"x": name + "\r\ny: z"})
        pool.close()

    served(use)
