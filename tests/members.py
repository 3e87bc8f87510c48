"""Domains that sign records of themselves, for tests of membership."""

from __future__ import annotations

import base64
import datetime
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ioi_dagster.certificates import Authority, Trusted
from ioi_dagster.model.member import MemberRecord, sign_record
from ioi_dagster.signing import Signed, SigningKey


@dataclass(frozen=True)
class Author:
    """A domain with a key and an authority."""

    name: str
    key: SigningKey
    trusted: Trusted
    authority: str = ""
    old: tuple[SigningKey, ...] = field(default=())

    def record(self, serial: int = 1, **changes: Any) -> MemberRecord:
        keys = tuple(base64.b64encode(key.public_bytes).decode() for key in (self.key, *self.old))
        values: dict[str, Any] = {
            "network": "n",
            "domain": self.name,
            "serial": serial,
            "gateway": f"https://{self.name}:1",
            "authority": self.authority or f"{self.name}-authority",
            "authorities": (self.trusted,),
            "keys": keys,
            "clusters": (f"{self.name}-c",),
            **changes,
        }
        return MemberRecord(**values)

    def signed(self, serial: int = 1, **changes: Any) -> Signed:
        return sign_record(self.record(serial, **changes), self.key)


def namesake(of: Trusted, louder: bool = False) -> Trusted:
    """Another authority that calls itself as `of` does, or nearly so: to OpenSSL large letters are as good as small
    ones."""
    told = x509.load_pem_x509_certificate(of.certificate.encode()).subject
    if louder:
        told = x509.Name([x509.NameAttribute(one.oid, str(one.value).upper()) for one in told])
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(told, told, key.public_key(), 1, _at(0), _at(4_000_000_000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key).trusted(0.0)


def _at(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


@cache
def author(name: str) -> Author:
    """The same each time."""
    return Author(name, SigningKey.generate(name), Authority.make(f"{name}-authority", 0.0).trusted(0.0))
