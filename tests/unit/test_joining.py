"""A domain by its owner's hand: what two commands at once, and one that fails, leave behind."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ioi_dagster.certificates import Authority, read_certificate
from ioi_dagster.domain import DomainHome
from ioi_dagster.local import joining
from ioi_dagster.local.member_book import own_record
from ioi_dagster.model.member import newer_record
from tests.realms import owned, realm


@pytest.fixture
def lab(tmp_path: Path) -> DomainHome:
    return owned(tmp_path, "lab").home


def never(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("revoke", [False, True])
def test_a_domain_that_starts_while_its_keys_change_signs_what_follows(lab, monkeypatch, revoke):
    """Each of its records is signed by a key of the one before it, whoever has signed it."""
    first, begun = own_record(lab), []

    def meanwhile(*_: object) -> None:
        begun.append(threading.Thread(target=joining.sign_again, args=(lab, time.time())))
        begun[-1].start()
        begun[-1].join(0.3)

    monkeypatch.setattr(joining, "_wait_until_known", meanwhile)
    joining.rotate(lab, revoke, time.time(), 1.0, never)
    for one in begun:
        one.join(10)
        assert not one.is_alive()
    chain = lab.own_chain()
    found = newer_record(first, chain)
    assert isinstance(found, tuple)
    assert found[0] == own_record(lab)
    assert lab.signing_key().key_id in found[0].trusted.keys
    serials = [one.body["serial"] for one in chain]
    assert serials == sorted(set(serials))


def test_two_domains_of_one_authority_take_back_their_certificates_at_once(lab, tmp_path, monkeypatch):
    folder = joining.authority_of(lab, "lab-authority")
    twin = realm(tmp_path / "domains", "twin", Authority.load(folder)).home
    joining.renew_record(twin, Authority.load(folder), "n", lab.config().spec, "https://127.0.0.1:1", 0.0)
    twin.save_config(lab.config())
    taken = {read_certificate(one.client_certificate).serial_number for one in (lab, twin)}
    other = threading.Thread(target=joining.rotate, args=(twin, True, time.time(), 1.0, never))
    begun: list[bool] = []

    def meanwhile(*_: object) -> None:
        if not begun:
            begun.append(True)
            other.start()
            other.join(5)

    monkeypatch.setattr(joining, "_wait_until_known", meanwhile)
    joining.rotate(lab, True, time.time(), 1.0, never)
    other.join(10)
    assert taken <= set(Authority.load(folder).revoked)


def test_a_record_that_was_written_half_does_not_stand_twice_in_the_chain(lab, monkeypatch):
    """The process was killed after the chain and before the newest record."""
    first = own_record(lab)

    def killed(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(DomainHome, "put_member", killed)
        with pytest.raises(OSError, match="killed"):
            joining.rotate(lab, False, time.time(), 0.0, never)
    joining.rotate(lab, False, time.time(), 0.0, lambda _: None)
    serials = [one.body["serial"] for one in lab.own_chain()]
    assert serials == sorted(set(serials))
    found = newer_record(first, lab.own_chain())
    assert isinstance(found, tuple)
    assert found[0] == own_record(lab)
