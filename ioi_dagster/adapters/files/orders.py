"""What is ordered in a domain for its blocks, tenants and nodes: `orders.json` in its folder says what is in force,
`orders.jsonl` all that was ordered, who said it, why, and what came of it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ioi_dagster.adapters.files import written
from ioi_dagster.decoding import from_json
from ioi_dagster.model.order import Order, Orders

WHAT, TODO = "what is ordered", "remove it, and order again what is to hold"


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
        return written.changed_at(self._path)

    def read(self) -> Orders:
        found = written.read(self._path, Orders, WHAT, TODO)
        return found if found is not None else Orders()

    def give(self, order: Order, decision: str) -> str:
        """What came of it. It is on record before it is in force, so that nothing is in force that nobody has said; and only when
        all that is left to do is to give a file its name, so that there is no room for anything to fail after it."""
        with written.alone(self._path):
            after, answer = self.read().after(order)
            new = written.prepare(self._path, after, Orders)
            self._note(Ordered(order, answer, decision))
            try:
                new.replace(self._path)
            except OSError as error:
                self._note(Ordered(order, f"is not in force: {error}", decision))
                raise
            return answer

    def note(self, order: Order, answer: str, decision: str) -> None:
        """One that is in force elsewhere, as for a node."""
        with written.alone(self._path):
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
                found.append(from_json(line, Ordered))
            except msgspec.MsgspecError:
                continue
        return found

    def _note(self, ordered: Ordered) -> None:
        with self._record.open("ab") as file:
            # After a line that was cut off this one is to be one of its own.
            file.write(b"\n" + msgspec.json.encode(ordered) + b"\n")
            file.flush()
            os.fsync(file.fileno())
