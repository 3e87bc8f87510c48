"""What a registry's database answers to who stands beside it: lists, and what discovery chooses from.

Rows are found by columns and by the index of words; what is given of them is read from records whose signature holds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import capability, label, record
from ioi_dagster.adapters.sql.search import SqlTextIndex
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.contracts import offers_of
from ioi_dagster.ras.discovery import Intent, Registry
from ioi_dagster.ras.pointers import PointerState, Stand, Status
from ioi_dagster.ras.record import Kind, Record
from ioi_dagster.ras.summary import RecordSource, Summary, summaries_of
from ioi_dagster.ras.summary import Status as Said

MAX_LOOKED_AT = 10_000
"""Records of one question without words."""
NEAREST = 300
"""Capabilities that words lead to: of these discovery chooses."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What rows are looked for by; what is empty does not count. Without a `status`, and unless `every` version is asked for, the
    version alone that is given where none is named."""

    kinds: tuple[Kind, ...] = ()
    status: Status | None = None
    capability: str = ""
    tag: str = ""
    every: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A version of a record. `record`: None where it is deleted, so that nothing is left of it. `seen`: when it came, in seconds
    of the epoch by the registry's clock."""

    urn: str
    kind: Kind
    version: str
    digest: str
    offered: bool
    seen: float
    stand: Stand
    record: Record | None


def listed(store: SqlRecordStore, wish: Wish, limit: int) -> list[Listed]:
    """In order of URN and registration, `limit` at most. Rows whose signature does not hold are left out; `verify` tells of
    them."""
    return _rows(store, _wished(wish), limit)


def versions_of(store: SqlRecordStore, urn: str) -> list[Listed]:
    """All that there are or were, as they came."""
    return _rows(store, record.c.urn == urn, -1)


def _rows(store: SqlRecordStore, where: sa.ColumnElement[bool], limit: int) -> list[Listed]:
    its = record.c
    fields = (its.number, its.urn, its.kind, its.version, its.digest, its.offered, its.seen, its.status)
    query = sa.select(*fields).where(where).order_by(its.urn, its.number)
    with store.engine.connect() as connection:
        rows = connection.execute(query if limit < 0 else query.limit(limit)).all()
    found = store.by_numbers([row.number for row in rows])
    states: dict[str, PointerState] = {}
    given = []
    for row in rows:
        its_record = found.get(row.number)
        if its_record is None and row.status != Status.DELETED.value:
            continue
        if row.urn not in states:
            states[row.urn] = store.pointers(row.urn)
        stand = states[row.urn].stand(row.version)
        fields = (row.urn, Kind(row.kind), row.version, row.digest, row.offered, row.seen)
        given.append(Listed(*fields, stand, its_record))
    return given


def _wished(wish: Wish) -> sa.ColumnElement[bool]:
    its = record.c
    wanted: list[sa.ColumnElement[bool]] = [sa.true()]
    if wish.kinds:
        wanted.append(its.kind.in_([str(kind) for kind in wish.kinds]))
    if wish.status is not None:
        wanted.append(its.status == wish.status.value)
    elif not wish.every:
        # Of a name that gives no version of itself nothing is shown, nor of one that is all deleted.
        wanted.append(its.offered)
    if wish.capability:
        same = capability.c.number == its.number
        wanted.append(sa.exists().where(same, capability.c.capability == wish.capability))
    if wish.tag:
        same = (label.c.number == its.number) & (label.c.what == "tag")
        wanted.append(sa.exists().where(same, label.c.label == wish.tag))
    return sa.and_(*wanted)


def asked(store: SqlRecordStore, intent: Intent, by: str, urns: Collection[str] = (), tag: str = "") -> Registry:
    """What discovery chooses from for `intent`: where there are words, what they lead to, else all of its kinds and capability;
    beside that every version of `urns`. Nothing is heard of what runs: it is unknown. Raises `BadInputError` where the question
    is too wide."""
    wish = Wish(intent.kinds, capability=intent.capability, tag=tag, every=bool(intent.versions))
    if any("\0" in text for text in (intent.capability, tag, intent.words)):
        raise BadInputError("a sign of code 0 is in the question", where=by, todo="leave it out")
    fits: dict[str, _Match] = {}
    if intent.words.strip():
        numbers, fits = _led_to(store, intent.words, _wished(wish))
        rows = [one for some in _portions(numbers) for one in _rows(store, record.c.number.in_(some), -1)]
    else:
        rows = listed(store, wish, MAX_LOOKED_AT + 1)
        if len(rows) > MAX_LOOKED_AT:
            what = f"more than {MAX_LOOKED_AT} records are meant"
            raise BadInputError(what, where=by, todo="narrow by kind, capability, tag or words")
    for urn in urns:
        rows += [one for one in versions_of(store, urn) if one.digest not in {row.digest for row in rows}]
    summaries, records = [], {}
    for row in rows:
        if row.record is not None:
            summaries += _summaries(row)
            records[row.digest] = row.record
    source = RecordSource(records.__getitem__)
    return Registry(by, summaries, source, {}, store.wall(), _Ranking(fits))


def _summaries(row: Listed) -> tuple[Summary, ...]:
    assert row.record is not None
    return summaries_of(row.record, Said(row.stand.status.value), row.stand.successor)


@dataclass(frozen=True, slots=True)
class _Match:
    id: str
    fit: float
    fits: bool


def _led_to(store: SqlRecordStore, words: str, where: sa.ColumnElement[bool]) -> tuple[list[int], dict[str, _Match]]:
    """(numbers of records, match by the entry of a summary)."""
    text = store.text
    assert isinstance(text, SqlTextIndex)
    with store.engine.connect() as connection:
        matches = text.rank(connection, words, NEAREST, sa.select(record.c.number).where(where))
    places: dict[int, list[tuple[int, _Match]]] = {}
    for match in matches:
        # As `registry_writing.entries_of` names them.
        number, _, place = match.id.partition("/")
        places.setdefault(int(number), []).append((int(place), _Match("", match.fit, match.fits)))
    found: dict[str, _Match] = {}
    for number, its in store.by_numbers(list(places)).items():
        offers, summaries = offers_of(its), summaries_of(its)
        for place, match in places[number]:
            if place < min(len(offers), len(summaries)):
                entry = summaries[place].entry
                found[entry] = _Match(entry, match.fit, match.fits)
    return list(places), found


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Of words that were looked up before."""

    fits: dict[str, _Match]

    def rank(self, query: str, k: int, among: Collection[str] | None = None) -> Sequence[_Match]:
        left = [match for id, match in self.fits.items() if among is None or id in among]
        return sorted(left, key=lambda match: (-match.fit, match.id))[:k]


def _portions(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[at : at + 500] for at in range(0, len(numbers), 500)]
