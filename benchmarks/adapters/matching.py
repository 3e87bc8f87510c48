"""What a yardstick of matching calls: its capabilities in our entries, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.index import CapabilityIndex

_latest: tuple[Sequence[Mapping[str, Any]], CapabilityIndex] | None = None
"""A yardstick gives the same list again and again: its index is made once."""


def rank(capabilities: Sequence[Mapping[str, Any]], query: str, k: int) -> list[str]:
    """Ids, best first."""
    global _latest
    if _latest is None or _latest[0] is not capabilities:
        _latest = capabilities, CapabilityIndex(map(entry, capabilities))
    return [match.id for match in _latest[1].rank(query, k)]


def entry(capability: Mapping[str, Any]) -> Entry:
    """Inputs and outputs that are no mapping of names are prose or code, of which the index makes nothing."""
    inputs, outputs = capability["inputs"], capability["outputs"]
    return Entry(
        id=capability["id"],
        name=capability["name"],
        description=capability["description"],
        tags=tuple(map(str, capability["tags"])),
        inputs=inputs if isinstance(inputs, Mapping) else {},
        outputs=outputs if isinstance(outputs, Mapping) else {},
        examples=tuple(capability["examples"]),
    )
