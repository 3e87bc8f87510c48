"""What an authority issues and takes back, and what `ioi doctor` says of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ioi_dagster.certificates import DAY_S, MAX_PEM, Authority, Role, Trusted, days_left, domain_of, read_certificate
from ioi_dagster.cli_doctor import _certificates
from ioi_dagster.domain import DomainConfig
from ioi_dagster.errors import SignatureError
from ioi_dagster.local.identity import prepare_certificates
from ioi_dagster.private_file import write_private
from tests.realms import realm

NOW = 1_800_000_000.0
RUBBISH = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_an_authority_that_was_saved_issues_what_it_issued_before(tmp_path: Path):
    one = replace(Authority.make("lab", NOW), revoked=(17, 2**150))
    one.save(tmp_path)
    again = Authority.load(tmp_path)
    assert (again.certificate, again.revoked) == (one.certificate, one.revoked)
    issued = x509.load_pem_x509_certificate(again.issue("lab", Role.CLIENT, NOW))
    assert one.trusted(NOW).issued(issued)
    assert domain_of(issued) == "lab"
    assert (tmp_path / "authority.pem").stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in repr(again)


def test_two_authorities_of_one_name_are_two():
    one, other = (Authority.make("lab", NOW).trusted(NOW) for _ in range(2))
    assert one.fingerprint != other.fingerprint


def signed_by_another() -> Trusted:
    """An authority's key and subject in a certificate that somebody else has made of them."""
    one, key = Authority.make("lab", NOW), ec.generate_private_key(ec.SECP256R1())
    its = one.certificate
    built = x509.CertificateBuilder(
        its.subject, its.subject, its.public_key(), 1, its.not_valid_before_utc, its.not_valid_after_utc
    )
    for extension in its.extensions:
        built = built.add_extension(extension.value, extension.critical)
    return replace(one, certificate=built.sign(key, hashes.SHA256())).trusted(NOW)


def test_the_list_of_what_was_taken_back_is_the_authoritys_own():
    one, other = (Authority.make("lab", NOW).trusted(NOW) for _ in range(2))
    one.check()
    leaf = Authority.make("x", NOW).issue("x", Role.CLIENT, NOW).decode()
    for wrong in (
        Trusted(one.certificate, other.revocations),
        Trusted(leaf, one.revocations),
        signed_by_another(),
        Trusted("", one.revocations),
        Trusted(one.certificate, "rubbish"),
        Trusted(one.certificate + " " * MAX_PEM, one.revocations),
        Trusted(one.certificate + RUBBISH, one.revocations),
        Trusted(one.certificate + other.certificate, one.revocations),
        Trusted("a word before\n" + one.certificate, one.revocations),
        Trusted(one.certificate, one.revocations + RUBBISH.replace("CERTIFICATE", "X509 CRL")),
        Trusted(one.certificate, one.revocations + other.revocations),
        Trusted(one.certificate, one.revocations + other.certificate),
    ):
        with pytest.raises(SignatureError):
            wrong.check()


def test_certificates_are_renewed_before_they_end_and_when_they_were_taken_back(tmp_path: Path):
    one = realm(tmp_path, "lab", now=NOW)
    paths = (one.home.gateway_certificate, one.home.client_certificate, one.home.node_certificate)

    def serials() -> list[int]:
        return [read_certificate(path).serial_number for path in paths]

    first = serials()
    prepare_certificates(one.home, one.authority, NOW + 300 * DAY_S)
    assert serials() == first
    prepare_certificates(one.home, replace(one.authority, revoked=(first[1],)), NOW)
    assert [serial == before for serial, before in zip(serials(), first, strict=True)] == [True, False, True]
    prepare_certificates(one.home, one.authority, NOW + 340 * DAY_S)
    assert not set(serials()) & set(first)
    assert 364 < days_left(read_certificate(paths[0]), NOW + 340 * DAY_S) <= 365


@pytest.mark.parametrize(
    ("days", "state", "found"),
    [(200.5, "ok", "good for 200 days"), (20.5, "note", "lab for 20 days more"), (-1.0, "mend", "lab expired")],
)
def test_the_doctor_tells_when_certificates_end(tmp_path: Path, days, state, found):
    one = realm(tmp_path / "domains", "lab")
    one.home.save_config(DomainConfig("n", "lab", one.spec, "", (), {}, "", (), {}, {}))
    write_private(one.home.client_certificate, one.authority.issue("lab", Role.CLIENT, time.time(), days))
    finding = _certificates(tmp_path)
    assert (finding.state, finding.found) == (state, found)


def test_the_doctor_names_a_certificate_that_cannot_be_read(tmp_path: Path):
    one = realm(tmp_path / "domains", "lab")
    one.home.save_config(DomainConfig("n", "lab", one.spec, "", (), {}, "", (), {}, {}))
    one.home.gateway_certificate.write_text("rubbish")
    finding = _certificates(tmp_path)
    assert (finding.state, finding.found) == ("mend", f"{one.home.gateway_certificate} cannot be read")
