"""Feeds in a database, by SQLAlchemy Core: SQLite or PostgreSQL.

Entries are kept from the newest complete snapshot of their feed on; `live` marks those that state what is stated now."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ioi_dagster.adapters.sql.feed_tables import FeedTables
from ioi_dagster.adapters.sql.registry_writing import writing
from ioi_dagster.decoding import from_json
from ioi_dagster.ras.feeds.content import Change, Gone, Point, Prune, Put, Undo
from ioi_dagster.ras.feeds.entry import Entry, Op, WireEntry
from ioi_dagster.ras.feeds.head import Head, head_in
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.proof import Proof
from ioi_dagster.ras.feeds.reader import Position, Taken
from ioi_dagster.ras.feeds.store import Kept, Page, Stated, newer
from ioi_dagster.signing import Signed

MAX_PAGE_BYTES = 2**22
"""Of bodies in an answer: the first entry is given whatever its size."""


class LeftOut(NamedTuple):
    """Records and events as they are stated."""

    records: Sequence[Signed] = ()
    events: Sequence[Signed] = ()


class Stating(Protocol):
    """What is kept of what feeds state, beside their entries. What it raises undoes all of the transaction."""

    def changed(
        self, connection: sa.Connection, feed: Feed, changes: Sequence[Change], undone: Collection[str]
    ) -> None:
        """The feed has gone on by that; its entries are written. `undone`: items of which those spoke that were undone."""
        ...

    def left_out(self, connection: sa.Connection, origin: str) -> LeftOut:
        """What is stated, and is not there as it is stated."""
        ...

    def again(self, connection: sa.Connection, origin: str) -> None:
        """Take as much of it as may be taken now."""
        ...

    def forgotten(self, connection: sa.Connection, origin: str) -> None: ...


class EntriesAlone:
    """Nothing more is kept."""

    def changed(
        self, connection: sa.Connection, feed: Feed, changes: Sequence[Change], undone: Collection[str]
    ) -> None: ...

    def left_out(self, connection: sa.Connection, origin: str) -> LeftOut:
        return LeftOut()

    def again(self, connection: sa.Connection, origin: str) -> None: ...

    def forgotten(self, connection: sa.Connection, origin: str) -> None: ...


class SqlFeeds:
    """Implements `ras.feeds.store.FeedStore` on `engine`, in which `tables` are made. `stating` writes what a feed states and
    takes back, in the same transaction."""

    def __init__(self, engine: sa.Engine, tables: FeedTables, stating: Stating | None = None) -> None:
        self._engine, self._stating = engine, stating or EntriesAlone()
        self._feed, self._entry, self._head, self._proof = tables.feed, tables.entry, tables.head, tables.proof

    def kept(self, origin: str = "") -> list[Kept]:
        wanted = [sa.select(table) for table in (self._feed, self._proof)]
        if origin:
            wanted = [one.where(one.selected_columns.origin == origin) for one in wanted]
        with self._engine.connect() as connection:
            proofs: dict[tuple[str, str], Proof] = {}
            for row in connection.execute(wanted[1].order_by(self._proof.c.epoch)):
                proofs[row.origin, row.audience] = Proof(_signed(row.first), _signed(row.second))
            rows = connection.execute(wanted[0]).all()
        return [
            Kept(
                from_json(row.at, Position),
                _signed(row.head) if row.head else None,
                proofs.get((row.origin, row.audience)),
            )
            for row in rows
        ]

    def heads(self, feed: Feed) -> list[Head]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(self._head.c.head).where(*_is(self._head, feed))).scalars()
            return [head for head in (head_in(_signed(row)) for row in rows) if isinstance(head, Head)]

    def keep(self, taken: Sequence[Taken], heads: Sequence[Signed] = ()) -> bool:
        try:
            with writing(self._engine) as connection:
                for one in taken:
                    self._move(connection, one)
                for one in taken:
                    self._take(connection, one)
                for signed in heads:
                    self._set_head(connection, signed)
        except _MovedError:
            return False
        return True

    def page(self, feed: Feed, epoch: int, after: int, limit: int) -> Page:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(self._feed).where(*_is(self._feed, feed))).one_or_none()
            if row is None:
                return Page()
            at, head = from_json(row.at, Position), _signed(row.head) if row.head else None
            frozen = connection.execute(
                sa.select(sa.func.max(self._proof.c.epoch)).where(*_is(self._proof, feed))
            ).scalar_one()
            if limit <= 0 or (epoch, after) >= at.place or (frozen is not None and frozen >= at.epoch):
                return Page(head, at.roster)
            first = after + 1 if epoch == at.epoch and after >= at.base - 1 else at.base
            its = self._entry.c
            # Row by row, lest all bodies are read of which a page has a part.
            found = connection.execution_options(yield_per=50).execute(
                sa.select(self._entry)
                .where(*_is(self._entry, feed), its.epoch == at.epoch, its.seq >= first, its.seq < first + limit)
                .order_by(its.seq)
            )
            wires, size = list[WireEntry](), 0
            for one in found:
                size += len(one.body)
                if wires and size > MAX_PAGE_BYTES:
                    break
                parts = one.epoch, one.seq, one.prev, one.hlc, Op(one.op), one.digest, msgspec.Raw(one.body)
                wires.append(WireEntry(*parts, one.key_id, one.signature))
        return Page(head, at.roster, tuple(wires))

    def entry_at(self, feed: Feed, epoch: int, seq: int) -> Signed | None:
        its = self._entry.c
        with self._engine.connect() as connection:
            where = (*_is(self._entry, feed), its.epoch == epoch, its.seq == seq)
            row = connection.execute(sa.select(self._entry).where(*where)).one_or_none()
        if row is None:
            return None
        parts = row.epoch, row.seq, row.prev, row.hlc, Op(row.op), row.digest, b"", row.key_id, row.signature
        return Entry(feed, *parts, "").signed

    def keep_head(self, peer: str, head: Head, signed: Signed) -> None:
        text = msgspec.json.encode(signed)
        values = {"peer": peer, **_named(head.feed), "epoch": head.epoch, "seq": head.seq, "head": text}
        with writing(self._engine) as connection:
            where = (self._head.c.peer == peer, *_is(self._head, head.feed))
            connection.execute(sa.delete(self._head).where(*where))
            connection.execute(sa.insert(self._head).values(values))
            there = connection.execute(sa.select(self._feed.c.head).where(*_is(self._feed, head.feed))).scalar()
            if newer(head, signed, _signed(there) if there else None):
                self._set_head(connection, signed)

    def freeze(self, feed: Feed, epoch: int, proof: Proof) -> None:
        texts = {"first": msgspec.json.encode(proof.first), "second": msgspec.json.encode(proof.second)}
        with writing(self._engine) as connection:
            where = (*_is(self._proof, feed), self._proof.c.epoch == epoch)
            connection.execute(sa.delete(self._proof).where(*where))
            connection.execute(sa.insert(self._proof).values(**_named(feed), epoch=epoch, **texts))

    def stated(self, feed: Feed) -> list[Stated]:
        its = self._entry.c
        with self._engine.connect() as connection:
            chosen = sa.select(its.item, its.epoch, its.seq, its.op, its.body)
            rows = connection.execute(
                chosen.where(*_is(self._entry, feed), its.live).order_by(its.epoch, its.seq)
            ).all()
        return [Stated(row.item, row.epoch, row.seq, Op(row.op), row.body) for row in rows]

    def stated_as(self, item: str) -> list[tuple[Feed, Stated]]:
        its = self._entry.c
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(self._entry).where(its.item == item, its.live)).all()
        return [(Feed(r.origin, r.audience), Stated(r.item, r.epoch, r.seq, Op(r.op), r.body)) for r in rows]

    def touched(self, feed: Feed, epoch: int, after: int, key: str) -> set[str]:
        its = self._entry.c
        where = (*_is(self._entry, feed), its.epoch == epoch, its.seq > after, its.key_id == key, its.item.is_not(None))
        with self._engine.connect() as connection:
            return set(connection.execute(sa.select(its.item).where(*where)).scalars())

    def again(self, origin: str) -> None:
        # Mostly it is nothing, and nobody has to wait.
        with self._engine.connect() as connection:
            some = any(self._stating.left_out(connection, origin))
        if some:
            with writing(self._engine) as connection:
                self._stating.again(connection, origin)

    def forget(self, origin: str) -> None:
        with writing(self._engine) as connection:
            for table in (self._feed, self._entry, self._head, self._proof):
                connection.execute(sa.delete(table).where(table.c.origin == origin))
            self._stating.forgotten(connection, origin)

    def oldest_tombstone(self, feed: Feed) -> int | None:
        its = self._entry.c
        with self._engine.connect() as connection:
            where = (*_is(self._entry, feed), its.op == str(Op.TOMBSTONE))
            return connection.execute(sa.select(sa.func.min(its.hlc)).where(*where)).scalar_one()

    # ------------------------------------------------------------------------------------------------------------------

    def _move(self, connection: sa.Connection, one: Taken) -> None:
        """The feed is at its new place, if it was at the one before."""
        its, feed, text = self._feed.c, one.at.feed, msgspec.json.encode(one.at)
        values = {"epoch": one.at.epoch, "seq": one.at.seq, "hash": one.at.hash, "at": text}
        was = (its.epoch == one.before.epoch, its.seq == one.before.seq, its.hash == one.before.hash)
        if connection.execute(sa.update(self._feed).where(*_is(self._feed, feed), *was).values(**values)).rowcount == 1:
            return
        there = connection.execute(sa.select(its.seq).where(*_is(self._feed, feed))).one_or_none()
        if there is not None or one.before.place != (0, 0):
            raise _MovedError
        try:
            connection.execute(sa.insert(self._feed).values(**_named(feed), **values))
        except IntegrityError as error:
            raise _MovedError from error

    def _take(self, connection: sa.Connection, one: Taken) -> None:
        feed, its = one.at.feed, self._entry.c
        items = {change.at: change.item for change in one.changes if isinstance(change, Put | Point | Gone)}
        newest = {item: at for at, item in items.items()}
        stating = {change.at for change in one.changes if isinstance(change, Put | Point)}
        rows = [_row(entry, items.get(entry.place), stating, newest) for entry in one.entries]
        if rows:
            if newest:
                over = sa.update(self._entry).where(*_is(self._entry, feed), its.item == sa.bindparam("its"), its.live)
                connection.execute(over.values(live=False), [{"its": item} for item in newest])
            connection.execute(sa.insert(self._entry), rows)
        undone: set[str] = set()
        for change in one.changes:
            if isinstance(change, Undo):
                lost = (*_is(self._entry, feed), its.epoch == change.epoch, its.seq > change.last)
                spoken = sa.select(its.item).where(*lost, its.item.is_not(None))
                undone |= set(connection.execute(spoken).scalars())
                connection.execute(sa.update(self._entry).where(*lost).values(live=False))
            elif isinstance(change, Prune):
                epoch, seq = change.first
                before = sa.or_(its.epoch < epoch, sa.and_(its.epoch == epoch, its.seq < seq))
                connection.execute(sa.delete(self._entry).where(*_is(self._entry, feed), before))
        self._stating.changed(connection, feed, one.changes, undone)

    def _set_head(self, connection: sa.Connection, signed: Signed) -> None:
        head = head_in(signed)
        assert isinstance(head, Head)
        feed, text = head.feed, msgspec.json.encode(signed)
        if connection.execute(sa.update(self._feed).where(*_is(self._feed, feed)).values(head=text)).rowcount == 0:
            at = Position(feed)
            values = {"epoch": 0, "seq": 0, "hash": at.hash, "at": msgspec.json.encode(at), "head": text}
            connection.execute(sa.insert(self._feed).values(**_named(feed), **values))


class _MovedError(Exception):
    pass


def _row(
    entry: Entry, item: str | None, stating: set[tuple[int, int]], newest: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    return {
        "origin": entry.feed.origin,
        "audience": entry.feed.audience,
        "epoch": entry.epoch,
        "seq": entry.seq,
        "prev": entry.prev,
        "hlc": entry.hlc,
        "op": entry.op.value,
        "digest": entry.digest,
        "key_id": entry.key_id,
        "signature": entry.signature,
        "body": entry.body,
        "item": item,
        "live": item is not None and entry.place in stating and newest[item] == entry.place,
    }


def _is(table: sa.Table, feed: Feed) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.origin == feed.origin, table.c.audience == feed.audience


def _named(feed: Feed) -> dict[str, str]:
    return {"origin": feed.origin, "audience": feed.audience}


def _signed(text: bytes) -> Signed:
    return from_json(text, Signed)
