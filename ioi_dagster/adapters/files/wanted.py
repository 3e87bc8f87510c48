"""Which nodes of a cluster's groups are wanted, as its governor last said: `wanted-<cluster>.json` in the domain's folder.

The domain's supervisor starts those and ends the others. A scheduler that is started anew goes on from there, with what its
nodes have cost in the last day.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from ioi_dagster.adapters.files import written
from ioi_dagster.model.topology import NodeSpec

MAX_NODES = 1_000
WHAT, TODO = "wanted nodes", "remove it: nodes are asked for again where something waits"


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
    """The file of `cluster` in `folder`. Both methods may raise `OSError`, and `BadInputError` where what is read, or is to be
    written, is not what it should be."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self._path = folder / f"wanted-{cluster}.json"

    def read(self) -> dict[str, Wanted]:
        """By group."""
        return written.read(self._path, dict[str, Wanted], WHAT, TODO) or {}

    def write(self, wanted: dict[str, Wanted]) -> None:
        """Whole or not at all."""
        written.prepare(self._path, wanted, dict[str, Wanted]).replace(self._path)
