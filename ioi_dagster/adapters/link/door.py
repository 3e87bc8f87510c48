"""The cluster governor's side of the line: a listener in the scheduler's process, for the domain's own processes."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from ioi_dagster.adapters.link.frames import CANCEL, ERROR, HELLO, OK, VERSION, Frames, Hello, Trouble, address_of, pack
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.cluster import Withdrawn
from ioi_dagster.model.negotiation import Announce, Award, ReleaseRequest, RenewRequest, VerifyRequest

log = logging.getLogger("ioi.cluster")
MAX_HELLO = 4_096
HELLO_S = 5.0
MAX_LINES = 64
_KINDS: dict[str, type[Any]] = {
    "announce": Announce,
    "award": Award,
    "renew": RenewRequest,
    "release": ReleaseRequest,
    "verify": VerifyRequest,
}
Asked = tuple[str, int, str]
"""Run, round and origin of an announcement."""
_write = msgspec.json.Encoder().encode


class Waiting:
    """Announcements that were not answered yet, and where the answer is to go."""

    def __init__(self) -> None:
        self._takers: dict[Asked, Callable[[Any], None]] = {}

    def add(self, announce: Announce, take: Callable[[Any], None]) -> Asked:
        key = (announce.run, announce.round, announce.origin)
        self._takers[key] = take
        return key

    def answer(self, key: Asked, answer: Any) -> None:
        take = self._takers.pop(key, None)
        if take is not None:
            take(answer)

    def drop(self, key: Asked, take: Callable[[Any], None]) -> bool:
        """`take` waits no longer. Was it waiting still?"""
        there = self._takers.get(key) is take
        if there:
            del self._takers[key]
        return there


class Doors(Protocol):
    """What stands behind the doors."""

    waiting: Waiting

    def request(self, message: Any) -> Any:
        """The governor's answer; None where it waits, or has none."""
        ...

    def status(self) -> Any: ...


async def open_door(doors: Doors, token: str, address: str) -> asyncio.Server:
    """Listen at `address` for who knows `token`. A file that a process of before has left there makes room."""
    lines: set[_Line] = set()
    loop, where = asyncio.get_running_loop(), address_of(address)
    if isinstance(where, tuple):
        return await loop.create_server(lambda: _Line(doors, token, lines), *where)
    server = await loop.create_unix_server(lambda: _Line(doors, token, lines), where)
    os.chmod(where, 0o600)
    return server


class _Line(asyncio.Protocol):
    def __init__(self, doors: Doors, token: str, lines: set[_Line]) -> None:
        self._doors, self._token, self._lines = doors, token, lines
        self._frames = Frames(MAX_HELLO)
        self._transport: asyncio.Transport
        self._known = False
        self._late: asyncio.TimerHandle | None = None
        self._waiting: dict[int, tuple[Asked, Callable[[Any], None]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._lines.add(self)
        if len(self._lines) > MAX_LINES:
            self._end(0, "cluster.too_many_lines", f"more than {MAX_LINES} connections to one governor")
        self._late = asyncio.get_running_loop().call_later(HELLO_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            for number, word, body in self._frames.feed(data):
                if self._known:
                    self._asked(number, word, body)
                elif not self._greeted(word, body):
                    return
        except BadInputError as error:
            self._end(0, "cluster.too_large", str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lines.discard(self)
        if self._late is not None:
            self._late.cancel()
        for number in list(self._waiting):
            self._cancelled(number)

    def pause_writing(self) -> None:
        # Who does not read his answers asks nothing more.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def _greeted(self, word: str, body: bytes) -> bool:
        try:
            hello = from_json(body, Hello) if word == HELLO else Hello(0)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            hello = Hello(0)
        if hello.protocol != VERSION:
            text = f"this governor speaks version {VERSION} of the line, not {hello.protocol}"
            self._end(0, "cluster.version", text)
        elif not hmac.compare_digest(hello.token.encode(), self._token.encode()):
            self._end(0, "cluster.unauthorised", "this door is for the domain's own processes")
        else:
            self._known, self._frames.most = True, Frames().most
            if self._late is not None:
                self._late.cancel()
            self._transport.write(pack(0, HELLO, _write(Hello(VERSION))))
        return self._known

    def _asked(self, number: int, word: str, body: bytes) -> None:
        if word == CANCEL:
            return self._cancelled(number)
        try:
            if word == "status":
                return self._say(number, OK, self._doors.status())
            kind = _KINDS.get(word)
            if kind is None:
                return self._say(number, ERROR, Trouble("cluster.unknown_door", f"no such door: {word[:50]}"))
            message = from_json(body, kind)
            answer = self._doors.request(message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return self._say(number, ERROR, Trouble("cluster.malformed", str(error)))
        except Exception as error:  # one request that cannot be answered must not take the others along
            log.exception("a request could not be answered")
            return self._say(number, ERROR, Trouble("cluster.failed", type(error).__name__))
        if answer is None and word == "announce":
            self._waits(number, message)
        else:
            self._say(number, OK, answer if answer is not None else {})

    def _waits(self, number: int, announce: Announce) -> None:
        def take(answer: Any) -> None:
            self._waiting.pop(number, None)
            self._say(number, OK, answer)

        self._waiting[number] = (self._doors.waiting.add(announce, take), take)

    def _cancelled(self, number: int) -> None:
        key, take = self._waiting.pop(number, (None, None))
        if key is not None and take is not None and self._doors.waiting.drop(key, take):
            self._doors.request(Withdrawn(*key))

    def _say(self, number: int, word: str, value: Any) -> None:
        if not self._transport.is_closing():
            self._transport.write(pack(number, word, _write(value)))

    def _end(self, number: int, code: str, text: str) -> None:
        log.warning("line refused: %s: %s", code, text)
        self._say(number, ERROR, Trouble(code, text))
        self._transport.close()
