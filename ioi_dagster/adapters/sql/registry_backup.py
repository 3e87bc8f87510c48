"""Backup and restore of a registry: one SQLite file, whichever database it lies in.

What was restored does not know what its domain signed after the backup, and others may have seen that: signing the same numbers
again would fork a feed. So it is marked, and nothing is signed until it is known how its feeds go on (`SqlRecordStore.go_on`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from ioi_dagster.adapters.sql.migrating import migrate, open_migrated, path_of, revision_of
from ioi_dagster.adapters.sql.registry_writing import note, set_mark
from ioi_dagster.adapters.sql.search_tables import tables as meta
from ioi_dagster.errors import BadInputError

AT_ONCE = 1000
"""Rows that are copied at once."""


def backup(engine: sa.Engine, path: Path, tables: Sequence[sa.MetaData] = (meta,)) -> None:
    """Write the registry to the new file `path`, as it is at one moment, while others go on writing; whole or not at all.
    `tables`: what of a PostgreSQL database is copied; of SQLite it is all. Raises `BadInputError` where the file is there."""
    if path.exists():
        raise BadInputError("there is a file already", where=str(path), todo="name another")
    with _new_beside(path) as fresh:
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                connection.exec_driver_sql("VACUUM INTO ?", (str(fresh),))
        else:
            with _file(fresh) as target, engine.connect() as source:
                migrate(target)
                _copy(source.execution_options(isolation_level="REPEATABLE READ"), target, tables)
        _finish(fresh, path)


def restore(path: Path, where: Path | str, tables: Sequence[sa.MetaData] = (meta,), now: float | None = None) -> None:
    """Make the registry at `where`, a file that is not there or an empty PostgreSQL database, from the backup `path`, and mark it
    as restored. Raises `BadInputError` where there is a registry already, where the backup is damaged, or of a newer version."""
    now = time.time() if now is None else now
    _check(path)
    text = f"restored at {_day(now)} from a backup of {_day(path.stat().st_mtime)}"
    target = path_of(where)
    if target is None:
        with contextlib.closing(_Engine(open_migrated(where))) as its, _file(path) as source:
            with its.engine.connect() as connection:
                if any(
                    connection.execute(sa.select(sa.func.count()).select_from(one)).scalar()
                    for one in meta.sorted_tables
                ):
                    raise BadInputError("there is a registry already", where=str(where), todo="name an empty database")
            with source.connect() as connection:
                _copy(connection, its.engine, tables, (text, now))
        return
    left = [target.with_name(target.name + suffix) for suffix in ("", "-wal", "-shm")]
    there = [file for file in left if file.exists()]
    if there:
        raise BadInputError(
            "there is a registry already",
            where=str(there[0]),
            todo="stop what uses it, move it away with its -wal and -shm",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new_beside(target) as fresh:
        with _file(path) as source, source.connect() as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(fresh),))
        with _file(fresh) as engine:
            migrate(engine)
            with engine.begin() as connection:
                _mark(connection, text, now)
        _finish(fresh, target)


def _check(path: Path) -> None:
    """Before anything is written."""
    if not path.is_file():
        raise BadInputError("there is no such file", where=str(path), todo="name a backup")
    try:
        with _file(path) as source:
            with source.connect() as connection:
                told = connection.exec_driver_sql("PRAGMA quick_check").scalar()
            revision = revision_of(source)
    except DatabaseError as error:
        raise BadInputError(f"no backup: {error.orig}", where=str(path), todo="take another one") from error
    if told != "ok" or revision is None:
        what = f"damaged: {told}" if told != "ok" else "no backup of a registry"
        raise BadInputError(what, where=str(path), todo="take another one")


def _copy(
    source: sa.Connection, target: sa.Engine, tables: Sequence[sa.MetaData], restored: tuple[str, float] | None = None
) -> None:
    there = set(sa.inspect(source).get_table_names())
    with target.begin() as connection:
        for table in (table for its in tables for table in its.sorted_tables if table.name in there):
            rows = source.execution_options(yield_per=AT_ONCE).execute(sa.select(table))
            for some in rows.mappings().partitions():
                connection.execute(sa.insert(table), [dict(row) for row in some])
            number = table.c.get("number")
            if target.dialect.name == "postgresql" and number is not None and number.autoincrement is True:
                # What comes next is numbered behind what was copied.
                most = sa.select(sa.func.coalesce(sa.func.max(number), 0) + 1).scalar_subquery()
                its = sa.func.pg_get_serial_sequence(table.name, "number")
                connection.execute(sa.select(sa.func.setval(its, most, False)))
        if restored is not None:
            _mark(connection, *restored)


def _mark(connection: sa.Connection, text: str, now: float) -> None:
    set_mark(connection, "restored", text)
    note(connection, now, "restored", "", text)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[sa.Engine]:
    """Without write-ahead: the one file is all."""
    engine = sa.create_engine(f"sqlite:///{path}")
    try:
        yield engine
    finally:
        engine.dispose()


class _Engine:
    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def close(self) -> None:
        self.engine.dispose()


@contextlib.contextmanager
def _new_beside(path: Path) -> Iterator[Path]:
    """A name in a folder of its own beside `path`, readable by its owner only; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / "new"


def _finish(fresh: Path, path: Path) -> None:
    """There after the machine's power was lost, and never in place of another file."""
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError as error:
        raise BadInputError("there is a file already", where=str(path), todo="name another") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
