"""A streamed answer on the wire: frames behind their lengths, sent as they come, for as long as somebody reads them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ioi_dagster.adapters.http.hanging_up import HungUpError, hearing, while_wanted
from ioi_dagster.adapters.http.protocol import MAX_FRAME, Streamed
from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Payload

_LENGTH = struct.Struct(">I")


def written(frame: Streamed, parts: Mapping[str, bytes] | None = None) -> bytes:
    body = encode_payload(Payload(msgspec.to_builtins(frame), parts or {}))
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts what comes into frames. Raises `BadInputError` for what is none, and for one of more than `MAX_FRAME` bytes before
    it is there."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Streamed, Mapping[str, bytes]]]:
        self._data += data
        at = 0
        try:
            while len(self._data) - at >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(self._data, at)
                if size > MAX_FRAME:
                    raise BadInputError(f"a frame of {size} bytes, where {MAX_FRAME} are the most")
                end = at + _LENGTH.size + size
                if len(self._data) < end:
                    return
                payload = decode_payload(bytes(self._data[at + _LENGTH.size : end]))
                at = end
                yield _read(payload)
        finally:
            del self._data[:at]


def _read(payload: Payload) -> tuple[Streamed, Mapping[str, bytes]]:
    try:
        return converted(payload.document, Streamed), payload.parts
    except msgspec.MsgspecError as error:
        raise BadInputError(f"a frame of another kind: {error}") from error


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """An ASGI answer of what `chunks` gives, which is closed when it is not read any more."""

    chunks: AsyncGenerator[bytes, None]
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            with hearing(receive) as gone, contextlib.suppress(HungUpError):
                told = {"content-type": "application/octet-stream", **self.headers}
                headers = [(name.encode(), value.encode()) for name, value in told.items()]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while (chunk := await while_wanted(gone, anext(self.chunks, None))) is not None:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if not gone.done():
                    await send({"type": "http.response.body", "body": b""})
        finally:
            await self.chunks.aclose()
