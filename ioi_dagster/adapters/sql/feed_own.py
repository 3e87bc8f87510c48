"""What a domain's registry has of its own, for its feeds: told apart from what was there before by the numbers of rows.

Numbers are given within the transactions that write, one of which goes after the other, so whoever has seen a number has seen all
below it, whichever process wrote them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import audit, feeds, pointer_event, record
from ioi_dagster.adapters.sql.registry_writing import RESIGNED, UNSAID, WITHDRAWN, chunks, read_events
from ioi_dagster.ras.feeds.content import record_item
from ioi_dagster.ras.feeds.store import News, Pointed
from ioi_dagster.ras.pointers import PointerEvent, Status
from ioi_dagster.ras.record import Record
from ioi_dagster.signing import Signed

AT_ONCE = 1_000
"""Rows of each table that are looked at for one piece of news."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The last numbers of the tables."""

    record: int = 0
    event: int = 0
    audit: int = 0


class OwnRecords:
    """Implements `ras.feeds.store.OwnWord` for the domain `home`. What does not verify, or was deleted, is not stated. An event
    goes to the audiences of the version that it names, or of all versions of its record."""

    def __init__(self, store: SqlRecordStore, home: str) -> None:
        self._store, self._home, self._prefix = store, home, f"urn:ioi:{home}:"

    def mark(self) -> Mark:
        with self._store.engine.connect() as connection:
            return self._mark(connection)

    def news(self, since: object | None) -> tuple[News, Mark]:
        if not isinstance(since, Mark):
            return self._all()
        with self._store.engine.connect() as connection:
            end = self._mark(connection)
            records, end_record = self._rows(connection, record, since.record, end.record, ~self._stated())
            its = audit.c
            unsaid = sa.select(its.number).where(its.number > since.audit, its.what == UNSAID).limit(1)
            # Numbers of events that were taken back are given again.
            told_to = 0 if connection.execute(unsaid).first() else since.event
            events, end_event = self._rows(connection, pointer_event, told_to, end.event)
            notes, end_audit = self._rows(connection, audit, since.audit, end.audit)
            told = [row for row in notes if row.what in (WITHDRAWN, RESIGNED)]
            urns = {row.urn for row in (*records, *events, *told)}
            touched = {(row.urn, row.version) for row in records}
            touched |= {(row.urn, row.text) for row in told if not row.text.startswith("#")}
            numbers = {(row.urn, row.sequence) for row in events}
            numbers |= {(row.urn, int(row.text[1:])) for row in told if row.text.startswith("#")}
            versions = self._versions(connection, urns)
            pointed = [one for one in self._events(connection, urns) if (one.urn, one.sequence) in numbers]
        # How a name stands has changed with its events: what is deleted now is stated no longer.
        changed = {row.urn for row in events}
        touched |= {(row.urn, row.version) for row in versions if row.urn in changed and row.status == _DELETED}
        there = {(row.urn, row.version): row.number for row in versions if row.status != _DELETED}
        found = self._store.by_numbers([there[one] for one in touched if one in there])
        stated = self._signed(found[number] for number in sorted(found))
        known = {(one.body["urn"], one.body["version"]) for one in stated}
        gone = tuple(record_item(*one) for one in sorted(touched - known))
        return News(stated, _pointed(pointed, versions), gone), Mark(end_record, end_event, end_audit)

    def _all(self) -> tuple[News, Mark]:
        with self._store.engine.connect() as connection:
            mark = self._mark(connection)
            events = self._events(connection, None)
            versions = self._versions(connection, {event.urn for event in events})
        # Read last: what comes meanwhile is told twice, and not left out.
        return News(self._signed(self._store.all_of(self._home)), _pointed(events, versions)), mark

    def _mark(self, connection: sa.Connection) -> Mark:
        return Mark(
            *(
                connection.execute(sa.select(sa.func.coalesce(sa.func.max(table.c.number), 0))).scalar_one()
                for table in (record, pointer_event, audit)
            )
        )

    def _stated(self) -> sa.ColumnElement[bool]:
        """A feed has the record already, which may have come by it."""
        its, entry = record.c, feeds.entry.c
        there = (entry.item == its.urn + " " + its.version, entry.origin == self._home, entry.live)
        return sa.exists().where(*there)

    def _rows(
        self, connection: sa.Connection, table: sa.Table, after: int, end: int, *more: sa.ColumnElement[bool]
    ) -> tuple[list[Any], int]:
        """Of the domain's own names, and up to which number that is."""
        columns = {
            "record": ("number", "urn", "version"),
            "pointer_event": ("number", "urn", "sequence"),
            "audit": ("number", "urn", "what", "text"),
        }[table.name]
        its = table.c
        chosen = sa.select(*(its[name] for name in columns)).where(
            its.number > after, its.number <= end, its.urn.startswith(self._prefix, autoescape=True), *more
        )
        rows = list(connection.execute(chosen.order_by(its.number).limit(AT_ONCE)))
        return rows, rows[-1].number if len(rows) == AT_ONCE else end

    def _versions(self, connection: sa.Connection, urns: Collection[str]) -> list[Any]:
        its = record.c
        chosen = sa.select(its.number, its.urn, its.version, its.audience, its.status)
        return [row for some in chunks(sorted(urns)) for row in connection.execute(chosen.where(its.urn.in_(some)))]

    def _events(self, connection: sa.Connection, urns: Collection[str] | None) -> list[PointerEvent]:
        """None: of all its own names."""
        its = pointer_event.c
        wanted = (
            [its.urn.startswith(self._prefix, autoescape=True)]
            if urns is None
            else [its.urn.in_(some) for some in chunks(sorted(urns))]
        )
        return [event for where in wanted for _, event in read_events(connection, where)]

    def _signed(self, records: Iterable[Record]) -> tuple[Signed, ...]:
        """Its own word: what a later owner of a name has signed is told by that one."""
        own = self._home + "#"
        return tuple(one.signed for one in records if one.signed.key_id.startswith(own))


_DELETED = Status.DELETED.value


def _pointed(events: Iterable[PointerEvent], versions: Iterable[Any]) -> tuple[Pointed, ...]:
    audiences: dict[str, dict[str, str]] = {}
    for row in versions:
        audiences.setdefault(row.urn, {})[row.version] = row.audience
    return tuple(
        Pointed(event, frozenset([its[event.version]] if event.version in its else its.values()))
        for event in events
        for its in (audiences.get(event.urn, {}),)
    )
