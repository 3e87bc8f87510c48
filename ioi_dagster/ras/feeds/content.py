"""What entries say: records that are stated, names that point at them, and what is stated no longer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.entry import Entry, Op
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.pointers import PointerEvent
from ioi_dagster.ras.record import Record, record_of
from ioi_dagster.ras.urn import checked_version, read_urn
from ioi_dagster.signing import Signed, canonical

POINTER, TOMBSTONE = "ioi.feed-pointer/1", "ioi.tombstone/1"
EVENT = "event"
"""Of what an entry says of a pointer, the signed event."""
Place = tuple[int, int]
"""Epoch and seq."""


@dataclass(frozen=True, slots=True)
class Put:
    """`record` is stated under `item`, in place of what was. That its owner says so is proved by the feed; whether its own
    signature holds is for who keeps it to see."""

    item: str
    at: Place
    record: Record


@dataclass(frozen=True, slots=True)
class Point:
    """`said` is the pointer as its owner wrote it: `urn`, `name`, and what it points at."""

    item: str
    at: Place
    said: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gone:
    """`item` is stated no longer."""

    item: str
    at: Place


@dataclass(frozen=True, slots=True)
class Prune:
    """What was last stated before `first` is stated no longer: a snapshot that began there is complete."""

    first: Place


@dataclass(frozen=True, slots=True)
class Undo:
    """What was stated in `epoch` after `last` was not its owner's: it is dropped at once."""

    epoch: int
    last: int


Change = Put | Point | Gone | Prune | Undo


def record_item(urn: str, version: str) -> str:
    return f"{urn} {version}"


def pointer_item(urn: str, name: str) -> str:
    return f"{urn} #{name}"


def record_body(signed: Signed) -> bytes:
    """What `put` says."""
    return canonical({"body": signed.body, "key_id": signed.key_id, "signature": signed.signature})


def pointer_body(urn: str, name: str, said: Mapping[str, Any]) -> bytes:
    """What `pointer` says: `said` besides its own fields."""
    return canonical({**said, "schema": POINTER, "urn": urn, "name": name})


def event_name(event: PointerEvent) -> str:
    """Under which a feed states it: each is stated for ever."""
    return f"e{event.sequence}"


def event_said(event: PointerEvent) -> Mapping[str, Any]:
    its = event.signed
    return {EVENT: {"body": its.body, "key_id": its.key_id, "signature": its.signature}}


def tombstone_body(item: str) -> bytes:
    """What `tombstone` says."""
    return canonical({"schema": TOMBSTONE, "item": item})


def change_of(entry: Entry, said: Mapping[str, Any]) -> Change | Refusal:
    """What an entry changes, or why nothing: then its feed goes on without it."""
    try:
        match entry.op:
            case Op.PUT:
                return _put(entry, said)
            case Op.POINTER:
                return _point(entry, said)
            case _:
                return _gone(entry, said)
    except (BadInputError, KeyError, TypeError, ValueError) as error:
        text = f"entry {entry.epoch}/{entry.seq} of {entry.feed} is left out: {str(error)[:300]}"
        return Refusal("feed.content", text, "feeds", "its owner corrects it and states it anew")


def _put(entry: Entry, said: Mapping[str, Any]) -> Put:
    if said.keys() != {"body", "key_id", "signature"} or not isinstance(said["body"], dict):
        raise ValueError("it is no signed record")
    key, signature = said["key_id"], said["signature"]
    if not isinstance(key, str) or not isinstance(signature, str) or not key.startswith(entry.feed.origin + "#"):
        raise ValueError(f"the record is signed by {str(key)[:100]}")
    record = record_of(Signed(said["body"], key, signature))
    _its_own(entry.feed, record.domain)
    if record.audience != entry.feed.audience:
        raise ValueError(f"the record is for {record.audience[:100]}")
    return Put(record_item(record.urn, record.version), entry.place, record)


def _point(entry: Entry, said: Mapping[str, Any]) -> Point:
    if said["schema"] != POINTER or not isinstance(said["urn"], str) or not isinstance(said["name"], str):
        raise ValueError("it is no pointer")
    _its_own(entry.feed, read_urn(said["urn"]).domain)
    if not _NAME.fullmatch(said["name"]):
        raise ValueError(f"{said['name'][:60]!a} is no name of a pointer")
    return Point(pointer_item(said["urn"], said["name"]), entry.place, said)


def _gone(entry: Entry, said: Mapping[str, Any]) -> Gone:
    if said.keys() != {"schema", "item"} or said["schema"] != TOMBSTONE:
        raise ValueError("it is no tombstone")
    urn, _, rest = said["item"].partition(" ")
    _its_own(entry.feed, read_urn(urn).domain)
    if not (rest.startswith("#") and _NAME.fullmatch(rest[1:])):
        checked_version(rest)
    return Gone(said["item"], entry.place)


def _its_own(feed: Feed, domain: str) -> None:
    if domain != feed.origin:
        raise ValueError(f"{feed.origin} may not write under the prefix of {domain}")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+~-]{0,199}")
