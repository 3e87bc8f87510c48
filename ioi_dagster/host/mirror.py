"""Which events of a run's file are missing in the index that mirrors them, after a crash between the two files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from ioi_dagster.host.private import AssetKeyTable, EventLogEntry, SqlEventLogStorageTable, deserialize_value

_table = SqlEventLogStorageTable.c


def missing(
    run: sa.Connection, index: sa.Connection, run_id: str, kinds: Iterable[Any]
) -> list[tuple[EventLogEntry, dict[str, Any]]]:
    """Events with their rows, in the order of the run's file. To be called while nobody else can write to the index.

    Events of an asset that was wiped after they happened are not missed.
    """
    its = sa.and_(_table.run_id == run_id, _table.dagster_event_type.in_([kind.value for kind in kinds]))
    count = sa.select(sa.func.count()).where(its)
    if run.execute(count).scalar_one() <= index.execute(count).scalar_one():
        return []
    there = Counter(index.execute(sa.select(_table.event).where(its)).scalars())
    columns = [column for column in SqlEventLogStorageTable.columns if column.name != "id"]
    found = []
    for row in run.execute(sa.select(*columns).where(its).order_by(_table.id)).mappings():
        if there[row["event"]]:
            there[row["event"]] -= 1
        else:
            found.append((deserialize_value(row["event"], EventLogEntry), dict(row)))
    wiped = _wiped(index, {key for event, _ in found if (key := _asset_of(event)) is not None})
    return [
        (event, row)
        for event, row in found
        if (at := wiped.get(_asset_of(event) or "")) is None or at < row["timestamp"]
    ]


def _asset_of(event: EventLogEntry) -> str | None:
    dagster_event = event.get_dagster_event()
    key = dagster_event.asset_key or getattr(dagster_event.event_specific_data, "asset_key", None)
    return key.to_string() if key is not None else None


def _wiped(index: sa.Connection, assets: set[str]) -> dict[str, Any]:
    """When each of them was wiped last."""
    if not assets:
        return {}
    query = sa.select(AssetKeyTable.c.asset_key, AssetKeyTable.c.wipe_timestamp).where(
        AssetKeyTable.c.asset_key.in_(assets), AssetKeyTable.c.wipe_timestamp.is_not(None)
    )
    return {row.asset_key: row.wipe_timestamp for row in index.execute(query)}
