"""What the catalogue's tables hold of events: assets, their tags, the checks' executions. The same rows as stock storage leaves,
written for many events at once, within the caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from dagster import DagsterEventType
from sqlalchemy.dialects import postgresql, sqlite

from ioi_dagster.host.event_groups import kind_of
from ioi_dagster.host.private import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionsTable,
    AssetKeyTable,
    EventLogEntry,
    SqlEventLogStorage,
    SqlEventLogStorageTable,
)


class Written(NamedTuple):
    """An event, its row, and the id that the catalogue's event table gave it."""

    event: EventLogEntry
    row: dict[str, Any]
    number: int


def insert_events(connection: sa.Connection, events: Sequence[tuple[EventLogEntry, dict[str, Any]]]) -> list[Written]:
    """Events' rows, in order: of two, the later has the higher id."""
    if not events:
        return []
    insert = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
    numbers = connection.execute(insert, [row for _, row in events]).scalars().all()
    return [Written(event, row, int(number)) for (event, row), number in zip(events, numbers, strict=True)]


def write_catalogue(
    storage: SqlEventLogStorage, connection: sa.Connection, written: Sequence[Written], index_columns: bool
) -> None:
    """`storage`'s own index connection has to be `connection` meanwhile. `index_columns`: the assets' table has them."""
    assets = [one for one in written if kind_of(one.event) in ASSET_EVENTS and one.row["asset_key"]]
    if assets:
        storage._store_asset_event_tags(connection, [one.event for one in assets], [one.number for one in assets])
        _write_assets(storage, connection, assets, index_columns)
    planned: list[Written] = []
    for one in written:
        kind = kind_of(one.event)
        if kind is DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
            planned.append(one)
        elif kind in ASSET_CHECK_EVENTS:
            _plan_checks(connection, planned)
            planned = []
            storage.store_asset_check_event(one.event, one.number)
    _plan_checks(connection, planned)


def _write_assets(
    storage: SqlEventLogStorage, connection: sa.Connection, assets: Sequence[Written], index_columns: bool
) -> None:
    """One row an asset: what its events say, the later over the earlier."""
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for event, row, number in assets:
        its = storage._get_asset_entry_values(event, number, index_columns)
        if its:
            values[row["asset_key"]].update(its)
        else:
            storage._store_asset_event(connection, event, number)
    shapes: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    # In one order everywhere, so that no two writers wait for each other.
    for key in sorted(values):
        shapes[tuple(values[key])].append({"asset_key": key, **values[key]})
    for columns, rows in shapes.items():
        insert = _UPSERT[connection.dialect.name](AssetKeyTable)
        newer = {column: insert.excluded[column] for column in columns}
        connection.execute(insert.on_conflict_do_update(index_elements=[AssetKeyTable.c.asset_key], set_=newer), rows)


_UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _plan_checks(connection: sa.Connection, planned: Sequence[Written]) -> None:
    rows = []
    for event, row, number in planned:
        plan: Any = event.get_dagster_event().event_specific_data
        partitions = plan.partitions_subset.get_partition_keys() if plan.partitions_subset else [None]
        rows += [
            {
                "asset_key": plan.asset_key.to_string(),
                "check_name": plan.check_name,
                "partition": partition,
                "run_id": event.run_id,
                "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
                "evaluation_event": row["event"],
                "evaluation_event_timestamp": row["timestamp"],
                "evaluation_event_storage_id": number,
            }
            for partition in partitions
        ]
    if rows:
        connection.execute(AssetCheckExecutionsTable.insert(), rows)
