"""The feeds by which registries tell each other, beside the records that they state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "feed",
        *_keys("origin", "audience"),
        *_whole("epoch", "seq"),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("at", sa.LargeBinary, nullable=False),
        sa.Column("head", sa.LargeBinary),
    )
    op.create_table(
        "feed_entry",
        *_keys("origin", "audience"),
        sa.Column("epoch", _WHOLE, primary_key=True),
        sa.Column("seq", _WHOLE, primary_key=True),
        sa.Column("prev", sa.Text, nullable=False),
        *_whole("hlc"),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("op", "digest", "key_id", "signature")),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("item", sa.Text),
        sa.Column("live", sa.Boolean, nullable=False),
    )
    live = sa.text("live")
    columns = ["item", "origin", "audience"]
    op.create_index("feed_entry_item", "feed_entry", columns, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "peer_head",
        *_keys("peer", "origin", "audience"),
        *_whole("epoch", "seq"),
        sa.Column("head", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "proof",
        *_keys("origin", "audience"),
        sa.Column("epoch", _WHOLE, primary_key=True),
        sa.Column("first", sa.LargeBinary, nullable=False),
        sa.Column("second", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    for table in ("proof", "peer_head", "feed_entry", "feed"):
        op.drop_table(table)


def _keys(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=True) for name in names]


def _whole(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, _WHOLE, nullable=False) for name in names]
