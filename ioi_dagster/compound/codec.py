"""Step values as bytes, so that they can be stored, shipped to a node, or handed to a foreign block.

A value with `to_payload()` and a class method `from_payload(payload)` is typed: JSON and binary parts, readable without
our code. Plain JSON stays JSON, in a part of its own, since a frame's header is sorted and limited. Anything else is pickled,
marked as such, and never leaves the certificate authority.
"""

from __future__ import annotations

import math
import pickle
from importlib import import_module
from typing import Any

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Payload

_TYPED, _JSON, _PICKLE = "typed", "json", "pickle"


MAX_DEPTH = 64
"""Plain values nested deeper are pickled."""
MIB = 2**20


def encode_value(value: Any, limit: int | None = None) -> bytes:
    """Bytes of a step value. Raises `FinalError` for one that nothing can write down, or whose bytes are more than `limit`."""
    if hasattr(value, "to_payload") and hasattr(type(value), "from_payload"):
        inner = value.to_payload()
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        _refuse_large(value, sum(map(len, inner.parts.values())), limit)
        return encode_payload(Payload({"kind": _TYPED, "type": kind, "document": inner.document}, inner.parts))
    text = _json(value)
    if text is not None:
        _refuse_large(value, len(text), limit)
        return encode_payload(Payload({"kind": _JSON}, {_JSON: text}))
    written = _Written(limit)
    try:
        pickle.Pickler(written, protocol=5).dump(value)
    except RecursionError as error:
        raise FinalError(
            f"a value of type {_name(value)} is nested too deeply to be pickled — return something flatter, as a list of rows"
        ) from error
    except Exception as error:
        raise FinalError(
            f"a value of type {_name(value)} can neither be written as JSON nor pickled: {error} — return plain data, give the"
            " class `to_payload` and `from_payload`, or use an IO manager that knows the type"
        ) from error
    _refuse_large(value, written.size, limit)
    return encode_payload(Payload({"kind": _PICKLE}, {_PICKLE: b"".join(written.chunks)}))


def decode_value(data: bytes) -> Any:
    """The value of `encode_value`'s bytes. Only for bytes from inside the certificate authority: it may unpickle."""
    frame = decode_payload(data)
    match frame.document.get("kind"):
        case "typed":
            return _resolve(frame.document["type"]).from_payload(Payload(frame.document["document"], frame.parts))
        case "json":
            return from_json(frame.parts[_JSON])
        case "pickle":
            return pickle.loads(frame.parts[_PICKLE])
        case kind:
            raise FinalError(f"stored value has unknown kind {kind!r}")


def block_payload(data: bytes) -> Payload | None:
    """The payload inside a typed value's bytes, without importing its class; None when it is not typed."""
    frame = decode_payload(data)
    if frame.document.get("kind") != _TYPED:
        return None
    return Payload(frame.document["document"], frame.parts)


def _resolve(name: str) -> Any:
    module, _, qualname = name.partition(":")
    found: Any = import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


class _Written:
    """What a pickler writes. Beyond `limit` bytes it is only counted, so that a value is refused without a copy of it."""

    def __init__(self, limit: int | None) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self._limit = limit

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        self.size += length
        if self._limit is None or self.size <= self._limit:
            self.chunks.append(bytes(data))
        else:
            self.chunks.clear()
        return length


def _refuse_large(value: Any, size: int, limit: int | None) -> None:
    if limit is not None and size > limit:
        raise FinalError(
            f"a value of type {_name(value)} has {size / MIB:,.1f} MiB; values that travel with their step have"
            f" {limit / MIB:,.1f} MiB at most — give this output an IO manager that writes to shared storage, such as dagster's"
            " FilesystemIOManager or UPathIOManager, or raise `max_mib` of ExchangeIOManager"
        )


def _name(value: Any) -> str:
    return type(value).__qualname__


def _json(value: Any) -> bytes | None:
    """The value as JSON, where it comes back from it exactly."""
    if not _is_json(value, set(), MAX_DEPTH):
        return None
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot say and a pickle can
        return None


def _is_json(value: Any, seen: set[int], depth: int) -> bool:
    """No tuples, no subclasses, string keys, finite numbers, and no list or dict in two places: JSON would make two of it,
    and of one that holds itself without end."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return True
    if kind is int:
        return abs(value) < 2**53
    if kind is float:
        return math.isfinite(value)
    if kind not in (list, dict) or id(value) in seen or depth == 0:
        return False
    seen.add(id(value))
    if kind is list:
        return all(_is_json(item, seen, depth - 1) for item in value)
    return all(type(key) is str and _is_json(item, seen, depth - 1) for key, item in value.items())
