"""Which keys may write a feed: a roster, signed by the owner's root, which need not be on any machine that is on the network.

The first roster of a feed is believed by the word of a head, which a key of the owner's member record signs; every later one must
be of the same root. So whoever steals the key of a running gateway can write no roster."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import SignatureError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.names import MAX_NUMBER, Feed
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, key_id

SCHEMA = "ioi.feed-roster/1"
MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class KeySpan:
    """A public key (base64) that may sign entries up to `until`."""

    key: str
    until: int = MAX_NUMBER


@dataclass(frozen=True, slots=True)
class Revoked:
    """After entry `last` of `epoch` nothing by that key was its owner's, nor what was built on it."""

    key_id: str
    epoch: int
    last: int


@dataclass(frozen=True, slots=True)
class Roster:
    """Of one feed and epoch; `serial` rises with each. `root`: the public key (base64) that signs it; `signed`: the document."""

    feed: Feed
    epoch: int
    serial: int
    root: str
    keys: tuple[KeySpan, ...]
    revoked: tuple[Revoked, ...]
    signed: Signed

    def key(self, key: str, seq: int) -> bytes | None:
        """The public key of that id, if it may sign entry `seq`."""
        for span in self.keys:
            raw = base64.b64decode(span.key)
            if seq <= span.until and key_id(self.feed.origin, raw) == key:
                return raw
        return None


def public_text(key: SigningKey) -> str:
    return base64.b64encode(key.public_bytes).decode()


def sign_roster(
    root: SigningKey,
    feed: Feed,
    epoch: int,
    serial: int,
    keys: Sequence[KeySpan],
    revoked: Sequence[Revoked] = (),
) -> Signed:
    """Raises `ValueError` where `root` is another domain's."""
    if root.domain != feed.origin:
        raise ValueError(f"{root.domain} cannot say who signs for {feed.origin}")
    return root.sign(
        {
            "schema": SCHEMA,
            "origin": feed.origin,
            "audience": feed.audience,
            "epoch": epoch,
            "serial": serial,
            "root": public_text(root),
            "keys": [{"key": span.key, "until": span.until} for span in keys],
            "revoked": [{"key_id": one.key_id, "epoch": one.epoch, "last": one.last} for one in revoked],
        }
    )


def read_roster(signed: Signed, feed: Feed, root: str) -> Roster | Refusal:
    """The roster of `feed` in `signed`, if `root` has signed it."""
    try:
        text = msgspec.json.encode(signed)
    except (TypeError, RecursionError) as error:
        return Refusal("feed.roster", f"the roster of {feed} is none: {str(error)[:200]}", "feeds")
    return _read_once(text, feed, root)


@lru_cache(4_096)
def _read_once(text: bytes, feed: Feed, root: str) -> Roster | Refusal:
    """Each page brings the roster again, which is mostly the same."""
    signed = from_json(text, Signed)
    try:
        roster = _read(signed)
        raw = base64.b64decode(roster.root, validate=True)
        TrustedKeys({key_id(roster.feed.origin, raw): raw}).verify(signed)
    except (SignatureError, KeyError, TypeError, ValueError, binascii.Error, AttributeError) as error:
        return Refusal("feed.roster", f"the roster of {feed} is none: {str(error)[:200]}", "feeds")
    if roster.feed != feed:
        return Refusal("feed.roster", f"it is the roster of {str(roster.feed)[:200]}, not of {feed}", "feeds")
    if roster.root != root:
        why = f"the roster of {feed} is signed by another root than the one that is known"
        return Refusal("feed.root", why, "feeds", "ask its owner; if the root is lost, join it again")
    return roster


def _read(signed: Signed) -> Roster:
    body = signed.body
    if body.keys() != {"schema", "origin", "audience", "epoch", "serial", "root", "keys", "revoked"}:
        raise ValueError("its fields are others")
    if body["schema"] != SCHEMA:
        raise ValueError("it is of another schema")
    keys = tuple(KeySpan(_str(one["key"]), _number(one["until"])) for one in body["keys"])
    revoked = tuple(
        Revoked(_str(one["key_id"]), _number(one["epoch"]), _number(one["last"])) for one in body["revoked"]
    )
    if not 1 <= len(keys) <= MAX_KEYS or len(revoked) > MAX_KEYS:
        raise ValueError(f"it names no key, or more than {MAX_KEYS}")
    if any(len(base64.b64decode(span.key, validate=True)) != 32 for span in keys):
        raise ValueError("a key is not one of Ed25519")
    feed = Feed(_str(body["origin"]), _str(body["audience"]))
    return Roster(feed, _number(body["epoch"]), _number(body["serial"]), _str(body["root"]), keys, revoked, signed)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError("a number is none")
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is none")
    return value
