"""What an invitation opens, and what it does not: real handshakes with what `ioi domain invite` hands out."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.adapters.http.tls import client_context
from ioi_dagster.certificates import DAY_S, Role
from ioi_dagster.errors import BadInputError, FinalError, UnreachableError
from ioi_dagster.local.joining import invite, join, sign_again
from ioi_dagster.local.member_book import FolderBook, change_config
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.member import INVITED, Invitation
from ioi_dagster.private_file import write_private
from tests.integration.test_mutual_tls import ask, gateway
from tests.members import author
from tests.realms import Realm, into_dask, owned

pytestmark = pytest.mark.integration


@pytest.fixture
def lab(tmp_path: Path) -> Realm:
    return owned(tmp_path, "lab")


@contextmanager
def serving(of: Realm) -> Iterator[None]:
    """Its gateway, at the address that its record says."""
    with gateway(of, book=FolderBook(of.home)) as url:
        change_config(of.home, lambda config: replace(config, gateway=url))
        sign_again(of.home, time.time())
        yield


def invitation(of: Realm, hours: float = 1.0) -> Invitation:
    return invite(of.home, "cloud", DataClass.PUBLIC, hours, time.time())


def test_an_invitation_opens_no_dask_cluster(lab, tmp_path):
    shown = tmp_path / "shown.pem"
    shown.write_text(invitation(lab).certificate)
    into_dask(lab.home, lab.home.client_certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        into_dask(lab.home, shown)


def joining(url: str, lab: Realm, shown: str, tmp_path: Path) -> GatewayClient:
    """Who opens connections with that certificate (PEM)."""
    path = tmp_path / "shown.pem"
    write_private(path, shown.encode())
    return GatewayClient(url, "lab", tls=client_context(path, (lab.authority.trusted(time.time()),)))


def test_an_invitation_opens_the_gateway_that_runs_already(lab, tmp_path):
    with gateway(lab, book=FolderBook(lab.home)) as url:
        assert ask(url, lab, lab) == {}
        client = joining(url, lab, invitation(lab).certificate, tmp_path)
        try:
            assert client.join(author("cloud").signed()).give == DataClass.PUBLIC
        finally:
            client.close()
        assert set(lab.home.members()) == {"lab", "cloud"}


def test_a_member_of_whatever_name_does_not_shut_the_guests_out(lab, tmp_path):
    lab.home.put_member(author("invitations").signed())
    with gateway(lab, book=FolderBook(lab.home)) as url:
        client = joining(url, lab, invitation(lab).certificate, tmp_path)
        try:
            assert client.join(author("cloud").signed()).give == DataClass.PUBLIC
        finally:
            client.close()


def test_no_certificate_of_the_domains_own_authority_is_an_invitation(lab, tmp_path):
    """Whoever shares the authority could issue one."""
    invited = invitation(lab)
    forged = lab.authority.issue(invited.name, Role.CLIENT, time.time()).decode()
    with gateway(lab, book=FolderBook(lab.home)) as url:
        client = joining(url, lab, forged, tmp_path)
        try:
            with pytest.raises(FinalError) as error:
                client.join(author("cloud").signed())
        finally:
            client.close()
    assert "tls.foreign" in str(error.value)


def test_an_invitation_that_has_expired_opens_nothing(lab, tmp_path):
    late = invite(lab.home, "cloud", DataClass.PUBLIC, 1.0, time.time() - 2 * DAY_S)
    with gateway(lab, book=FolderBook(lab.home)) as url:
        client = joining(url, lab, late.certificate, tmp_path)
        try:
            with pytest.raises(UnreachableError) as error:
                client.join(author("cloud").signed())
        finally:
            client.close()
    assert "our certificate has expired" in str(error.value)


def test_an_invitation_in_a_members_name_does_not_put_another_in_its_place(lab, tmp_path):
    """Somebody calls his own domain as the guest calls one that it knows, and invites it."""
    cloud, thief = owned(tmp_path / "b", "cloud"), owned(tmp_path / "c", "lab")
    with serving(lab), serving(thief):
        join(cloud.home, invitation(lab), DataClass.PUBLIC, time.time())
        known, stolen = cloud.home.members()["lab"], invitation(thief)
        with pytest.raises(BadInputError) as error:
            join(cloud.home, stolen, DataClass.PUBLIC, time.time())
        assert "is not signed by a key that cloud knows of lab" in str(error.value)
        assert "--anew" in str(error.value)
        assert cloud.home.members()["lab"] == known
        assert set(thief.home.members()) == {"lab"}
        join(cloud.home, invitation(lab), DataClass.PUBLIC, time.time())
        join(cloud.home, stolen, DataClass.PUBLIC, time.time(), anew=True)
        assert cloud.home.members()["lab"].keys == thief.home.members()["lab"].keys


def test_a_domain_does_not_join_one_of_its_own_name(lab, tmp_path):
    """Its own record would be replaced by the other's."""
    other = owned(tmp_path / "b", "lab")
    own = lab.home.members()["lab"]
    with pytest.raises(BadInputError, match="the invitation is of a domain that is called lab, as this one is"):
        join(lab.home, invitation(other), DataClass.PUBLIC, time.time(), anew=True)
    assert lab.home.members() == {"lab": own}


def test_what_invites_is_nobodys_authority(lab):
    """Each domain has its own, which no record names; it is kept."""
    one, other = invitation(lab), invitation(lab)
    assert one.name != other.name
    assert one.name.startswith(INVITED)
    inviting = lab.home.inviting()
    assert inviting is not None
    inviting.check()
    assert inviting.fingerprint not in lab.home.members()["lab"].fingerprints
    invitation(lab)
    assert lab.home.inviting() == inviting
