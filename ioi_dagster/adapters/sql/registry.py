"""Records in SQLite, by SQLAlchemy Core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

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
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 10})

        @event.listens_for(self._engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")

        _meta.create_all(self._engine)

    def put(self, signed: Signed) -> Record:
        record = read_record(signed, self._trusted)
        with self._engine.begin() as connection:
            known = connection.execute(
                sa.select(_record.c.digest).where(_record.c.urn == record.urn, _record.c.version == record.version)
            ).scalar_one_or_none()
            if known is None:
                text = json.dumps({"body": signed.body, "key_id": signed.key_id, "signature": signed.signature})
                connection.execute(
                    sa.insert(_record).values(
                        urn=record.urn,
                        version=record.version,
                        kind=str(record.kind),
                        digest=record.digest,
                        signed=text,
                    )
                )
            elif known != record.digest:
                raise FinalError(f"{record.urn} {record.version} exists with other content — give it a new version")
        return record

    def records(self, kind: Kind | None = None) -> list[Record]:
        query = sa.select(_record.c.signed).order_by(_record.c.urn)
        if kind is not None:
            query = query.where(_record.c.kind == str(kind))
        with self._engine.connect() as connection:
            rows = [row[0] for row in connection.execute(query)]
        newest: dict[str, Record] = {}
        for row in rows:
            try:
                record = read_record(Signed(**json.loads(row)), self._trusted)
            except (SignatureError, FinalError):
                continue  # altered in the file: not a record any more
            old = newest.get(record.urn)
            if old is None or version_key(record.version) > version_key(old.version):
                newest[record.urn] = record
        return list(newest.values())

    def get(self, urn: str, version: str | None = None) -> Record | None:
        return next((r for r in self.records() if r.urn == urn and version in (None, r.version)), None)
