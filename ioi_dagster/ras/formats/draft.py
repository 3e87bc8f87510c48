"""Drafts of records: what a document of another registry says, in our words, with the document itself beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
from packaging.version import InvalidVersion, Version

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.formats.document import Document, Path
from ioi_dagster.ras.record import MAX_RECORD
from ioi_dagster.ras.urn import MAX_NAME, MAX_VERSION, Kind, Scheme, Urn, checked_name, checked_version
from ioi_dagster.signing import canonical, digest

ROOM = 4_096
"""Bytes of a record that are left for what is not its spec."""
MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is not signed yet. `spec` holds `contracts` as plain values, the document as `source: {format, document}`,
    and, where they had to be mapped, name and version as they stand there as `original`. `version` is `0+<digest>` where the
    document has none (see `numbered`)."""

    kind: Kind
    name: str
    version: str
    scheme: Scheme
    spec: dict[str, Any]
    format: str

    @property
    def contracts(self) -> tuple[Contract, ...]:
        return contracts_of(self.spec)

    @property
    def provenance(self) -> tuple[dict[str, str], ...]:
        """What the record was made of, by which an export knows whether it was changed since."""
        source = self.spec["source"]["document"]
        return ({"format": self.format, "document": digest(source), "spec": digest(derived(self.spec))},)

    def urn(self, domain: str) -> str:
        return str(Urn(domain, self.kind, self.name))


def contracts_of(spec: Mapping[str, Any]) -> tuple[Contract, ...]:
    """Those in a spec that can be read as such."""
    found = []
    held = spec.get("contracts")
    for item in held if isinstance(held, list) else ():
        try:
            found.append(converted(item, Contract))
        except msgspec.ValidationError:
            continue
    return tuple(found)


def derived(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the document that it was made of."""
    return {key: value for key, value in spec.items() if key != "source"}


@dataclass(frozen=True, slots=True)
class Place:
    """A value in a document. What is not there, or of another type than is asked for, is empty: a document says more than is
    mapped, and keeps it."""

    document: Document
    path: Path = ()
    value: Any = field(default=None)

    def __bool__(self) -> bool:
        return self.value not in (None, "", {}, [])

    def get(self, *names: str) -> Place:
        """What stands under the first of `names` that is there."""
        held = self.value if isinstance(self.value, dict) else {}
        name = next((name for name in names if name in held), names[0])
        return Place(self.document, (*self.path, name), held.get(name))

    def at(self, *names: str) -> Place:
        """What stands under one name after the other."""
        place = self
        for name in names:
            place = place.get(name)
        return place

    def items(self) -> list[Place]:
        held = self.value if isinstance(self.value, list) else []
        return [Place(self.document, (*self.path, number), item) for number, item in enumerate(held)]

    def objects(self) -> list[Place]:
        return [item for item in self.items() if isinstance(item.value, dict)]

    def entries(self) -> list[tuple[str, Place]]:
        return [(key, self.get(key)) for key in self.object()]

    def text(self) -> str:
        return self.value if isinstance(self.value, str) else ""

    def texts(self) -> tuple[str, ...]:
        return tuple(item.value for item in self.items() if isinstance(item.value, str))

    def object(self) -> dict[str, Any]:
        return self.value if isinstance(self.value, dict) else {}

    def number(self) -> float | int | None:
        return self.value if isinstance(self.value, int | float) and not isinstance(self.value, bool) else None

    def needed(self, name: str) -> str:
        """A text that has to be there. Raises `BadInputError`."""
        place = self.get(name)
        if not place.text().strip():
            what = "a text is needed" if place.value is None else f"a text is needed, it is {_type(place.value)}"
            raise place.refuse(what)
        return place.text()

    def listed(self, name: str) -> list[Place]:
        """Objects of a list which may be left out. Raises `BadInputError` where there is something else."""
        place = self.get(name)
        if place.value is not None and not isinstance(place.value, list):
            raise place.refuse(f"a list is needed, it is {_type(place.value)}")
        for item in place.items():
            if not isinstance(item.value, dict):
                raise item.refuse(f"an object is needed, it is {_type(item.value)}")
        return place.items()

    def refuse(self, what: str, todo: str | None = None) -> BadInputError:
        return self.document.refuse(self.path, what, todo)


_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def _type(value: Any) -> str:
    return _TYPES.get(type(value), "a number") if value != "" else "empty"


def draft(
    place: Place,
    source: str,
    kind: Kind,
    name: str,
    version: str,
    said: Mapping[str, Any],
    contracts: Iterable[Contract] = (),
    document: Any = None,
) -> Draft:
    """A draft of what `said` (empty values are left out) and `contracts` say. `document`: what is kept, the whole of it unless
    another is given. Raises `BadInputError` where a record cannot hold it."""
    spec = {key: value for key, value in said.items() if value not in (None, "", [], {}, ())}
    plain = [plain_contract(contract) for contract in contracts]
    spec = _listed(spec | ({"contracts": plain} if plain else {}))
    its_name, (its_version, scheme) = plain_name(name), plain_version(version)
    original = {
        key: was for key, was, now in (("name", name, its_name), ("version", version, its_version)) if was != now
    }
    if original:
        spec["original"] = original
    spec["source"] = {"format": source, "document": place.document.value if document is None else document}
    size = len(canonical(spec))
    if size > MAX_RECORD - ROOM:
        raise place.refuse(
            f"{size} bytes; a record has {MAX_RECORD - ROOM} at most for it", "keep large parts elsewhere"
        )
    if not its_version:
        its_version, scheme = f"0+{digest(spec)[7:19]}", Scheme.PEP440
    return Draft(kind, its_name, its_version, scheme, spec, source)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


_BARE = asdict(Contract("", ""))


def plain_contract(contract: Contract) -> dict[str, Any]:
    """What it says beside what every contract says."""
    plain = _listed(asdict(contract))
    default = _listed(_BARE)
    return {key: value for key, value in plain.items() if key in ("id", "name", "effect") or value != default[key]}


def numbered(version: str, known: Sequence[str]) -> str:
    """The version under which content that has none (`0+<digest>`) is registered beside `known` ones: that of the newest if it is
    the same, else the next number, so that newer is higher."""
    number, plus, content = version.partition("+")
    if not _CONTENT.fullmatch(version) or number != "0" or not plus:
        return version
    before = sorted((int(one.partition("+")[0]), one) for one in known if _CONTENT.fullmatch(one))
    if not before:
        return version
    highest, newest = before[-1]
    return newest if newest.partition("+")[2] == content else f"{highest + 1}+{content}"


_CONTENT = re.compile(r"[0-9]{1,9}\+[0-9a-f]{12}")


def is_numbered(version: str) -> bool:
    """Is it a number and a digest, as of content without a version of its own?"""
    return bool(_CONTENT.fullmatch(version))


def plain_name(text: str) -> str:
    """`text` if it may be a record's name; else what is left of it with a part of its digest, so that two names that differ stay
    two, and one that only looks like another is told apart."""
    if not _MAPPED.search(text):
        try:
            return checked_name(text)
        except BadInputError:
            pass
    left = re.sub(r"[^A-Za-z0-9._:/@+~-]+", "-", text).lstrip("._:/@+~-").rstrip("-")[: MAX_NAME - 20] or "x"
    return f"{left}~{_digest(text)}"


def plain_version(text: str) -> tuple[str, Scheme]:
    """A version that may be one, and how such are ordered. Empty where there is none."""
    if not text:
        return "", Scheme.PEP440
    try:
        checked_version(text)
    except BadInputError:
        left = re.sub(r"[^A-Za-z0-9._+!~-]+", "-", text).lstrip("._+!~-").rstrip("-")[: MAX_VERSION - 20] or "0"
        return f"{left}~{_digest(text)}", Scheme.OPAQUE
    if _SEMVER.fullmatch(text):
        return text, Scheme.SEMVER
    try:
        Version(text)
    except InvalidVersion:
        return text, Scheme.OPAQUE
    return text, Scheme.PEP440


_MAPPED = re.compile(r"~[0-9a-f]{12}\Z")
_NUMBER = r"(0|[1-9][0-9]*)"
_LABEL = r"(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_LABEL}(\.{_LABEL})*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?", re.ASCII
)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
