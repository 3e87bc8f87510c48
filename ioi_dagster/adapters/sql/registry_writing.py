"""What becomes of the rows of the registry when records and pointer events come, within one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ioi_dagster.adapters.sql.migrating import LOCK
from ioi_dagster.adapters.sql.registry_tables import audit, capability, label, mark, pointer_event, record
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError
from ioi_dagster.ras.contracts import Offer, offers_of
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.pointers import (
    MAX_EVENT,
    Op,
    PointerEvent,
    PointerState,
    Status,
    event_of,
    refused,
    state_of,
)
from ioi_dagster.ras.record import Record, record_of
from ioi_dagster.ras.store import TextIndex
from ioi_dagster.ras.urn import Scheme
from ioi_dagster.ras.versions import Known
from ioi_dagster.signing import Signed, canonical, digest_bytes

CHUNK = 500
"""Values of one `IN`: older SQLite takes 999."""
MAX_EVENTS = 10_000
"""Of one name."""
MAX_VERSIONS = 10_000
WITHDRAWN, RESIGNED, UNSAID = "withdrawn", "signed anew", "unsaid"
"""In the audit: of versions, of both, of events (`#<number>`). The last tells, too, that numbers of events may be given again."""
LIVE = (Status.ACTIVE, Status.DEPRECATED)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes: one at a time, so that what it has read still holds when it writes."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Else it would begin with the first write, and fail where another has written since the first read.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        yield connection


@dataclass(slots=True)
class Row:
    """Of the table `record`, without its content."""

    number: int
    known: Known
    status: Status
    offered: bool
    key_id: str
    signature: str
    valid_until: float = 0.0


@dataclass(slots=True)
class New:
    """A record that is to be written."""

    record: Record
    digest: str
    written: bytes
    offers: tuple[Offer, ...]


class Writer:
    """One transaction's work on the names `urns`. `now`: seconds of the epoch."""

    def __init__(self, connection: sa.Connection, urns: Iterable[str], text: TextIndex, now: float) -> None:
        self._connection, self._text, self._now = connection, text, now
        wanted = sorted(set(urns))
        self.rows: dict[str, dict[str, Row]] = {urn: {} for urn in wanted}
        self.events: dict[str, list[PointerEvent]] = {urn: [] for urn in wanted}
        self._load(wanted)
        self.states = {urn: _state(urn, self.events[urn]) for urn in wanted}
        self._touched: set[str] = set()
        self._to_add: list[tuple[Row, Record, str, bytes, tuple[Offer, ...]]] = []

    def _load(self, urns: list[str]) -> None:
        its = record.c
        fields = (its.number, its.urn, its.version, its.scheme, its.digest, its.supersedes, its.status, its.offered)
        fields = (*fields, its.valid_until)
        for some in chunks(urns):
            for row in self._connection.execute(sa.select(*fields, its.key_id, its.signature).where(its.urn.in_(some))):
                known = Known(row.version, Scheme(row.scheme), row.digest, row.supersedes)
                self.rows[row.urn][row.version] = Row(
                    row.number,
                    known,
                    Status(row.status),
                    row.offered,
                    row.key_id,
                    row.signature,
                    row.valid_until,
                )
            for urn, event in read_events(self._connection, pointer_event.c.urn.in_(some)):
                self.events[urn].append(event)

    # Records

    def add(self, new: New) -> None:
        """Raises `FinalError` for what may not be written; nothing of it is, then."""
        its, signed = new.record, new.record.signed
        state, rows = self.states[its.urn], self.rows[its.urn]
        signer = signed.key_id.partition("#")[0]
        there = rows.get(its.version)
        # What a former owner has made stays, and may come by other ways.
        if signer != state.owner and not (there and there.known.digest == new.digest and signer in state.owners):
            raise FinalError(f"{signer} may not write under the prefix of {state.owner}: {its.urn}")
        status = state.stand(its.version).status
        if status is Status.DELETED:
            raise FinalError(f"{its.urn} {its.version} was deleted by its owner — give it a new version")
        if there is None:
            if len(rows) >= MAX_VERSIONS:
                raise FinalError(f"{its.urn} has {MAX_VERSIONS} versions, and takes no more — go on under another name")
            known = Known(its.version, its.scheme, new.digest, its.supersedes)
            row = rows[its.version] = Row(0, known, status, False, signed.key_id, signed.signature, its.valid_until)
            self._to_add.append((row, its, new.digest, new.written, new.offers))
            self._touched.add(its.urn)
        elif there.known.digest != new.digest:
            raise FinalError(f"{its.urn} {its.version} exists with other content — give it a new version")
        elif (there.key_id, there.signature) != (signed.key_id, signed.signature):
            # The same content may come signed by the owner's newer key.
            there.key_id, there.signature = signed.key_id, signed.signature
            if there.number:
                self._connection.execute(
                    sa.update(record)
                    .where(record.c.number == there.number)
                    .values(key_id=signed.key_id, signature=signed.signature, body=new.written.decode())
                )
                note(self._connection, self._now, RESIGNED, its.urn, its.version)

    # Pointers

    def point(self, event: PointerEvent) -> None:
        """Raises `FinalError` for what may not be written; nothing of it is, then."""
        events, signed = self.events[event.urn], event.signed
        same = next((one for one in events if one.sequence == event.sequence), None)
        if same is not None:
            if same.signed.body != signed.body:
                raise FinalError(
                    f"{event.urn} has another event of number {event.sequence} — sign it with the next number"
                )
            if same.signed != signed:
                where = (pointer_event.c.urn == event.urn) & (pointer_event.c.sequence == event.sequence)
                values = {"key_id": signed.key_id, "signature": signed.signature}
                self._connection.execute(sa.update(pointer_event).where(where).values(values))
                note(self._connection, self._now, RESIGNED, event.urn, f"#{event.sequence}")
                events[events.index(same)] = event
            return
        if len(events) >= MAX_EVENTS:
            raise FinalError(f"{event.urn} has {MAX_EVENTS} events, and takes no more — go on under another name")
        if refused(event.urn, [*events, event]):
            owner = state_of(event.urn, [one for one in events if one.sequence < event.sequence]).owner
            late = "others have followed since" if event.op is Op.TRANSFER else f"{owner} owns it"
            raise FinalError(f"{event.signer} may not say this of {event.urn} with number {event.sequence}: {late}")
        events.append(event)
        self._connection.execute(
            sa.insert(pointer_event).values(
                urn=event.urn,
                sequence=event.sequence,
                digest=event.digest,
                seen=self._now,
                key_id=signed.key_id,
                signature=signed.signature,
                body=canonical(signed.body).decode(),
            )
        )
        self._touched.add(event.urn)

    # What follows

    def settle_all(self) -> None:
        """Also for names that nothing was added to."""
        self._touched |= self.rows.keys()
        self.settle()

    def settle(self) -> None:
        """Write what was added, and what follows from it for other versions of the same names."""
        for urn in self._touched:
            self.states[urn] = _state(urn, self.events[urn])
        self._insert()
        for urn in self._touched:
            self._follow(urn, self.states[urn])

    def _insert(self) -> None:
        if not self._to_add:
            return
        first = self._numbers(len(self._to_add))
        offered = {urn: self._offered(urn) for urn in {its.urn for _, its, *_ in self._to_add}}
        rows, live = [], []
        for number, (row, its, digest, written, offers) in enumerate(self._to_add, first):
            row.number, row.offered = number, offered[its.urn] == its.version
            rows.append(record_row(row, its, digest, self._now, written))
            if row.status in LIVE:
                live.append((number, str(its.kind), offers))
        self._connection.execute(sa.insert(record), rows)
        self._show(live)

    def _show(self, live: Sequence[tuple[int, str, tuple[Offer, ...]]]) -> None:
        shown = [row for number, kind, offers in live for row in capability_rows(number, kind, offers)]
        labels = [row for number, _, offers in live for row in label_rows(number, offers)]
        if shown:
            self._connection.execute(sa.insert(capability), shown)
        if labels:
            self._connection.execute(sa.insert(label), labels)
        entries = [entries_of(number, offers) for number, _, offers in live if offers]
        if entries:
            self._text.put_all(self._connection, entries)

    def _follow(self, urn: str, state: PointerState) -> None:
        rows = self.rows[urn]
        offered = self._offered(urn)
        for version, row in rows.items():
            before, row.status = row.status, state.stand(version).status
            values: dict[str, Any] = {}
            if row.status is not before:
                values["status"] = row.status.value
            if row.offered != (version == offered):
                row.offered = values["offered"] = version == offered
            if not values:
                continue
            if row.status is Status.DELETED:
                values |= {"body": "", "signature": ""}
                note(self._connection, self._now, "deleted", urn, version)
            if before in LIVE and row.status not in LIVE:
                hide(self._connection, self._text, [row.number])
            if before not in LIVE and row.status in LIVE:
                self._show([self._content(row.number)])
            self._connection.execute(sa.update(record).where(record.c.number == row.number).values(values))

    def _offered(self, urn: str) -> str | None:
        """Of the versions that have not ended by now."""
        rows = self.rows[urn].values()
        return self.states[urn].offered([row.known for row in rows if not ended(row.valid_until, self._now)])

    def _content(self, number: int) -> tuple[int, str, tuple[Offer, ...]]:
        found = self._connection.execute(sa.select(record.c.body).where(record.c.number == number)).scalar_one()
        its = record_of(Signed(from_json(found), "", ""))
        return number, str(its.kind), offers_of(its)

    def _numbers(self, count: int) -> int:
        """The first of `count` numbers that no record had before."""
        found = self._connection.execute(sa.select(mark.c.value).where(mark.c.name == "next")).scalar()
        first = int(found or 1)
        set_mark(self._connection, "next", str(first + count))
        return first


def ended(valid_until: float, now: float) -> bool:
    return 0 < valid_until <= now


def record_row(row: Row, its: Record, digest: str, now: float, written: bytes) -> dict[str, Any]:
    return {
        "number": row.number,
        "urn": its.urn,
        "version": its.version,
        "kind": str(its.kind),
        "scheme": str(its.scheme),
        "audience": its.audience,
        "valid_until": its.valid_until,
        "supersedes": its.supersedes,
        "digest": digest,
        "status": row.status.value,
        "offered": row.offered,
        "seen": now,
        "key_id": its.signed.key_id,
        "signature": its.signed.signature,
        "body": written.decode(),
    }


def capability_rows(number: int, kind: str, offers: Sequence[Offer]) -> list[dict[str, Any]]:
    return [
        {
            "number": number,
            "place": place,
            "capability": offer.capability,
            "kind": kind,
            "handles": offer.handles.rank,
        }
        for place, offer in enumerate(offers)
    ]


def label_rows(number: int, offers: Sequence[Offer]) -> list[dict[str, Any]]:
    return [
        {"what": what, "label": text, "number": number, "place": place}
        for place, offer in enumerate(offers)
        for what, texts in (("tag", offer.contract.tags), ("skill", offer.contract.skills))
        for text in dict.fromkeys(texts)
    ]


def entries_of(number: int, offers: Sequence[Offer]) -> tuple[int, tuple[Entry, ...]]:
    """For the index of words, in which ids are of the record: others may offer a capability of the same name."""
    return number, tuple(replace(offer.entry, id=f"{number}/{place}") for place, offer in enumerate(offers))


def hide(connection: sa.Connection, text: TextIndex, numbers: Sequence[int]) -> None:
    """None of them is found any more."""
    for some in chunks(numbers):
        connection.execute(sa.delete(capability).where(capability.c.number.in_(some)))
        connection.execute(sa.delete(label).where(label.c.number.in_(some)))
    for number in numbers:
        text.drop(connection, number)


def read_events(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Iterator[tuple[str, PointerEvent]]:
    """Events that can be read, by URN and sequence. Their signatures were verified when they came."""
    its = pointer_event.c
    rows = connection.execute(
        sa.select(its.urn, its.body, its.key_id, its.signature).where(where).order_by(its.urn, its.sequence)
    )
    for row in rows:
        if len(row.body) > 2 * MAX_EVENT:
            continue
        try:
            event = event_of(Signed(from_json(row.body), row.key_id, row.signature))
        except (FinalError, ValueError, AttributeError, TypeError):
            continue  # Altered in the file; `verify` tells.
        if event.urn == row.urn:
            yield row.urn, event


def new_record(its: Record, written: bytes) -> New:
    """Raises `BadInputError` where what it offers cannot be read."""
    return New(its, digest_bytes(written), written, offers_of(its))


def _state(urn: str, events: Sequence[PointerEvent]) -> PointerState:
    return state_of(urn, events) if events else PointerState((urn.split(":")[2],))


def note(connection: sa.Connection, now: float, what: str, urn: str, text: str) -> None:
    connection.execute(sa.insert(audit).values(at=now, what=what, urn=urn, text=text))


def set_mark(connection: sa.Connection, name: str, value: str | None) -> None:
    """None: it is taken away."""
    if value is None:
        connection.execute(sa.delete(mark).where(mark.c.name == name))
    elif not connection.execute(sa.update(mark).where(mark.c.name == name).values(value=value)).rowcount:
        connection.execute(sa.insert(mark).values(name=name, value=value))


def chunks(values: Sequence[Any], each: int = CHUNK) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), each):
        yield values[start : start + each]
