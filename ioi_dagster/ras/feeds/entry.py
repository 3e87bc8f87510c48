"""Entries of feeds: each is signed, has its place, and names the one before it.

What is signed is the entry without its body, which its digest stands for; the hash of an entry covers its signature too. So who
has checked one entry's signature has the owner's word for all before it that hang together with it, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.names import MAX_NUMBER, Feed
from ioi_dagster.ras.feeds.text import read_text
from ioi_dagster.signing import Signed, SigningKey, digest_bytes

SCHEMA = "ioi.feed-entry/1"
NOTHING = "sha256:" + 64 * "0"
"""What the first entry of a feed names as the one before it."""


class Op(StrEnum):
    PUT = "put"
    POINTER = "pointer"
    TOMBSTONE = "tombstone"
    KEY = "key"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class Entry:
    """`seq` counts from 1 in each `epoch`; `prev` is the hash of the entry before; `hlc` the owner's time (µs, never the same
    twice); `body` the canonical bytes of what `op` says, and `digest` is theirs."""

    feed: Feed
    epoch: int
    seq: int
    prev: str
    hlc: int
    op: Op
    digest: str
    body: bytes
    key_id: str
    signature: str
    hash: str

    @property
    def place(self) -> tuple[int, int]:
        return self.epoch, self.seq

    @property
    def signed(self) -> Signed:
        """Without its body: what a proof needs of it, and no more."""
        return Signed(
            {
                "audience": self.feed.audience,
                "digest": self.digest,
                "epoch": self.epoch,
                "hlc": self.hlc,
                "op": str(self.op),
                "origin": self.feed.origin,
                "prev": self.prev,
                "schema": SCHEMA,
                "seq": self.seq,
            },
            self.key_id,
            self.signature,
        )


@dataclass(frozen=True, slots=True)
class WireEntry:
    """As it goes between domains. `body`: any JSON text of the object whose canonical bytes have that digest."""

    epoch: int
    seq: int
    prev: str
    hlc: int
    op: Op
    digest: str
    body: msgspec.Raw
    key_id: str
    signature: str


def make_entry(key: SigningKey, feed: Feed, epoch: int, seq: int, prev: str, hlc: int, op: Op, body: bytes) -> Entry:
    """`body`: canonical bytes. Raises `ValueError` where `key` is another domain's."""
    if key.domain != feed.origin:
        raise ValueError(f"{key.domain} cannot sign what {feed.origin} tells")
    digest = digest_bytes(body)
    text = _text(feed, epoch, seq, prev, hlc, op, digest)
    signature = base64.b64encode(key.private.sign(text)).decode()
    its = _hash(text, key.key_id, signature)
    return Entry(feed, epoch, seq, prev, hlc, op, digest, body, key.key_id, signature, its)


def to_wire(entry: Entry) -> WireEntry:
    its = entry.epoch, entry.seq, entry.prev, entry.hlc, entry.op, entry.digest
    return WireEntry(*its, msgspec.Raw(entry.body), entry.key_id, entry.signature)


def read_entry(feed: Feed, wire: WireEntry) -> tuple[Entry, dict[str, Any]] | Refusal:
    """An entry of `feed` and what it says. Its signature is not looked at."""
    odd = _odd(feed, wire)
    if odd:
        return Refusal("feed.malformed", f"an entry of {feed} is none: {odd}", "feeds")
    try:
        said, body = read_text(bytes(wire.body))
    except BadInputError as error:
        return Refusal("feed.malformed", f"entry {wire.epoch}/{wire.seq} of {feed}: {error.what}", "feeds")
    if digest_bytes(body) != wire.digest:
        return Refusal(
            "feed.digest", f"entry {wire.epoch}/{wire.seq} of {feed} says something else than was signed", "feeds"
        )
    text = _text(feed, wire.epoch, wire.seq, wire.prev, wire.hlc, wire.op, wire.digest)
    its = wire.epoch, wire.seq, wire.prev, wire.hlc, wire.op, wire.digest, body
    return Entry(feed, *its, wire.key_id, wire.signature, _hash(text, wire.key_id, wire.signature)), said


def verified(entry: Entry, public: bytes) -> bool:
    """Has that key signed it?"""
    text = _text(entry.feed, entry.epoch, entry.seq, entry.prev, entry.hlc, entry.op, entry.digest)
    try:
        _key(public).verify(base64.b64decode(entry.signature, validate=True), text)
    except (InvalidSignature, ValueError):
        return False
    return True


def hash_of(signed: Signed) -> str:
    """Of an entry without its body, which was read by `claims.read_claims`."""
    body = signed.body
    feed = Feed(body["origin"], body["audience"])
    its = body["epoch"], body["seq"], body["prev"], body["hlc"], Op(body["op"]), body["digest"]
    return _hash(_text(feed, *its), signed.key_id, signed.signature)


def _text(feed: Feed, epoch: int, seq: int, prev: str, hlc: int, op: Op, digest: str) -> bytes:
    """RFC 8785: nothing in it needs an escape."""
    return (
        f'{{"audience":"{feed.audience}","digest":"{digest}","epoch":{epoch},"hlc":{hlc},"op":"{op.value}",'
        f'"origin":"{feed.origin}","prev":"{prev}","schema":"{SCHEMA}","seq":{seq}}}'
    ).encode()


def _hash(text: bytes, key_id: str, signature: str) -> str:
    """Of the canonical bytes of the signed document."""
    whole = b'{"body":%b,"key_id":"%b","signature":"%b"}' % (text, key_id.encode(), signature.encode())
    return "sha256:" + hashlib.sha256(whole).hexdigest()


def _odd(feed: Feed, wire: WireEntry) -> str:
    if not (1 <= wire.epoch <= MAX_NUMBER and 1 <= wire.seq <= MAX_NUMBER and 0 <= wire.hlc <= MAX_NUMBER):
        return "a number is out of range"
    if not (DIGEST.fullmatch(wire.prev) and DIGEST.fullmatch(wire.digest)):
        return "a hash is none"
    if not _SIGNATURE.fullmatch(wire.signature) or not _KEY_ID.fullmatch(wire.key_id):
        return "its signature is none"
    if not wire.key_id.startswith(feed.origin + "#"):
        return f"it is signed by {wire.key_id[:100]}"
    return ""


@lru_cache(4096)
def _key(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{86}==")
_KEY_ID = re.compile(r"[a-z0-9.-]{1,253}#[0-9a-f]{16}")
