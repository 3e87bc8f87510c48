"""What an AI block is to the parts that run it: a class with load, invoke and unload over typed payloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MAX_PIECE = 4 * 2**20
"""Bytes of one piece of a stream, as it is framed."""
MAX_PIECES = 2**17
MAX_STREAM = 64 * 2**20
"""Bytes of all pieces of a stream together: what a result that comes whole may have."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A typed value on its way to or from a block: a JSON document and named binary parts."""

    document: dict[str, Any]
    parts: Mapping[str, bytes] = field(default_factory=dict)


class Block(Protocol):
    """An AI block. `invoke` gets a batch and returns as many results, in order.

    `load` is called once per replica before the first `invoke`, `unload` once after the last. A block keeps no
    state between calls and writes no file. Input that it cannot process is a result (a document that says so);
    an exception means that the block itself is broken.
    """

    def load(self) -> None: ...

    def invoke(self, batch: Sequence[Payload]) -> Sequence[Payload]: ...

    def unload(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Made:
    """Which block gives the pieces of a stream; what another one has given is no beginning of them."""

    block: str
    version: str


NOBODY = Made("", "")
"""Has given any."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A stream that has begun: who gives its pieces, and the number of the first."""

    made: Made
    number: int


class StreamingBlock(Protocol):
    """An AI block whose result comes in pieces, in order; its contract says `streams`. What a `Block` keeps to, it does too.

    `stream` is given one call. It is asked for the next piece when there is room for it, so a slow reader slows it down. Where
    nobody waits any more it is closed, or interrupted. `after`: so many pieces are there already and are not made again; other
    than 0 only where the contract says `resumes`, for what a replica of the same name and version has begun elsewhere. A piece
    has `MAX_PIECE` bytes at most, and a stream `MAX_PIECES` pieces and `MAX_STREAM` bytes.
    """

    def load(self) -> None: ...

    def stream(self, payload: Payload, after: int) -> Iterator[Payload]: ...

    def unload(self) -> None: ...
