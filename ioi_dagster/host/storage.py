"""Dagster's SQLite event log with kept connections and group commit: the same rows in the same tables, written faster.

Choose it in `dagster.yaml`:

    event_log_storage:
      module: ioi_dagster.host.storage
      class: GroupCommitEventLogStorage

Stock storage makes an engine for every event, so that connecting, compiling and an fsync are paid for each one. Here the
engine of a shard is kept, and what `grouped` gathers is one transaction.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance, Field, StringSource
from sqlalchemy.pool import StaticPool
from typing_extensions import override

from ioi_dagster.host.private import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    SQLITE_BUSY_TIMEOUT_SECONDS,
    ConfigurableClassData,
    EventLogEntry,
    SqlEventLogStorageTable,
    SqliteEventLogStorage,
)

MAX_SHARDS = 32
"""Open databases kept: a web server looks into many runs, each in a file of its own."""
MAX_GROUP = 5_000
"""Events held back at most before they are written."""


class GroupCommitEventLogStorage(SqliteEventLogStorage):
    """See the module. `base_dir` defaults to where stock storage keeps its files, so either may open the other's."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, sa.Engine] = OrderedDict()
        self._process = os.getpid()
        self._tables: set[str] = set()
        self._index_columns: bool | None = None
        self._groups = threading.local()
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> Any:
        return {"base_dir": Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GroupCommitEventLogStorage:
        stock = Path(os.environ.get("DAGSTER_HOME", ".")) / "history" / "runs"
        return cls(config_value.get("base_dir") or str(stock), inst_data)

    # Writing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def group(self) -> Iterator[dict[int, str]]:
        """Within it this thread's events are held back; leaving it writes them, in order, before anything else happens.

        What is held back is not to be read yet: gather what happened, leave, and only then act on it. Also after an
        exception what was gathered is written, since it happened. Gives a dict for those who have an event's serialised
        text already, by `id(event)`: it came from a node like that, and is not made a second time.
        """
        if getattr(self._groups, "held", None) is not None:
            yield self._groups.texts
            return
        held: list[EventLogEntry] = []
        self._groups.held, self._groups.texts = held, {}
        try:
            yield self._groups.texts
        finally:
            self._groups.held = None
            try:
                self.store_event_batch(held)
            finally:
                self._groups.texts = {}

    @override
    def store_event(self, event: EventLogEntry) -> None:
        held = getattr(self._groups, "held", None)
        if held is None:
            self.store_event_batch([event])
            return
        held.append(event)
        if len(held) >= MAX_GROUP:
            self.store_event_batch(held)
            held.clear()

    @override
    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """A transaction for each run's file, then one for what the index mirrors. Raises what SQLite raises."""
        rows: dict[str, list[dict[str, Any]]] = {}
        mirrored: list[tuple[EventLogEntry, dict[str, Any]]] = []
        for event in events:
            row = self._event_to_row(event)
            rows.setdefault(event.run_id, []).append(row)
            kind = event.dagster_event_type if event.is_dagster_event else None
            if kind in _MIRRORED:
                mirrored.append((event, row))
        for run_id, its_rows in rows.items():
            with self.run_connection(run_id) as connection:
                connection.execute(SqlEventLogStorageTable.insert(), its_rows)
        if not mirrored:
            return
        checks: list[tuple[EventLogEntry, int]] = []
        with self.index_transaction() as connection:
            for event, row in mirrored:
                inserted = connection.execute(SqlEventLogStorageTable.insert().values(**row))
                number = int(inserted.inserted_primary_key[0])  # pyright: ignore[reportOptionalSubscript]
                if event.dagster_event_type in ASSET_EVENTS:
                    self._store_asset_event_tags(connection, [event], [number])
                    self._store_asset_event(connection, event, number)
                if event.dagster_event_type in ASSET_CHECK_EVENTS:
                    checks.append((event, number))
        # These open the index by themselves.
        for event, number in checks:
            self.store_asset_check_event(event, number)

    @override
    def _event_to_row(self, event: EventLogEntry) -> dict[str, Any]:
        text = getattr(self._groups, "texts", {}).get(id(event))
        if text is None:
            return super()._event_to_row(event)
        dagster_event = event.dagster_event
        asset_key = dagster_event.asset_key if dagster_event else None
        return {
            "run_id": event.run_id,
            "event": text,
            "dagster_event_type": dagster_event.event_type_value if dagster_event else None,
            "timestamp": self._event_insert_timestamp(event),
            "step_key": dagster_event.step_key if dagster_event else event.step_key,
            "asset_key": asset_key.to_string() if asset_key else None,
            "partition": (dagster_event.partition or None) if dagster_event else None,
        }

    # Connections ------------------------------------------------------------------------------------------------

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sa.Connection]:
        with self._db_lock, self._engine(shard).begin() as connection:
            yield connection

    def _engine(self, shard: str) -> sa.Engine:
        if self._process != os.getpid():
            # A connection must not be used on the other side of a fork (https://sqlite.org/howtocorrupt.html, 2.6).
            self._engines, self._process = OrderedDict(), os.getpid()
        engine = self._engines.get(shard)
        if engine is not None and os.path.exists(self.path_for_shard(shard)):
            self._engines.move_to_end(shard)
            return engine
        if engine is not None:
            engine.dispose()
            self._initialized_dbs.discard(shard)
        engine = sa.create_engine(
            self.conn_string_for_shard(shard),
            poolclass=StaticPool,
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        )
        if shard not in self._initialized_dbs:
            self._initdb(engine)
            self._initialized_dbs.add(shard)
        self._engines[shard] = engine
        while len(self._engines) > MAX_SHARDS:
            self._engines.popitem(last=False)[1].dispose()
        return engine

    @override
    def has_table(self, table_name: str) -> bool:
        """A table that was there stays there."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @override
    def _has_asset_key_index_cols_on_connection(self, conn: sa.Connection) -> bool:
        if not self._index_columns:
            self._index_columns = super()._has_asset_key_index_cols_on_connection(conn)
        return self._index_columns

    @override
    def dispose(self) -> None:
        super().dispose()
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


_MIRRORED = {*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS}


def grouped(instance: DagsterInstance) -> AbstractContextManager[dict[int, str]]:
    """`GroupCommitEventLogStorage.group` where the instance has such a storage; elsewhere each event is written at once."""
    storage = instance.event_log_storage
    return storage.group() if isinstance(storage, GroupCommitEventLogStorage) else nullcontext({})
