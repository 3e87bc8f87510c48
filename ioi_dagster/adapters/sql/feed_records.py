"""What feeds state becomes records, in the transaction in which the feed goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import feeds, record
from ioi_dagster.decoding import converted
from ioi_dagster.errors import FinalError
from ioi_dagster.ras.feeds.content import Change, Gone, Point, Prune, Put, Undo, record_item
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.pointers import PointerEvent
from ioi_dagster.signing import Signed

log = logging.getLogger("ioi.feeds")
EVENT = "event"
"""Of what an entry says of a pointer, the signed event."""


def event_name(event: PointerEvent) -> str:
    """Under which a feed states it: each is stated for ever."""
    return f"e{event.sequence}"


def event_said(event: PointerEvent) -> Mapping[str, Any]:
    """For `Owner.point`."""
    its = event.signed
    return {EVENT: {"body": its.body, "key_id": its.key_id, "signature": its.signature}}


class FeedRecords:
    """`SqlFeeds(changed=)` for feeds in `store`'s own database. What a feed states is put, by its record's own signature too; one
    that does not hold is left out, and the feed goes on. What it states no longer is withdrawn, unless another audience's feed
    states it now. `home`: the domain itself, whose records may come by other ways than its feeds; they go only one by one."""

    def __init__(self, store: SqlRecordStore, home: str) -> None:
        self._store, self._home = store, home

    def __call__(self, connection: sa.Connection, feed: Feed, changes: Sequence[Change]) -> None:
        # Of one item the last word counts.
        last = {one.item: one for one in changes if isinstance(one, Put | Gone)}
        gone = [item for item, one in last.items() if isinstance(one, Gone) and "#" not in item]
        put = [one.record for one in last.values() if isinstance(one, Put)]
        if feed.origin != self._home and any(isinstance(one, Prune | Undo) for one in changes):
            gone += self._not_stated(connection, feed)
        its = record.c
        self._store.withdraw(gone, connection, its.audience == feed.audience)
        # It has moved to another audience, whose feed says so first.
        self._store.withdraw([record_item(r.urn, r.version) for r in put], connection, its.audience != feed.audience)
        self._tell(feed, self._store.put_many([one.signed for one in put], connection))
        events = [signed for one in changes if isinstance(one, Point) and (signed := _event(one)) is not None]
        self._tell(feed, self._store.point_many(events, connection))

    def _not_stated(self, connection: sa.Connection, feed: Feed) -> list[str]:
        """Items of records that came by this feed, and are not stated in it."""
        its, entry = record.c, feeds.entry.c
        live = sa.select(entry.item).where(
            entry.origin == feed.origin, entry.audience == feed.audience, entry.live, entry.item == _item
        )
        own = its.urn.startswith(f"urn:ioi:{feed.origin}:", autoescape=True)
        where = (own, its.audience == feed.audience, ~live.exists())
        return [
            record_item(row.urn, row.version)
            for row in connection.execute(sa.select(its.urn, its.version).where(*where))
        ]

    def _tell(self, feed: Feed, outcomes: Sequence[object]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, FinalError):
                log.warning("of feed %s is left out: %s", feed, outcome)


_item = record.c.urn + " " + record.c.version


def _event(one: Point) -> Signed | None:
    """None: it points at something that is no event of a record."""
    try:
        return converted(one.said[EVENT], Signed)
    except (KeyError, msgspec.ValidationError):
        return None
