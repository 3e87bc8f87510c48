"""Tables of feeds: which there are, their entries, heads that peers have shown, and proofs of equivocation."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class FeedTables:
    feed: sa.Table
    entry: sa.Table
    head: sa.Table
    proof: sa.Table


def define(meta: sa.MetaData) -> FeedTables:
    """The tables of feeds, as part of `meta`."""
    whole = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    feed = sa.Table(
        "feed",
        meta,
        *_of_feed(),
        sa.Column("epoch", whole, nullable=False),
        sa.Column("seq", whole, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("at", sa.LargeBinary, nullable=False),
        sa.Column("head", sa.LargeBinary),
    )
    entry = sa.Table(
        "feed_entry",
        meta,
        *_of_feed(),
        sa.Column("epoch", whole, primary_key=True),
        sa.Column("seq", whole, primary_key=True),
        sa.Column("prev", sa.Text, nullable=False),
        sa.Column("hlc", whole, nullable=False),
        sa.Column("op", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("item", sa.Text),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Index(
            "feed_entry_item",
            "item",
            "origin",
            "audience",
            # As queries have it, or it is not used.
            sqlite_where=sa.text("live = 1"),
            postgresql_where=sa.text("live"),
        ),
    )
    head = sa.Table(
        "peer_head",
        meta,
        sa.Column("peer", sa.Text, primary_key=True),
        *_of_feed(),
        sa.Column("epoch", whole, nullable=False),
        sa.Column("seq", whole, nullable=False),
        sa.Column("head", sa.LargeBinary, nullable=False),
    )
    proof = sa.Table(
        "proof",
        meta,
        *_of_feed(),
        sa.Column("epoch", whole, primary_key=True),
        sa.Column("first", sa.LargeBinary, nullable=False),
        sa.Column("second", sa.LargeBinary, nullable=False),
    )
    return FeedTables(feed, entry, head, proof)


def _of_feed() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("origin", sa.Text, primary_key=True), sa.Column("audience", sa.Text, primary_key=True)
