"""A domain's own stores: with what they are opened, which data of its owner's lies where, and what copies are in them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ioi_dagster.adapters.fsspec.folder import Door, Doors
from ioi_dagster.adapters.fsspec.mover import TOLD, survey, version_url
from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_stores import DataSpec, StoreSpec
from ioi_dagster.private_file import write_private
from ioi_dagster.ras.data.asset import Asset, asset_of
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.record import Kind
from ioi_dagster.ras.store import RecordStore

REREAD_S = 86_400.0
"""Files that look as they did are read again after so long: a disk may have lost what it had."""
log = logging.getLogger("ioi.data")


@dataclass(frozen=True, slots=True)
class Original:
    """Where the domain itself made a version of an asset: `of` is the digest of its record."""

    of: str
    url: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The copies that are there, and (store, why) of each that cannot be looked into."""

    copies: tuple[Copy, ...]
    away: tuple[tuple[str, str], ...] = ()


def doors_of(home: DomainHome, data: DataSpec) -> Doors:
    """What the domain may open. Raises `BadInputError` where credentials are named that are not there."""
    known = _Credentials(home)
    found: dict[str, list[Door]] = {home.name: [Door(one.url, known.of(one.credentials)) for one in data.stores]}
    for door in data.doors:
        found.setdefault(door.domain, []).append(Door(door.url, known.of(door.credentials)))
    return Doors(found)


class _Credentials:
    """Read when the first is asked for."""

    def __init__(self, home: DomainHome) -> None:
        self._path = home.store_credentials
        self._known: dict[str, dict[str, Any]] | None = None

    def of(self, name: str) -> dict[str, Any]:
        if not name:
            return {}
        if self._known is None:
            self._known = self._read()
        if name not in self._known:
            raise BadInputError(f"it has no credentials {name!r}", where=str(self._path), todo=_CREDENTIALS)
        return self._known[name]

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            if self._path.stat().st_mode & 0o077:
                what = "others may read the credentials in it"
                raise BadInputError(what, where=str(self._path), todo=f"chmod 600 {self._path}")
            return from_json(self._path.read_bytes(), dict[str, dict[str, Any]])
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            raise BadInputError(f"no credentials: {error}", where=str(self._path), todo=_CREDENTIALS) from error


_CREDENTIALS = 'write {"NAME": {fsspec\'s options, as "key" and "secret"}} into that file, readable by you alone'


def originals(home: DomainHome) -> list[Original]:
    """Raises `BadInputError` where they cannot be read."""
    try:
        return from_json(home.originals.read_bytes(), list[Original])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        todo = "mend it, or remove it and register the data again"
        raise BadInputError(f"cannot be read: {error}", where=str(home.originals), todo=todo) from error


def note_original(home: DomainHome, original: Original) -> None:
    """In place of what was noted of that version, or lay in that folder: one has the files of one version."""
    known = [one for one in originals(home) if one.of != original.of and one.url != original.url]
    write_private(home.originals, msgspec.json.encode([*known, original]))


class Surveyor:
    """Looks into the domain's stores. Files that look as they did when they were read are not read again within `REREAD_S`.
    Not thread-safe; blocks."""

    def __init__(self, home: DomainHome, data: DataSpec, records: RecordStore) -> None:
        self._home, self._data, self._records = home, data, records
        self._seen: dict[tuple[str, str], tuple[tuple[object, ...], Copy]] = {}

    def look(
        self, now: float, anew: bool = False, wanted: str = "", told: Callable[[Asset], None] = lambda asset: None
    ) -> Surveyed:
        """`now`: seconds of the epoch; `anew`: all is read again; `wanted`: copies of this URN alone; `told` of each asset before
        it is looked at. Raises `BadInputError` where it is not known what may be opened or what its owner has registered."""
        doors, made = doors_of(self._home, self._data), originals(self._home)
        copies: list[Copy] = []
        away: list[tuple[str, str]] = []
        for store in self._data.stores:
            try:
                for asset, url, original in self._lying(store, doors, made):
                    if wanted in ("", asset.urn):
                        told(asset)
                        copies.append(self._read(doors, asset, url, now, original, anew))
            except Exception as error:  # each file system has errors of its own
                away.append((store.name, str(error)[:300] or type(error).__name__))
        if not wanted:
            there = {(copy.url, copy.of) for copy in copies}
            self._seen = {key: its for key, its in self._seen.items() if key in there}
        return Surveyed(tuple(copy for copy in copies if copy.held), tuple(away))

    def _lying(self, store: StoreSpec, doors: Doors, made: Iterable[Original]) -> Iterator[tuple[Asset, str, bool]]:
        """What may be in a store: of which version, at which URL, and whether it is its owner's original."""
        mine = [one for one in made if one.url == store.url or one.url.startswith(f"{store.url}/")]
        for one in mine:
            asset = self._asset(one.of)
            if asset is not None:
                yield asset, one.url, True
        folder = doors.open(self._home.name, store.url)
        taken = {one.url for one in mine}
        offered = {version_url(store.url, its): its for its in map(self._of, self._records.records(Kind.ASSET)) if its}
        for outer in folder.names():
            for inner in folder.names(outer):
                url = f"{store.url}/{outer}/{inner}"
                asset = offered.get(url) if url not in taken else None
                asset = asset or (self._told(doors, url, store) if url not in taken else None)
                if asset is not None:
                    yield asset, url, False

    def _told(self, doors: Doors, url: str, store: StoreSpec) -> Asset | None:
        """Of an older version nobody but the copy itself knows where it lies."""
        folder = doors.open(self._home.name, url)
        if folder.size(TOLD) is None:
            return None
        try:
            copy = from_json(b"".join(folder.chunks(TOLD)), Copy)
        except msgspec.MsgspecError:
            return None
        asset = self._asset(copy.of)
        return asset if asset is not None and version_url(store.url, asset) == url else None

    def _asset(self, digest: str) -> Asset | None:
        record = self._records.by_digest(digest)
        return None if record is None else self._of(record)

    def _of(self, record: Any) -> Asset | None:
        try:
            return asset_of(record)
        except BadInputError:
            return None

    def _read(self, doors: Doors, asset: Asset, url: str, now: float, original: bool, anew: bool) -> Copy:
        folder, key = doors.open(self._home.name, url), (url, asset.digest)
        marks = tuple(folder.mark(part.name) for part in asset.parts)
        seen = self._seen.get(key)
        if seen is not None and not anew and seen[0] == marks and now - seen[1].as_of < REREAD_S:
            return replace(seen[1], original=original)
        began = time.monotonic()
        copy = survey(doors, asset, self._home.name, url, now, original)
        self._seen[key] = marks, copy
        log.info("read %s %s at %s in %.1f s", asset.urn, asset.version, url, time.monotonic() - began)
        return copy
