"""An owner's files become an asset: hashed, put where the domain keeps data, signed and registered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ioi_dagster.adapters.fsspec.folder import CHUNK, Folder
from ioi_dagster.adapters.fsspec.mover import version_url
from ioi_dagster.adapters.fsspec.stores import Original, note_original
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_listing import versions_of
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.data_plane import DataPlane
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_stores import StoreSpec
from ioi_dagster.ras.data.asset import Asset, AssetSpec, Part, asset_of, asset_record, check_parts
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.record import LOCAL, PUBLIC, Record
from ioi_dagster.ras.stating import BY_COMMAND
from ioi_dagster.ras.urn import Kind, Urn

Told = Callable[[int], object]
_ANY = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class Files:
    """Path by name of part. `root`: the folder that they are all of, if they are a folder's."""

    paths: Mapping[str, Path]
    root: Path | None

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.paths.values())


@dataclass(frozen=True, slots=True)
class Made:
    """`state`: `registered`, or `known` where the version in force is the same. `in_place`: nothing was copied. `untold`: why
    the domain's gateway does not know of it yet."""

    state: str
    record: Record
    asset: Asset
    url: str
    in_place: bool = False
    untold: str = ""


def files_of(given: Sequence[Path]) -> Files:
    """Of one folder all that is in it, named as it lies there; of files each by its own name. What begins with a dot is left out
    of folders. Raises `BadInputError` for what cannot be parts of an asset."""
    root = given[0].resolve() if len(given) == 1 and given[0].is_dir() else None
    if root is not None:
        inside = [path for path in sorted(root.rglob("*")) if path.is_file()]
        names = [(path.relative_to(root).as_posix(), path) for path in inside]
        names = [(name, path) for name, path in names if not any(piece.startswith(".") for piece in name.split("/"))]
    else:
        odd = next((path for path in given if not path.is_file()), None)
        if odd is not None:
            raise BadInputError("it is no file", where=str(odd), todo="give one folder, or files")
        names = [(path.name, path.resolve()) for path in given]
    if not names:
        raise BadInputError("no file is in it", where=str(root), todo="give a folder with files")
    check_parts([Part(name, 0, _ANY) for name, _ in names], str(root or given[0].parent))
    return Files(dict(names), root)


def parts_of(files: Files, partition: str, told: Told) -> tuple[Part, ...]:
    """Read and hashed. `partition`: each part's key is what stands behind `<partition>=` in its name."""
    return tuple(_part(name, path, _key(name, partition), told) for name, path in files.paths.items())


def _key(name: str, partition: str) -> str:
    if not partition:
        return ""
    found = re.search(rf"(?:^|/){re.escape(partition)}=([^/]+)/", name)
    if found is None:
        todo = f"put it into a folder {partition}=…, or leave --partitions out"
        raise BadInputError(f"{name} is in no folder {partition}=…", where="partitions", todo=todo)
    return found[1]


def _part(name: str, path: Path, key: str, told: Told) -> Part:
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hashed.update(chunk)
            size += len(chunk)
            told(len(chunk))
    return Part(name, size, f"sha256:{hashed.hexdigest()}", key)


def register(
    plane: DataPlane,
    files: Files,
    name: str,
    spec: AssetSpec,
    store: StoreSpec,
    version: str = "",
    audience: str = "",
    told: Told = lambda size: None,
) -> Made:
    """`spec`: with the parts of `files`. They stay where they are if that is in one of the domain's stores, else they are copied
    into `store`. Raises `BadInputError`."""
    plane.records.check_may_sign()
    urn = Urn(plane.name, Kind.ASSET, name)
    known = plane.records.get(str(urn))
    audience = audience or _audience(known, spec.data_class)
    same = known is not None and version in ("", known.version) and _same(known, spec, audience)
    if known is not None and same and (lies := _lies(plane, known)):
        return Made("known", known, asset_of(known), lies)
    # What was registered and is not there any more is put there again.
    record = known if known is not None and same else signed(plane, name, spec, version, audience, [BY_COMMAND])
    asset = asset_of(record)
    here = _in_store(plane, files)
    url = here or version_url(store.url, asset)
    if not here:
        _bring(plane, files, asset, store, url, told)
    return finish(plane, record, url, bool(here))


def signed(
    plane: DataPlane, name: str, spec: AssetSpec, version: str, audience: str, provenance: Sequence[Mapping[str, Any]]
) -> Record:
    """Raises `BadInputError` where that version is something else already."""
    urn = str(Urn(plane.name, Kind.ASSET, name))
    version = version or next_version(plane.records, urn)
    audience = audience or _audience(None, spec.data_class)
    record = asset_record(plane.home.signing_key(), name, version, spec, provenance, audience)
    taken = {one.version: one.digest for one in versions_of(plane.records, urn)}
    if taken.get(version, record.digest) != record.digest:
        what = f"version {version} is something else already"
        raise BadInputError(what, where=urn, todo="name another version, or none for the next")
    return record


def finish(plane: DataPlane, record: Record, url: str, in_place: bool = False) -> Made:
    """What lies at `url` is registered, and told of."""
    plane.records.put(record.signed)
    note_original(plane.home, Original(record.digest, url))
    asset, now = asset_of(record), plane.clock.wall()
    held = {part.name: part.digest for part in asset.parts}
    copy = Copy(plane.name, url, asset.urn, asset.version, asset.digest, held, now, original=True)
    return Made("registered", record, asset, url, in_place, plane.tell([copy]))


def next_version(records: SqlRecordStore, urn: str) -> str:
    """The next whole number."""
    taken = [int(one.version) for one in versions_of(records, urn) if re.fullmatch(r"\d{1,9}", one.version)]
    return str(max(taken, default=0) + 1)


def _audience(known: Record | None, data_class: DataClass) -> str:
    """As before; of data that leaves its owner only by his word not even the names of its files are told."""
    if known is not None:
        return known.audience
    return LOCAL if data_class is DataClass.RESTRICTED else PUBLIC


def _same(known: Record, spec: AssetSpec, audience: str) -> bool:
    asset = asset_of(known)
    told = AssetSpec(
        *(
            asset.parts,
            asset.media_type,
            asset.data_class,
            asset.regions,
            asset.schema,
            asset.partitioned_by,
            asset.lacks,
        )
    )
    return told == spec and known.audience == audience


def _lies(plane: DataPlane, known: Record) -> str:
    """Where all of it is; empty where it is nowhere."""
    whole = {part.name: part.digest for part in asset_of(known).parts}
    return next((copy.url for copy in plane.lying(known.urn) if copy.of == known.digest and copy.held == whole), "")


def _in_store(plane: DataPlane, files: Files) -> str:
    """The URL of the files' folder where it is in a store of this machine's disk; else empty."""
    if files.root is None:
        return ""
    for store in plane.config.data.stores:
        below = Path(store.url.removeprefix("file://")).resolve()
        if store.url.startswith("file://") and files.root.is_relative_to(below):
            url = f"{store.url}/{files.root.relative_to(below).as_posix()}".removesuffix("/.")
            try:
                plane.doors.open(plane.name, url)
            except BadInputError:
                return ""
            return url
    return ""


def _bring(plane: DataPlane, files: Files, asset: Asset, store: StoreSpec, url: str, told: Told) -> None:
    folder, room = plane.doors.open(plane.name, url), plane.doors.open(plane.name, store.url).room()
    if asset.size > store.most:
        raise BadInputError(f"{asset.size} bytes; {store.most} at most", where=store.name, todo="register less at once")
    if room is not None and asset.size > room:
        raise BadInputError(f"{asset.size} bytes, and {room} are free", where=store.url, todo="make room")
    for part in asset.parts:
        _copy(files.paths[part.name], part, folder, told)


def _copy(path: Path, part: Part, folder: Folder, told: Told) -> None:
    incoming, hashed = folder.begin(part.name), hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
                incoming.write(chunk)
                told(len(chunk))
        if f"sha256:{hashed.hexdigest()}" != part.digest:
            raise BadInputError("it was changed while it was read", where=str(path), todo="register it again")
        incoming.publish()
    except BaseException:
        incoming.discard()
        raise


def spec_of(
    parts: tuple[Part, ...], data_class: DataClass, regions: Sequence[str], media_type: str, partition: str
) -> AssetSpec:
    bare = AssetSpec(parts, data_class=data_class, regions=tuple(sorted(set(regions))), partitioned_by=partition)
    return replace(bare, media_type=media_type) if media_type else bare
