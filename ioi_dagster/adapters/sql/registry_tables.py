"""Tables of the registry. `migrations` makes and changes them; a test compares both."""

from __future__ import annotations

import sqlalchemy as sa

from ioi_dagster.adapters.sql.feed_tables import define

HEAD = "0004"
"""The newest of `migrations/versions`."""

meta = sa.MetaData()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite keeps rows by an INTEGER alone."""

ENDS = "valid_until > 0 AND offered"
"""Of what is offered, what will end."""

record = sa.Table(
    "record",
    meta,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=False),
    sa.Column("urn", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("scheme", sa.Text, nullable=False),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("valid_until", sa.Double, nullable=False),
    sa.Column("supersedes", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("offered", sa.Boolean, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("urn", "version", name="record_urn_version"),
    sa.Index("record_digest", "digest"),
    sa.Index("record_kind", "kind", "offered", "urn"),
    sa.Index("record_ends", "valid_until", sqlite_where=sa.text(ENDS + " = 1"), postgresql_where=sa.text(ENDS)),
)
"""`body`: the canonical text that is signed, or nothing once the version is deleted. `status` and `offered` (is it what is given
where no version is asked for?) follow from the pointers, the latter as of the time when it was looked last
(`SqlRecordStore.settle_ended`). `seen`: when it came, in seconds of the epoch by this clock."""

capability = sa.Table(
    "capability",
    meta,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("capability", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("handles", sa.SmallInteger, nullable=False),
    sa.Index("capability_capability", "capability", "handles"),
)
"""One row a contract of each record that is neither yanked nor deleted. `handles`: the rank of a data class."""

label = sa.Table(
    "label",
    meta,
    sa.Column("what", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Index("label_number", "number"),
    sqlite_with_rowid=False,
)
"""Tags and skills (`what`) of the rows of `capability`."""

pointer_event = sa.Table(
    "pointer_event",
    meta,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("urn", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("urn", "sequence", name="pointer_event_urn_sequence"),
)

audit = sa.Table(
    "audit",
    meta,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("urn", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("audit_urn", "urn"),
)
"""What was done that rows do not tell themselves: withdrawn, deleted, rebuilt, restored."""

mark = sa.Table(
    "mark",
    meta,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""What the store knows of itself: `next`, the number of the next record (none is given twice); `restored`."""

feeds = define(meta)
"""What the domain tells other registries and takes of them: in one database, so that records change with it."""
