"""Which nodes of a cluster's groups are wanted, as its governor last said: `wanted-<cluster>.json` in the domain's folder.

The domain's supervisor starts those and ends the others. A scheduler that is started anew goes on from there, with what its
nodes have cost in the last day.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.topology import NodeSpec

MAX_BYTES = 2**20
MAX_NODES = 1_000


class Wanted(msgspec.Struct, frozen=True):
    """The nodes that are to be there, why they are so many, and what the group has cost: pairs of when (Unix s) and how much, as
    known `at` that time (Unix s). `launched`: the group, where a launcher starts its nodes, so that it can be told to end them
    when the topology knows the group no longer."""

    nodes: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=100)], ...], msgspec.Meta(max_length=MAX_NODES)] = ()
    why: str = ""
    spent: tuple[tuple[float, float], ...] = ()
    at: float = 0.0
    launched: NodeSpec | None = None


class WantedFile:
    """The file of `cluster` in `folder`."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self._path = folder / f"wanted-{cluster}.json"

    def read(self) -> dict[str, Wanted]:
        """By group. Raises `BadInputError` where the file is not what it should be, and `OSError`."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            if len(data) > MAX_BYTES:
                raise msgspec.ValidationError(f"it has more than {MAX_BYTES} bytes")
            return from_json(data, dict[str, Wanted])
        except msgspec.MsgspecError as error:
            todo = "remove it: nodes are asked for again where something waits"
            raise BadInputError(f"not a list of wanted nodes: {error}", where=str(self._path), todo=todo) from error

    def write(self, wanted: dict[str, Wanted]) -> None:
        """Whole or not at all. Raises `OSError`."""
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(wanted), indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
