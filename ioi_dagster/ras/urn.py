"""Names of records: `urn:ioi:<domain>:<kind>:<name>` (the shape of RFC 8141), in plain ASCII, so that no two look the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ioi_dagster.errors import BadInputError

MAX_NAME = 200
MAX_VERSION = 100


class Kind(StrEnum):
    """What a record is about."""

    MODEL = "model"
    TOOL = "tool"
    AGENT = "agent"
    SERVICE = "service"
    BLOCK = "block"
    GRAPH = "graph"
    ASSET = "asset"
    IMAGE = "image"
    RUNTIME = "runtime"
    NODE = "node"
    CLUSTER = "cluster"
    DOMAIN = "domain"
    NETWORK = "network"
    POLICY = "policy"
    POLICY_ENGINE = "policy-engine"
    TEMPLATE = "template"


class Scheme(StrEnum):
    """How versions of a record are ordered: by PEP 440, by Semantic Versioning 2.0.0, or not at all."""

    PEP440 = "pep440"
    SEMVER = "semver"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Urn:
    domain: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"urn:ioi:{self.domain}:{self.kind}:{self.name}"


def read_urn(text: str) -> Urn:
    """Raises `BadInputError` that says which part is wrong, and names the first character that may not be there."""
    parts = text.split(":", 4)
    if len(parts) != 5 or parts[:2] != ["urn", "ioi"]:
        raise BadInputError(
            f"{_shown(text)} is no name of a record", where="registry", todo="write urn:ioi:<domain>:<kind>:<name>"
        )
    domain, kind, name = parts[2:]
    if not _DOMAIN.fullmatch(domain):
        raise BadInputError(
            f"{_shown(domain)} is no name of a domain{_odd(domain, _DOMAIN_LETTERS)}",
            where="registry",
            todo="small letters, digits, dots and hyphens, as in lab.example",
        )
    if kind not in _KINDS:
        raise BadInputError(f"{_shown(kind)} is no kind of record", where="registry", todo=f"one of {', '.join(Kind)}")
    checked_name(name)
    return Urn(domain, Kind(kind), name)


def checked_name(name: str) -> str:
    """`name` if it may be one. Raises `BadInputError`."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        long = f", of {len(name)} characters" if len(name) > MAX_NAME else ""
        raise BadInputError(
            f"{_shown(name)} is no name of a record{long}{_odd(name, _NAME_LETTERS)}",
            where="registry",
            todo=f"up to {MAX_NAME} of A-Z a-z 0-9 and . _ : / @ + ~ -, beginning with a letter or digit",
        )
    return name


def checked_version(version: str) -> str:
    """`version` if it may be one. Raises `BadInputError`."""
    if len(version) > MAX_VERSION or not _VERSION.fullmatch(version):
        raise BadInputError(
            f"{_shown(version)} is no version{_odd(version, _VERSION_LETTERS)}",
            where="registry",
            todo=f"up to {MAX_VERSION} of A-Z a-z 0-9 and . _ + ! ~ -, beginning with a letter or digit",
        )
    return version


_KINDS = frozenset(Kind)
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_DOMAIN_LETTERS = re.compile(r"[a-z0-9.-]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+~-]*")
_NAME_LETTERS = re.compile(r"[A-Za-z0-9._:/@+~-]")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!~-]*")
_VERSION_LETTERS = re.compile(r"[A-Za-z0-9._+!~-]")


def _shown(text: str) -> str:
    return ascii(text[:60] + ("…" if len(text) > 60 else ""))


def _odd(text: str, allowed: re.Pattern[str]) -> str:
    """What in it may not be there: letters that only look alike are told apart by their code points."""
    odd = next((letter for letter in text if not allowed.fullmatch(letter)), None)
    return f": U+{ord(odd):04X} is not allowed" if odd is not None else ""
