"""A domain by its owner's hand: what two commands at once, and one that fails, leave behind."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ioi_dagster.adapters.files.tokens import TokenFile
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_checking import verify
from ioi_dagster.certificates import DAY_S, Authority, read_certificate
from ioi_dagster.clock import ManualClock
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError, SignatureError, UnreachableError
from ioi_dagster.local import joining, member_book
from ioi_dagster.local.gateway_main import people_listeners
from ioi_dagster.local.identity import OVERLAP_S, certificates, end_overlap, end_overlaps, public
from ioi_dagster.local.member_book import FolderBook, own_record
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_stores import DataSpec, StoreSpec
from ioi_dagster.model.member import newer_record, sign_record
from ioi_dagster.ras.pointers import Status, set_status
from ioi_dagster.ras.record import Kind, make_record
from tests.conftest import Child
from tests.realms import into_dask, owned, realm


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


def counts(home: DomainHome, certificate: x509.Certificate) -> bool:
    """By the domain's own record, to gateways."""
    its = own_record(home).authorities
    return any(one.issued(certificate) and not one.took_back(certificate) for one in its)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_revoked_is_every_certificate_that_the_domain_ever_had(lab, tmp_path, shared):
    """Of before an earlier change of keys too, and of before they were renewed; be the authority its own alone or not."""
    folder = joining.authority_of(lab, "lab-authority")
    if shared:
        twin = realm(tmp_path / "domains", "twin", Authority.load(folder)).home
        twin.save_config(lab.config())

    def had() -> list[x509.Certificate]:
        return [read_certificate(path) for path in certificates(lab).values()]

    seen = had()
    for revoke in (False, True):
        joining.rotate(lab, revoke, time.time(), 0.0, lambda _: None)
        seen += had()
    joining.prepare_certificates(lab, Authority.load(folder), time.time() + 340 * DAY_S)
    assert not {one.serial_number for one in had()} & {one.serial_number for one in seen}
    seen += had()
    joining.rotate(lab, True, time.time(), 0.0, lambda _: None)
    assert [counts(lab, one) for one in (*seen, *had())] == [False] * len(seen) + [True] * 3


def test_what_is_revoked_opens_no_dask_cluster_where_nobody_else_has_the_authority(lab, tmp_path):
    stolen = tmp_path / "stolen.pem"
    stolen.write_bytes(lab.client_certificate.read_bytes())
    said: list[str] = []
    joining.rotate(lab, False, time.time(), 0.0, said.append)
    into_dask(lab, stolen)
    joining.rotate(lab, True, time.time(), 0.0, said.append)
    with pytest.raises(ssl.SSLCertVerificationError):
        into_dask(lab, stolen)
    into_dask(lab, lab.client_certificate)
    joining.sign_again(lab, time.time())
    into_dask(lab, lab.client_certificate)
    assert [text for text in said if "Dask" in text] == []


@pytest.mark.parametrize("read_before", [False, True])
def test_what_a_domain_has_registered_is_signed_by_its_new_key(lab, read_before):
    """Its gateway, which goes on, has read it or not by then."""
    store = SqlRecordStore(lab.registry, lab.trusted())
    specs = {name: {"price": price} for name, price in (("lab-c", 1.0), ("lab-d", 2.0))}
    for name, spec in specs.items():
        store.put(make_record(lab.signing_key(), Kind.CLUSTER, name, "1", spec).signed)
    if read_before:
        assert len(store.records()) == 2
    for revoke in (False, True):
        joining.rotate(lab, revoke, time.time(), 0.0, lambda text: None if "its own gateway" in text else never(text))
        key = lab.signing_key()
        assert store.records() == [make_record(key, Kind.CLUSTER, name, "1", spec) for name, spec in specs.items()]


def test_older_versions_and_what_is_said_of_them_are_signed_by_the_new_key_too(lab):
    store, before = SqlRecordStore(lab.registry, lab.trusted()), lab.signing_key()
    old, new = (make_record(before, Kind.MODEL, "m", version, {}) for version in ("1", "2"))
    store.put_many([old.signed, new.signed])
    store.point(set_status(before, old.urn, 1, 1.0, Status.YANKED, "1").signed)
    joining.rotate(lab, True, time.time(), 0.0, lambda text: None if "its own gateway" in text else never(text))
    key = lab.signing_key()
    assert store.all_of(lab.name) == [make_record(key, Kind.MODEL, "m", version, {}) for version in ("1", "2")]
    assert store.history(old.urn) == [set_status(key, old.urn, 1, 1.0, Status.YANKED, "1")]
    assert list(verify(store)) == []


def test_keys_are_taken_back_where_the_registry_cannot_be_read(lab):
    lab.registry.write_text("no database")
    before, said = lab.signing_key().key_id, []
    joining.rotate(lab, True, time.time(), 0.0, said.append)
    assert before not in own_record(lab).trusted.keys
    (told,) = [text for text in said if "registry" in text]
    assert "start its gateway anew" in told


@pytest.mark.parametrize("killed_at", ["_wait_until_known", "put_authority", "replace_certificate", "sign_record"])
def test_a_domain_whose_authority_was_replaced_half_is_whole_when_it_starts(lab, monkeypatch, killed_at):
    """By the old authority or the new one; and whoever knew it before follows its records."""
    first, calls, real = own_record(lab), [], getattr(joining, killed_at)

    def killed(*given: Any) -> Any:
        calls.append(given)
        if killed_at != "sign_record" or len(calls) == 2:
            raise OSError("killed")
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(joining, killed_at, killed)
        with pytest.raises(OSError, match="killed"):
            joining.rotate(lab, True, time.time(), 0.0, lambda _: None)
    joining.sign_again(lab, time.time())
    into_dask(lab, lab.client_certificate)
    found = newer_record(first, lab.own_chain())
    assert isinstance(found, tuple)
    assert found[0] == own_record(lab)
    assert [counts(lab, read_certificate(path)) for path in certificates(lab).values()] == [True] * 3


def test_what_still_opens_dask_clusters_is_told_where_others_have_the_authority(lab, tmp_path):
    guest = owned(tmp_path / "elsewhere", "guest").home
    shared = own_record(lab)
    its = replace(own_record(guest), serial=2, authority=shared.authority, authorities=shared.authorities)
    member_book.take_in(lab, sign_record(its, guest.signing_key()), its, DataClass.INTERNAL)
    until, said = read_certificate(lab.client_certificate).not_valid_after_utc.date(), []
    joining.rotate(lab, True, time.time(), 0.0, said.append)
    assert [text for text in said if "Dask" in text] == [
        "the authority lab-authority is guest's too, so it stays, and Dask knows no revocations: "
        f"whoever has an old certificate opens the Dask clusters of lab, guest until {until}"
    ]
    assert own_record(lab).fingerprints == shared.fingerprints


def test_two_domains_of_one_authority_take_back_their_certificates_at_once(lab, tmp_path, monkeypatch):
    folder = joining.authority_of(lab, "lab-authority")
    twin = realm(tmp_path / "domains", "twin", Authority.load(folder)).home
    joining.renew_record(twin, Authority.load(folder), "n", lab.config().spec, "https://127.0.0.1:1", 0.0)
    twin.save_config(lab.config())
    taken = {read_certificate(one.client_certificate).serial_number for one in (lab, twin)}
    said: list[str] = []
    other = threading.Thread(target=joining.rotate, args=(twin, True, time.time(), 1.0, said.append))
    begun: list[bool] = []

    def meanwhile(*_: object) -> None:
        if not begun:
            begun.append(True)
            other.start()
            other.join(5)

    monkeypatch.setattr(joining, "_wait_until_known", meanwhile)
    joining.rotate(lab, True, time.time(), 1.0, said.append)
    other.join(10)
    assert len(said) == 2
    assert taken <= set(Authority.load(folder).revoked)


def test_an_old_key_counts_as_long_as_its_overlap_and_no_longer(lab):
    """Its gateway looks by the time of day; what was signed by the old key is refused by whoever has the newest record."""
    clock = ManualClock(epoch=time.time())
    old, looked = lab.signing_key(), []
    first = own_record(lab)
    permit = old.sign({"of": "a run"})
    joining.rotate(lab, False, clock.wall(), 0.0, lambda _: None)

    def waited(seconds: float) -> bool:
        looked.append((clock.wall() - began, old.key_id in own_record(lab).trusted.keys))
        clock.advance(OVERLAP_S / 2 + seconds)
        return len(looked) == 4

    began = clock.wall()
    lab.trusted().verify(permit)
    end_overlaps(lab, clock, waited)
    assert [counts for _, counts in looked] == [True, True, False, False]
    with pytest.raises(SignatureError):
        lab.trusted().verify(permit)
    found = newer_record(first, lab.own_chain())
    assert isinstance(found, tuple)
    assert (found[0].serial, found[0].keys) == (first.serial + 3, (public(lab.signing_key()),))
    assert not (lab.root / "keys" / "old.key").exists()


@pytest.mark.parametrize("left", [False, True])
def test_a_record_without_an_old_key_or_of_who_has_left_is_not_signed_again(lab, left):
    if left:
        joining.rotate(lab, False, time.time(), 0.0, lambda _: None)
        gone = replace(own_record(lab), serial=own_record(lab).serial + 1, left=True)
        lab.put_own(sign_record(gone, lab.signing_key()))
    before = own_record(lab)
    assert not end_overlap(lab, time.time() + 2 * OVERLAP_S)
    assert own_record(lab) == before


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


class Door:
    """The domain's own gateway: what it tells of the clusters, one after the other; the last again and again."""

    def __init__(self, *told: dict[str, Any] | Exception) -> None:
        self.told = list(told)

    def status(self) -> dict[str, Any]:
        said = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(said, Exception):
            raise said
        return {"clusters": said}

    def members(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


IDLE, SILENT = {"leases": []}, {"error": "c2 does not answer: ReadTimeout"}
BUSY = {"leases": [{"id": "c1/1/1"}]}


def leave(home: DomainHome, monkeypatch: pytest.MonkeyPatch, patience_s: float, *told: Any) -> list[str]:
    door, said = Door(*told), []
    monkeypatch.setattr(joining, "own_gateway", lambda _: door)
    joining.leave(home, patience_s, time.time(), said.append)
    return said


def test_a_domain_does_not_leave_while_a_cluster_does_not_tell_what_it_runs(lab, monkeypatch):
    before = own_record(lab)
    with pytest.raises(UnreachableError) as error:
        leave(lab, monkeypatch, 0.3, {"c1": IDLE, "c2": SILENT})
    assert str(error.value) == (
        "the end of what runs here is unreachable: c2 does not tell after 0.3 s what it runs — "
        "see its scheduler's log and `ioi status`, and try again when it answers"
    )
    assert own_record(lab) == before
    assert not FolderBook(lab).leaving(), "it takes work again"


def test_a_cluster_that_answers_again_is_waited_for(lab, monkeypatch):
    told = leave(
        lab, monkeypatch, 30.0, {"c1": BUSY, "c2": SILENT}, {"c1": IDLE, "c2": SILENT}, {"c1": IDLE, "c2": IDLE}
    )
    assert told[:2] == ["1 step runs here still; c2 does not tell what it runs", "c2 does not tell what it runs"]
    assert own_record(lab).left
    assert joining.has_left(lab)


def open_run(lab: DomainHome, run: str = "0123456789") -> Ledger:
    ledger = Ledger(lab.ledger)
    ledger.take_over(run, "saying", time.time())
    return ledger


def test_a_domain_does_not_leave_before_its_own_runs_have_ended(lab, monkeypatch):
    """They may have steps elsewhere, of which its clusters know nothing."""
    ledger, before = open_run(lab), own_record(lab)
    ended = ledger.take_over("ended", "saying", time.time())
    ledger.end("ended", ended, time.time())
    try:
        with pytest.raises(UnreachableError) as error:
            leave(lab, monkeypatch, 0.0, {"c1": IDLE})
    finally:
        ledger.close()
    assert str(error.value) == (
        "the end of what runs here is unreachable: after 0 s of its own run 01234567 (saying) has not ended — "
        "give it more --patience, stop it, or have it lose what it has elsewhere: --give-up-runs"
    )
    assert own_record(lab) == before
    assert not FolderBook(lab).leaving()


def test_a_run_of_its_own_is_waited_for(lab, monkeypatch):
    ledger = open_run(lab)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text == "run 01234567 (saying) has not ended":
            assert FolderBook(lab).leaving(), "nothing of others is taken meanwhile"
            ledger.end("0123456789", 1, time.time())

    monkeypatch.setattr(joining, "own_gateway", lambda _: Door({"c1": IDLE}))
    joining.leave(lab, 30.0, time.time(), say)
    ledger.close()
    assert said == ["run 01234567 (saying) has not ended"]
    assert joining.has_left(lab)


def test_runs_that_are_given_up_are_not_waited_for(lab, monkeypatch):
    open_run(lab).close()
    monkeypatch.setattr(joining, "own_gateway", lambda _: Door({"c1": IDLE}))
    joining.leave(lab, 0.0, time.time(), never, give_up=True)
    assert joining.has_left(lab)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"c1": BUSY}, "1 leases are held after 0 s"),
        (UnreachableError("gateway of lab", "it is not there"), "it is not there"),
    ],
)
def test_who_could_not_leave_takes_part_as_before(lab, monkeypatch, told, text):
    with pytest.raises(UnreachableError, match=text):
        leave(lab, monkeypatch, 0.0, told)
    assert not FolderBook(lab).leaving()
    assert not own_record(lab).left


LEAVES = """
import sys, time
from pathlib import Path
from ioi_dagster.domain import DomainHome
from ioi_dagster.local import joining
from tests.unit.test_joining import BUSY, Door

joining.own_gateway = lambda _: Door({"c1": BUSY})
joining.leave(DomainHome(Path(sys.argv[1])), 600.0, time.time(), lambda text: print(text, flush=True))
"""


def test_who_was_killed_while_he_waited_to_leave_takes_part_as_before(lab):
    command = [sys.executable, "-c", LEAVES, str(lab.root)]
    with Child(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "1 step runs here still\n"
            assert FolderBook(lab).leaving()
        finally:
            process.kill()
    assert not FolderBook(lab).leaving()


def test_who_was_killed_when_others_knew_that_he_leaves_takes_nothing_new(lab, monkeypatch):
    def killed(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(joining, "_wait_until_known", killed)
        with pytest.raises(OSError, match="killed"):
            leave(lab, patch, 5.0, {"c1": IDLE})
    assert FolderBook(lab).leaving()
    leave(lab, monkeypatch, 5.0, {"c1": IDLE})
    assert joining.has_left(lab)
    assert FolderBook(lab).leaving()


def test_who_has_left_does_not_leave_again(lab, monkeypatch):
    leave(lab, monkeypatch, 5.0, {"c1": IDLE})
    with pytest.raises(BadInputError, match="lab has left already"):
        leave(lab, monkeypatch, 5.0, {"c1": IDLE})
    assert joining.has_left(lab)


def test_two_that_have_the_domain_leave_at_once_are_one_after_the_other(lab, monkeypatch):
    """The second finds that it has left: it neither tells so again, nor takes it back as it cannot."""
    records, others = [], []

    def meanwhile(*_: object) -> None:
        records.append(own_record(lab))
        if not others:
            other = threading.Thread(target=lambda: others.append(_raised(lab)))
            others.append(other)
            other.start()
            other.join(0.3)

    monkeypatch.setattr(joining, "_wait_until_known", meanwhile)
    leave(lab, monkeypatch, 5.0, {"c1": IDLE})
    others[0].join(10)
    assert others[1] == "lab has left already"
    assert records == [own_record(lab)]
    assert joining.has_left(lab)


def _raised(home: DomainHome) -> str:
    try:
        joining.leave(home, 5.0, time.time(), lambda _: None)
    except BadInputError as error:
        return error.what
    return ""


@pytest.mark.parametrize("killed_at", ["put_member", "know"])
def test_a_member_is_given_what_its_owner_said_wherever_taking_it_in_is_cut_off(lab, tmp_path, monkeypatch, killed_at):
    guest = owned(tmp_path, "guest").home
    signed, record = FolderBook(guest).records()["guest"], own_record(guest)

    def killed(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        owner = DomainHome if killed_at == "put_member" else member_book
        patch.setattr(owner, killed_at, killed)
        with pytest.raises(OSError, match="killed"):
            member_book.take_in(lab, signed, record, DataClass.INTERNAL)
    assert "guest" not in lab.config().peers
    assert ("guest" in lab.members()) == (killed_at == "know")
    lab.put_member(signed)  # as the next who tells of it does, or a join that is tried again
    joining.sign_again(lab, time.time())
    config = lab.config()
    assert (config.peers["guest"], config.limits["guest"]) == (record.gateway, DataClass.INTERNAL)
    assert config.authorities["guest"] == record.authority


def test_a_topology_file_that_cannot_be_read_keeps_no_domain_down(lab, tmp_path):
    config = replace(lab.config(), data=DataSpec((StoreSpec("shelf", "file:///srv/shelf"),)))
    lab.save_config(config)
    lab.made_by_hand(tmp_path / "moved.yaml")
    said: list[str] = []
    joining.take_data(lab, said.append)
    assert lab.config() == config
    assert len(said) == 1 and said[0].startswith(f"where {lab.name} keeps data stays as it was: ")


def test_an_address_for_people_that_is_taken_keeps_no_gateway_down(lab, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        TokenFile(lab).set_listen(address)
        assert people_listeners(lab) == []
    assert f"tokens are not taken at {address}" in caplog.text
    (listener,) = people_listeners(lab)
    with listener.listens as listens:
        assert listens.getsockname()[1] == int(address.rpartition(":")[2])
