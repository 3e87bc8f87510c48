"""What a domain says of itself to its peers: where its gateway is, by which keys it signs and which authority vouches
for it.

A record is signed by the domain that it is of. The first is taken by whom an invitation brings together; each later one
by a key that the one before it names."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from ioi_dagster.certificates import Trusted
from ioi_dagster.decoding import converted, from_json
from ioi_dagster.errors import SignatureError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, canonical, key_id

KIND = "member/1"
MAX_RECORD = 64 * 2**10
MAX_KEYS, MAX_AUTHORITIES, MAX_CLUSTERS = 4, 2, 256
MAX_CHAIN = 16
"""Records that a domain keeps of itself: whoever missed more changes of keys joins it again."""
MAX_SERIAL = 2**53 - 1
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """`serial` rises with each record of the domain. `authority` is the name that it gives its certificate authority,
    which is told apart by `authorities` alone. `keys`: public Ed25519 keys (base64), the one that it signs by first;
    beside it those that still hold for some time. `clusters`: the names of its clusters, which are its own. `left`: it
    takes part no longer. Times: Unix seconds."""

    network: str
    domain: str
    serial: int
    gateway: str
    authority: str
    authorities: tuple[Trusted, ...]
    keys: tuple[str, ...]
    clusters: tuple[str, ...] = ()
    issued: float = 0.0
    left: bool = False
    kind: str = KIND

    @property
    def trusted(self) -> TrustedKeys:
        """The keys by which the domain signs."""
        raw = [base64.b64decode(key) for key in self.keys]
        return TrustedKeys({key_id(self.domain, key): key for key in raw})

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(one.fingerprint for one in self.authorities)

    @property
    def subjects(self) -> frozenset[tuple[object, ...]]:
        return frozenset(one.subject for one in self.authorities)


INVITED = "invitation-"
"""How the name in an invitation's certificate begins; no domain is called so."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """What one owner hands another, by a way that both trust: the record of the host, and a certificate with its key
    (PEM) that opens the host's gateway for joining alone, until `expires` (Unix seconds)."""

    id: str
    record: Signed
    certificate: str
    expires: float

    @property
    def name(self) -> str:
        return INVITED + self.id


@dataclass(frozen=True, slots=True)
class Invited:
    """What the host remembers of an invitation. `domain`: whom it is for, anybody where that is empty; `used_by`: who
    came. `give`: the highest data class that the guest may be given."""

    id: str
    give: DataClass
    expires: float
    domain: str = ""
    used_by: str = ""


def sign_record(record: MemberRecord, key: SigningKey) -> Signed:
    """Raises `ValueError` where `key` is another domain's."""
    if key.domain != record.domain:
        raise ValueError(f"{key.domain} cannot sign a record of {record.domain}")
    # As it looks when it comes over the wire: lists, not tuples.
    return key.sign(from_json(msgspec.json.encode(record)))


def read_record(signed: Signed) -> MemberRecord | Refusal:
    """The record in `signed`, which one of the keys that it names has signed. Whether that key is the domain's is not
    said by this."""
    try:
        if len(canonical(signed.body)) > MAX_RECORD:
            return _no("too_large", f"a member's record has {MAX_RECORD} bytes at most")
        record = converted(signed.body, MemberRecord)
    except Exception as error:  # hostile content: no JSON, or nested without end
        return _no("malformed", f"the record cannot be read: {str(error)[:200]}")
    wrong = _wrong(record)
    if wrong:
        return _no("malformed", f"the record of {record.domain[:100]} is not valid: {wrong}")
    return record


def first_record(signed: Signed) -> MemberRecord | Refusal:
    """A record that signs for itself: for an invitation, which says by other means whose it is."""
    record = read_record(signed)
    return record if isinstance(record, Refusal) else _signed_by(signed, record, record)


def newer_record(known: MemberRecord, chain: Sequence[Signed]) -> tuple[MemberRecord, Signed] | Refusal | None:
    """The newest of `chain`, which follows from `known` record by record; None where there is nothing newer. `chain` is
    what the domain told of itself, oldest first."""
    newest: tuple[MemberRecord, Signed] | None = None
    if len(chain) > MAX_CHAIN:
        return _no("too_large", f"a member tells {MAX_CHAIN} records at most")
    for signed in chain:
        before = newest[0] if newest else known
        record = read_record(signed)
        if isinstance(record, Refusal):
            return record
        if (record.domain, record.network) != (known.domain, known.network):
            return _no("other_domain", f"{known.domain} told a record of {record.domain} in {record.network}")
        if record.serial <= before.serial:
            continue
        checked = _signed_by(signed, record, before)
        if isinstance(checked, Refusal):
            return checked
        newest = (record, signed)
    return newest


def claims_others(record: MemberRecord, others: Sequence[MemberRecord]) -> Refusal | None:
    """A cluster that another member has told first, an authority's name, certificate or subject that are another's: what
    is somebody else's. Members of one authority share both, the whole of both: who adds one of its own to another's could
    speak by it where only that other is trusted with code."""
    for other in others:
        if other.domain == record.domain or other.left:
            continue
        taken = sorted(set(record.clusters) & set(other.clusters))
        if taken:
            text = f"{record.domain} claims {', '.join(taken)[:200]}, which {other.domain} has"
            return _no("not_its_own", text, "its owner gives it another name")
        calls = f"{record.domain} calls its authority {record.authority}"
        if record.authority == other.authority and record.fingerprints != other.fingerprints:
            text = f"{calls}, as {other.domain} does, and it is another one"
            return _no("not_its_own", text, "its owner gives it another name")
        if record.authority != other.authority and record.fingerprints & other.fingerprints:
            text = f"{calls}, and it is the one that {other.domain} calls {other.authority}"
            return _no("not_its_own", text, "who shares an authority calls it by one name")
        if record.fingerprints != other.fingerprints and record.subjects & other.subjects:
            text = f"{record.domain}'s authority has the subject of another one, which is {other.domain}'s"
            return _no("not_its_own", text, "its owner makes another: subjects are told apart by their serial number")
    return None


def _signed_by(signed: Signed, record: MemberRecord, before: MemberRecord) -> MemberRecord | Refusal:
    try:
        before.trusted.verify(signed)
    except SignatureError:
        by = f"signed by {signed.key_id[:100]!r}, not by a key of its record {before.serial}"
        text = f"the record {record.serial} of {record.domain} is {by}"
        return _no("signature", text, "ask its owner; if its keys are lost, join it again")
    return record


def _wrong(record: MemberRecord) -> str:
    """What a field has that it may not; empty where all is well."""
    names = (record.network, record.domain, record.authority, *record.clusters)
    odd = next((name for name in names if not NAME.fullmatch(name)), None)
    if odd is not None:
        return f"{odd[:80]!r} is no name"
    if record.domain.startswith(INVITED):
        return f"a domain's name may not begin with {INVITED!r}"
    if record.kind != KIND:
        return f"it is of kind {record.kind[:40]!r}, not {KIND!r}"
    if not 1 <= record.serial <= MAX_SERIAL:
        return "its serial is out of range"
    if not 1 <= len(record.keys) <= MAX_KEYS or not 1 <= len(record.authorities) <= MAX_AUTHORITIES:
        return f"it names no key or authority, or more than {MAX_KEYS} and {MAX_AUTHORITIES}"
    if len(set(record.clusters)) != len(record.clusters) or len(record.clusters) > MAX_CLUSTERS:
        return f"it names a cluster twice, or more than {MAX_CLUSTERS}"
    try:
        if any(len(base64.b64decode(key, validate=True)) != 32 for key in record.keys):
            return "a key is not one of Ed25519"
        address = urlsplit(record.gateway)
        if address.scheme != "https" or not address.hostname or not address.port or address.path.strip("/"):
            return "its gateway is not of the form https://host:port"
        for one in record.authorities:
            one.check()
        if len(record.subjects) < len(record.authorities):
            return "its authorities have one subject"
    except (ValueError, binascii.Error, SignatureError) as error:
        return str(error)
    return ""


def _no(code: str, text: str, remedy: str = "") -> Refusal:
    return Refusal(f"member.{code}", text, "membership", remedy)
