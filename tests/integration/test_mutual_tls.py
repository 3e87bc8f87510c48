"""Gateways and their clients show each other certificates: who is refused, and what he is told."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509

from ioi_dagster.adapters.http import listening, serving
from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.adapters.http.gateway import GatewayContext, create_app
from ioi_dagster.adapters.http.membership import MemberBook, NoMembers
from ioi_dagster.adapters.http.serving import serving_protocol
from ioi_dagster.adapters.http.tls import TlsTo, client_context, server_context, tls_of, tls_to
from ioi_dagster.certificates import DAY_S, Authority, Role, Trusted, read_certificate
from ioi_dagster.clock import SystemClock
from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainConfig
from ioi_dagster.errors import FinalError, UnreachableError
from ioi_dagster.local.identity import renew_record
from ioi_dagster.model.member import sign_record
from ioi_dagster.private_file import write_private
from ioi_dagster.signing import Signed
from tests.conftest import eventually
from tests.members import namesake
from tests.realms import Realm, introduce, realm, shake
from tests.unit.test_certificates import RUBBISH

pytestmark = pytest.mark.integration


@contextmanager
def gateway(of: Realm, loop: str = "auto", book: MemberBook | None = None, **its: Any) -> Iterator[str]:
    """The real gateway of a domain, without clusters, in a thread; yields its address. `its`: what else it stands on."""
    tls, peers = tls_of(of.home)
    config = DomainConfig("n", "", of.spec, "", (), {}, "", (), {}, {})
    context = GatewayContext(
        config=config,
        token="own",
        trusted=of.home.trusted(),
        store=None,  # pyright: ignore[reportArgumentType]
        decide=None,  # pyright: ignore[reportArgumentType]
        runners={},
        clock=SystemClock(),
        clusters={},
        peers=peers,
        book=book or NoMembers(),
    )
    context = replace(context, **its)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = listening.TlsServer(
            uvicorn.Config(
                create_app(context),
                http=serving_protocol(peers),
                log_level="warning",
                loop=loop,  # pyright: ignore[reportArgumentType]
            ),
            tls,
        )
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        eventually(lambda: server.started, what="the gateway")
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def ask(url: str, asked: Realm, as_: Realm, signed_by: Realm | None = None) -> Any:
    """The run-time state of `asked`, as a peer asks for it."""
    key = (signed_by or as_).home.signing_key()
    client = GatewayClient(url, asked.home.name, key, tls=tls_to(as_.home, asked.home.name))
    try:
        return client.state(10.0)
    finally:
        client.close()


@pytest.fixture
def lab(tmp_path: Path) -> Realm:
    return realm(tmp_path, "lab")


@pytest.fixture
def library(tmp_path: Path) -> Realm:
    return realm(tmp_path, "library")


def issue(to: Realm, by: Authority, **changes: Any) -> None:
    """`to` has a certificate for clients of `by`, instead of the one that it had."""
    values = {"domain": to.home.name, "role": Role.CLIENT, "now": time.time(), **changes}
    write_private(to.home.client_certificate, by.issue(**values))


def stranger(url: str, address: str = "127.0.0.2") -> socket.socket:
    """A connection of somebody without a certificate, who says nothing."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 30, source_address=(address, 0))


def hung_up(connection: socket.socket) -> bool:
    """Waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_who_begins_no_handshake_or_a_broken_one_is_hung_up_on(lab, library, loop, monkeypatch):
    monkeypatch.setattr(listening, "HANDSHAKE_S", 0.3)
    introduce(lab, library)
    with gateway(lab, loop) as url, stranger(url) as silent, stranger(url) as slow, stranger(url) as wrong:
        slow.sendall(b"\x16\x03\x01")
        wrong.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for one in (silent, slow):
            assert hung_up(one)
        assert wrong.recv(100)[:1] in (b"", b"\x15")  # an alert
        monkeypatch.undo()
        assert ask(url, lab, library) == {}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_address_has_more_handshakes_under_way_than_it_may(lab, library, loop, monkeypatch):
    monkeypatch.setattr(listening, "MAX_HANDSHAKES", 3)
    monkeypatch.setattr(listening, "HANDSHAKE_S", 60.0)
    introduce(lab, library)
    with gateway(lab, loop) as url, ExitStack() as stack:
        kept = [stack.enter_context(stranger(url)) for _ in range(3)]
        more = stack.enter_context(stranger(url))
        assert hung_up(more)
        assert ask(url, lab, library) == {}  # from another address
        kept[0].close()

        def let_in() -> bool:
            with stranger(url) as one:
                one.settimeout(0.2)
                try:
                    return not hung_up(one)
                except TimeoutError:
                    return True

        eventually(let_in, 30, "room for another")


def test_all_addresses_together_have_no_more_handshakes_under_way_than_they_may(lab, library, monkeypatch):
    monkeypatch.setattr(listening, "MAX_ALL_HANDSHAKES", 3)
    monkeypatch.setattr(listening, "HANDSHAKE_S", 60.0)
    introduce(lab, library)
    with gateway(lab) as url, ExitStack() as stack:
        kept = [stack.enter_context(stranger(url, f"127.0.0.{number}")) for number in (2, 3, 4)]
        assert hung_up(stack.enter_context(stranger(url, "127.0.0.5")))
        for one in kept:
            one.close()

        def answered() -> bool:
            try:
                return ask(url, lab, library) == {}
            except UnreachableError:
                return False

        eventually(answered, 30, "room for a member")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_member_is_answered(lab, library, loop):
    introduce(lab, library)
    with gateway(lab, loop) as url:
        assert ask(url, lab, library) == {}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"now": time.time() - 40 * DAY_S, "days": 30}, "our certificate has expired"),
        ({"role": Role.GATEWAY}, "our certificate is not one for clients"),
    ],
)
def test_a_client_is_told_what_is_wrong_with_its_certificate(lab, library, loop, changes, told):
    introduce(lab, library)
    issue(library, library.authority, **changes)
    with gateway(lab, loop) as url, pytest.raises(UnreachableError) as error:
        ask(url, lab, library)
    assert str(error.value) == f"gateway of lab is unreachable: {told} — `ioi domain rotate` makes new ones"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_is_told_that_its_authority_is_unknown(lab, library, loop):
    introduce(lab, library)
    issue(library, Authority.make("nobody", time.time()))
    with gateway(lab, loop) as url, pytest.raises(UnreachableError) as error:
        ask(url, lab, library)
    told = "it does not know the authority of our certificate — join it with `ioi domain join`"
    assert str(error.value) == f"gateway of lab is unreachable: {told}"


def test_a_certificate_that_its_authority_takes_back_counts_no_more_while_the_gateway_serves(lab, library):
    introduce(lab, library)
    taken = read_certificate(library.home.client_certificate).serial_number
    with gateway(lab) as url:
        assert ask(url, lab, library) == {}
        authority = replace(library.authority, revoked=(taken,))
        now = time.time()
        # The list is newer, and nothing else of the record.
        signed = renew_record(
            library.home, replace(authority, revoked=(taken,)), "n", library.spec, "https://127.0.0.1:2", now
        )
        lab.home.put_member(signed)
        with pytest.raises(UnreachableError) as error:
            ask(url, lab, library)
    told = "our certificate was revoked by our own authority — `ioi domain rotate` makes new ones"
    assert str(error.value) == f"gateway of lab is unreachable: {told}"


@contextmanager
def kept(url: str, asked: Realm, as_: Realm) -> Iterator[GatewayClient]:
    """Who has a connection already."""
    client = GatewayClient(url, asked.home.name, as_.home.signing_key(), tls=tls_to(as_.home, asked.home.name))
    try:
        assert client.state(10.0) == {}
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("door", ["state", "health"])
def test_a_certificate_that_is_taken_back_counts_no_more_on_connections_that_are_kept(lab, library, door):
    introduce(lab, library)
    taken = read_certificate(library.home.client_certificate).serial_number
    with gateway(lab) as url, kept(url, lab, library) as client:
        now, authority = time.time(), replace(library.authority, revoked=(taken,))
        lab.home.put_member(renew_record(library.home, authority, "n", library.spec, "https://127.0.0.1:2", now))
        with pytest.raises(FinalError, match=r"was revoked by its own authority.*\[tls.revoked\]"):
            getattr(client, door)()
        with pytest.raises(UnreachableError, match="our certificate was revoked"):
            getattr(client, door)()  # that connection is closed, and another is not opened


def test_a_member_that_is_gone_is_not_answered_on_connections_that_are_kept(lab, library):
    introduce(lab, library)
    with gateway(lab) as url, kept(url, lab, library) as client:
        (lab.home.trust / "library.json").unlink()
        with pytest.raises(FinalError, match=r"\[tls.stranger\]"):
            client.health()
        with pytest.raises(UnreachableError, match="it does not know the authority of our certificate"):
            client.health()


def test_a_certificate_of_an_authority_that_was_changed_is_not_answered_either(tmp_path, lab, library):
    introduce(lab, library)
    with gateway(lab) as url, kept(url, lab, library) as client:
        changed = replace(library, authority=Authority.make("new", time.time()))
        introduce(changed)
        lab.home.put_member(from_json((library.home.trust / "library.json").read_bytes(), Signed))
        with pytest.raises(FinalError, match=r"\[tls.foreign\]"):
            client.health()


def test_a_gateway_whose_certificate_is_taken_back_is_not_asked_over_a_connection_that_is_kept(lab, library):
    introduce(lab, library)
    taken = read_certificate(lab.home.gateway_certificate).serial_number
    with gateway(lab) as url:
        client = GatewayClient(url, "lab", library.home.signing_key(), tls=TlsTo(library.home, "lab"))
        try:
            assert [client.state(10.0), client.state(10.0)] == [{}, {}]
            authority = replace(lab.authority, revoked=(taken,))
            library.home.put_member(renew_record(lab.home, authority, "n", lab.spec, url, time.time()))
            with pytest.raises(UnreachableError, match="its certificate was revoked by its own authority"):
                client.state(10.0)
            (library.home.trust / "lab.json").unlink()
            with pytest.raises(UnreachableError, match="it is no member any more"):
                client.state(10.0)
        finally:
            client.close()


def test_a_client_shows_the_certificate_that_its_domain_has_now(lab, library):
    """Processes that run for long, as schedulers, outlive the one that they began with."""
    introduce(lab, library)
    with gateway(lab) as url:
        client = GatewayClient(url, "lab", library.home.signing_key(), tls=TlsTo(library.home, "lab"))
        try:
            assert client.state(10.0) == {}
            taken = read_certificate(library.home.client_certificate).serial_number
            issue(library, library.authority)
            authority = replace(library.authority, revoked=(taken,))
            lab.home.put_member(
                renew_record(library.home, authority, "n", library.spec, "https://127.0.0.1:2", time.time())
            )
            assert client.state(10.0) == {}
        finally:
            client.close()


def test_nobody_is_let_in_by_what_an_earlier_connection_has_left_him(lab, library):
    """A session that is resumed would be one whose certificate nobody looks at."""
    introduce(lab, library)
    with gateway(lab) as url:
        context = tls_to(library.home, "lab")

        def shaken(session: ssl.SSLSession | None) -> ssl.SSLSocket:
            raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10.0)
            stream = context.wrap_socket(raw, server_hostname="lab", session=session)
            stream.send(b"GET /v1/health HTTP/1.1\r\nHost: lab\r\n\r\n")
            assert stream.recv(64).startswith(b"HTTP/1.1 200")
            return stream

        with shaken(None) as first:
            session = first.session
        assert session is None or not session.has_ticket
        with shaken(session) as second:
            assert not second.session_reused


def test_a_certificate_that_was_renewed_is_shown_though_its_file_looks_as_old_as_before(lab, library):
    introduce(lab, library)
    with gateway(lab) as url:
        assert ask(url, lab, library) == {}
        path = lab.home.gateway_certificate
        before = path.stat()
        write_private(path, lab.authority.issue("lab", Role.GATEWAY, time.time()))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10.0)
        with tls_to(library.home, "lab").wrap_socket(raw, server_hostname="lab") as stream:
            shown = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True) or b"")
        assert shown == read_certificate(path)


def test_an_authority_speaks_for_its_own_domains_only(tmp_path, lab, library):
    """The cloud is a member too; a certificate of its authority in the library's name passes the handshake, and no further."""
    cloud = realm(tmp_path, "cloud")
    introduce(lab, library, cloud)
    issue(library, cloud.authority)
    with gateway(lab) as url, pytest.raises(FinalError) as error:
        ask(url, lab, library)
    assert str(error.value) == (
        "lab: the certificate names library, and is not of its authority [tls.foreign]"
        " — show one that the domain's own authority has issued"
    )


def test_nobody_passes_on_what_another_signed(tmp_path, lab, library):
    cloud = realm(tmp_path, "cloud")
    introduce(lab, library, cloud)
    with gateway(lab) as url, pytest.raises(FinalError) as error:
        ask(url, lab, cloud, signed_by=library)
    assert str(error.value) == (
        "lab: the connection is cloud's, and the request is signed by library [tls.other_domain]"
        " — send it with the signing domain's own certificate"
    )


def test_who_has_left_is_a_stranger_though_another_of_its_authority_stays(tmp_path, lab):
    """Their authority is known still, so the handshake passes."""
    one = realm(tmp_path, "one", lab.authority)
    introduce(lab, one)
    with gateway(lab) as url:
        assert ask(url, lab, one) == {}
        (lab.home.trust / "one.json").unlink()
        with pytest.raises(FinalError, match=r"one is no member here \(any more\) \[tls.stranger\]"):
            ask(url, lab, one)


@contextmanager
def posing(url: str, asked: Realm, by: Authority, *names: str) -> Iterator[list[bytes]]:
    """Connections that are kept, with certificates in those names that `by` has issued; yields what is answered on each."""
    port, known = int(url.rpartition(":")[2]), asked.home.members()[asked.home.name].authorities
    with ExitStack() as stack:
        answered = []
        for name in names:
            shown = asked.home.root.parent / f"posing-{name}.pem"
            shown.write_bytes(by.issue(name, Role.CLIENT, time.time()))
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10.0))
            connection = stack.enter_context(
                client_context(shown, known).wrap_socket(raw, server_hostname=asked.home.name)
            )
            try:
                connection.sendall(b"GET /v1/health HTTP/1.1\r\nhost: lab\r\n\r\n")
                answered.append(connection.recv(65_536))
            except OSError:
                answered.append(b"")
        yield answered


@pytest.mark.parametrize(
    "names", [("library",) * 20, tuple(f"invented-{n}" for n in range(40))], ids=["a member's", "invented ones"]
)
def test_a_members_authority_takes_no_connections_in_other_names(tmp_path, lab, library, names, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(serving, "MAX_TOLD", 4)
    cloud = realm(tmp_path, "cloud")
    introduce(lab, library, cloud)
    with gateway(lab) as url, posing(url, lab, cloud.authority, *names) as answered:
        assert not any(b" 200 " in one or b"gateway.too_many" in one for one in answered)
        assert any(b" 401 " in one for one in answered)
        assert ask(url, lab, library) == ask(url, lab, cloud) == {}


def test_who_says_nothing_in_other_names_leaves_room_for_the_one_whose_they_are(tmp_path, lab, library, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(serving, "MAX_TOLD", 4)
    cloud = realm(tmp_path, "cloud")
    introduce(lab, library, cloud)
    issue(library, cloud.authority)
    with gateway(lab) as url, ExitStack() as stack:
        for _ in range(20):
            raw = stack.enter_context(stranger(url))
            tls = client_context(library.home.client_certificate, lab.home.members()["lab"].authorities)
            stack.enter_context(tls.wrap_socket(raw, server_hostname="lab"))
        issue(library, library.authority)
        assert ask(url, lab, library) == {}


def test_domains_that_share_an_authority_are_each_answered(tmp_path, lab):
    one, other = (realm(tmp_path, name, lab.authority) for name in ("one", "other"))
    introduce(lab, one, other)
    with gateway(lab) as url:
        assert ask(url, lab, one) == ask(url, lab, other) == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"now": time.time() - 40 * DAY_S, "days": 30}, "its certificate has expired (certificate has expired) — "),
        ({"domain": "cloud"}, "its certificate is another domain's (Hostname mismatch, "),
        (
            {"role": Role.CLIENT},
            "its certificate is not of the authority that it joined with (unsuitable certificate purpose) — ",
        ),
    ],
)
def test_a_gateway_with_a_wrong_certificate_is_not_asked(lab, library, change, told):
    introduce(lab, library)
    values = {"domain": "lab", "role": Role.GATEWAY, "now": time.time(), **change}
    write_private(lab.home.gateway_certificate, lab.authority.issue(**values))
    with gateway(lab) as url, pytest.raises(UnreachableError) as error:
        ask(url, lab, library)
    assert told in str(error.value)


def test_a_gateway_whose_certificate_was_revoked_is_not_asked(lab, library):
    taken = read_certificate(lab.home.gateway_certificate).serial_number
    revoking = replace(lab, authority=replace(lab.authority, revoked=(taken,)))
    introduce(revoking, library)
    with gateway(lab) as url, pytest.raises(UnreachableError) as error:
        ask(url, lab, library)
    assert "its certificate was revoked by its own authority (certificate revoked) — " in str(error.value)


def test_nothing_is_said_without_tls_or_by_an_older_one(lab, library):
    introduce(lab, library)
    with gateway(lab) as url:
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http") + "/v1/health", trust_env=False)
        older = tls_to(library.home, "lab")
        older.minimum_version, older.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
        raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10.0)
        with raw, pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION"):
            older.wrap_socket(raw, server_hostname="lab")


def test_what_a_refused_peer_sends_is_not_kept(lab, library):
    """It goes on sending after the alert; the gateway serves others and cuts it off."""
    introduce(lab, library)
    issue(library, Authority.make("nobody", time.time()))
    other = realm(lab.home.root.parent, "other", lab.authority)
    introduce(lab, other)
    with gateway(lab) as url:
        raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10.0)
        tls = client_context(library.home.client_certificate, lab.home.members()["lab"].authorities)
        with tls.wrap_socket(raw, server_hostname="lab") as stream:

            def flood() -> None:
                for _ in range(10_000):
                    stream.send(b"x" * 16_384)

            with pytest.raises((ssl.SSLError, ConnectionError)):
                flood()
        assert ask(url, lab, other) == {}


def test_an_authority_that_openssl_does_not_load_is_left_out_and_told(lab, library, caplog):
    """The others' members are answered all the same."""
    bad = Trusted(library.authority.trusted(time.time()).certificate + RUBBISH, "")
    good = lab.authority.trusted(time.time())
    asked = server_context(lab.home.gateway_certificate, {"library": (bad,), "lab": (good,)})
    shake(client_context(lab.home.client_certificate, (good,)), asked)
    told = "the authority of library is not loaded, so library is refused"
    assert any(record.getMessage().startswith(told) for record in caplog.records)
    with pytest.raises(ssl.SSLError):
        client_context(lab.home.client_certificate, (bad,))


def test_who_has_the_subject_of_the_gateways_own_authority_is_left_out(lab, library, caplog):
    """Such a record is refused; here it lies in the folder already."""
    introduce(lab, library)
    own = lab.authority.trusted(time.time())
    record = replace(library.home.members()["library"], serial=2, authorities=(namesake(own),))
    lab.home.put_member(sign_record(record, library.home.signing_key()))
    (lab.home.trust / "library.json").rename(lab.home.trust / "a.json")
    with gateway(lab) as url:
        assert ask(url, lab, lab) == {}
    told = "the authority of library is left out, so library is refused: it has the subject of lab's"
    assert any(record.getMessage().startswith(told) for record in caplog.records)


def test_a_gateway_answers_over_connections_that_it_keeps(lab, library):
    """A second request needs no second handshake."""
    introduce(lab, library)
    with gateway(lab) as url:
        context = tls_to(library.home, "lab")
        begun: list[int] = []

        class Counted(ssl.SSLObject):
            def do_handshake(self) -> None:
                begun.append(id(self))
                super().do_handshake()

        context.sslobject_class = Counted
        client = GatewayClient(url, "lab", library.home.signing_key(), tls=context)
        try:
            assert [client.state(10.0) for _ in range(5)] == [{}] * 5
        finally:
            client.close()
        assert len(set(begun)) == 1
