"""Reading what others wrote, into the types that are expected, from any thread.

msgspec looks a class over when it is first asked for and remembers that on the class, before it has all of it: a second thread
that decodes the same class at that moment reads what is not there yet, and the process dies of it (msgspec 0.22.0; with
two steps that begin at once on a fresh node it was one start in ten). Here each type is looked over once, by one thread.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")
_lock = threading.Lock()
_json: dict[Any, msgspec.json.Decoder[Any]] = {}
_msgpack: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def from_json(data: bytes | bytearray | memoryview | str, kind: type[T] = cast(Any, Any)) -> T:
    """`data` as a value of `kind`, or as it stands. Raises `msgspec.DecodeError` where it is no JSON and
    `msgspec.ValidationError` where it is not of that kind."""
    decoder = _json.get(kind)
    if decoder is None:
        with _lock:
            decoder = _json[kind] = msgspec.json.Decoder(kind)
    return decoder.decode(data)


def from_msgpack(data: bytes | bytearray | memoryview, kind: type[T] = cast(Any, Any)) -> T:
    """As `from_json`, of MessagePack."""
    decoder = _msgpack.get(kind)
    if decoder is None:
        with _lock:
            decoder = _msgpack[kind] = msgspec.msgpack.Decoder(kind)
    return decoder.decode(data)


def converted(value: Any, kind: type[T]) -> T:
    """What JSON or MessagePack gave, as a value of `kind`. Raises `msgspec.ValidationError` where it is not of that kind."""
    if kind not in _json:
        with _lock:
            _json[kind] = msgspec.json.Decoder(kind)
    return msgspec.convert(value, kind)
