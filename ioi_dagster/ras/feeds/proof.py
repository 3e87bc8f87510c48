"""Proofs that an owner has told two things at one place of a feed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ioi_dagster.errors import SignatureError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.entry import DIGEST, Op, hash_of
from ioi_dagster.ras.feeds.entry import SCHEMA as ENTRY
from ioi_dagster.ras.feeds.head import head_in
from ioi_dagster.ras.feeds.names import MAX_NUMBER, Feed
from ioi_dagster.signing import Signed, TrustedKeys


@dataclass(frozen=True, slots=True)
class Proof:
    """Two signed documents of one owner, heads or entries without their bodies, which cannot both be true."""

    first: Signed
    second: Signed


@dataclass(frozen=True, slots=True)
class Claims:
    """`hashes`: which hash the entry of a seq has, as a document of `feed` and `epoch` says."""

    feed: Feed
    epoch: int
    hashes: dict[int, str]


def claims_of(signed: Signed) -> Claims | None:
    """What it says of hashes: a head of one, an entry of its own and of that of the one before. None where it is neither."""
    body = signed.body
    if body.get("schema") != ENTRY:
        head = head_in(signed)
        return None if isinstance(head, Refusal) else Claims(head.feed, head.epoch, {head.seq: head.hash})
    if body.keys() != _TYPES.keys() or any(type(body[name]) is not kind for name, kind in _TYPES.items()):
        return None
    epoch, seq, prev = body["epoch"], body["seq"], body["prev"]
    numbers = all(0 <= number <= MAX_NUMBER for number in (epoch, seq, body["hlc"]))
    if not numbers or body["op"] not in tuple(Op) or not DIGEST.fullmatch(prev) or not DIGEST.fullmatch(body["digest"]):
        return None
    hashes = {seq: hash_of(signed)}
    # The first of an epoch names one of the epoch before.
    return Claims(Feed(body["origin"], body["audience"]), epoch, hashes | ({seq - 1: prev} if seq > 1 else {}))


def contradict(first: Claims, second: Claims) -> bool:
    same = (first.feed, first.epoch) == (second.feed, second.epoch)
    return same and any(second.hashes.get(seq, its) != its for seq, its in first.hashes.items())


def proves(proof: Proof, trusted: TrustedKeys | Callable[[Signed], bool]) -> Feed | None:
    """The feed of which it proves that, where its owner's keys have signed both; else None. `trusted`: the keys, or whether one
    has signed."""
    first, second = claims_of(proof.first), claims_of(proof.second)
    if first is None or second is None or not contradict(first, second):
        return None
    for signed in (proof.first, proof.second):
        if not signed.key_id.startswith(first.feed.origin + "#") or not _signed(signed, trusted):
            return None
    return first.feed


def _signed(signed: Signed, trusted: TrustedKeys | Callable[[Signed], bool]) -> bool:
    if not isinstance(trusted, TrustedKeys):
        return trusted(signed)
    try:
        trusted.verify(signed)
    except SignatureError:
        return False
    return True


_TYPES = {
    "audience": str,
    "digest": str,
    "epoch": int,
    "hlc": int,
    "op": str,
    "origin": str,
    "prev": str,
    "schema": str,
    "seq": int,
}
