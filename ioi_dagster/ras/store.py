"""The port behind which records are kept."""

from __future__ import annotations

from typing import Protocol

from packaging.version import InvalidVersion, Version

from ioi_dagster.ras.record import Kind, Record
from ioi_dagster.signing import Signed


class RecordStore(Protocol):
    """`put` verifies before it writes and is idempotent by digest; another content under the same URN and version is
    a `FinalError`. `records` gives the newest version of each URN, in order of URN; what does not verify is not given."""

    def put(self, signed: Signed) -> Record: ...

    def records(self, kind: Kind | None = None) -> list[Record]: ...

    def get(self, urn: str, version: str | None = None) -> Record | None: ...


def version_key(version: str) -> Version:
    """Order of versions, by PEP 440; one that is not of that scheme comes before all others."""
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0.dev0")
