"""Indexes: that of what feeds state is one that SQLite uses, that of kinds has owners apart; one of what is offered and ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_NAME, _COLUMNS = "feed_entry_item", ["item", "origin", "audience"]


def upgrade() -> None:
    op.drop_index(_NAME, "feed_entry")
    op.create_index(_NAME, "feed_entry", _COLUMNS, sqlite_where=sa.text("live = 1"), postgresql_where=sa.text("live"))
    op.drop_index("record_kind", "record")
    op.create_index("record_kind", "record", ["kind", "offered", "urn"])
    ends = "valid_until > 0 AND offered"
    op.create_index(
        "record_ends", "record", ["valid_until"], sqlite_where=sa.text(ends + " = 1"), postgresql_where=sa.text(ends)
    )


def downgrade() -> None:
    op.drop_index("record_ends", "record")
    op.drop_index("record_kind", "record")
    op.create_index("record_kind", "record", ["kind", "offered"])
    op.drop_index(_NAME, "feed_entry")
    op.create_index(_NAME, "feed_entry", _COLUMNS, sqlite_where=sa.text("live"), postgresql_where=sa.text("live"))
