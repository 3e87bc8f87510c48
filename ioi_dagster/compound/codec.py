"""Step values as bytes, so that they can be stored, shipped to a node, or handed to a foreign block.

A value with `to_payload()` and a class method `from_payload(payload)` is typed: JSON and binary parts, readable without
our code. Plain JSON stays JSON. Anything else is pickled, marked as such, and never leaves the certificate authority.
"""

from __future__ import annotations

import math
import pickle
from importlib import import_module
from typing import Any

from ioi_dagster.errors import FinalError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Payload

_TYPED, _JSON, _PICKLE = "typed", "json", "pickle"


def encode_value(value: Any) -> bytes:
    """Bytes of a step value; raises `FinalError` for one that nothing can write down."""
    if hasattr(value, "to_payload") and hasattr(type(value), "from_payload"):
        inner = value.to_payload()
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        return encode_payload(Payload({"kind": _TYPED, "type": kind, "document": inner.document}, inner.parts))
    if _is_json(value):
        return encode_payload(Payload({"kind": _JSON, "document": value}))
    try:
        data = pickle.dumps(value, protocol=5)
    except Exception as error:
        raise FinalError(
            f"a value of type {type(value).__qualname__} can neither be written as JSON nor pickled: {error}"
        ) from error
    return encode_payload(Payload({"kind": _PICKLE}, {"pickle": data}))


def decode_value(data: bytes) -> Any:
    """The value of `encode_value`'s bytes. Only for bytes from inside the certificate authority: it may unpickle."""
    frame = decode_payload(data)
    match frame.document.get("kind"):
        case "typed":
            return _resolve(frame.document["type"]).from_payload(Payload(frame.document["document"], frame.parts))
        case "json":
            return frame.document["document"]
        case "pickle":
            return pickle.loads(frame.parts["pickle"])
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


def _is_json(value: Any) -> bool:
    """Exactly what comes back the same from JSON: no tuples, no subclasses, string keys, finite numbers."""
    if value is None or type(value) in (bool, str):
        return True
    if type(value) is int:
        return abs(value) < 2**53
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is list:
        return all(_is_json(item) for item in value)
    if type(value) is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    return False
