"""Frames of the line between a gateway and a cluster governor: numbered, so that many requests share one connection.

A frame is the bytes that follow (4), a number (4), the length of a word (1), the word (ASCII), and a body in JSON. Who connects
sends `hello` with the domain's token first. A request's word is the door that it is for; its answer has its number and the word
`ok` or `error`; `cancel` says that nobody waits for it any more. It never leaves a domain: between domains HTTP is spoken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ioi_dagster.errors import BadInputError

VERSION = 1
MAX_FRAME = 4 * 2**20
HELLO, OK, ERROR, CANCEL = "hello", "ok", "error", "cancel"
_HEAD = struct.Struct(">IIB")
_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Hello:
    protocol: int
    token: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    code: str
    text: str


def pack(number: int, word: str, body: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(_HEAD.size - _LENGTH + len(word) + len(body), number, len(word)) + word.encode("ascii") + body


class Frames:
    """Finds frames in a stream of bytes, and keeps no more of it than one frame of `most` bytes and what came with it."""

    def __init__(self, most: int = MAX_FRAME) -> None:
        self._buffer = bytearray()
        self.most = most

    def feed(self, data: bytes) -> Iterator[tuple[int, str, bytes]]:
        """(number, word, body) of each frame that is complete now. Raises `BadInputError` where something is none, after those
        before it; nothing that comes after it can be told apart."""
        buffer, at = self._buffer, 0
        buffer += data
        try:
            while len(buffer) - at >= _HEAD.size:
                size, number, word = _HEAD.unpack_from(buffer, at)
                end, begin = at + _LENGTH + size, at + _HEAD.size + word
                if size > self.most or begin > end:
                    raise BadInputError(f"a frame of {size} bytes, of which {self.most} are allowed")
                if len(buffer) < end:
                    break
                name = buffer[at + _HEAD.size : begin]
                if not name.isascii():
                    raise BadInputError("a frame whose word is not ASCII")
                body, at = bytes(buffer[begin:end]), end
                yield number, name.decode("ascii"), body
        finally:
            del buffer[:at]


def address_of(text: str) -> str | tuple[str, int]:
    """`unix:PATH` → the path; `tcp://HOST:PORT` → (host, port). Raises `BadInputError` on anything else."""
    kind, _, rest = text.partition(":")
    host, _, port = rest.removeprefix("//").rpartition(":")
    if kind == "unix" and rest:
        return rest
    if kind == "tcp" and host and port.isdigit():
        return host, int(port)
    raise BadInputError(f"{text!r} is no address of a cluster governor", todo="unix:PATH or tcp://HOST:PORT")
