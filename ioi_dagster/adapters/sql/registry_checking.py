"""Is what the registry finds what was signed? All of it is read, verified, and compared with what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import capability, label, pointer_event, record
from ioi_dagster.adapters.sql.registry_writing import (
    LIVE,
    Row,
    capability_rows,
    entries_of,
    label_rows,
    note,
    read_events,
    record_row,
    writing,
)
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError
from ioi_dagster.ras.contracts import Offer, offers_of
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.pointers import PointerState, Status, read_pointer, refused, state_of
from ioi_dagster.ras.record import Record, read_record
from ioi_dagster.ras.urn import Scheme
from ioi_dagster.ras.versions import Known
from ioi_dagster.signing import Signed, canonical

AT_ONCE = 1000
"""Rows that are read at once: all would not fit into memory."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`what`: `record`, `pointer`, `capability` or `text`; `name`: a URN with its version or number, or nothing of `text`."""

    what: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.what} {self.name}: {self.text}" if self.name else f"{self.what}: {self.text}"


def _untold(share: float) -> None:
    """Nobody asks how far it is."""


def verify(store: SqlRecordStore, told: Callable[[float], None] = _untold) -> Iterator[Difference]:
    """Each difference between what is there and what has to be. Others may write meanwhile: on PostgreSQL and SQLite all is read
    as it was at the beginning. `told` hears now and then how far it is, as a share in 0..1 that rises."""
    store.settle_ended()
    with _snapshot(store.engine) as connection:
        yield from _pointers(store, connection)
        yield from _records(store, connection, told)
        for line in store.text.differences(connection, _entries(store, connection, told)):
            yield Difference("text", "", line)


def rebuild(store: SqlRecordStore, told: Callable[[float], None] = _untold) -> int:
    """Make all anew that follows from what is signed: columns, states, rows of capabilities, the index of words. Rows whose
    signature does not hold are left alone, and found by nobody. Returns how many records there are. `told`: as of `verify`."""
    count = 0
    with writing(store.engine) as connection:
        connection.execute(sa.delete(capability))
        connection.execute(sa.delete(label))
        store.text.clear(connection)
        for row, found, state, offered in _walk(store, connection, told):
            if isinstance(found, str):
                continue
            count += 1
            offers = _offers(found)
            if isinstance(offers, str):
                continue
            status = state.stand(found.version).status
            fixed = _expected(row, found, status, offered == found.version)
            seen = {name: value for name, value in fixed.items() if name not in ("number", "seen", "body")}
            connection.execute(sa.update(record).where(record.c.number == row.number).values(seen))
            if status not in LIVE or not offers:
                continue
            connection.execute(sa.insert(capability), capability_rows(row.number, str(found.kind), offers))
            labels = label_rows(row.number, offers)
            if labels:
                connection.execute(sa.insert(label), labels)
            store.text.put_all(connection, [entries_of(row.number, offers)])
        note(connection, store.wall(), "rebuilt", "", f"{count} records")
    return count


def _snapshot(engine: sa.Engine) -> Any:
    if engine.dialect.name == "sqlite":
        connection = engine.connect()
        # pysqlite begins no transaction for what only reads.
        connection.exec_driver_sql("BEGIN")
        return connection
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")


def _pointers(store: SqlRecordStore, connection: sa.Connection) -> Iterator[Difference]:
    its, after = pointer_event.c, 0
    urns: dict[str, None] = {}
    while rows := connection.execute(
        sa.select(pointer_event).where(its.number > after).order_by(its.number).limit(AT_ONCE)
    ).all():
        after = rows[-1].number
        for row in rows:
            name = f"{row.urn} {row.sequence}"
            urns[row.urn] = None
            try:
                event = read_pointer(Signed(from_json(row.body), row.key_id, row.signature), store.trusted)
            except (FinalError, ValueError, TypeError, AttributeError) as error:
                yield Difference("pointer", name, str(error))
                continue
            if (event.urn, event.sequence, event.digest) != (row.urn, row.sequence, row.digest):
                yield Difference("pointer", name, "its columns are not those of what is signed")
    for urn in urns:
        try:
            events = [event for _, event in read_events(connection, its.urn == urn)]
            for event in refused(urn, events):
                yield Difference("pointer", f"{urn} {event.sequence}", f"{event.signer} did not own it")
        except FinalError as error:
            yield Difference("pointer", urn, str(error))


def _records(store: SqlRecordStore, connection: sa.Connection, told: Callable[[float], None]) -> Iterator[Difference]:
    for row, found, state, offered in _walk(store, connection, lambda share: told(share / 2)):
        name = f"{row.urn} {row.version}"
        shown = [
            [dict(one._mapping) for one in connection.execute(sa.select(table).where(table.c.number == row.number))]
            for table in (capability, label)
        ]
        if row.status == Status.DELETED.value:
            if row.body or any(shown) or state.stand(row.version).status is not Status.DELETED:
                yield Difference("record", name, "it is deleted, and there is something left, or no event that says so")
            continue
        if isinstance(found, str):
            yield Difference("record", name, found)
            continue
        status = state.stand(found.version).status
        expected = _expected(row, found, status, offered == found.version)
        odd = [field for field, value in expected.items() if getattr(row, field) != value]
        if odd:
            yield Difference("record", name, f"{', '.join(odd)} not as what is signed has it")
        offers = _offers(found)
        if isinstance(offers, str):
            yield Difference("capability", name, offers)
            continue
        live = offers if status in LIVE else ()
        wanted = [capability_rows(row.number, str(found.kind), live), label_rows(row.number, live)]
        if [sorted(map(_pairs, rows)) for rows in shown] != [sorted(map(_pairs, rows)) for rows in wanted]:
            yield Difference("capability", name, "its rows are not what its contracts say")
    there = sa.select(record.c.number)
    for table in (capability, label):
        for number in connection.execute(
            sa.select(table.c.number).distinct().where(table.c.number.not_in(there))
        ).scalars():
            yield Difference("capability", f"number {number}", "there is no such record")


def _entries(
    store: SqlRecordStore, connection: sa.Connection, told: Callable[[float], None]
) -> Iterator[tuple[int, tuple[Entry, ...]]]:
    for row, found, state, _ in _walk(store, connection, lambda share: told(0.5 + share / 2)):
        if isinstance(found, Record) and state.stand(found.version).status in LIVE:
            offers = _offers(found)
            if offers and not isinstance(offers, str):
                yield entries_of(row.number, offers)


def _walk(
    store: SqlRecordStore, connection: sa.Connection, told: Callable[[float], None] = _untold
) -> Iterator[tuple[Any, Record | str, PointerState, str | None]]:
    """Each row, its record or why it is none, how its name stands, and which version that offers; by rising number."""
    its, after = record.c, 0
    last = connection.execute(sa.select(sa.func.max(its.number))).scalar() or 0
    while rows := connection.execute(
        sa.select(record).where(its.number > after).order_by(its.number).limit(AT_ONCE)
    ).all():
        after = rows[-1].number
        urns = sorted({row.urn for row in rows})
        states, offered = _stands(connection, urns, store.wall())
        for row in rows:
            yield row, _read(store, row, states[row.urn]), states[row.urn], offered[row.urn]
        told(after / last)


def _stands(
    connection: sa.Connection, urns: list[str], now: float
) -> tuple[dict[str, PointerState], dict[str, str | None]]:
    events: dict[str, list[Any]] = {urn: [] for urn in urns}
    versions: dict[str, list[Known]] = {urn: [] for urn in urns}
    its = record.c
    for start in range(0, len(urns), 500):
        some = urns[start : start + 500]
        for urn, event in read_events(connection, pointer_event.c.urn.in_(some)):
            events[urn].append(event)
        query = sa.select(its.urn, its.version, its.scheme, its.digest, its.supersedes).where(
            its.urn.in_(some), (its.valid_until == 0) | (its.valid_until > now)
        )
        for row in connection.execute(query):
            scheme = Scheme(row.scheme) if row.scheme in tuple(Scheme) else Scheme.OPAQUE
            versions[row.urn].append(Known(row.version, scheme, row.digest, row.supersedes))
    states = {}
    for urn in urns:
        try:
            states[urn] = state_of(urn, events[urn])
        except FinalError:
            states[urn] = PointerState(("",))  # Its name was altered: its record does not verify either.
    return states, {urn: states[urn].offered(versions[urn]) for urn in urns}


def _read(store: SqlRecordStore, row: Any, state: PointerState) -> Record | str:
    try:
        return read_record(Signed(from_json(row.body), row.key_id, row.signature), store.trusted, state.owners)
    except (FinalError, ValueError, TypeError, AttributeError) as error:
        return str(error)


def _offers(found: Record) -> tuple[Offer, ...] | str:
    try:
        return offers_of(found)
    except FinalError as error:
        return str(error)


def _expected(row: Any, found: Record, status: Status, offered: bool) -> dict[str, Any]:
    digest = found.digest
    known = Known(found.version, found.scheme, digest, found.supersedes)
    its = Row(row.number, known, status, offered, row.key_id, row.signature)
    return record_row(its, found, digest, row.seen, canonical(found.signed.body))


def _pairs(row: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((name, str(value)) for name, value in row.items())
