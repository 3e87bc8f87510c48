"""Dagster's PostgreSQL event log with a kept connection and group commit: the same rows in the same tables, written faster.

Needs the extra `postgres`. Choose it in `dagster.yaml`, with Dagster's own storages beside it:

    event_log_storage:
      module: ioi_dagster.host.storage_postgres
      class: GroupCommitPostgresEventLogStorage
      config: {postgres_url: "postgresql+psycopg2://user:password@host/database"}

SQLAlchemy from 2.1 takes plain `postgresql://` for psycopg 3, which dagster-postgres does not bring: here it is psycopg2 all
the same, for Dagster's own storages it has to be said. The settings are those of `dagster_postgres.PostgresEventLogStorage`.
A group is one transaction, catalogue included. Stock storage also sends a NOTIFY for each event, which its own watchers no
longer listen to; this one does not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import (
    DagsterPostgresException,
    create_pg_engine,
    get_token_provider_from_config,
    pg_url_from_config,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from typing_extensions import override

from ioi_dagster.host.catalogue import insert_events, write_catalogue
from ioi_dagster.host.event_groups import EventLogWriteError, GroupedEventLogStorage
from ioi_dagster.host.private import (
    ASSET_KEY_INDEX_COLS,
    ConfigurableClassData,
    EventLogEntry,
    SqlEventLogStorageTable,
)

_Row = tuple[EventLogEntry, dict[str, Any]]

WRITERS = 0x10_1DA6_57E2
"""The advisory lock under which event ids are given out, the same in every process of a database."""


class GroupCommitPostgresEventLogStorage(GroupedEventLogStorage, PostgresEventLogStorage):
    """See the module."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: Any = None,
    ) -> None:
        postgres_url = _with_driver(postgres_url)
        self._mine = threading.local()
        self._doubtful: dict[int, EventLogEntry] = {}
        """Events of which it is not known whether they are there: the connection was lost while they were committed."""
        self._tables: set[str] = set()
        self._process = os.getpid()
        super().__init__(postgres_url, should_autocreate_tables, inst_data, token_provider)
        self._engine.dispose()
        self._engine = create_pg_engine(
            postgres_url,
            token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,
            pool_pre_ping=True,
        )

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GroupCommitPostgresEventLogStorage:
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
            get_token_provider_from_config(config_value),
        )

    @override
    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """One transaction: all of the events with what the catalogue says of them, or nothing.

        Raises `EventLogWriteError` when the database does not take them.
        """
        if not events:
            return
        rows = [(event, self._event_to_row(event)) for event in events]
        columns = self.has_secondary_index(ASSET_KEY_INDEX_COLS)
        try:
            with self._transaction() as connection:
                # Readers go on after the highest id they saw. With the lock, ids become visible in the order of their numbers.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITERS)))
                for run in dict.fromkeys(event.run_id for event in events):
                    self._ask_guard(run)
                rows = self._without_those_there(connection, rows)
                write_catalogue(self, connection, insert_events(connection, rows), columns)
        except (DBAPIError, DagsterPostgresException) as error:
            self._doubtful.update({id(event): event for event in events})
            runs = ", ".join(dict.fromkeys(event.run_id for event in events))
            raise EventLogWriteError(
                f"the event log of run {runs} was not written: PostgreSQL at {self._engine.url.host or 'its socket'}: "
                f"{str(getattr(error, 'orig', error)).strip()} — set the database right, then resume the run",
                passing=isinstance(error, (OperationalError, InterfaceError, DagsterPostgresException)),
            ) from error
        for event in events:
            self._doubtful.pop(id(event), None)

    @override
    def settle(self, run: str) -> None:
        with self._transaction() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITERS)))

    def _without_those_there(self, connection: sa.Connection, rows: list[_Row]) -> list[_Row]:
        doubtful = [row["event"] for event, row in rows if id(event) in self._doubtful]
        if not doubtful:
            return rows
        table = SqlEventLogStorageTable.c
        runs = {row["run_id"] for _, row in rows}
        query = sa.select(table.event).where(table.run_id.in_(runs), table.event.in_(doubtful))
        there = set(connection.execute(query).scalars())
        return [(event, row) for event, row in rows if row["event"] not in there]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._connect() as plain:
            connection = plain.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                self._mine.connection = connection
                try:
                    yield connection
                finally:
                    self._mine.connection = None

    @override
    def _connect(self) -> AbstractContextManager[sa.Connection]:
        mine = getattr(self._mine, "connection", None)
        if mine is not None:
            # This thread is in a transaction already; what stock methods add belongs to it.
            return nullcontext(mine)
        if self._process != os.getpid():
            # The connection is the parent's: it is forgotten here and not closed, which would end the parent's session.
            self._engine.dispose(close=False)
            self._process = os.getpid()
        return super()._connect()

    @override
    def has_table(self, table_name: str) -> bool:
        """A table that was there stays there."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @override
    def dispose(self) -> None:
        super().dispose()
        self._engine.dispose()


def _with_driver(postgres_url: str) -> str:
    url = sa.make_url(postgres_url)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg2")
    return url.render_as_string(hide_password=False)
