"""Heads: how far a feed is, by its owner's word, and until when that word holds."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from ioi_dagster.errors import SignatureError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.entry import DIGEST
from ioi_dagster.ras.feeds.names import MAX_NUMBER, Feed
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys

SCHEMA = "ioi.feed-head/1"
HOLDS_S = 600
"""A head holds for so long; the owner's gateway signs another after a third of it."""
AHEAD_S = 60
"""A head of later than this from now is refused. Nothing else goes by the time of day of others."""
MOST_S = 86_400
"""No head holds longer."""


@dataclass(frozen=True, slots=True)
class Head:
    """`root`: the public key (base64) that signs the feed's rosters, of which the newest has `serial`. Times: Unix seconds."""

    feed: Feed
    epoch: int
    seq: int
    hash: str
    root: str
    serial: int
    issued: int
    expires: int

    @property
    def place(self) -> tuple[int, int]:
        return self.epoch, self.seq


def sign_head(key: SigningKey, head: Head) -> Signed:
    """Raises `ValueError` where `key` is another domain's."""
    if key.domain != head.feed.origin:
        raise ValueError(f"{key.domain} cannot say how far {head.feed.origin} is")
    return key.sign(
        {
            "schema": SCHEMA,
            "origin": head.feed.origin,
            "audience": head.feed.audience,
            "epoch": head.epoch,
            "seq": head.seq,
            "hash": head.hash,
            "root": head.root,
            "serial": head.serial,
            "issued": head.issued,
            "expires": head.expires,
        }
    )


def head_in(signed: Signed) -> Head | Refusal:
    """What a head says; nothing is said of who has signed it."""
    body = signed.body
    if body.get("schema") != SCHEMA or body.keys() != _TYPES.keys():
        return Refusal("feed.malformed", "a head has other fields", "feeds")
    if any(type(body[name]) is not kind for name, kind in _TYPES.items()):
        return Refusal("feed.malformed", "a field of a head is of the wrong type", "feeds")
    head = Head(
        Feed(body["origin"], body["audience"]),
        body["epoch"],
        body["seq"],
        body["hash"],
        body["root"],
        body["serial"],
        body["issued"],
        body["expires"],
    )
    numbers = head.epoch, head.seq, head.serial, head.issued, head.expires
    if not all(0 <= number <= MAX_NUMBER for number in numbers) or not DIGEST.fullmatch(head.hash):
        return Refusal("feed.malformed", "a number or hash of a head is none", "feeds")
    if not 0 < head.expires - head.issued <= MOST_S or not _is_key(head.root):
        return Refusal("feed.malformed", "a head holds for no time, or too long, or names no root", "feeds")
    return head


def read_head(signed: Signed, trusted: TrustedKeys, now: float) -> Head | Refusal:
    """A head that its owner has signed, which may have expired. `trusted`: the keys of the members' records; `now`: Unix
    seconds."""
    head = head_in(signed)
    if isinstance(head, Refusal):
        return head
    try:
        signer = trusted.verify(signed)
    except SignatureError as error:
        return Refusal("feed.signature", f"the head of {head.feed}: {error}", "feeds")
    if signer != head.feed.origin:
        return Refusal("feed.signature", f"{signer} signs the head of {head.feed}", "feeds")
    if head.issued > now + AHEAD_S:
        text = f"the head of {head.feed} is of {head.issued - now:.0f} s from now"
        return Refusal("feed.ahead", text, "feeds", "set the clock of whichever is wrong, and have it kept right (NTP)")
    return head


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False


_TYPES = {
    "schema": str,
    "origin": str,
    "audience": str,
    "epoch": int,
    "seq": int,
    "hash": str,
    "root": str,
    "serial": int,
    "issued": int,
    "expires": int,
}
