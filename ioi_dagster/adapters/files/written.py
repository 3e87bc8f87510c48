"""A file of a domain in which something stands as JSON: nothing is written there that could not be read again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError

MAX_BYTES = 4 * 2**20


def changed_at(path: Path) -> int:
    """When it was written last (ns); 0 where there is none. Raises `OSError`."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Of all who ask so nobody else changes the file meanwhile. Raises `OSError`."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(path: Path, kind: Any, what: str, todo: str) -> Any:
    """None where there is no such file. Raises `OSError`, and `BadInputError` where it is not a list of `what`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _decoded(data, kind)
    except msgspec.MsgspecError as error:
        raise BadInputError(f"not a list of {what}: {error}", where=str(path), todo=todo) from error


def prepare(path: Path, value: Any, kind: Any) -> Path:
    """The file that is to take the place of the one at `path`, on disk as a whole. Raises `OSError`, and `BadInputError` for
    what could not be read again."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=1)
    try:
        _decoded(data, kind)
    except msgspec.MsgspecError as error:
        raise BadInputError(f"it could not be read again: {error}", where=str(path), todo="say less") from error
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return new


def _decoded(data: bytes, kind: Any) -> Any:
    if len(data) > MAX_BYTES:
        raise msgspec.ValidationError(f"it has more than {MAX_BYTES} bytes")
    return from_json(data, kind)
