"""Reads an OCI image layout from a folder: no daemon, no network, and no blob is believed before its digest was checked.

OCI Image Format Specification 1.1: `oci-layout`, `index.json`, `blobs/sha256/<hex>`. Layers are not read, only their sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ioi_dagster.decoding import converted, from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.data.asset import SHA256
from ioi_dagster.ras.images import Image, Platform
from ioi_dagster.signing import digest_bytes

MAX_DOCUMENT = 4 * 2**20
"""Bytes of an index, a manifest or a config."""
MAX_MANIFESTS = 1_000
MAX_NESTED = 4
_TAG = "org.opencontainers.image.ref.name"
_INDEX = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFEST = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_TODO = "write the layout anew"


class _Where(msgspec.Struct, rename="camel"):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    platform: _Where | None = None
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, rename="camel"):
    manifests: list[_Descriptor]
    annotations: dict[str, str] = {}


class _Manifest(msgspec.Struct, rename="camel"):
    config: _Descriptor
    layers: list[_Descriptor]
    annotations: dict[str, str] = {}


class _Runs(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    config: _Runs | None = None


def read_layout(folder: Path) -> tuple[Image, ...]:
    """Every image that the layout names, in its order; several tags of one digest are one image. Raises `BadInputError` for what
    is no layout, a document that is not what its digest says, or one that is too large; and `OSError`."""
    version = _document(folder / "oci-layout", dict[str, Any]).get("imageLayoutVersion")
    if version != "1.0.0":
        raise BadInputError(
            f"a layout of version {str(version)[:30]!r}", where=str(folder), todo="version 1.0.0 is read"
        )
    index = _document(folder / "index.json", _Index)
    found: dict[str, Image] = {}
    for one in index.manifests[:MAX_MANIFESTS]:
        tag = one.annotations.get(_TAG, "")
        before = found.get(one.digest)
        image = before or _image(folder, one)
        tags = tuple(dict.fromkeys((*image.tags, *filter(None, (tag,)))))
        found[one.digest] = Image(image.digest, image.platforms, tags, image.annotations)
    if len(index.manifests) > MAX_MANIFESTS:
        raise BadInputError(f"more than {MAX_MANIFESTS} images", where=str(folder), todo="write several layouts")
    return tuple(found.values())


def _image(folder: Path, named: _Descriptor) -> Image:
    platforms: list[Platform] = []
    annotations = _gather(folder, named, platforms, MAX_NESTED)
    return Image(named.digest, tuple(platforms), (), annotations)


def _gather(folder: Path, named: _Descriptor, platforms: list[Platform], levels: int) -> dict[str, str]:
    """Adds the platforms of an index or a manifest; returns its annotations."""
    where = f"{folder}: {named.digest[:19]}"
    if not levels or len(platforms) > MAX_MANIFESTS:
        raise BadInputError("too many images, or indexes in indexes", where=where, todo=_TODO)
    if named.media_type in _INDEX:
        index = _blob(folder, named, _Index)
        for one in index.manifests:
            # Attestations and signatures lie beside images, for a platform that is none.
            if one.media_type in _INDEX or (one.media_type in _MANIFEST and _runs_somewhere(one)):
                _gather(folder, one, platforms, levels - 1)
        return index.annotations
    if named.media_type not in _MANIFEST:
        raise BadInputError(f"a {named.media_type[:60]} is no image", where=where, todo="name an image or an index")
    manifest = _blob(folder, named, _Manifest)
    config = _blob(folder, manifest.config, _Config)
    runs = config.config or _Runs()
    platforms.append(
        Platform(
            config.os,
            config.architecture,
            named.digest,
            sum(layer.size for layer in manifest.layers),
            config.variant or (named.platform.variant if named.platform else ""),
            runs.labels or {},
            tuple(runs.entrypoint or ()),
            tuple(runs.cmd or ()),
        )
    )
    return manifest.annotations


def _runs_somewhere(named: _Descriptor) -> bool:
    return named.platform is None or named.platform.os != "unknown"


def _blob(folder: Path, named: _Descriptor, kind: type[Any]) -> Any:
    where = f"{folder}: {named.digest[:19]}"
    if not SHA256.fullmatch(named.digest):
        raise BadInputError(f"{named.digest[:80]!r} is no sha256:<hex>", where=where, todo=_TODO)
    path = folder / "blobs" / "sha256" / named.digest.removeprefix("sha256:")
    data = _read(path)
    if len(data) != named.size or digest_bytes(data) != named.digest:
        raise BadInputError("the blob is not what its digest says", where=str(path), todo=_TODO)
    return _decoded(data, kind, path)


def _document(path: Path, kind: type[Any]) -> Any:
    return _decoded(_read(path), kind, path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
    except FileNotFoundError:
        raise BadInputError(
            "there is no such file", where=str(path), todo="name the folder of a whole layout"
        ) from None
    if len(data) > MAX_DOCUMENT:
        raise BadInputError(f"more than {MAX_DOCUMENT} bytes", where=str(path), todo=_TODO)
    return data


def _decoded(data: bytes, kind: type[Any], path: Path) -> Any:
    try:
        return converted(from_json(data), kind)
    except msgspec.MsgspecError as error:
        raise BadInputError(f"not what it should be: {error}", where=str(path), todo=_TODO) from error
