"""Records in SQLite, by SQLAlchemy Core."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from ioi_dagster.adapters.sql.sqlite import open_sqlite
from ioi_dagster.errors import FinalError, SignatureError
from ioi_dagster.ras.record import Kind, Record, read_record
from ioi_dagster.ras.store import version_key
from ioi_dagster.signing import Signed, TrustedKeys

_meta = sa.MetaData()
_record = sa.Table(
    "record",
    _meta,
    sa.Column("urn", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False, index=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("signed", sa.Text, nullable=False),
)


class SqlRecordStore:
    """Implements `ras.store.RecordStore` on the SQLite file `path`."""

    def __init__(self, path: Path, trusted: TrustedKeys) -> None:
        self._trusted = trusted
        self._engine = open_sqlite(path, _meta)
        self._read: dict[str, Record | None] = {}

    def put(self, signed: Signed) -> Record:
        record = read_record(signed, self._trusted)
        text = json.dumps({"body": signed.body, "key_id": signed.key_id, "signature": signed.signature})
        row = {"urn": record.urn, "version": record.version, "kind": str(record.kind), "digest": record.digest}
        with self._engine.begin() as connection:
            # The same content may come signed by the owner's newer key.
            again = insert(_record).values(**row, signed=text)
            same = _record.c.digest == again.excluded.digest
            connection.execute(again.on_conflict_do_update(set_={"signed": again.excluded.signed}, where=same))
            known = connection.execute(
                sa.select(_record.c.digest).where(_record.c.urn == record.urn, _record.c.version == record.version)
            ).scalar_one()
        if known != record.digest:
            raise FinalError(f"{record.urn} {record.version} exists with other content — give it a new version")
        return record

    def keep_only(self, records: Collection[Record], among: Collection[tuple[str, str]] | None = None) -> int:
        """Withdraw every record that is not one of `records`: what its owner no longer states. `among`: (URN, version) of those
        that may go; None: all. Returns how many."""
        kept = {(record.urn, record.version) for record in records}
        with self._engine.begin() as connection:
            known = [(row.urn, row.version) for row in connection.execute(sa.select(_record.c.urn, _record.c.version))]
            gone = [pair for pair in known if pair not in kept and (among is None or pair in among)]
            for urn, version in gone:
                connection.execute(sa.delete(_record).where(_record.c.urn == urn, _record.c.version == version))
        return len(gone)

    def records(self, kind: Kind | None = None) -> list[Record]:
        newest: dict[str, Record] = {}
        for record in self._verified(_record.c.kind == str(kind) if kind is not None else sa.true()):
            old = newest.get(record.urn)
            if old is None or version_key(record.version) > version_key(old.version):
                newest[record.urn] = record
        return list(newest.values())

    def get(self, urn: str, version: str | None = None) -> Record | None:
        versions = {record.version: record for record in self._verified(_record.c.urn == urn)}
        wanted = version if version is not None else max(versions, key=version_key, default=None)
        return versions.get(wanted) if wanted is not None else None

    def _verified(self, where: sa.ColumnElement[bool]) -> list[Record]:
        """Rows whose signature holds. One that was altered in the file is not a record any more."""
        with self._engine.connect() as connection:
            rows = [row[0] for row in connection.execute(sa.select(_record.c.signed).where(where))]
        for text in rows:
            if text not in self._read:
                try:
                    self._read[text] = read_record(Signed(**json.loads(text)), self._trusted)
                except (SignatureError, FinalError, ValueError, TypeError):
                    self._read[text] = None
        return [record for text in rows if (record := self._read[text]) is not None]
