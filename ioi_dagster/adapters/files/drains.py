"""Which nodes and clusters of a domain are drained, as its owner has written it down: `drained.json` in the domain's folder.

A node that is drained takes nothing new, and so does any process that comes back under its name, until it rejoins.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from ioi_dagster.adapters.files import written

ALL = "*"
WHAT, TODO = "what is drained", "remove it, and drain again what is to be drained"


class Drain(msgspec.Struct, frozen=True):
    """Why and by `who`, since when (Unix seconds, for people), and for how many seconds more what runs there may go on before it
    is placed elsewhere; None: until it ends. `paused`: it is not to go, only to take nothing new."""

    why: Annotated[str, msgspec.Meta(max_length=500)]
    since: float
    within_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    who: Annotated[str, msgspec.Meta(max_length=500)] = ""
    paused: bool = False


Drained = dict[str, dict[str, Drain]]
"""Cluster → node, or `ALL` of them → its drain."""


class DrainFile:
    """The file in `folder`. Every method may raise `OSError`, and `BadInputError` where the file is not what it should be."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "drained.json"

    def changed_at(self) -> int:
        """When it was written last (ns); 0 where there is none."""
        return written.changed_at(self._path)

    def read(self) -> Drained:
        return written.read(self._path, Drained, WHAT, TODO) or {}

    def drain(self, cluster: str, node: str, drain: Drain) -> bool:
        """False where it is drained already; then its reason and its time are the new ones."""

        def change(drained: Drained) -> bool:
            its = drained.setdefault(cluster, {})
            before = node in its
            its[node] = drain
            return not before

        return self._change(change)

    def rejoin(self, cluster: str, node: str) -> bool:
        """False where it was not drained. A whole cluster rejoins with each of its nodes."""

        def change(drained: Drained) -> bool:
            its = drained.get(cluster, {})
            before = bool(its) if node == ALL else node in its
            if node == ALL:
                its.clear()
            its.pop(node, None)
            if not its:
                drained.pop(cluster, None)
            return before

        return self._change(change)

    def _change(self, change: Callable[[Drained], bool]) -> bool:
        with written.alone(self._path):
            drained = self.read()
            changed = change(drained)
            written.prepare(self._path, drained, Drained).replace(self._path)
            return changed
