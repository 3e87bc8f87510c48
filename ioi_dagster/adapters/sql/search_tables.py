"""The tables of a registry's text index, and how its places are parted into runs."""

from __future__ import annotations

from enum import IntEnum

import sqlalchemy as sa

from ioi_dagster.adapters.sql.registry_tables import meta as tables

RUN = 512
"""Places of a fresh run."""
FRESH_RUNS = 32
"""Fresh runs of an old one."""
HEAD = 64
"""Postings of an old run's head."""


class Stage(IntEnum):
    """What a row of `run` holds of its run."""

    FRESH = 0
    HEAD = 1
    """The heaviest postings of a run; `count` is of all."""
    REST = 2


state = sa.Table(
    "search_state",
    tables,
    sa.Column("one", sa.Integer, primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
)
"""One row: the next place, and how many entries there are."""
entry = sa.Table(
    "search_entry",
    tables,
    sa.Column("place", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("number", sa.BigInteger, nullable=False, index=True),
    sa.Column("words", sa.LargeBinary, nullable=False),
)
"""`number`: of the record; `words`: `postings.kept_words`, packed."""
latest = sa.Table(
    "search_latest",
    tables,
    sa.Column("word", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("posting", sa.BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
"""Of the places since the last run that is full. `word`: `postings.term_key`."""
run = sa.Table(
    "search_run",
    tables,
    sa.Column("stage", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("word", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("postings", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""`postings`: packed, the heaviest first."""


def fresh_run(place: int) -> int:
    return place // RUN


def old_run(place: int) -> int:
    return place // (RUN * FRESH_RUNS)
