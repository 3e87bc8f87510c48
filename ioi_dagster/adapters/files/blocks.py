"""The blocks that a domain offers: `blocks.json` in its folder."""

from __future__ import annotations

from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainHome
from ioi_dagster.model.capability import BlockSpec


def read_blocks(home: DomainHome | None) -> list[BlockSpec]:
    """The blocks that the domain offers, from its `blocks.json`."""
    if home is None:
        return []
    path = home.root / "blocks.json"
    return from_json(path.read_bytes(), list[BlockSpec]) if path.exists() else []
