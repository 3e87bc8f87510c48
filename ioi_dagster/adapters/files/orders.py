"""What is ordered in a domain for its blocks and tenants: `orders.json` in its folder says what is in force, `orders.jsonl` all
that was ordered, who said it, why, and what came of it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.order import Order, Orders

MAX_BYTES = 4 * 2**20


class Ordered(msgspec.Struct, frozen=True):
    """A line of the record. `decision`: the id of the policy's."""

    order: Order
    answer: str
    decision: str


class OrderFile:
    """Those in `folder`. Every method may raise `OSError`, and `BadInputError` where a file is not what it should be."""

    def __init__(self, folder: Path) -> None:
        self._path, self._record = folder / "orders.json", folder / "orders.jsonl"

    def changed_at(self) -> int:
        """When it was written last (ns); 0 where there is none."""
        try:
            return self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def read(self) -> Orders:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Orders()
        return _decoded(data, Orders, self._path)

    def give(self, order: Order, decision: str) -> str:
        """What came of it. It is written down before it is in force, so that nothing is in force that nobody has said."""
        with self._alone():
            after, answer = self.read().after(order)
            self._note(Ordered(order, answer, decision))
            _write(self._path, msgspec.json.format(msgspec.json.encode(after), indent=1))
            return answer

    def note(self, order: Order, answer: str, decision: str) -> None:
        """One that is in force elsewhere, as for a node."""
        with self._alone():
            self._note(Ordered(order, answer, decision))

    def all(self) -> list[Ordered]:
        """All that was ordered, oldest first. A line that was cut off is none: nothing came of it."""
        try:
            lines = self._record.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found = []
        for line in filter(None, lines):
            try:
                found.append(msgspec.json.decode(line, type=Ordered))
            except msgspec.MsgspecError:
                continue
        return found

    def _note(self, ordered: Ordered) -> None:
        with self._record.open("ab") as file:
            # After a line that was cut off this one is to be one of its own.
            file.write(b"\n" + msgspec.json.encode(ordered) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _decoded(data: bytes, kind: Any, path: Path) -> Any:
    try:
        if len(data) > MAX_BYTES:
            raise msgspec.ValidationError(f"it has more than {MAX_BYTES} bytes")
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        todo = "remove it, and order again what is to hold"
        raise BadInputError(f"not a list of what is ordered: {error}", where=str(path), todo=todo) from error


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
