"""Records: immutable, signed facts under their owner's URN prefix."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ioi_dagster.errors import FinalError
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, digest


class Kind(StrEnum):
    DOMAIN = "domain"
    CLUSTER = "cluster"
    NODE = "node"
    BLOCK = "block"
    POLICY = "policy"
    ASSET = "asset"


@dataclass(frozen=True, slots=True)
class Record:
    """`urn` is `urn:ioi:<domain>:<kind>:<name>`; `spec` is plain JSON of the kind."""

    urn: str
    kind: Kind
    version: str
    spec: dict[str, Any]
    signed: Signed

    @property
    def domain(self) -> str:
        return self.urn.split(":")[2]

    @property
    def name(self) -> str:
        return self.urn.split(":", 4)[4]

    @property
    def digest(self) -> str:
        return digest(self.signed.body)


def make_record(key: SigningKey, kind: Kind, name: str, version: str, spec: Any) -> Record:
    """Sign a record under the key's own prefix. `spec` may be a frozen value or plain JSON."""
    plain = _plain(asdict(spec) if hasattr(spec, "__dataclass_fields__") else spec)
    urn = f"urn:ioi:{key.domain}:{kind}:{name}"
    signed = key.sign({"urn": urn, "kind": str(kind), "version": version, "spec": plain})
    return Record(urn, kind, version, plain, signed)


def read_record(signed: Signed, trusted: TrustedKeys) -> Record:
    """Verify and read. Raises `SignatureError` for a bad signature and `FinalError` when the signer does not own the
    URN's prefix or the body is not a record."""
    signer = trusted.verify(signed)
    body = signed.body
    try:
        urn, kind, version, spec = str(body["urn"]), Kind(body["kind"]), str(body["version"]), dict(body["spec"])
    except (KeyError, ValueError, TypeError) as error:
        raise FinalError(f"not a record: {error}") from error
    parts = urn.split(":", 4)
    if len(parts) != 5 or parts[:2] != ["urn", "ioi"] or parts[3] != kind or not parts[4]:
        raise FinalError(f"{urn!r} is not a URN of kind {kind}")
    if parts[2] != signer:
        raise FinalError(f"{signer} may not write under the prefix of {parts[2]}")
    return Record(urn, kind, version, spec, signed)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
