"""Records and pointers in SQLite or PostgreSQL, by SQLAlchemy Core."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from ioi_dagster.adapters.sql.migrating import open_migrated
from ioi_dagster.adapters.sql.registry_tables import capability, label, mark, pointer_event, record
from ioi_dagster.adapters.sql.registry_writing import (
    CHUNK,
    LIVE,
    WITHDRAWN,
    New,
    Writer,
    chunks,
    ended,
    hide,
    new_record,
    note,
    read_events,
    set_mark,
    writing,
)
from ioi_dagster.adapters.sql.search import SqlTextIndex
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.ras.pointers import PointerEvent, PointerState, Status, read_pointer, state_of
from ioi_dagster.ras.record import Kind, Record, read_record, read_written
from ioi_dagster.ras.store import CLOCKS_APART_S, TextIndex, Wanted
from ioi_dagster.ras.urn import Scheme, read_urn
from ioi_dagster.ras.versions import Known
from ioi_dagster.signing import Signed, TrustedKeys

log = logging.getLogger("ioi.registry")
MAX_GROUP = 2000
"""Records of one transaction: others wait for it."""
MAX_KEPT = 10_000
"""Records that were read and verified, and are kept for the next reader."""


class SqlRecordStore:
    """Implements `ras.store.RecordStore` on the SQLite file `where`, or on the database of that URL. `text` (None: the index in
    that database) is kept in step with the records; `wall` gives seconds of the epoch. Threads and processes may share one
    database. Raises `BadInputError` where the database is of a newer version."""

    def __init__(
        self,
        where: Path | str,
        trusted: TrustedKeys,
        *,
        text: TextIndex | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.engine = open_migrated(where)
        self.trusted, self.wall = trusted, wall
        self.text: TextIndex = text or SqlTextIndex()
        self._kept: dict[tuple[str, str], tuple[Record, str]] = {}
        self._queue: deque[_Waiting] = deque()
        self._turn = threading.Lock()

    def close(self) -> None:
        self.engine.dispose()

    # Writing

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """For what has to be written together with records: all of it or nothing. Nobody else writes meanwhile."""
        with writing(self.engine) as connection:
            yield connection

    def put(self, signed: Signed) -> Record:
        """Threads that put at the same time share a transaction."""
        waiting = _Waiting(signed)
        self._queue.append(waiting)
        while waiting.outcome is None:
            with self._turn:
                if waiting.outcome is None:
                    self._put_waiting()
        if isinstance(waiting.outcome, Exception):
            raise waiting.outcome
        return waiting.outcome

    def _put_waiting(self) -> None:
        group = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_GROUP))]
        try:
            outcomes: Sequence[Record | Exception] = self.put_many([one.signed for one in group])
        except Exception as error:  # each of them is told
            outcomes = [error] * len(group)
        for one, outcome in zip(group, outcomes, strict=True):
            one.outcome = outcome

    def put_many(self, signed: Sequence[Signed], within: sa.Connection | None = None) -> list[Record | FinalError]:
        """`within`: of `transaction`; else one for each `MAX_GROUP`."""
        if within is not None:
            return self._put_group(signed, within)
        outcomes: list[Record | FinalError] = []
        for start in range(0, len(signed), MAX_GROUP):
            outcomes += self._put_group(signed[start : start + MAX_GROUP], None)
        return outcomes

    def _put_group(self, signed: Sequence[Signed], within: sa.Connection | None) -> list[Record | FinalError]:
        trusted = _remembering(self.trusted)
        # Whether its signer owns the name is known within the transaction.
        read = [_tried(_read_new, one, trusted) for one in signed]
        urns = [new.record.urn for new in read if not isinstance(new, FinalError)]
        if not urns:
            return [new for new in read if isinstance(new, FinalError)]
        with self._within(within) as connection:
            writer = Writer(connection, urns, self.text, self.wall())
            outcomes = [new if isinstance(new, FinalError) else _tried(writer.add, new) for new in read]
            writer.settle()
        return [
            outcome if isinstance(outcome, FinalError) or isinstance(new, FinalError) else new.record
            for new, outcome in zip(read, outcomes, strict=True)
        ]

    def point(self, signed: Signed) -> PointerEvent:
        (outcome,) = self.point_many([signed])
        if isinstance(outcome, FinalError):
            raise outcome
        return outcome

    def point_many(
        self, signed: Sequence[Signed], within: sa.Connection | None = None
    ) -> list[PointerEvent | FinalError]:
        """In the order in which they are given. `within`: of `transaction`."""
        now, trusted = self.wall(), _remembering(self.trusted)
        read = [_tried(_read_event, one, trusted, now) for one in signed]
        urns = [event.urn for event in read if not isinstance(event, FinalError)]
        with self._within(within) as connection:
            writer = Writer(connection, urns, self.text, now)
            outcomes = [event if isinstance(event, FinalError) else _tried(writer.point, event) for event in read]
            writer.settle()
        return [
            outcome if isinstance(outcome, FinalError) else event for event, outcome in zip(read, outcomes, strict=True)
        ]

    def keep_only(self, records: Collection[Record], among: Collection[tuple[str, str]] | None = None) -> int:
        """Withdraw every record that is not one of `records`: what its owner no longer states. `among`: (URN, version) of those
        that may go; None: all. Returns how many."""
        kept = {(record.urn, record.version) for record in records}
        with writing(self.engine) as connection:
            rows = connection.execute(sa.select(record.c.number, record.c.urn, record.c.version))
            gone = [
                row
                for row in rows
                if (row.urn, row.version) not in kept and (among is None or (row.urn, row.version) in among)
            ]
            self._remove(connection, gone)
        return len(gone)

    def withdraw(self, items: Sequence[str], within: sa.Connection, where: sa.ColumnElement[bool]) -> int:
        """Those of `items` (`<urn> <version>`) for which `where` is so; none that is not there. Returns how many."""
        its = record.c
        gone: list[Any] = []
        for some in chunks(items, CHUNK // 2):
            pairs = [tuple(item.split(" ", 1)) for item in some]
            chosen = sa.select(its.number, its.urn, its.version).where(
                sa.tuple_(its.urn, its.version).in_(pairs), where
            )
            gone += within.execute(chosen)
        self._remove(within, gone)
        return len(gone)

    def _remove(self, connection: sa.Connection, gone: Sequence[Any]) -> None:
        if not gone:
            return
        hide(connection, self.text, [row.number for row in gone])
        for some in chunks(gone):
            connection.execute(sa.delete(record).where(record.c.number.in_([row.number for row in some])))
        for row in gone:
            note(connection, self.wall(), WITHDRAWN, row.urn, row.version)
        Writer(connection, {row.urn for row in gone}, self.text, self.wall()).settle_all()

    @contextmanager
    def _within(self, connection: sa.Connection | None) -> Iterator[sa.Connection]:
        if connection is not None:
            yield connection
            return
        with writing(self.engine) as own:
            yield own

    # Reading

    def records(self, kind: Kind | None = None, domain: str | None = None) -> list[Record]:
        its = record.c
        where: list[sa.ColumnElement[bool]] = [its.offered]
        if kind is not None:
            where.append(its.kind == str(kind))
        if domain is not None:
            where.append(self._of(domain))
        self.settle_ended()
        # Where that could not be written, what has ended is given all the same to nobody.
        where.append((its.valid_until == 0) | (its.valid_until > self.wall()))
        found = [given for given in map(self._verified, self._rows(sa.and_(*where))) if given is not None]
        return sorted(found, key=lambda given: given.urn)

    def all_of(self, domain: str) -> list[Record]:
        """Every version of its own that there is and verifies, also what has ended or is yanked; in order of their coming."""
        found = [(row.number, self._verified(row)) for row in self._rows(self._of(domain))]
        return [given for _, given in sorted(found, key=lambda one: one[0]) if given is not None]

    def get(self, urn: str, version: str | None = None, *, alias: str | None = None) -> Record | None:
        if version is None:
            version = self._given(urn, alias)
        if version is None:
            return None
        read_urn(urn)
        its = record.c
        return next(map(self._verified, self._rows((its.urn == urn) & (its.version == version))), None)

    def _given(self, urn: str, alias: str | None) -> str | None:
        """Which version, where none is named."""
        its, now = record.c, self.wall()
        where = (its.urn == urn) & (its.status != Status.DELETED.value)
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(its.version, its.scheme, its.digest, its.supersedes, its.valid_until).where(where)
            ).all()
        left = [row for row in rows if not ended(row.valid_until, now)]
        state = self.pointers(urn)
        if alias is not None:
            named = state.aliases.get(alias)
            there = named is not None and any(row.version == named for row in left)
            return named if there and state.stand(named or "").status in LIVE else None
        return state.offered([Known(row.version, Scheme(row.scheme), row.digest, row.supersedes) for row in left])

    def by_digest(self, digest: str) -> Record | None:
        return next(map(self._verified, self._rows(record.c.digest == digest)), None)

    def by_numbers(self, numbers: Sequence[int]) -> dict[int, Record]:
        """Record by its number; those that are not there, or do not verify, are left out."""
        found = {}
        for some in chunks(numbers):
            for row in self._rows(record.c.number.in_(some)):
                given = self._verified(row)
                if given is not None:
                    found[row.number] = given
        return found

    def find(self, wanted: Wanted, limit: int = 1000) -> list[Record]:
        found = self.by_numbers(self.numbers(wanted, limit))
        return [found[number] for number in sorted(found)]

    def numbers(self, wanted: Wanted, limit: int = 1000) -> list[int]:
        """Of the records that have a contract as `wanted`, and have not ended; rising, `limit` at most."""
        if any("\0" in text for text in (wanted.capability, *wanted.tags, *wanted.skills)):
            return []  # PostgreSQL cannot even be asked.
        self.settle_ended()
        now = self.wall()
        its = capability.c
        query = sa.select(its.number).distinct().join(record, record.c.number == its.number)
        query = query.where(its.handles >= wanted.data.rank, (record.c.valid_until == 0) | (record.c.valid_until > now))
        if wanted.capability:
            query = query.where(its.capability == wanted.capability)
        if wanted.kind is not None:
            query = query.where(its.kind == str(wanted.kind))
        if not wanted.any_version:
            query = query.where(record.c.offered)
        for what, text in [*(("tag", tag) for tag in wanted.tags), *(("skill", skill) for skill in wanted.skills)]:
            one = label.alias()
            same = (one.c.number == its.number) & (one.c.place == its.place)
            query = query.join(one, same & (one.c.what == what) & (one.c.label == text))
        with self.engine.connect() as connection:
            return list(connection.execute(query.order_by(its.number).limit(limit)).scalars())

    def settle_ended(self) -> None:
        """Names of which the version that was offered has ended (`valid_until`) offer another from now on, or none. Whoever goes
        by the column `offered` calls it first; where none has ended since, it costs a look into an index. Where nothing can be
        written, as on a full disk, they offer none until it can be."""
        its, now = record.c, self.wall()
        # Written out, as the index has it.
        due = sa.select(its.urn).distinct().where(its.offered, its.valid_until > sa.text("0"), its.valid_until <= now)
        before: list[str] = []
        while True:
            with self.engine.connect() as connection:
                urns = list(connection.execute(due.limit(MAX_GROUP)).scalars())
            if not urns or urns == before:
                return
            before = urns
            try:
                with writing(self.engine) as connection:
                    Writer(connection, urns, self.text, now).settle_all()
            except DatabaseError as error:
                log.warning("what follows names of which a version has ended cannot be written: %s", error.orig)
                return

    def pointers(self, urn: str, until: float | None = None) -> PointerState:
        """As of the time `until`, in seconds of the epoch, where it is given. Raises `BadInputError` for what is no URN."""
        return state_of(urn, self.history(urn), until)

    def history(self, urn: str) -> list[PointerEvent]:
        with self.engine.connect() as connection:
            return [event for _, event in read_events(connection, pointer_event.c.urn == urn)]

    def _of(self, domain: str) -> sa.ColumnElement[bool]:
        """Its owner is `domain`."""
        its, prefix = record.c.urn, f"urn:ioi:{domain}:"
        own = its.startswith(prefix, autoescape=True)
        if self.engine.dialect.name != "sqlite":
            return own
        # SQLite looks into no index for LIKE; there a colon comes right before a semicolon.
        return own & (its > prefix) & (its < f"urn:ioi:{domain};")

    def _rows(self, where: sa.ColumnElement[bool]) -> list[Any]:
        its = record.c
        fields = (its.number, its.urn, its.version, its.digest, its.valid_until, its.key_id, its.signature, its.body)
        there = its.status != Status.DELETED.value
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(*fields).where(where, there)))

    def _verified(self, row: Any) -> Record | None:
        """None: its signature does not hold. One that was altered in the file is not a record any more."""
        key = (row.body, row.signature)
        kept = self._kept.get(key)
        if kept is not None:
            found, digest = kept
            same = (found.urn, found.version, digest) == (row.urn, row.version, row.digest)
            return found if same and found.signed.key_id == row.key_id and row.key_id in self.trusted.keys else None
        try:
            signed = Signed(from_json(row.body), row.key_id, row.signature)
            # Whether its signer owned the name was seen when it came.
            found = read_record(signed, self.trusted, (_signer(signed),))
        except (FinalError, ValueError, TypeError, AttributeError):
            return None
        if (found.urn, found.version, found.digest) != (row.urn, row.version, row.digest):
            return None
        if len(self._kept) >= MAX_KEPT:
            self._kept = {}
        self._kept[key] = found, row.digest
        return found

    # After a backup was restored

    @property
    def restored(self) -> str | None:
        """What was restored, where a backup was and nobody has said since how its feeds go on: until then nothing of this domain
        may be signed, as others may have seen what came after the backup."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(mark.c.value).where(mark.c.name == "restored")).scalar()

    def check_may_sign(self) -> None:
        """Raises `BadInputError` where it was `restored`."""
        text = self.restored
        if text is not None:
            raise BadInputError(
                f"the registry was {text}: others may have seen what its domain signed after that",
                where="registry",
                todo="start its gateway, which takes what is missing from others (`ioi ras feeds`), then `ioi ras go-on HOW`;"
                " where nobody has it any more: `ioi ras new-epoch HOW`",
            )

    def go_on(self, how: str, within: sa.Connection | None = None) -> None:
        """The feeds go on behind all that was handed out before; `how` that was made sure of goes into the audit."""
        with self._within(within) as connection:
            set_mark(connection, "restored", None)
            note(connection, self.wall(), "resolved", "", how)

    def noted(self, what: str, text: str, within: sa.Connection) -> None:
        """Kept in the audit."""
        note(within, self.wall(), what, "", text)


@dataclass(slots=True)
class _Waiting:
    signed: Signed
    outcome: Record | Exception | None = None


class _Remembered(dict[str, bytes]):
    """A batch asks for the same few keys again and again, and they lie in files."""

    def __init__(self, trusted: TrustedKeys) -> None:
        self._keys = trusted.keys

    def get(self, key_id: str, default: Any = None) -> Any:
        if key_id not in self:
            found = self._keys.get(key_id)
            if found is None:
                return default
            self[key_id] = found
        return self[key_id]


def _remembering(trusted: TrustedKeys) -> TrustedKeys:
    return TrustedKeys(_Remembered(trusted))


def _signer(signed: Signed) -> str:
    return signed.key_id.partition("#")[0]


def _read_new(signed: Signed, trusted: TrustedKeys) -> New:
    return new_record(*read_written(signed, trusted, (_signer(signed),)))


def _read_event(signed: Signed, trusted: TrustedKeys, now: float) -> PointerEvent:
    event = read_pointer(signed, trusted)
    if event.at > now + CLOCKS_APART_S:
        ahead = f"it is said to have happened {event.at - now:.0f} s from now"
        raise BadInputError(ahead, where=event.urn, todo="set the clock of its owner, or this one")
    return event


def _tried(call: Callable[..., Any], *of: Any) -> Any:
    try:
        return call(*of)
    except FinalError as error:
        return error
