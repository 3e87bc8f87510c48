"""Certificate authorities and the certificates of gateways and their clients (X.509, RFC 5280): ECDSA over P-256.

An authority vouches for the domains of its owners. What it issues names one domain and one role, so the key of a run
process cannot pass for a gateway. What it takes back is in its revocation list, which goes wherever its certificate
goes."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ioi_dagster.errors import SignatureError
from ioi_dagster.private_file import write_private

DAY_S = 86_400.0
AUTHORITY_DAYS = 3_650
CERTIFICATE_DAYS = 365
RENEW_DAYS = 30
"""One that has no longer than this is renewed when its domain starts."""
EARLIER_S = DAY_S
"""Clocks of owners differ: what is issued now was valid yesterday."""
MAX_PEM = 16 * 2**10


class Role(StrEnum):
    GATEWAY = "gateway"
    CLIENT = "client"
    NODE = "node"
    """A Dask process, which is asked and asks."""


_ASKED, _ASKS = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
_USAGE = {Role.GATEWAY: [_ASKED], Role.CLIENT: [_ASKS], Role.NODE: [_ASKED, _ASKS]}


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its private key, which stays in its folder; `repr` does not show it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    revoked: tuple[int, ...] = ()
    """Serial numbers of certificates that it takes back."""

    def __repr__(self) -> str:
        return f"Authority({self.certificate.subject.rfc4514_string()})"

    @classmethod
    def make(cls, name: str, now: float) -> Authority:
        """A new one. Its name holds some digits of its own, so that two owners may choose the same words. `now`: Unix
        s."""
        key = ec.generate_private_key(ec.SECP256R1())
        told = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, os.urandom(6).hex()),
            ]
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            _begun(told, told, key, now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    def issue(self, domain: str, role: Role, now: float, days: float = CERTIFICATE_DAYS) -> bytes:
        """A certificate for `domain` with a new key, as PEM: what a gateway or a client loads. `now`: Unix seconds."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self.certify(key.public_key(), domain, role, now, days) + key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def certify(
        self, key: ec.EllipticCurvePublicKey, domain: str, role: Role, now: float, days: float = CERTIFICATE_DAYS
    ) -> bytes:
        """As PEM, for a key whose private half is elsewhere."""
        told = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain)])
        certificate = (
            _begun(told, self.certificate.subject, key, now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(_USAGE[role]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def trusted(self, now: float) -> Trusted:
        """What others need to check what it issued, with its revocation list as of `now` (Unix seconds)."""
        built = x509.CertificateRevocationListBuilder(
            self.certificate.subject, _at(now - EARLIER_S), self.certificate.not_valid_after_utc
        )
        for number in self.revoked:
            entry = x509.RevokedCertificateBuilder(number, _at(now - EARLIER_S)).build()
            built = built.add_revoked_certificate(entry)
        revocations = built.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        return Trusted(self.certificate.public_bytes(Encoding.PEM).decode(), revocations)

    def save(self, folder: Path) -> None:
        """`authority.pem` with certificate and key, and `revoked` with a serial number a line; its owner's eyes
        only."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(folder / "authority.pem", self.certificate.public_bytes(Encoding.PEM) + private)
        write_private(folder / "revoked", "".join(f"{number:x}\n" for number in self.revoked).encode())

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Raises `FileNotFoundError` where there is none."""
        data = (folder / "authority.pem").read_bytes()
        key = load_pem_private_key(data, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        revoked = tuple(int(line, 16) for line in (folder / "revoked").read_text().split())
        return cls(x509.load_pem_x509_certificate(data), key, revoked)


@dataclass(frozen=True, slots=True)
class Trusted:
    """An authority as others know it: its certificate, and its list of what it took back, both as PEM."""

    certificate: str
    revocations: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hex: which authority this is, whatever it calls itself."""
        return _parsed(self.certificate).fingerprint(hashes.SHA256()).hex()

    @property
    def subject(self) -> tuple[object, ...]:
        """What it calls itself, equal for all that OpenSSL takes for the same: it looks for an authority by this, large
        letters as good as small ones and however many spaces between."""
        return tuple((one.oid.dotted_string, _folded(one.value)) for one in _parsed(self.certificate).subject)

    def check(self) -> None:
        """Raises `SignatureError` where it is no authority, or its list is not its own. Each is one block of PEM as this
        library writes it and nothing else: OpenSSL reads all that a text holds, and would stumble over the rest."""
        if max(len(self.certificate), len(self.revocations)) > MAX_PEM:
            raise SignatureError(f"an authority's certificate and list have {MAX_PEM} characters at most each")
        try:
            certificate = _parsed(self.certificate)
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            listed = x509.load_pem_x509_crl(self.revocations.encode())
            key = certificate.public_key()
            good = isinstance(key, ec.EllipticCurvePublicKey) and listed.is_signature_valid(key)
            # Or somebody else could make one of its key and subject, which would be taken for it.
            certificate.verify_directly_issued_by(certificate)
        except InvalidSignature as error:
            raise SignatureError("the authority's certificate is not signed by itself") from error
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise SignatureError(f"the authority's certificate or list cannot be read: {error}") from error
        if (_pem(certificate), _pem(listed)) != (self.certificate, self.revocations):
            raise SignatureError("the authority's certificate or list is not one block of PEM as it is written")
        if not constraints.ca or not good or listed.issuer != certificate.subject:
            raise SignatureError("the certificate is not an authority's, or the revocation list is not its own")

    def issued(self, certificate: x509.Certificate) -> bool:
        """Is it signed by this authority? Validity and revocation are checked with the handshake."""
        try:
            certificate.verify_directly_issued_by(_parsed(self.certificate))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def took_back(self, certificate: x509.Certificate) -> bool:
        """Is it in the revocation list?"""
        listed = x509.load_pem_x509_crl(self.revocations.encode())
        return listed.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


def domain_of(certificate: x509.Certificate) -> str:
    """The domain for which it was issued; empty where it names none, or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ""
    found = names.get_values_for_type(x509.DNSName)
    return found[0] if len(found) == 1 else ""


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def days_left(certificate: x509.Certificate, now: float) -> float:
    """Until it expires; negative when it has. `now`: Unix seconds."""
    return (certificate.not_valid_after_utc.timestamp() - now) / DAY_S


@lru_cache(256)
def _parsed(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _folded(value: str | bytes) -> str | bytes:
    return " ".join(value.split()).lower() if isinstance(value, str) else value


def _pem(what: x509.Certificate | x509.CertificateRevocationList) -> str:
    return what.public_bytes(Encoding.PEM).decode()


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey,
    now: float,
    days: float,
) -> x509.CertificateBuilder:
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return x509.CertificateBuilder(
        issuer, subject, public, x509.random_serial_number(), _at(now - EARLIER_S), _at(now + days * DAY_S)
    )


def _at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
