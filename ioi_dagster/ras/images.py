"""Container images as a registry sees them: references, and what a layout on disk says (`adapters/files/oci_layout` reads one).

The words are those of the OCI Image Format Specification 1.1 (image-layout, index, manifest, config, annotations).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.record import Record, make_record
from ioi_dagster.ras.urn import Kind, Scheme
from ioi_dagster.signing import SigningKey

MAX_REFERENCE = 512


@dataclass(frozen=True, slots=True)
class Reference:
    """`repository[:tag][@sha256:…]`. Only one with a `digest` says which image; a tag may be another tomorrow."""

    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, slots=True)
class Platform:
    """An image for one platform. `digest` is that of its manifest, `size` the bytes of all its layers as they are moved."""

    os: str
    architecture: str
    digest: str
    size: int = 0
    variant: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As in `linux/arm64/v8`."""
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Image:
    """`digest`: of what the layout names (an index or a manifest); `tags` under which it does so."""

    digest: str
    platforms: tuple[Platform, ...]
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def on(self, os: str, architecture: str, variant: str = "") -> Platform | None:
        """The one for a platform; without a variant, the first of that architecture."""
        return next(
            (
                one
                for one in self.platforms
                if (one.os, one.architecture) == (os, architecture) and variant in ("", one.variant)
            ),
            None,
        )


def read_reference(text: str) -> Reference:
    """Raises `BadInputError`."""
    found = _REFERENCE.fullmatch(text) if len(text) <= MAX_REFERENCE else None
    if found is None:
        raise BadInputError(
            f"{text[:100]!r} is no reference of an image",
            where="images",
            todo="write repository:tag or repository@sha256:<64 hex digits>, in small letters",
        )
    return Reference(found["repository"], found["tag"] or "", found["digest"] or "")


def image_record(key: SigningKey, reference: Reference, image: Image) -> Record:
    """Of an image that its owner offers. Its version is the digest, which has no order. Raises `BadInputError` where the
    reference has another digest."""
    if reference.digest not in ("", image.digest):
        raise BadInputError(f"the image has the digest {image.digest}", where=str(reference), todo="name that, or none")
    spec: dict[str, Any] = {
        "reference": str(Reference(reference.repository, reference.tag, image.digest)),
        "digest": image.digest,
        "platforms": [asdict(one) for one in image.platforms],
        "annotations": dict(image.annotations),
    }
    version = image.digest.replace(":", "-")
    return make_record(key, Kind.IMAGE, reference.repository, version, spec, scheme=Scheme.OPAQUE)


_PIECE = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_REFERENCE = re.compile(
    rf"(?P<repository>(?:{_HOST}/)?{_PIECE}(?:/{_PIECE})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
