"""Mutual TLS between domains: TLS 1.3, and both sides show a certificate (`ssl.CERT_REQUIRED`).

Each domain is believed under its own authority only: what another authority issues in its name is not its. Refusals say
why: the reason goes over the wire as TLS's own alert, and is read back into words on the other side."""

from __future__ import annotations

import logging
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509

from ioi_dagster.adapters.http.refusals import RefusalLog
from ioi_dagster.certificates import Trusted, days_left, domain_of
from ioi_dagster.domain import DomainHome, TrustFolder
from ioi_dagster.errors import BadInputError, UnreachableError
from ioi_dagster.model.member import INVITED, MemberRecord
from ioi_dagster.model.refusal import Refusal

log = logging.getLogger("ioi.tls")
HANDSHAKES = RefusalLog()
STAMPS = "ioi_peer"
"""Where a request's scope has the PEM of the certificate that the connection was opened with."""
PEOPLE = "ioi_people"
"""Is in a request's scope where it came to the listener for people and tools, who show a token and no certificate."""
LINGER_CALLS = 8
"""So often may a peer that was refused send more before it is cut off: it may not have read the alert yet."""

_ROTATE = "`ioi domain rotate` makes new ones"
REASONS: dict[str, tuple[str, str]] = {
    "CERTIFICATE_EXPIRED": ("our certificate has expired", _ROTATE),
    "CERTIFICATE_REVOKED": ("our certificate was revoked by our own authority", _ROTATE),
    "UNKNOWN_CA": ("it does not know the authority of our certificate", "join it with `ioi domain join`"),
    "BAD_CERTIFICATE": ("it does not take our certificate", _ROTATE),
    "CERTIFICATE_REQUIRED": ("we showed no certificate", "`ioi domain init` makes one"),
    "UNSUPPORTED_CERTIFICATE": ("our certificate is not one for clients", _ROTATE),
}
"""OpenSSL's reason, without its prefix, of an alert that the other side sent → (what is so, what to do)."""
_VERIFY: dict[int, tuple[str, str]] = {
    10: ("its certificate has expired", "its owner renews it: `ioi domain rotate`"),
    9: ("its certificate is not valid yet", "compare the clocks of both machines"),
    23: ("its certificate was revoked by its own authority", "its owner makes another: `ioi domain rotate`"),
    62: ("its certificate is another domain's", "ask its owner whether the address is still right"),
}
"""X509_V_ERR_… → the same, where we refuse theirs."""
_FOREIGN = (
    "its certificate is not of the authority that it joined with",
    "ask its owner, and join it again if it is so",
)


def client_context(certificate: Path, peer: Iterable[Trusted]) -> ssl.SSLContext:
    """For connections to one domain: it must show a certificate of one of its authorities; ours is in `certificate`
    (PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _strict(context, certificate)
    _load(context, peer)
    return context


def tls_to(home: DomainHome, peer: str) -> ssl.SSLContext:
    """For connections of the domain in `home` to the gateway of `peer`. Raises `BadInputError` where `peer` is no
    member."""
    return _context_to(home, peer, home.members())


def _context_to(home: DomainHome, peer: str, members: Mapping[str, MemberRecord]) -> ssl.SSLContext:
    record = members.get(peer)
    if record is None:
        todo = "join it with `ioi domain join`"
        raise BadInputError(f"{home.name} has no record of {peer}", where=str(home.trust), todo=todo)
    return client_context(home.client_certificate, record.authorities)


class TlsTo:
    """What `tls_to` makes, made anew when the domain shows another certificate, or the peer's authorities or what they took
    back have changed: for processes that outlive that. A call returns the same context as long as nothing has changed, and
    raises `UnreachableError` where the peer is no member any more. Those of many peers share a `folder`, which is read through
    when a record has changed."""

    def __init__(self, home: DomainHome, peer: str, folder: TrustFolder | None = None) -> None:
        self._home, self._peer, self._folder = home, peer, folder or TrustFolder(home.trust)
        self._known, self._context = self._now(), self._made()

    def __call__(self) -> ssl.SSLContext:
        now = self._now()
        if now[1] is None:
            raise UnreachableError(
                f"gateway of {self._peer}", "it is no member any more — join it with `ioi domain join`"
            )
        if now != self._known:
            self._context, self._known = self._made(), now
        return self._context

    def _made(self) -> ssl.SSLContext:
        return _context_to(self._home, self._peer, self._folder.records())

    def _now(self) -> tuple[bytes, tuple[Trusted, ...] | None]:
        return self._home.client_certificate.read_bytes(), self._folder.authorities().get(self._peer)


def tls_of(home: DomainHome) -> tuple[ssl.SSLContext, Peers]:
    """For the gateway of the domain in `home`, and who its callers are. Both go by the members' records as they are."""
    folder = TrustFolder(home.trust)

    def make() -> ssl.SSLContext:
        inviting = home.inviting()
        # By a name that no domain can have.
        invited = {} if inviting is None else {"(invitations)": (inviting,)}
        known = folder.authorities()
        # Its own first: nobody's takes their place.
        return server_context(home.gateway_certificate, {**invited, home.name: known.get(home.name, ()), **known})

    def changed() -> object:
        # What is in them, not when it was written: clocks are set back, and copies keep the time of what they are of.
        return folder.changed_at(), home.gateway_certificate.read_bytes(), home.inviting()

    return following(make, changed), Peers(folder.authorities, home.inviting)


def server_context(certificate: Path, peers: Mapping[str, Iterable[Trusted]]) -> ssl.SSLContext:
    """For a gateway: whoever connects shows a certificate of an authority of one of `peers`. Whose it is, is checked by
    `Peers`. One whose authorities OpenSSL does not load or would take for those of one before it is left out, and that is
    logged: it is refused, not all others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _strict(context, certificate)
    peers = _told_apart(peers)
    try:
        _load(context, [one for authorities in peers.values() for one in authorities])
    except ssl.SSLError:
        for name, authorities in peers.items():
            try:
                _load(context, authorities)
            except ssl.SSLError as error:
                told = "the authority of %s is not loaded, so %s is refused: %s — its owner signs another record"
                log.warning(told, name, name, error.reason or error)
    context.verify_mode = ssl.CERT_REQUIRED
    # A session that is resumed is one whose certificate nobody looks at again.
    context.num_tickets = 0
    context.sslobject_class = _TellingObject
    return context


def people_context(home: DomainHome) -> ssl.SSLContext:
    """For the listener of the gateway of the domain in `home` where nobody is asked for a certificate."""

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(home.gateway_certificate)
        return context

    return following(make, home.gateway_certificate.read_bytes)


def following(make: Callable[[], ssl.SSLContext], changed: Callable[[], object]) -> ssl.SSLContext:
    """A server's context that is made anew for connections that begin after `changed()` has another value: certificates
    are renewed and members come and go while it serves."""
    known, current = changed(), make()
    outer = current

    def choose(connection: ssl.SSLObject, _name: str | None, _outer: ssl.SSLContext) -> None:
        nonlocal known, current
        try:
            now = changed()
            if now != known:
                current, known = make(), now
        except (OSError, ValueError) as error:  # being written: the next connection looks again
            log.warning("certificates stay as they are: %s", error)
        connection.context = current

    outer.sni_callback = choose
    return outer


def _strict(context: ssl.SSLContext, certificate: Path) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT


def _load(context: ssl.SSLContext, trusted: Iterable[Trusted]) -> None:
    """Raises `ssl.SSLError` where one cannot be read; which were loaded before it, is left open."""
    # Python reads revocation lists from files only.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write("".join(one.certificate + one.revocations for one in dict.fromkeys(trusted)))
        file.flush()
        context.load_verify_locations(file.name)


def _told_apart(peers: Mapping[str, Iterable[Trusted]]) -> dict[str, list[Trusted]]:
    """OpenSSL takes the first authority of a subject that it finds, so there is to be one of each."""
    found: dict[str, list[Trusted]] = {}
    known: dict[object, tuple[str, str]] = {}
    for name, authorities in peers.items():
        found[name] = []
        for one in authorities:
            whose, its = known.setdefault(one.subject, (name, one.fingerprint))
            if its == one.fingerprint:
                found[name].append(one)
            else:
                told = "the authority of %s is left out, so %s is refused: it has the subject of %s's — %s"
                log.warning(told, name, name, whose, "its owner makes another")
    return found


class _TellingObject(ssl.SSLObject):
    """One connection of a server, whose peer learns why it was refused.

    asyncio and uvloop close a connection whose handshake fails without sending the alert that OpenSSL has made. They
    send what there is when more is to be read; so the error is said one time later."""

    _refused: ssl.SSLError | None = None
    _calls = 0

    def do_handshake(self) -> None:
        if self._refused is None:
            try:
                return super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                self._refused = error
                HANDSHAKES.refused("the handshake", why_we_refuse(error), time.monotonic())
        self._calls += 1
        if self._calls < LINGER_CALLS:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert is on its way")
        raise self._refused


def why_we_refuse(error: ssl.SSLError) -> str:
    """In words, with what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        what, todo = _VERIFY.get(error.verify_code, _FOREIGN)
        return f"{what} ({error.verify_message}) — {todo}"
    return f"TLS: {error.reason or error}"


def explain(error: BaseException) -> str:
    """What TLS has to do with a failed connection, in words: of our refusal or of theirs; empty where it has
    nothing."""
    seen: BaseException | None = error
    while seen is not None:
        # aiohttp's own errors are of these classes too, and what is looked for is with their cause.
        if isinstance(seen, ssl.SSLCertVerificationError) and hasattr(seen, "verify_code"):
            return why_we_refuse(seen)
        if isinstance(seen, ssl.SSLError) and getattr(seen, "reason", None):
            name = str(seen.reason).partition("ALERT_")[2]
            what, todo = REASONS.get(name, ("", ""))
            return f"{what} — {todo}" if what else f"TLS: {seen.reason}"
        seen = seen.__cause__ or seen.__context__
    return ""


@dataclass(frozen=True, slots=True)
class Peers:
    """Which domain a certificate that was shown belongs to: each domain's own authorities, and nobody else's, speak for
    it. `inviting`: the authority of the gateway's own invitations, if there is one."""

    authorities: Callable[[], Mapping[str, tuple[Trusted, ...]]]
    inviting: Callable[[], Trusted | None]

    def domain(self, pem: str, by: str) -> str | Refusal:
        """The domain, or why it is not believed; `by` is who says so."""
        certificate = _read(pem)
        name = domain_of(certificate) if certificate is not None else ""
        if certificate is None or not name:
            return Refusal(
                "tls.no_domain", "the certificate names no domain", by, "`ioi domain init` makes one that does"
            )
        known = self.authorities().get(name)
        if not known:
            text = f"{name[:100]} is no member here"
            return Refusal("tls.stranger", text, by, "join first: `ioi domain join`")
        if not any(_issued(pem, one) for one in known):
            text = f"the certificate names {name[:100]}, and is not of its authority"
            return Refusal("tls.foreign", text, by, "show one that the domain's own authority has issued")
        return name

    def refused(self, pem: str, by: str, now: float) -> Refusal | None:
        """Why nobody is answered on a connection that was opened with that certificate (`now`: Unix seconds); None where its
        owner is. The handshake takes any name under the authority of any member; and members go, change their authorities and
        take certificates back while connections are kept."""
        certificate, name, known = _read(pem), _named(pem), self.authorities()
        inviting = self.inviting() if name.startswith(INVITED) else None
        its = (*known.get(name, ()), *([inviting] if inviting is not None else []))
        issuer = next((one for one in its if _issued(pem, one)), None)
        if certificate is None or issuer is None:
            if its:
                text = f"the certificate names {name[:100]}, and is not of its authority"
                return Refusal("tls.foreign", text, by, "show one that the domain's own authority has issued")
            text = f"{name[:100] or 'whoever connects'} is no member here (any more)"
            return Refusal("tls.stranger", text, by, "join first: `ioi domain join`")
        if _revoked(pem, issuer):
            text = f"the certificate of {name[:100]} was revoked by its own authority"
            return Refusal("tls.revoked", text, by, "`ioi domain rotate` makes new ones")
        if days_left(certificate, now) < 0:
            text = f"the certificate of {name[:100]} has expired"
            return Refusal("tls.expired", text, by, "`ioi domain rotate` makes new ones")
        return None

    def proven(self, pem: str) -> str:
        """The domain whose own authority has issued it, or the invitation; empty where it is neither's, or cannot be told."""
        try:
            shown = self.domain(pem, "")
            whose = self.invited(pem, "") if isinstance(shown, Refusal) else shown
        except (OSError, ValueError, BadInputError) as error:
            log.warning("whose a connection is cannot be told: %s", error)
            return ""
        return "" if isinstance(whose, Refusal) else whose

    def invited(self, pem: str, own: str) -> str | Refusal:
        """The name in an invitation's certificate, which the domain `own` has issued for that alone."""
        certificate, inviting = _read(pem), self.inviting()
        name = domain_of(certificate) if certificate is not None else ""
        if not name.startswith(INVITED) or inviting is None or not _issued(pem, inviting):
            text = "the connection was not opened with an invitation"
            return Refusal("tls.not_invited", text, own, "ask the owner for one: `ioi domain invite`")
        return name


@lru_cache(1024)
def _read(pem: str) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return None


@lru_cache(1024)
def _named(pem: str) -> str:
    """The domain that a certificate names, believed or not; empty where it names none."""
    certificate = _read(pem)
    return domain_of(certificate) if certificate is not None else ""


@lru_cache(4096)
def _revoked(pem: str, authority: Trusted) -> bool:
    certificate = _read(pem)
    return certificate is not None and authority.took_back(certificate)


@lru_cache(4096)
def _issued(pem: str, authority: Trusted) -> bool:
    """Known once it was checked: what is presented again and again is the same text."""
    certificate = _read(pem)
    return certificate is not None and authority.issued(certificate)
