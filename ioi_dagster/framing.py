"""Payloads as bytes: a length-prefixed JSON header, then the binary parts as they are. No pickle.

Layout: magic `IOI1`, header length (u32, big endian), header `{"document": …, "parts": [[name, size], …]}`, parts.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.block import Payload

_MAGIC = b"IOI1"
MAX_HEADER = 16 * 2**20
MAX_PARTS = 1_000


class _Header(msgspec.Struct):
    document: dict[str, Any]
    parts: list[tuple[str, int]]


def encode_payload(payload: Payload) -> bytes:
    """Frame a payload. The same payload gives the same bytes (keys are sorted). Raises `BadInputError` beyond the limits."""
    names = sorted(payload.parts)
    if len(names) > MAX_PARTS:
        raise BadInputError(f"a payload has {MAX_PARTS} binary parts at most, this one {len(names)}")
    header = msgspec.json.encode(
        _Header(payload.document, [(name, len(payload.parts[name])) for name in names]), order="sorted"
    )
    if len(header) > MAX_HEADER:
        todo = "send what is large as a binary part"
        raise BadInputError(f"a payload's JSON has {MAX_HEADER} bytes at most, this one {len(header)}", todo=todo)
    return b"".join([_MAGIC, struct.pack(">I", len(header)), header, *(payload.parts[name] for name in names)])


def decode_payload(data: bytes) -> Payload:
    """Unframe; raises `BadInputError` on anything that `encode_payload` would not have made."""
    if data[:4] != _MAGIC or len(data) < 8:
        raise BadInputError("not a framed payload", todo="send the bytes that encode_payload makes")
    (size,) = struct.unpack(">I", data[4:8])
    if size > MAX_HEADER or 8 + size > len(data):
        raise BadInputError(f"payload header of {size} bytes is too large or cut short")
    try:
        header = from_json(data[8 : 8 + size], _Header)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadInputError(f"payload header is not valid: {error}") from error
    if len(header.parts) > MAX_PARTS or any(length < 0 for _, length in header.parts):
        raise BadInputError("payload lists too many parts or a negative size")
    if len({name for name, _ in header.parts}) != len(header.parts):
        raise BadInputError("payload names a part twice")
    if 8 + size + sum(length for _, length in header.parts) != len(data):
        raise BadInputError("payload parts do not add up to the bytes sent")
    parts, position = {}, 8 + size
    for name, length in header.parts:
        parts[name] = data[position : position + length]
        position += length
    return Payload(header.document, parts)
