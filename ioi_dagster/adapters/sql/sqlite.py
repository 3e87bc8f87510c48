"""Opening a SQLite file that several processes may be the first to open."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.schema import CreateColumn

WAIT_S = 30.0


def open_sqlite(path: Path, tables: sa.MetaData, synchronous: str = "NORMAL") -> sa.Engine:
    """An engine on `path` in write-ahead mode with `tables` made, and with their columns, which an older file may lack. Raises
    `OSError` where the folder cannot be written.

    Changing the journal mode and making tables fail with "locked" when two do it at once, whatever the timeout
    (https://sqlite.org/wal.html#sometimes_queries_return_sqlite_busy_in_wal_mode), so one after the other is let in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": WAIT_S})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA synchronous={synchronous}")

    with path.with_name(f".{path.name}.lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        tables.create_all(engine)
        _add_columns(engine, tables)
    return engine


def _add_columns(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Each that may be empty, or has a default."""
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            there = {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table.name})")}
            for column in table.columns:
                if column.name not in there:
                    its = CreateColumn(column).compile(dialect=engine.dialect)
                    connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {its}")
