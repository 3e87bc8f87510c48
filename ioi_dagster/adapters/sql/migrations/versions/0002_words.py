"""The index of words, which lies beside the records that it leads to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "search_state",
        sa.Column("one", sa.Integer, primary_key=True),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "search_entry",
        sa.Column("place", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("number", sa.BigInteger, nullable=False, index=True),
        sa.Column("words", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "search_latest",
        sa.Column("word", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("posting", sa.BigInteger, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "search_run",
        sa.Column("stage", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("word", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("postings", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("search_run", "search_latest", "search_entry", "search_state"):
        op.drop_table(table)
