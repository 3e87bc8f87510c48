"""What a domain has of its own: folders, keys, certificates and the record that it signs of itself. What is there is
kept."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
from cryptography import x509

from ioi_dagster.certificates import RENEW_DAYS, Authority, Role, days_left, domain_of, read_certificate
from ioi_dagster.clock import Clock
from ioi_dagster.domain import DomainHome, TrustFolder
from ioi_dagster.errors import BadInputError, IoiError
from ioi_dagster.model.member import MemberRecord, sign_record
from ioi_dagster.model.topology import DomainSpec
from ioi_dagster.private_file import write_private
from ioi_dagster.signing import Signed, SigningKey

OVERLAP_S = 86_400.0
"""So long counts what the key before the present one has signed: permits of runs under way."""
OVERLAP_LOOK_S = 60.0
"""So often it is looked whether that is over."""
log = logging.getLogger("ioi.identity")


def prepare_folders(home: DomainHome) -> None:
    """Its folders, which nobody else may read, the key that it signs by and the token of its own processes."""
    for folder in (home.root, home.root / "keys", home.trust, home.logs, home.work):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    key = home.root / "keys" / "domain.key"
    if not key.exists():
        SigningKey.generate(home.name).save(key)
    token = home.root / "keys" / "token"
    if not token.exists():
        write_private(token, secrets.token_urlsafe(32).encode())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with what `path` stands for, among all processes that ask so; the file is made and stays."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Is some process alone with it now? Of those who only ask, none is in another's way."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def identity_locked(home: DomainHome) -> contextlib.AbstractContextManager[None]:
    """For whoever changes keys, certificates or the domain's own record: what one command has read must not be what another
    has changed since, or the next record would be signed by a key that nobody knows."""
    return locked(home.root / "identity.lock")


def authority_locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """The same for an authority, which several domains of one owner may have."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return locked(folder / "authority.lock")


def forget_damaged(home: DomainHome) -> None:
    """Members' records of which one cannot be read are removed, all of them: for who makes them anew."""
    try:
        TrustFolder(home.trust).all()
        home.own_chain()
    except (BadInputError, msgspec.MsgspecError):
        for path in (*home.trust.glob("*.json"), home.root / "records.json"):
            path.unlink(missing_ok=True)


def prepare_authority(folder: Path, name: str, now: float) -> Authority:
    """The authority in `folder`, made where there is none. `now`: Unix seconds."""
    with authority_locked(folder):
        try:
            return Authority.load(folder)
        except FileNotFoundError:
            authority = Authority.make(name, now)
            authority.save(folder)
            return authority


def take_back(folder: Path, numbers: Iterable[int]) -> Authority:
    """The authority in `folder` as it is from now on: certificates with those serial numbers count no more."""
    with authority_locked(folder):
        authority = Authority.load(folder)
        authority = replace(authority, revoked=tuple(dict.fromkeys((*authority.revoked, *numbers))))
        authority.save(folder)
        return authority


def put_authority(folder: Path, authority: Authority) -> None:
    """From now on it is the one in `folder`: nothing counts that the one before it has issued."""
    with authority_locked(folder):
        authority.save(folder)


def sharing(home: DomainHome, authority: Authority, now: float) -> list[str]:
    """Other domains that have the authority too, as far as is known here: members, and those of the same home. One of these whose
    configuration cannot be read may be one."""
    mine, its = authority.trusted(now).fingerprint, home.config().spec.authority
    found = {name for name, record in home.members().items() if mine in record.fingerprints}
    for path in home.root.parent.glob("*/domain.json"):
        try:
            shares = DomainHome(path.parent).config().spec.authority == its
        except BadInputError:
            shares = True
        found |= {path.parent.name} if shares else set()
    return sorted(found - {home.name})


def what_dask_takes(home: DomainHome, authority: str, others: list[str]) -> str:
    """What still counts of certificates that are revoked, where `others` have the authority."""
    until = read_certificate(home.client_certificate).not_valid_after_utc.date()
    which = ", ".join([home.name, *others])
    text = f"the authority {authority} is {', '.join(others)}'s too, so it stays, and Dask knows no revocations"
    return f"{text}: whoever has an old certificate opens the Dask clusters of {which} until {until}"


def prepare_inviting(home: DomainHome, now: float) -> Authority:
    """The authority behind the domain's invitations, made where there is none. The domain's own would have its Dask clusters
    open to whoever is invited: they take whatever it has issued."""
    authority = prepare_authority(home.inviting_authority, "invitations", now)
    if not home.inviting_trusted.exists():
        write_private(home.inviting_trusted, msgspec.json.encode(authority.trusted(now)))
    return authority


def prepare_certificates(home: DomainHome, authority: Authority, now: float) -> None:
    """For its gateway, its clients and its Dask processes; renewed in time, and where they are of another authority or
    taken back."""
    for role, path in certificates(home).items():
        if not _holds(path, home.name, authority, now):
            replace_certificate(home, authority, role, now)
    # Last: another one has Dask's processes started anew, and they read all of them.
    write_private(home.authority_certificate, authority.trusted(now).certificate.encode())


def replace_certificate(home: DomainHome, authority: Authority, role: Role, now: float) -> None:
    """A new one. The serial number of the one that was there is remembered: it counts until it expires, or all are
    revoked."""
    path, numbers = certificates(home)[role], replaced_certificates(home)
    with contextlib.suppress(OSError, ValueError):  # there was none, or none that could be shown
        numbers.append(read_certificate(path).serial_number)
    write_private(home.replaced_certificates, "".join(f"{one:x}\n" for one in numbers).encode())
    write_private(path, authority.issue(home.name, role, now))


def replaced_certificates(home: DomainHome) -> list[int]:
    """Serial numbers of what the domain has shown before."""
    try:
        return [int(line, 16) for line in home.replaced_certificates.read_text().split()]
    except FileNotFoundError:
        return []


def certificates(home: DomainHome) -> dict[Role, Path]:
    """Where each of its certificates lies."""
    return {
        Role.GATEWAY: home.gateway_certificate,
        Role.CLIENT: home.client_certificate,
        Role.NODE: home.node_certificate,
    }


def _holds(path: Path, domain: str, authority: Authority, now: float) -> bool:
    try:
        certificate: x509.Certificate = read_certificate(path)
    except (OSError, ValueError):
        return False
    return (
        domain_of(certificate) == domain
        and days_left(certificate, now) > RENEW_DAYS
        and certificate.serial_number not in authority.revoked
        and authority.trusted(now).issued(certificate)
    )


def renew_record(
    home: DomainHome, authority: Authority, network: str, spec: DomainSpec, gateway: str, now: float
) -> Signed:
    """The domain's record as of now, which it keeps; the one that is there where nothing but its time would differ."""
    folder = TrustFolder(home.trust)
    key, before = home.signing_key(), folder.all().get(home.name)
    record = MemberRecord(
        network=network,
        domain=home.name,
        serial=1,
        gateway=gateway,
        authority=spec.authority,
        authorities=(authority.trusted(now),),
        keys=tuple(public(one) for one in (key, old_key(home, now)) if one is not None),
        clusters=tuple(cluster.name for cluster in spec.clusters),
        issued=float(int(now)),
    )
    if before is not None:
        same = replace(record, serial=before.serial, issued=before.issued, authorities=before.authorities)
        if same == before and record.fingerprints == before.fingerprints:
            return folder.signed()[home.name]
        record = replace(record, serial=before.serial + 1)
    signed = sign_record(record, key)
    home.put_own(signed)
    return signed


def public(key: SigningKey) -> str:
    """As a record has it."""
    return base64.b64encode(key.public_bytes).decode()


def old_key(home: DomainHome, now: float) -> SigningKey | None:
    """The key before the present one, as long as what it has signed still counts. `now`: Unix seconds."""
    path = home.root / "keys" / "old.key"
    try:
        return SigningKey.load(home.name, path) if now - path.stat().st_mtime < OVERLAP_S else None
    except FileNotFoundError:
        return None


def end_overlap(home: DomainHome, now: float) -> bool:
    """Once the key before the present one counts no more, the domain's record does not name it either, and whatever it has
    signed is refused by all who have that record. Was there something to do? `now`: Unix seconds."""
    with identity_locked(home):
        key, record = home.signing_key(), TrustFolder(home.trust).all().get(home.name)
        if record is None or record.left or len(record.keys) == 1 or old_key(home, now) is not None:
            return False
        ended = replace(record, serial=record.serial + 1, keys=(public(key),), issued=float(int(now)))
        home.put_own(sign_record(ended, key))
        (home.root / "keys" / "old.key").unlink(missing_ok=True)
        return True


def end_overlaps(home: DomainHome, clock: Clock, waited: Callable[[float], bool]) -> None:
    """Do so when it is time, until `waited`, which is given seconds, says that it is over. What fails is tried again."""
    while True:
        try:
            if end_overlap(home, clock.wall()):
                log.info("what the key before the present one has signed counts no more")
        except (IoiError, OSError, ValueError) as error:
            log.warning("whether an old key still counts is not known for now: %s", error)
        if waited(OVERLAP_LOOK_S):
            return
