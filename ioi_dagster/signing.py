"""Canonical JSON (RFC 8785), digests and Ed25519 signatures (RFC 8032) over it.

Only JSON crosses a trust boundary, and only signed JSON is believed there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ioi_dagster.errors import SignatureError
from ioi_dagster.private_file import write_private


def canonical(document: Any) -> bytes:
    """RFC 8785 bytes of a JSON-like value; raises `rfc8785.CanonicalizationError` on what JSON cannot say."""
    try:
        _check_alike(document)
        return msgspec.json.encode(document, order="sorted")
    except (_DifferentError, UnicodeEncodeError, RecursionError):
        return rfc8785.dumps(document)


class _DifferentError(Exception):
    """msgspec might write it otherwise than RFC 8785 has it."""


def _check_alike(value: Any) -> None:
    """That msgspec writes the same bytes, which takes it a tenth of the time: keys in ASCII, which have the same order by code
    point as by UTF-16; integers that a double can say; other numbers that are written the same by ECMAScript."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not key.isascii():
                raise _DifferentError
            if type(item) not in _ALIKE:
                _check_alike(item)
    elif kind is list or kind is tuple:
        for item in value:
            if type(item) not in _ALIKE:
                _check_alike(item)
    elif kind is int:
        if not -_EXACT < value < _EXACT:
            raise _DifferentError
    elif kind is float:
        if value.is_integer() or not _DECIMAL[0] < abs(value) < _DECIMAL[1]:
            raise _DifferentError
    elif kind not in _ALIKE:
        raise _DifferentError


_ALIKE = frozenset((str, bool, type(None)))
_EXACT = 2**53
_DECIMAL = 1e-4, 1e15
"""Between these both write the shortest digits that give the number back, without an exponent."""


def digest(document: Any) -> str:
    """`sha256:<hex>` of the canonical bytes."""
    return digest_bytes(canonical(document))


def digest_bytes(data: bytes) -> str:
    """`sha256:<hex>` of raw bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Signed:
    """A JSON object with the key id (`domain#fingerprint`) and signature (base64) that vouch for it."""

    body: dict[str, Any]
    key_id: str
    signature: str


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A domain's private key. Never leaves its process; `repr` does not show it."""

    domain: str
    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"

    @property
    def public_bytes(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def key_id(self) -> str:
        return key_id(self.domain, self.public_bytes)

    def sign(self, body: Mapping[str, Any]) -> Signed:
        """Sign the canonical bytes of `body`."""
        plain = dict(body)
        return Signed(plain, self.key_id, base64.b64encode(self.private.sign(canonical(plain))).decode())

    @classmethod
    def generate(cls, domain: str) -> SigningKey:
        return cls(domain, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, domain: str, path: Path) -> SigningKey:
        """Read a raw 32-byte key file written by `save`."""
        return cls(domain, Ed25519PrivateKey.from_private_bytes(path.read_bytes()))

    def raw(self) -> bytes:
        """The private key itself, 32 bytes: for its own file alone."""
        return self.private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def save(self, path: Path) -> None:
        """Write the raw key, readable by its owner only; a key that is there is replaced whole or not at all."""
        write_private(path, self.raw())


def key_id(domain: str, public_bytes: bytes) -> str:
    """`domain#` and the first 16 hex digits of the key's SHA-256."""
    return f"{domain}#{hashlib.sha256(public_bytes).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Public keys by key id: what a domain believes."""

    keys: Mapping[str, bytes]

    def verify(self, signed: Signed, written: bytes = b"") -> str:
        """Return the signing domain; raise `SignatureError` when the key is unknown or the signature is wrong. `written`: the
        canonical bytes of the body, where they are known."""
        public = self.keys.get(signed.key_id)
        if public is None:
            raise SignatureError(f"no trusted key {signed.key_id!r}")
        try:
            raw = base64.b64decode(signed.signature, validate=True)
            Ed25519PublicKey.from_public_bytes(public).verify(raw, written or canonical(signed.body))
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(f"signature by {signed.key_id!r} does not verify") from error
        return signed.key_id.partition("#")[0]
