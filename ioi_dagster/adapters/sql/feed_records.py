"""What feeds state becomes records and pointer events, in the transaction in which the feed goes on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from ioi_dagster.adapters.sql.feeds import LeftOut
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import feeds, pointer_event, record
from ioi_dagster.adapters.sql.registry_writing import UNSAID, Writer, chunks, note
from ioi_dagster.decoding import converted, from_json
from ioi_dagster.errors import FinalError
from ioi_dagster.ras.feeds.content import EVENT, Change, Gone, Point, Prune, Put, Undo, record_item
from ioi_dagster.ras.feeds.entry import Op
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.pointers import Status
from ioi_dagster.signing import Signed

log = logging.getLogger("ioi.feeds")


class FeedRecords:
    """Implements `adapters.sql.feeds.Stating` for feeds in `store`'s own database. What a feed states is put, by its record's own
    signature too; one that does not hold is left out, and the feed goes on. What it states no longer is withdrawn, unless another
    audience's feed states it now. `home`: the domain itself, whose records may come by other ways than its feeds; they go only
    one by one."""

    def __init__(self, store: SqlRecordStore, home: str) -> None:
        self._store, self._home = store, home

    def changed(
        self, connection: sa.Connection, feed: Feed, changes: Sequence[Change], undone: Collection[str]
    ) -> None:
        # Of one item the last word counts.
        last = {one.item: one for one in changes if isinstance(one, Put | Gone)}
        gone = {item for item, one in last.items() if isinstance(one, Gone) and "#" not in item}
        put = [one.record for one in last.values() if isinstance(one, Put)]
        if undone:
            gone |= set(undone) - self._live(connection, feed.origin)
        pruned = any(isinstance(one, Prune | Undo) for one in changes)
        if pruned and feed.origin != self._home:
            gone |= self._not_stated(connection, feed)
        # First how versions stand: of one that is deleted the row stays, by which it is known.
        events = [signed for one in changes if isinstance(one, Point) and (signed := _event(one.said)) is not None]
        self._tell(feed, self._store.point_many(events, connection))
        its = record.c
        records = sorted(item for item in gone if "#" not in item)
        self._store.withdraw(records, connection, (its.audience == feed.audience) & _there)
        # It has moved to another audience, whose feed says so first.
        moved = [record_item(one.urn, one.version) for one in put]
        self._store.withdraw(moved, connection, (its.audience != feed.audience) & _there)
        self._unsay(connection, [numbered for item in gone if (numbered := _number(item)) is not None])
        self._tell(feed, self._store.put_many([one.signed for one in put], connection))
        if undone or (pruned and feed.origin != self._home):
            # What an event that is taken back had deleted may have come before that was known.
            self.again(connection, feed.origin)

    def left_out(self, connection: sa.Connection, origin: str) -> LeftOut:
        """Of records and events that are there as they are stated nothing is read but by which key they are signed."""
        entry, its, event = feeds.entry.c, record.c, pointer_event.c
        own = f"urn:ioi:{origin}:"
        rows = connection.execute(
            sa.select(its.urn, its.version, its.key_id, its.status).where(its.urn.startswith(own, autoescape=True))
        )
        there = {record_item(row.urn, row.version): None if row.status == _DELETED else row.key_id for row in rows}
        said = sa.select(event.urn, event.sequence, event.key_id).where(event.urn.startswith(own, autoescape=True))
        numbers = {(row.urn, row.sequence): row.key_id for row in connection.execute(said)}
        stated = sa.select(entry.item, entry.op, entry.body).where(entry.origin == origin, entry.live)
        put, events = list[Signed](), list[Signed]()
        for row in connection.execute(stated.order_by(entry.audience, entry.epoch, entry.seq)).all():
            if row.op == Op.PUT.value:
                key_id = from_json(row.body, _ByKey).key_id
                if there.get(row.item, "") not in (None, key_id):
                    put.append(from_json(row.body, Signed))
            elif row.op == Op.POINTER.value:
                signed, number = _event(from_json(row.body)), _number(row.item)
                if signed is not None and number is not None and numbers.get(number) != signed.key_id:
                    events.append(signed)
        return LeftOut(put, events)

    def again(self, connection: sa.Connection, origin: str) -> None:
        left_out = self.left_out(connection, origin)
        self._tell(Feed(origin), self._store.point_many(left_out.events, connection))
        self._tell(Feed(origin), self._store.put_many(left_out.records, connection))

    def forgotten(self, connection: sa.Connection, origin: str) -> None:
        its, event, own = record.c, pointer_event.c, f"urn:ioi:{origin}:"
        connection.execute(sa.delete(pointer_event).where(event.urn.startswith(own, autoescape=True)))
        note(connection, self._store.wall(), UNSAID, "", f"all of {origin}, which takes part no longer")
        rows = connection.execute(sa.select(its.urn, its.version).where(its.urn.startswith(own, autoescape=True)))
        self._store.withdraw([record_item(row.urn, row.version) for row in rows], connection, sa.true())

    def _unsay(self, connection: sa.Connection, events: Sequence[tuple[str, int]]) -> None:
        """What those events (URN and number) came to is undone. A version that they had deleted is not there any more, and may be
        put again."""
        if not events:
            return
        its, event = record.c, pointer_event.c
        for urn, sequence in events:
            connection.execute(sa.delete(pointer_event).where(event.urn == urn, event.sequence == sequence))
            note(connection, self._store.wall(), UNSAID, urn, f"#{sequence}")
        urns = sorted({urn for urn, _ in events})
        stands = Writer(connection, urns, self._store.text, self._store.wall()).states
        deleted = sa.select(its.urn, its.version).where(its.status == _DELETED)
        back = [
            record_item(row.urn, row.version)
            for some in chunks(urns)
            for row in connection.execute(deleted.where(its.urn.in_(some)))
            if stands[row.urn].stand(row.version).status is not Status.DELETED
        ]
        self._store.withdraw(back, connection, sa.true())
        Writer(connection, urns, self._store.text, self._store.wall()).settle_all()

    def _not_stated(self, connection: sa.Connection, feed: Feed) -> set[str]:
        """Items of records that came by this feed, and of events, that are not stated."""
        its, event, own = record.c, pointer_event.c, f"urn:ioi:{feed.origin}:"
        where = (its.urn.startswith(own, autoescape=True), its.audience == feed.audience, _there)
        rows = connection.execute(sa.select(its.urn, its.version).where(*where))
        items = {record_item(row.urn, row.version) for row in rows}
        said = sa.select(event.urn, event.sequence).where(event.urn.startswith(own, autoescape=True))
        items |= {f"{row.urn} #e{row.sequence}" for row in connection.execute(said)}
        return items - self._live(connection, feed.origin)

    def _live(self, connection: sa.Connection, origin: str) -> set[str]:
        entry = feeds.entry.c
        return set(connection.execute(sa.select(entry.item).where(entry.origin == origin, entry.live)).scalars())

    def _tell(self, feed: Feed, outcomes: Iterable[object]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, FinalError):
                log.warning("of feed %s is left out: %s", feed, outcome)


class _ByKey(msgspec.Struct):
    key_id: str


_DELETED = Status.DELETED.value
_there = record.c.status != _DELETED


def _number(item: str) -> tuple[str, int] | None:
    """Of which event it is; None: of none."""
    urn, _, name = item.partition(" #e")
    return (urn, int(name)) if name.isascii() and name.isdecimal() and len(name) < 17 else None


def _event(said: object) -> Signed | None:
    """None: it points at something that is no event of a record."""
    try:
        return converted(said[EVENT], Signed) if isinstance(said, Mapping) else None
    except (KeyError, msgspec.ValidationError):
        return None
