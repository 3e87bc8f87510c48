"""Records: immutable, signed facts under their owner's URN prefix."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.ras.urn import Kind, Scheme, Urn, checked_version, read_urn
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, canonical, digest

SCHEMA = "ioi.record/1"
MAX_RECORD = 256 * 1024
"""Bytes of one record's canonical body."""
MAX_DEPTH = 64
MAX_PROVENANCE = 32
PUBLIC, LOCAL, PARTNER = "public", "local", "partner:"
"""Audiences: everyone, the domain itself, and `partner:<domain>`."""


@dataclass(frozen=True, slots=True)
class Record:
    """`urn` is `urn:ioi:<domain>:<kind>:<name>`; `spec` is plain JSON of the kind; `scheme` orders its versions; `audience` may
    see it; `valid_until` (seconds of the epoch; 0: no end) and `supersedes` (digest of the record in whose place it comes) are
    its owner's word; `provenance` says what it was made of."""

    urn: str
    kind: Kind
    version: str
    spec: dict[str, Any]
    signed: Signed
    scheme: Scheme = Scheme.PEP440
    audience: str = PUBLIC
    valid_until: float = 0.0
    supersedes: str = ""
    provenance: tuple[dict[str, Any], ...] = ()

    @property
    def domain(self) -> str:
        return self.urn.split(":")[2]

    @property
    def name(self) -> str:
        return self.urn.split(":", 4)[4]

    @property
    def digest(self) -> str:
        """Of its content, whoever of its owner's keys signed it."""
        return digest(self.signed.body)


def make_record(
    key: SigningKey,
    kind: Kind,
    name: str,
    version: str,
    spec: Any,
    *,
    scheme: Scheme = Scheme.PEP440,
    audience: str = PUBLIC,
    valid_until: float = 0.0,
    supersedes: str = "",
    provenance: Sequence[Mapping[str, Any]] = (),
) -> Record:
    """Sign a record under the key's own prefix. `spec` may be a frozen value or plain JSON. Raises `BadInputError` for what no
    registry would take."""
    plain = _plain(asdict(spec) if hasattr(spec, "__dataclass_fields__") else spec)
    body = {
        "schema": SCHEMA,
        "urn": str(Urn(key.domain, kind, name)),
        "kind": str(kind),
        "version": version,
        "scheme": str(scheme),
        "spec": plain,
        "audience": audience,
        # Whole numbers are written alike, and as such quicker.
        "valid_until": int(valid_until) if valid_until == valid_until // 1 else valid_until,
        "supersedes": supersedes,
        "provenance": [_plain(dict(source)) for source in provenance],
    }
    bounded(body)
    return record_of(key.sign(body))


def read_record(signed: Signed, trusted: TrustedKeys, owners: Collection[str] = ()) -> Record:
    """Verify and read. `owners`: domains that the name was handed over to (`pointers`), beside the one in it. Raises
    `SignatureError` for a bad signature, `BadInputError` for what is no record, and `FinalError` when the signer does not own the
    URN's prefix."""
    return read_written(signed, trusted, owners)[0]


def read_written(signed: Signed, trusted: TrustedKeys, owners: Collection[str] = ()) -> tuple[Record, bytes]:
    """As `read_record`, with the canonical bytes of its body."""
    written = bounded(signed.body)
    signer = trusted.verify(signed, written)
    record = record_of(signed)
    if record.domain != signer and signer not in owners:
        raise FinalError(f"{signer} may not write under the prefix of {record.domain}")
    return record, written


def record_of(signed: Signed) -> Record:
    """Read what is known to be signed. Raises `BadInputError` for what is no record."""
    body = signed.body
    schema = body.get("schema")
    if schema != SCHEMA:
        raise BadInputError(
            f"a record of schema {str(schema)[:60]!r}; this registry reads {SCHEMA}", where="registry", todo="update it"
        )
    if body.keys() != TYPES.keys():
        odd = sorted(map(str, body.keys() ^ TYPES.keys()))[:5]
        raise BadInputError(f"not a record: {', '.join(odd)} missing or too many", where="registry", todo=_TODO)
    for name, types in TYPES.items():
        if not isinstance(body[name], types) or isinstance(body[name], bool):
            raise BadInputError(f"not a record: {name} is of the wrong type", where="registry", todo=_TODO)
    urn = read_urn(body["urn"])
    checked_version(body["version"])
    for wrong, what in _wrong(body, urn):
        if wrong:
            raise BadInputError(f"not a record: {what}", where=str(urn), todo=_TODO)
    return Record(
        str(urn),
        urn.kind,
        body["version"],
        body["spec"],
        signed,
        Scheme(body["scheme"]),
        body["audience"],
        float(body["valid_until"]),
        body["supersedes"],
        tuple(body["provenance"]),
    )


def _wrong(body: Mapping[str, Any], urn: Urn) -> tuple[tuple[bool, str], ...]:
    """(is it wrong, what is)."""
    provenance = body["provenance"]
    return (
        (body["kind"] != urn.kind, "its kind is not that of its URN"),
        (body["scheme"] not in _SCHEMES, f"scheme is {body['scheme'][:30]!r}"),
        (not _AUDIENCE.fullmatch(body["audience"]), f"audience is {body['audience'][:60]!r}"),
        (not 0 <= body["valid_until"] < 1e11, "valid_until is no time"),
        (not _DIGEST.fullmatch(body["supersedes"]), "supersedes is no digest"),
        (
            len(provenance) > MAX_PROVENANCE or not all(isinstance(source, dict) for source in provenance),
            "provenance is no short list of objects",
        ),
    )


TYPES: dict[str, type | tuple[type, ...]] = {
    "schema": str,
    "urn": str,
    "kind": str,
    "version": str,
    "scheme": str,
    "spec": dict,
    "audience": str,
    "valid_until": (int, float),
    "supersedes": str,
    "provenance": list,
}
_SCHEMES = frozenset(Scheme)
_NESTED = (dict, list, tuple)
_TODO = "its owner corrects it and signs it anew"
_AUDIENCE = re.compile(r"public|local|partner:[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_DIGEST = re.compile(r"|sha256:[0-9a-f]{64}")


def bounded(body: dict[str, Any]) -> bytes:
    """Its canonical bytes. Depth first: what is nested too deep cannot even be written down. Raises `BadInputError`."""
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        inside = (value.values() if isinstance(value, dict) else value for value in level)
        level = [item for items in inside for item in items if isinstance(item, _NESTED)]
        if not level:
            break
    else:
        raise BadInputError(f"nested deeper than {MAX_DEPTH}", where="registry", todo="flatten it")
    try:
        written = canonical(body)
    except ValueError as error:  # rfc8785's errors are
        raise BadInputError(f"no JSON: {error}", where="registry", todo=_TODO) from error
    if len(written) > MAX_RECORD:
        raise BadInputError(
            f"{len(written)} bytes; a record has {MAX_RECORD} at most",
            where="registry",
            todo="keep large parts elsewhere",
        )
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
