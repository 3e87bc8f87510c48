"""Rules of membership: what a gateway gives of the members' records, and whose record it takes of a guest.

Who has an invitation for anybody may ask for the second kind. Each record that is sent is to be refused, and then nobody has
joined and the invitation is as good as before. The last one is in the name of a member: by who takes it, that member is told
to join anew.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import msgspec

from ioi_dagster.adapters.http.conformance.asker import ANSWER_S, Ask, Asker, BrokenError
from ioi_dagster.adapters.http.doors import MAX_JSON
from ioi_dagster.adapters.http.protocol import PREFIX, Health, JoinRequest
from ioi_dagster.certificates import Authority
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError
from ioi_dagster.model.member import (
    MAX_CLUSTERS,
    MAX_KEYS,
    MAX_RECORD,
    MAX_SERIAL,
    MemberRecord,
    first_record,
    newer_record,
    read_record,
)
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.record import read_record as read_registered
from ioi_dagster.signing import Signed, SigningKey

JOIN = PREFIX + "join"
MAX_ANSWER = 2**20
"""Bytes of an answer about members that a peer reads."""
NOBODY = "nobody.example"


def _heard(asker: Asker) -> dict[str, int]:
    """Member → the serial that health tells, the domain itself among them."""
    health = asker.read(Health, *asker.ask("GET", PREFIX + "health", b"", {}))
    return {one.domain: one.serial for one in health.heard}


def _chain(asker: Asker, domain: str, after: object = 0) -> list[Signed]:
    status, body = _member(asker, domain, after)
    if len(body) > MAX_ANSWER:
        raise BrokenError(f"{len(body)} bytes, of which peers read {MAX_ANSWER}")
    return asker.read(list[Signed], status, body)


def _member(asker: Asker, domain: str, after: object) -> tuple[int, bytes]:
    return asker.ask("GET", f"{PREFIX}member?{urlencode({'domain': domain, 'after': after})}", b"", {})


def _newest(asker: Asker, domain: str, least: int) -> MemberRecord:
    """Signed by a key that it names, of that domain, and not older than was told."""
    chain = _chain(asker, domain)
    if not chain:
        raise BrokenError(f"no record of {domain}, of whom health tells record {least}")
    record = _good(first_record(chain[-1]))
    if record.domain != domain or record.serial < least:
        raise BrokenError(f"record {record.serial} of {record.domain}, not {least} of {domain}")
    return record


def _good(record: MemberRecord | Refusal) -> MemberRecord:
    if isinstance(record, Refusal):
        raise BrokenError(f"[{record.code}] {record.text}")
    return record


def _own(asker: Asker) -> MemberRecord:
    its = asker.subject.domain
    return _newest(asker, its, _heard(asker).get(its, 1))


def _gives_its_own(asker: Asker) -> None:
    its = _own(asker)
    if asker.subject.cluster not in its.clusters:
        raise BrokenError(f"its record names {', '.join(its.clusters) or 'no cluster'}, not {asker.subject.cluster}")


def _follows_itself(asker: Asker) -> None:
    """From any record of it that a peer may have, each newer one is believed."""
    oldest, *newer = _chain(asker, asker.subject.domain)
    told = newer_record(_good(read_record(oldest)), newer)
    if isinstance(told, Refusal):
        raise BrokenError(f"[{told.code}] {told.text}")
    if newer and (told is None or told[1] != newer[-1]):
        raise BrokenError("the serials of its records do not rise")


def _gives_others(asker: Asker) -> None:
    its, heard, network = asker.subject, _heard(asker), _own(asker).network
    if its.key.domain not in heard:
        raise BrokenError(f"health tells of {', '.join(heard)}, not of {its.key.domain}, which asks")
    for name, serial in heard.items():
        record = _newest(asker, name, serial)
        if record.network != network:
            raise BrokenError(f"a record of {name} in {record.network}, not in {network}")
        if name == its.key.domain and its.key.key_id not in record.trusted.keys:
            raise BrokenError(f"a record of {name} that names none of its keys")


def _leaves_out_what_is_known(asker: Asker) -> None:
    its = _own(asker)
    more = _chain(asker, its.domain, its.serial)
    if any(one.body.get("serial", 0) <= its.serial for one in more):
        raise BrokenError(f"record {its.serial} again, asked for those after it")


def _gives_nothing_of_nobody(asker: Asker) -> None:
    if told := _chain(asker, NOBODY):
        raise BrokenError(f"{len(told)} records of a domain that nobody has")


def _tells_members(asker: Asker) -> None:
    """What people are told and what peers are; who comes or goes in between may be in either."""
    before = _heard(asker).keys()
    told = asker.read(dict[str, dict[str, Any]], *asker.ask("GET", PREFIX + "members", b"", {})).keys()
    after, its = _heard(asker).keys(), {asker.subject.domain}
    if not (before & after) - its <= told <= (before | after) - its:
        raise BrokenError(f"{', '.join(told) or 'nobody'}, and health tells of {', '.join(after)}")


def _registers_what_it_signed(asker: Asker) -> None:
    trusted = _own(asker).trusted
    records = asker.read(list[Signed], *asker.ask("GET", PREFIX + "registry/records", b"", {}))
    if not records:
        raise BrokenError("no record at all")
    for signed in records:
        try:
            read_registered(signed, trusted)
        except FinalError as error:
            raise BrokenError(f"{str(signed.body.get('urn', ''))[:100]}: {error}") from error


def _refuses_kinds(asker: Asker) -> None:
    asker.refused(
        400, "registry.unknown_kind", asker.ask("GET", PREFIX + "registry/records?kind=no-such-kind", b"", {})
    )


def _refuses_uninvited(asker: Asker) -> None:
    guest = Guest(asker)
    body = msgspec.json.encode(JoinRequest(guest.signed()))
    asker.refused(401, "tls.not_invited", asker.send("POST", "join", body))


def _refuses_serials(asker: Asker) -> None:
    asker.refused(400, "gateway.malformed", _member(asker, asker.subject.domain, "the-first"))


MEMBERS: dict[str, Callable[[Asker], None]] = {
    "its own record is signed by a key that it names, and names its cluster": _gives_its_own,
    "each of its records is signed by a key of the one before it": _follows_itself,
    "records of members are given as they signed them, the asking domain's too": _gives_others,
    "records up to the serial that is asked for are left out": _leaves_out_what_is_known,
    "a serial that is no number is refused": _refuses_serials,
    "of whom it does not know it gives no record": _gives_nothing_of_nobody,
    "its members are those of whom it tells its peers": _tells_members,
    "what it has registered is signed by a key of its record": _registers_what_it_signed,
    "a kind of record that is not there is refused by name": _refuses_kinds,
    "who has no invitation does not join": _refuses_uninvited,
}


# By an invitation ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Guest:
    """A domain of which nobody has heard, and that is to stay like that. `its`: the record of the domain that is asked."""

    asker: Asker
    name: str = field(default_factory=lambda: f"conformance-{uuid.uuid4().hex[:12]}")
    key: SigningKey = field(init=False)
    authority: Authority = field(init=False)
    its: MemberRecord = field(init=False)

    def __post_init__(self) -> None:
        self.key = SigningKey.generate(self.name)
        self.authority = Authority.make(self.name, self.asker.subject.now())
        self.its = _own(self.asker)

    def record(self, **change: Any) -> MemberRecord:
        plain = MemberRecord(
            network=self.its.network,
            domain=self.name,
            serial=1,
            gateway="https://127.0.0.1:1",
            authority=self.name,
            authorities=(self.authority.trusted(self.asker.subject.now()),),
            keys=(_public(self.key),),
            issued=float(int(self.asker.subject.now())),
        )
        return replace(plain, **change)

    def signed(self, key: SigningKey | None = None, **change: Any) -> Signed:
        return self.signed_as(from_json(msgspec.json.encode(self.record(**change))), key)

    def signed_as(self, body: dict[str, Any], key: SigningKey | None = None) -> Signed:
        return (key or self.key).sign(body)

    def plain(self, **change: Any) -> dict[str, Any]:
        return from_json(msgspec.json.encode(self.record(**change)))

    def others(self) -> Iterator[MemberRecord]:
        """That take part, besides the domain that is asked."""
        for name, serial in _heard(self.asker).items():
            record = _newest(self.asker, name, serial)
            if name != self.its.domain and not record.left:
                yield record

    def another(self) -> MemberRecord:
        """Who asks is one."""
        found = next((one for one in self.others() if one.clusters), None)
        if found is None:
            raise BrokenError("health tells of no other member with a cluster")
        return found


def _public(key: SigningKey) -> str:
    return base64.b64encode(key.public_bytes).decode()


def _refused(code: str, make: Callable[[Guest], Signed], status: int = 403) -> Callable[[Asker, Ask], None]:
    return _answered(status, code, lambda guest: msgspec.json.encode(JoinRequest(make(guest))))


def _answered(status: int, code: str, body: Callable[[Guest], bytes]) -> Callable[[Asker, Ask], None]:
    def probe(asker: Asker, ask: Ask) -> None:
        answer = ask("POST", JOIN, body(Guest(asker)), {}, ANSWER_S)
        if answer is None:
            raise BrokenError(f"no answer at {JOIN} within {ANSWER_S:g} s")
        asker.refused(status, code, answer)

    return probe


def _changed(guest: Guest) -> Signed:
    signed = guest.signed()
    return replace(signed, body=signed.body | {"gateway": "https://127.0.0.1:2"})


def _another_key(guest: Guest) -> Signed:
    return guest.signed(SigningKey.generate(guest.name))


def _members_name(guest: Guest) -> Signed:
    """As if it were a newer record of who asks; a domain that asks itself does so in another one's name."""
    its = guest.asker.subject.key.domain
    known = guest.another() if its == guest.its.domain else _newest(guest.asker, its, 1)
    told = replace(known, serial=known.serial + 1, keys=(_public(guest.key),))
    return guest.signed_as(from_json(msgspec.json.encode(told)), replace(guest.key, domain=known.domain))


def _unsignable(guest: Guest) -> Signed:
    return replace(guest.signed(), body=guest.plain() | {"serial": MAX_SERIAL + 1})


def _own_name(guest: Guest) -> Signed:
    return guest.signed(replace(guest.key, domain=guest.its.domain), domain=guest.its.domain)


_A_KEY = base64.b64encode(bytes(32)).decode()
_ODD: dict[str, dict[str, Any]] = {
    "a record of a later kind is refused": {"kind": "member/2"},
    "a record whose name is none is refused": {"domain": "../elsewhere"},
    "a record whose gateway is not asked over TLS is refused": {"gateway": "http://127.0.0.1:1"},
    "a record without a key is refused": {"keys": ()},
    "a record with too many keys is refused": {"keys": (_A_KEY,) * (MAX_KEYS + 1)},
    "a record with a key that is none is refused": {"keys": ("a2V5",)},
    "a record without an authority is refused": {"authorities": ()},
    "a record that names a cluster twice is refused": {"clusters": ("c", "c")},
    "a record with too many clusters is refused": {"clusters": tuple(f"c{n}" for n in range(MAX_CLUSTERS + 1))},
    "a record without a serial that counts is refused": {"serial": 0},
    "a serial that is written as text is refused": {"serial": "1"},
}


def _odd(change: dict[str, Any]) -> Callable[[Asker, Ask], None]:
    return _refused("member.malformed", lambda guest: guest.signed_as(guest.plain() | change))


GUESTS: dict[str, Callable[[Asker, Ask], None]] = {
    "a guest that sends no record is refused": _answered(400, "gateway.malformed", lambda _: b"{}"),
    "a guest that sends too much is refused": _answered(413, "gateway.too_large", lambda _: b" " * (MAX_JSON + 1)),
    "a record that is too large is refused": _refused(
        "member.too_large", lambda guest: guest.signed_as(guest.plain() | {"of_a_later_version": "x" * MAX_RECORD})
    ),
    "a record that another key has signed is refused": _refused("member.signature", _another_key),
    "a record that was changed after it was signed is refused": _refused("member.signature", _changed),
    **{rule: _odd(change) for rule, change in _ODD.items()},
    "a serial that JSON's numbers do not hold exactly is refused": _refused("member.malformed", _unsignable),
    "a record of another network is refused": _refused(
        "member.other_network", lambda guest: guest.signed(network=f"{guest.its.network}-2")
    ),
    "a record of who has left is refused": _refused("member.left", lambda guest: guest.signed(left=True)),
    "a record in its own name is refused": _refused("member.not_its_own", _own_name),
    "a record that claims its own cluster is refused": _refused(
        "member.not_its_own", lambda guest: guest.signed(clusters=(guest.asker.subject.cluster,))
    ),
    "a record that claims another member's cluster is refused": _refused(
        "member.not_its_own", lambda guest: guest.signed(clusters=guest.another().clusters[:1])
    ),
    "a record that calls its authority as a member does is refused": _refused(
        "member.not_its_own", lambda guest: guest.signed(authority=guest.its.authority)
    ),
    "a record that shows a member's authority under another name is refused": _refused(
        "member.not_its_own", lambda guest: guest.signed(authorities=guest.its.authorities)
    ),
    "fields of a later version of a record are ignored": _refused(
        "member.not_its_own",
        lambda guest: guest.signed_as(guest.plain(clusters=(guest.asker.subject.cluster,)) | {"of_a_later_version": 1}),
    ),
    "a record of a member that none of its keys has signed is refused": _refused("member.signature", _members_name),
}
