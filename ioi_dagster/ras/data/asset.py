"""Assets: what data is, as its owner has signed it. Where it lies is said elsewhere (`copies`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import msgspec

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.ras.record import PUBLIC, Record, make_record
from ioi_dagster.ras.urn import Kind
from ioi_dagster.signing import SigningKey

MAX_PARTS = 2_000
"""Of one version: more do not fit into a record."""
MAX_PART_NAME = 200
MAX_SIZE = 2**53
"""Bytes: what JSON can say exactly."""
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")

_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]


@dataclass(frozen=True, slots=True)
class Part:
    """One file of it, below the folder of each copy. `digest`: `sha256:<hex>` of its `size` bytes. `key`: of which partition."""

    name: str
    size: _Size
    digest: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Asset:
    """One version of it. `digest` names its record. `regions` in which it has to stay (empty: anywhere). `schema`: JSON Schema of
    what is in it, where that is known. `partitioned_by`: what the keys of its parts are values of. `lacks`: what it should have
    been made of too, and was away."""

    urn: str
    version: str
    digest: str
    parts: tuple[Part, ...]
    media_type: str = "application/octet-stream"
    data_class: DataClass = DataClass.INTERNAL
    regions: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    partitioned_by: str = ""
    lacks: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        return self.urn.split(":")[2]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


@dataclass(frozen=True, slots=True)
class AssetSpec:
    """The `spec` of an asset's record: an `Asset` without what the record itself says."""

    parts: tuple[Part, ...]
    media_type: str = "application/octet-stream"
    data_class: DataClass = DataClass.INTERNAL
    regions: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    partitioned_by: str = ""
    lacks: tuple[str, ...] = field(default_factory=tuple)


def asset_of(record: Record) -> Asset:
    """Raises `BadInputError` where the record is of no asset that could be copied."""
    where = f"{record.urn} {record.version}"
    if record.kind is not Kind.ASSET:
        raise BadInputError(f"it is a {record.kind}", where=where, todo="name an asset")
    known = {name: record.spec[name] for name in AssetSpec.__dataclass_fields__ if name in record.spec}
    try:
        spec = converted(known, AssetSpec)
    except msgspec.ValidationError as error:
        raise BadInputError(f"no asset: {error}", where=where, todo=_TODO) from error
    check_parts(spec.parts, where)
    return Asset(
        record.urn,
        record.version,
        record.digest,
        spec.parts,
        spec.media_type,
        spec.data_class,
        spec.regions,
        spec.schema,
        spec.partitioned_by,
        spec.lacks,
    )


def asset_record(
    key: SigningKey,
    name: str,
    version: str,
    spec: AssetSpec,
    provenance: Sequence[Mapping[str, Any]] = (),
    audience: str = PUBLIC,
) -> Record:
    """Signed by its owner. Raises `BadInputError` for what nobody could copy."""
    check_parts(spec.parts, f"{name} {version}")
    return make_record(key, Kind.ASSET, name, version, asdict(spec), audience=audience, provenance=provenance)


def check_parts(parts: Sequence[Part], where: str) -> None:
    """Names are safe below any folder, on any file system, whatever its letters' case, and none lies below another."""
    if len(parts) > MAX_PARTS:
        raise BadInputError(f"{len(parts)} parts; {MAX_PARTS} at most", where=where, todo="make larger ones")
    for part in parts:
        if not _PART.fullmatch(part.name) or len(part.name) > MAX_PART_NAME:
            raise BadInputError(
                f"{part.name[:60]!a} is no name of a part",
                where=where,
                todo=f"up to {MAX_PART_NAME} of A-Z a-z 0-9 . _ = + ~ - in folders (/); none begins with a dot",
            )
        if not SHA256.fullmatch(part.digest):
            raise BadInputError(f"part {part.name}: its digest is no sha256:<hex>", where=where, todo=_TODO)
    names = [part.name.lower() for part in parts]
    folders = {folder for name in names for folder in _folders(name)}
    seen: set[str] = set()
    for name in names:
        if name in seen or name in folders:
            raise BadInputError(f"two parts would lie at {name}", where=where, todo="name them otherwise")
        seen.add(name)


def _folders(name: str) -> Iterable[str]:
    pieces = name.split("/")[:-1]
    return ("/".join(pieces[: place + 1]) for place in range(len(pieces)))


_PIECE = r"[A-Za-z0-9_=+~-][A-Za-z0-9._=+~-]*"
_PART = re.compile(rf"{_PIECE}(/{_PIECE})*")
_TODO = "its owner corrects it and signs it anew"
