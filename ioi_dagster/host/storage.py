"""Dagster's SQLite event log with kept connections and group commit: the same rows in the same tables, written faster.

Choose it in `dagster.yaml`:

    event_log_storage:
      module: ioi_dagster.host.storage
      class: GroupCommitEventLogStorage

Stock storage makes an engine for every event, so that connecting, compiling and an fsync are paid for each one. Here the
engine of a shard is kept, and what `grouped` gathers is one transaction for the run's file and one for the index that mirrors
assets, checks and statuses of all runs. The index is locked first and committed last: it never knows of more than the run's
file does, and what a crash kept from it is made up for at the next write to that run by another process.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster import Field, StringSource
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import StaticPool
from typing_extensions import override

from ioi_dagster.errors import BadInputError
from ioi_dagster.host.catalogue import insert_events, write_catalogue
from ioi_dagster.host.event_groups import EventLogWriteError, GroupedEventLogStorage, kind_of
from ioi_dagster.host.mirror import missing
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
MAX_KNOWN_RUNS = 10_000
BUSY_S = 1.0
INDEX = "index"
_MIRRORED = frozenset({*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS})


class GroupCommitEventLogStorage(GroupedEventLogStorage, SqliteEventLogStorage):
    """See the module. `base_dir` defaults to where stock storage keeps its files, so either may open the other's."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, sa.Engine] = OrderedDict()
        self._process = os.getpid()
        self._turn = threading.RLock()
        self._open: dict[str, sa.Connection] = {}
        self._tables: set[str] = set()
        self._index_columns: bool | None = None
        self._schema: list[str] = []
        self._complete: set[str] = set()
        self._in_run_only: dict[int, EventLogEntry] = {}
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> Any:
        return {"base_dir": Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GroupCommitEventLogStorage:
        home, folder = os.environ.get("DAGSTER_HOME"), config_value.get("base_dir")
        if not (home or folder):
            raise BadInputError(
                "the event log storage has no folder: neither base_dir nor $DAGSTER_HOME is set",
                todo="set DAGSTER_HOME, or base_dir in the config of event_log_storage in dagster.yaml",
            )
        return cls(folder or str(Path(str(home)) / "history" / "runs"), inst_data)

    # Writing ----------------------------------------------------------------------------------------------------

    @override
    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """A transaction for each run's file within one for what the index mirrors.

        Raises `EventLogWriteError` when a file cannot be written (full disk, locked, read-only). The run's file then has all
        of its events or none; where it has them and the index has not, the next write to the run makes up for it, and the
        same events given again are not written to the run's file twice.
        """
        rows = [(event, self._event_to_row(event)) for event in events]
        runs = list(dict.fromkeys(event.run_id for event in events))
        mirrored = [(event, row) for event, row in rows if kind_of(event) in _MIRRORED]
        with self._turn:
            if not mirrored and self._complete.issuperset(runs):
                for run_id in runs:
                    self._write_run(run_id, rows)
                return
            self._write_both(runs, rows, mirrored)

    def _write_both(
        self,
        runs: Sequence[str],
        rows: Sequence[tuple[EventLogEntry, dict[str, Any]]],
        mirrored: Sequence[tuple[EventLogEntry, dict[str, Any]]],
    ) -> None:
        in_runs: list[str] = []
        try:
            with self._writing(INDEX, runs) as index:
                index.exec_driver_sql("BEGIN IMMEDIATE")
                owed = [one for run_id in runs for one in self._owed(index, run_id)]
                kept = [one for one in mirrored if id(one[0]) not in self._in_run_only]
                written = insert_events(index, [*owed, *kept])
                write_catalogue(self, index, written, self._has_asset_key_index_cols_on_connection(index))
                for run_id in runs:
                    self._write_run(run_id, rows)
                    in_runs.append(run_id)
        except BaseException:
            # Whatever reached a run's file is there for good.
            self._complete.difference_update(in_runs)
            self._in_run_only.update({id(event): event for event, _ in rows if event.run_id in in_runs})
            raise
        self._complete.update(runs)
        if len(self._complete) > MAX_KNOWN_RUNS:
            self._complete.clear()
        for event, _ in rows:
            self._in_run_only.pop(id(event), None)

    def _owed(self, index: sa.Connection, run_id: str) -> list[tuple[EventLogEntry, dict[str, Any]]]:
        """What an earlier process, or a write of this one that failed, kept from the index."""
        if run_id in self._complete or not os.path.exists(self.path_for_shard(run_id)):
            return []
        with self.run_connection(run_id) as run:
            return missing(run, index, run_id, _MIRRORED)

    def _write_run(self, run_id: str, rows: Sequence[tuple[EventLogEntry, dict[str, Any]]]) -> None:
        its = [row for event, row in rows if event.run_id == run_id and id(event) not in self._in_run_only]
        if not its:
            return
        with self._writing(run_id, [run_id]) as run:
            run.execute(SqlEventLogStorageTable.insert(), its)
            # Asked while the file is locked; see `settle`.
            self._ask_guard(run_id)

    @override
    def settle(self, run: str) -> None:
        with self.run_connection(run) as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    @contextmanager
    def _writing(self, shard: str, runs: Sequence[str]) -> Iterator[sa.Connection]:
        try:
            with self._connect(shard) as connection:
                if self._patience_s:
                    # Who waits in here does nothing else meanwhile, so it is the caller who waits longer.
                    connection.exec_driver_sql(f"PRAGMA busy_timeout={int(BUSY_S * 1000)}")
                yield connection
        except OperationalError as error:
            raise EventLogWriteError(
                f"the event log of run {', '.join(runs)} was not written: {self.path_for_shard(shard)}: {error.orig} — "
                "free the disk or end what holds the file, then resume the run"
            ) from error

    # Connections ------------------------------------------------------------------------------------------------

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sa.Connection]:
        with self._turn:
            connection = self._open.get(shard)
            if connection is not None:
                # This thread is in a transaction there already; what stock methods add belongs to it.
                yield connection
                return
            with self._engine(shard).begin() as connection:
                self._open[shard] = connection
                try:
                    yield connection
                finally:
                    del self._open[shard]

    def _engine(self, shard: str) -> sa.Engine:
        if self._process != os.getpid():
            # A connection must not be used on the other side of a fork (https://sqlite.org/howtocorrupt.html, 2.6).
            self._engines, self._process, self._open = OrderedDict(), os.getpid(), {}
            self._turn = threading.RLock()
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
            self._prepare(engine)
            self._initialized_dbs.add(shard)
        self._engines[shard] = engine
        for old in list(self._engines):
            if len(self._engines) <= MAX_SHARDS:
                break
            if old not in self._open and old != shard:
                self._engines.pop(old).dispose()
        return engine

    def _prepare(self, engine: sa.Engine) -> None:
        """Make the tables, all at once: stock storage looks through the migrations for every file, which takes longer than
        what is written then."""
        try:
            with engine.connect() as connection:
                tables = set(sa.inspect(connection).get_table_names())
                if not tables:
                    connection.rollback()
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    for statement in self._statements():
                        connection.exec_driver_sql(statement)
                    connection.commit()
                    return
                if "alembic_version" in tables and connection.exec_driver_sql("SELECT 1 FROM alembic_version").first():
                    return
        except DatabaseError:
            # Somebody else is making them right now; stock storage knows how to wait for that.
            pass
        self._initdb(engine)

    def _statements(self) -> list[str]:
        """What makes an empty file what stock storage would have made of it."""
        if not self._schema:
            template = sa.create_engine("sqlite://", poolclass=StaticPool)
            self._initdb(template)
            with template.connect() as connection:
                dump: Any = connection.connection.driver_connection
                self._schema = [line for line in dump.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;")]
            template.dispose()
        return self._schema

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
        with self._turn:
            while self._engines:
                self._engines.popitem()[1].dispose()
