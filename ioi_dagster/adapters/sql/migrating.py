"""Bringing a database to the tables of this version, by Alembic, which is loaded only where there is something to do."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from ioi_dagster.adapters.sql.registry_tables import HEAD
from ioi_dagster.adapters.sql.sqlite import open_sqlite
from ioi_dagster.errors import BadInputError

LOCK = 0x696F695F726173
"""Of PostgreSQL's advisory locks, the one that whoever writes to a registry holds."""
SCRIPTS = Path(__file__).with_name("migrations")


def open_migrated(where: Path | str, synchronous: str = "FULL") -> sa.Engine:
    """An engine on the SQLite file `where`, or on the database of that URL, with the tables of this version. Raises
    `BadInputError` where it is of a newer one, or no database of a registry, and `OSError` where a folder cannot be written."""
    path = path_of(where)
    if path is None:
        engine = sa.create_engine(str(where), pool_pre_ping=True)
        if engine.dialect.name not in ("postgresql",):
            raise BadInputError(
                f"{engine.dialect.name} is no database for a registry", where="registry", todo="SQLite or PostgreSQL"
            )
    else:
        return _told_of_damage(path, lambda: _migrated(open_sqlite(path, sa.MetaData(), synchronous)))
    return _migrated(engine)


def _migrated(engine: sa.Engine) -> sa.Engine:
    if revision_of(engine) != HEAD:
        migrate(engine)
    return engine


def _told_of_damage(path: Path, opens: Callable[[], sa.Engine]) -> sa.Engine:
    try:
        return opens()
    except (DatabaseError, sqlite3.DatabaseError) as error:
        text = str(getattr(error, "orig", error))
        if not ("not a database" in text or "malformed" in text):
            raise
        raise BadInputError(
            f"the registry is damaged: {text}",
            where=str(path),
            todo="move it away with its -wal and -shm, then `ioi ras restore` a backup; without one, what blocks.json and"
            " domain.json offer is registered again when the gateway starts",
        ) from error


def path_of(where: Path | str) -> Path | None:
    """The file, where it is one: a path, or a URL of SQLite."""
    if isinstance(where, Path) or "://" not in where:
        return Path(where)
    url = sa.make_url(where)
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def revision_of(engine: sa.Engine) -> str | None:
    """None: it has no tables of a registry, or was not made by migrations."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: sa.Engine, to: str = HEAD) -> None:
    """Up or down to revision `to` (`base`: no tables), whole or not at all; of several that begin at once, one does it. Raises
    `BadInputError` where the database is of a newer version than this program."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision: number for number, script in enumerate(reversed(list(scripts.walk_revisions())), 1)}
    with _alone(engine), engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        tables = sa.inspect(connection).get_table_names()
        found = None
        if "alembic_version" in tables:
            found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        elif "record" in tables:
            raise BadInputError(
                "the registry was made by another version, without migrations",
                where=_shown(engine),
                todo="move it away: what the domain offers is registered again when its gateway starts",
            )
        if found is not None and found not in known:
            raise BadInputError(
                f"the registry is of version {found}, and this program knows versions up to {HEAD}",
                where=_shown(engine),
                todo="update ioi_dagster, or restore a backup of this version",
            )
        config.attributes["connection"] = connection
        number = known.get(found or "", 0)
        (command.upgrade if known.get(to, 0) >= number else command.downgrade)(config, to)


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[None]:
    """Among those that open the file: none waits for the other within SQLite."""
    if engine.dialect.name != "sqlite":
        yield
        return
    path = Path(str(engine.url.database))
    with path.with_name(f".{path.name}.lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def _shown(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
