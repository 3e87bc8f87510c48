"""Pointers: what an owner says of its records after they were made. Signed events, kept for ever, and what they come to.

Events of one name are ordered by the number that its owner gives them, never by a clock, so whoever has the same events has the
same state, in whatever order they came. Numbers rise and may have gaps: what is for partners alone is not seen by others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.ras.urn import checked_version, read_urn
from ioi_dagster.ras.versions import Known, last
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, canonical, digest_bytes

SCHEMA = "ioi.pointer/1"
MAX_EVENT = 16 * 1024
"""Bytes of one event's canonical body."""
MAX_REASON = 1000
MAX_SEQUENCE = 2**53 - 1
LATEST = "latest"
"""The alias that an owner sets to say what is given where no version is asked for."""


class Op(StrEnum):
    ALIAS = "alias"
    STATUS = "status"
    TRANSFER = "transfer"


class Status(StrEnum):
    """`yanked` is given only to those who name the version; `deleted` to nobody, and there is no way back from it."""

    ACTIVE = "active"
    DEPRECATED = "deprecated"
    YANKED = "yanked"
    DELETED = "deleted"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {status: rank for rank, status in enumerate(Status)}


@dataclass(frozen=True, slots=True)
class PointerEvent:
    """`op` says which fields count. `alias`: names `version`, or nothing where that is empty. `status`: of `version`, or of the
    whole record where that is empty; `successor` (and its version) comes in its place. `transfer`: `to` owns the name from here
    on. `at`: when, in seconds of the epoch by its owner's clock. `signer`: the domain that signed."""

    urn: str
    sequence: int
    at: float
    op: Op
    signer: str
    signed: Signed
    alias: str = ""
    version: str = ""
    status: Status = Status.ACTIVE
    successor: str = ""
    successor_version: str = ""
    reason: str = ""
    to: str = ""

    @property
    def digest(self) -> str:
        return digest_bytes(canonical(self.signed.body))


@dataclass(frozen=True, slots=True)
class Stand:
    """How a version, or a whole record, stands."""

    status: Status = Status.ACTIVE
    successor: str = ""
    successor_version: str = ""
    reason: str = ""


_ACTIVE = Stand()


@dataclass(frozen=True, slots=True)
class PointerState:
    """What the events of one name come to. `owners`: all that it has had, the present one last; `sequence`: of the last event
    that counts."""

    owners: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    whole: Stand = _ACTIVE
    versions: Mapping[str, Stand] = field(default_factory=lambda: MappingProxyType({}))
    sequence: int = 0

    @property
    def owner(self) -> str:
        return self.owners[-1]

    def stand(self, version: str) -> Stand:
        """Of one version: what is worse of its own and the whole record's."""
        own = self.versions.get(version, _ACTIVE)
        return own if own.status.rank >= self.whole.status.rank else self.whole

    def offered(self, versions: Sequence[Known]) -> str | None:
        """Which of `versions` is given where none is asked for: what `latest` names, where that is neither yanked nor deleted;
        else the last active one (`versions.last`), or the last deprecated one where none is active."""
        at = {known.version: self.stand(known.version).status for known in versions}
        named = self.aliases.get(LATEST)
        if named is not None and at.get(named, Status.DELETED).rank < Status.YANKED.rank:
            return named
        for status in (Status.ACTIVE, Status.DEPRECATED):
            fitting = [known for known in versions if at[known.version] is status]
            if fitting:
                found = last(fitting)
                return found.version if found else None
        return None


def state_of(urn: str, events: Iterable[PointerEvent], until: float | None = None) -> PointerState:
    """What `events`, of `urn` and in any order, come to; those that count up to the time `until` (seconds of the epoch), where
    one is given. An event never counts before one of a lower number, whatever its clock said. Events that were not signed by
    whoever owned the name at that number do not count."""
    return _folded(urn, events, until)[0]


def refused(urn: str, events: Iterable[PointerEvent]) -> list[PointerEvent]:
    """Those of `events` that do not count, as another owned the name at that number."""
    return _folded(urn, events, None)[1]


def _folded(urn: str, events: Iterable[PointerEvent], until: float | None) -> tuple[PointerState, list[PointerEvent]]:
    ordered = sorted(events, key=lambda event: event.sequence)
    for one, other in pairwise(ordered):
        if one.sequence == other.sequence and one.signed.body != other.signed.body:
            raise FinalError(f"{urn} has two events of number {one.sequence} — one of its owner's keys is used twice")
    owners, aliases, whole, versions = [read_urn(urn).domain], dict[str, str](), _ACTIVE, dict[str, Stand]()
    sequence, not_theirs = 0, []
    for event in ordered:
        if event.signer != owners[-1]:
            not_theirs.append(event)
            continue
        if until is not None and event.at > until:
            break  # and none after it
        sequence = event.sequence
        if event.op is Op.TRANSFER:
            owners.append(event.to)
        elif event.op is Op.ALIAS:
            aliases.pop(event.alias, None)
            if event.version:
                aliases[event.alias] = event.version
        else:
            stand = Stand(event.status, event.successor, event.successor_version, event.reason)
            if not event.version:
                whole = whole if whole.status is Status.DELETED else stand
            elif versions.get(event.version, _ACTIVE).status is not Status.DELETED:
                versions[event.version] = stand
    state = PointerState(tuple(owners), MappingProxyType(aliases), whole, MappingProxyType(versions), sequence)
    return state, not_theirs


def set_alias(key: SigningKey, urn: str, sequence: int, at: float, alias: str, version: str) -> PointerEvent:
    """`alias` names `version` from here on; nothing, where that is empty."""
    return _made(key, urn, sequence, at, Op.ALIAS, {"alias": alias, "version": version})


def set_status(
    key: SigningKey,
    urn: str,
    sequence: int,
    at: float,
    status: Status,
    version: str = "",
    *,
    successor: str = "",
    successor_version: str = "",
    reason: str = "",
) -> PointerEvent:
    """Of one version, or of all where it is empty."""
    fields = {"version": version, "status": str(status), "reason": reason}
    fields |= {"successor": successor, "successor_version": successor_version}
    return _made(key, urn, sequence, at, Op.STATUS, fields)


def accept_transfer(key: SigningKey, urn: str, sequence: int, at: float) -> Signed:
    """The word of the new owner, by its key, that it takes `urn` over; it goes to the present one, who signs `transfer`."""
    return key.sign(_transfer_body(urn, sequence, at, key.domain))


def transfer(key: SigningKey, accepted: Signed) -> PointerEvent:
    """The name goes over to who has `accepted` it."""
    vouched = {"key_id": accepted.key_id, "signature": accepted.signature}
    return event_of(key.sign({**accepted.body, "accepted": vouched}))


def read_pointer(signed: Signed, trusted: TrustedKeys) -> PointerEvent:
    """Verify and read; whether its signer owned the name is for `state_of` to say. Raises `SignatureError` for a bad signature,
    of either side of a transfer, and `BadInputError` for what is no event."""
    event = event_of(signed)
    trusted.verify(signed)
    if event.op is Op.TRANSFER:
        body = dict(signed.body)
        vouched = body.pop("accepted")
        taker = trusted.verify(Signed(body, vouched["key_id"], vouched["signature"]))
        if taker != event.to:
            raise FinalError(f"{event.urn} is to go to {event.to}, and {taker} has accepted it")
    return event


def _transfer_body(urn: str, sequence: int, at: float, to: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "urn": urn, "sequence": sequence, "at": at, "op": str(Op.TRANSFER), "to": to}


def _made(key: SigningKey, urn: str, sequence: int, at: float, op: Op, fields: dict[str, Any]) -> PointerEvent:
    body = {"schema": SCHEMA, "urn": urn, "sequence": sequence, "at": at, "op": str(op), **fields}
    return event_of(key.sign(body))


COMMON: dict[str, type | tuple[type, ...]] = {
    "schema": str,
    "urn": str,
    "sequence": int,
    "at": (int, float),
    "op": str,
}
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    Op.ALIAS: {"alias": str, "version": str},
    Op.STATUS: {"version": str, "status": str, "successor": str, "successor_version": str, "reason": str},
    Op.TRANSFER: {"to": str, "accepted": dict},
}
"""What a body of each kind has beside `COMMON`."""
ALIAS = r"[a-z][a-z0-9._-]{0,62}"
_ALIAS = re.compile(ALIAS)
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_STATUSES = frozenset(Status)
_TODO = "its owner corrects it and signs it anew"


def event_of(signed: Signed) -> PointerEvent:
    """Read what is known to be signed. Raises `BadInputError` for what is no event."""
    body = signed.body
    schema, op = body.get("schema"), body.get("op")
    if schema != SCHEMA:
        raise BadInputError(
            f"a pointer event of schema {str(schema)[:60]!r}; this registry reads {SCHEMA}",
            where="registry",
            todo="update it",
        )
    if not isinstance(op, str) or op not in FIELDS:
        raise BadInputError(f"{str(op)[:60]!r} is no kind of pointer event", where="registry", todo=_TODO)
    types = COMMON | FIELDS[op]
    if body.keys() != types.keys():
        odd = sorted(map(str, body.keys() ^ types.keys()))[:5]
        raise BadInputError(
            f"no pointer event: {', '.join(odd)[:200]} missing or too many", where="registry", todo=_TODO
        )
    for name, its in types.items():
        if not isinstance(body[name], its) or isinstance(body[name], bool):
            raise BadInputError(f"no pointer event: {name} is of the wrong type", where="registry", todo=_TODO)
    urn = str(read_urn(body["urn"]))
    for wrong, what in _wrong(body):
        if wrong:
            raise BadInputError(f"no pointer event: {what}", where=urn, todo=_TODO)
    for name in ("version", "successor_version"):
        if body.get(name):
            checked_version(body[name])
    if body.get("successor"):
        read_urn(body["successor"])
    if len(canonical(body)) > MAX_EVENT:
        raise BadInputError(f"a pointer event has {MAX_EVENT} bytes at most", where=urn, todo="shorten its reason")
    own = {name: body[name] for name in FIELDS[op] if name != "accepted"}
    if "status" in own:
        own["status"] = Status(own["status"])
    return PointerEvent(
        urn, body["sequence"], float(body["at"]), Op(op), signed.key_id.partition("#")[0], signed, **own
    )


def _wrong(body: Mapping[str, Any]) -> tuple[tuple[bool, str], ...]:
    """(is it wrong, what is)."""
    accepted = body.get("accepted", {"key_id": "", "signature": ""})
    shaped = accepted.keys() == {"key_id", "signature"} and all(
        isinstance(text, str) and len(text) < 500 for text in accepted.values()
    )
    return (
        (not 1 <= body["sequence"] <= MAX_SEQUENCE, "sequence is no number from 1"),
        (not 0 <= body["at"] < 1e11, "at is no time"),
        (not _ALIAS.fullmatch(body.get("alias", "x")), f"alias is {body.get('alias', '')[:60]!r}"),
        (body.get("status", Status.ACTIVE) not in _STATUSES, f"status is {body.get('status', '')[:30]!r}"),
        (not _DOMAIN.fullmatch(body.get("to", "x")), f"to is {body.get('to', '')[:60]!r}, and no domain"),
        (not shaped, "accepted is no signature"),
        (len(body.get("reason", "")) > MAX_REASON, f"its reason has more than {MAX_REASON} characters"),
        (bool(body.get("successor_version")) and not body.get("successor"), "it has a successor's version alone"),
    )
