"""Lists of what is in a registry's database. Rows are found by columns; what is given of them is read from records whose
signature holds."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import capability, label, record
from ioi_dagster.ras.pointers import PointerState, Stand, Status
from ioi_dagster.ras.record import Kind, Record

MAX_LOOKED_AT = 10_000
"""Records that are shown at once."""


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
    store.settle_ended()
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
