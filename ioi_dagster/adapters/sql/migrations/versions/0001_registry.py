"""Records, capabilities, pointers, what was done, and what the store knows of itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _texts(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "record",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=False),
        *_texts("urn", "version", "kind", "scheme", "audience"),
        sa.Column("valid_until", sa.Double, nullable=False),
        *_texts("supersedes", "digest", "status"),
        sa.Column("offered", sa.Boolean, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
        *_texts("key_id", "signature", "body"),
        sa.UniqueConstraint("urn", "version", name="record_urn_version"),
    )
    op.create_index("record_digest", "record", ["digest"])
    op.create_index("record_kind", "record", ["kind", "offered"])
    op.create_table(
        "capability",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        *_texts("capability", "kind"),
        sa.Column("handles", sa.SmallInteger, nullable=False),
    )
    op.create_index("capability_capability", "capability", ["capability", "handles"])
    op.create_table(
        "label",
        sa.Column("what", sa.Text, primary_key=True),
        sa.Column("label", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_index("label_number", "label", ["number"])
    op.create_table(
        "pointer_event",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        *_texts("urn"),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        *_texts("digest"),
        sa.Column("seen", sa.Double, nullable=False),
        *_texts("key_id", "signature", "body"),
        sa.UniqueConstraint("urn", "sequence", name="pointer_event_urn_sequence"),
    )
    op.create_table(
        "audit",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        *_texts("what", "urn", "text"),
    )
    op.create_index("audit_urn", "audit", ["urn"])
    op.create_table("mark", sa.Column("name", sa.Text, primary_key=True), *_texts("value"))


def downgrade() -> None:
    for table in ("mark", "audit", "pointer_event", "label", "capability", "record"):
        op.drop_table(table)
