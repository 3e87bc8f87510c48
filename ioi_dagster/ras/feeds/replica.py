"""What one domain has of the feeds of others, and its own: whom it asks for what, and when; what it believes of the answers.

Each feed stands alone: what is wrong with one changes nothing for others. Whoever has a feed may pass it on, so a peer that
answers badly is asked less often, and only what the owner has signed can freeze a feed."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import TypeVar

from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.head import Head, head_in, read_head
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.proof import Proof, claims_of, contradict, proves
from ioi_dagster.ras.feeds.reader import Position, known_roster
from ioi_dagster.ras.feeds.replica_messages import (
    MOVED,
    UNREACHABLE,
    Alarm,
    Event,
    Freeze,
    Instruction,
    KeepHead,
    Pull,
    Pulled,
    Swap,
    Swapped,
    Tick,
    Wrote,
)
from ioi_dagster.ras.feeds.store import Kept, Log
from ioi_dagster.ras.record import LOCAL, PARTNER, PUBLIC
from ioi_dagster.signing import Signed, TrustedKeys, key_id

SWAP_S, PEERS = 1.0, 3
"""So often heads are swapped, with so many peers that are drawn by lot."""
WAIT_S = 10.0
"""So long the home of a feed may wait with its answer until there is something new."""
PAUSE_S, MAX_PAUSE_S = 0.5, 60.0
"""A peer that did not answer for a feed, or badly, is asked for it again after the first; each time later, up to the second."""
UNANSWERED_S = 6 * WAIT_S
"""What was asked and never answered is asked again after so long: an answer may be lost with who was to bring it."""
RELAY_S = 1.0
"""Others are asked for what the home of a feed has not told by then, though they have it."""
ASK_S = 5.0
"""So long a domain asks others how far its own feeds are, before it writes."""
MAX_HEADS, MAX_PROOFS = 400, 100
"""Of one message, which may have a megabyte: of more feeds each message has others, drawn by lot."""
SEEN = 64
T = TypeVar("T")


class Standing(StrEnum):
    """How what a feed says stands. `STALE`: its owner has not said for some time that this is all; whether he is gone is not
    said by that."""

    FRESH = "fresh"
    STALE = "stale"
    FROZEN = "frozen"


@dataclass(slots=True)
class _Pause:
    until: float
    pause_s: float


@dataclass(slots=True)
class _Known:
    """Of one feed."""

    at: Position
    head: Head | None = None
    signed: Signed | None = None
    proof: Proof | None = None
    frozen_epoch: int = 0
    pulling: dict[str, float] = field(default_factory=dict)
    """Peer → since when it is asked."""
    shown: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Peer → how far it has the feed."""
    heard: float = float("-inf")
    """When something newer than what is here was first heard of."""
    paused: dict[str, _Pause] = field(default_factory=dict)
    seen: dict[str, Signed] = field(default_factory=dict)
    """Heads that were found good, by their signatures."""
    told: set[str] = field(default_factory=set)


class Replica:
    """`kept`: what there is at the start, of its own feeds too. `keys`: those of the members' records, as they are. Times are
    seconds of one clock, `wall` Unix seconds."""

    def __init__(
        self,
        domain: str,
        kept: Iterable[Kept],
        keys: TrustedKeys,
        log: Log,
        random: Random,
    ) -> None:
        self._domain, self._keys, self._log, self._random = domain, keys, log, random
        self._feeds: dict[Feed, _Known] = {}
        self._members: set[str] = set()
        self._reached: set[str] = set()
        """Members that are not away."""
        self._away: set[str] = set()
        self._swap_at = float("-inf")
        self._swapping: dict[str, float] = {}
        """Peer → since when it is asked."""
        self._began: float | None = None
        self._answered: set[str] = set()
        for one in kept:
            self._load(one)

    def _load(self, one: Kept) -> None:
        known = self._feeds[one.at.feed] = _Known(one.at, signed=one.head, proof=one.proof)
        head = head_in(one.head) if one.head is not None else None
        known.head = head if isinstance(head, Head) else None
        claims = claims_of(one.proof.first) if one.proof is not None else None
        known.frozen_epoch = claims.epoch if claims is not None else 0

    # What is known ----------------------------------------------------------------------------------------------------

    def position(self, feed: Feed) -> Position:
        known = self._feeds.get(feed)
        return known.at if known is not None else Position(feed)

    def standing(self, feed: Feed, wall: float) -> Standing:
        known = self._feeds.get(feed)
        if known is not None and self._is_frozen(known):
            return Standing.FROZEN
        head = known.head if known is not None else None
        fresh = known is not None and head is not None and head.place == known.at.place and head.expires > wall
        return Standing.FRESH if fresh else Standing.STALE

    def strangers(self) -> set[str]:
        """Whose feeds are here, and who take part no longer."""
        return {feed.origin for feed in self._feeds} - self._members - {self._domain}

    def forget(self, origin: str) -> None:
        """Nothing is known of its feeds: should it come back, they begin anew, by whichever root it tells then."""
        self._feeds = {feed: known for feed, known in self._feeds.items() if feed.origin != origin}

    def snapshot(self, wall: float) -> dict[str, dict[str, object]]:
        """For people. `home`: `unknown` is no word about the owner: it does not answer this domain."""
        return {
            str(feed): {
                "epoch": known.at.epoch,
                "seq": known.at.seq,
                "standing": str(self.standing(feed, wall)),
                "home": "unknown" if feed.origin in self._away else "there",
                "complete": not known.at.open_until and known.at.seq > 0,
            }
            for feed, known in sorted(self._feeds.items())
        }

    def heads_for(self, asker: str) -> tuple[Signed, ...]:
        """What `asker` may know."""
        seen = self._seen_by(asker)
        found = {feed: known.signed for feed, known in seen if known.signed is not None and known.head is not None}
        return self._drawn(found, asker, MAX_HEADS)

    def proofs_for(self, asker: str) -> tuple[Proof, ...]:
        seen = self._seen_by(asker)
        found = {feed: known.proof for feed, known in seen if known.proof is not None and self._is_frozen(known)}
        return self._drawn(found, asker, MAX_PROOFS)

    def _seen_by(self, asker: str) -> list[tuple[Feed, _Known]]:
        return [(feed, its) for feed, its in self._feeds.items() if feed.audience != LOCAL and feed.seen_by(asker)]

    def _drawn(self, found: Mapping[Feed, T], asker: str, most: int) -> tuple[T, ...]:
        """Those of both sides are always among them: whoever comes back learns how far its own feeds are."""
        if len(found) <= most:
            return tuple(found.values())
        first = [feed for feed in found if feed.origin in (asker, self._domain)]
        others = sorted(found.keys() - set(first))
        return tuple(found[feed] for feed in [*first, *self._random.sample(others, most - len(first))])

    def may_write(self, now: float) -> Refusal | None:
        """Why this domain writes nothing yet or any more; None where it may. After a start it asks others how far its own feeds
        are: its own copy may be an old one."""
        forked = [feed for feed in self._mine() if self._is_frozen(self._feeds[feed])]
        if forked:
            text = f"two things are told in the name of {self._domain} in its feed {forked[0].audience}"
            todo = "its root has to begin a new epoch"
            return Refusal("feed.forked", text, self._domain, todo)
        behind = [feed for feed in self._mine() if self._behind(self._feeds[feed])]
        if behind:
            text = f"others have more of the feed {behind[0].audience} of {self._domain} than it has itself; it gets that first"
            return Refusal("feed.restored", text, self._domain, "wait; or its root begins a new epoch")
        asked = self._reached - self._answered - {self._domain}
        if self._began is None or (asked and now < self._began + ASK_S):
            text = f"{self._domain} asks others how far its own feeds are"
            return Refusal("feed.asking", text, self._domain, f"wait, {ASK_S:g} s at most")
        return None

    def _mine(self) -> list[Feed]:
        return [feed for feed in self._feeds if feed.origin == self._domain]

    # What happens -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float, wall: float) -> list[Instruction]:
        match event:
            case Tick(members, away):
                return self._tick(members, away, now)
            case Swapped(peer, heads, proofs):
                return self._swapped(peer, heads, proofs, now, wall)
            case Pulled():
                return self._pulled(event, now, wall)
            case Wrote(at, head):
                return self._wrote(at, head)

    def heard(
        self, peer: str, heads: Iterable[Signed], proofs: Iterable[Proof], now: float, wall: float
    ) -> list[Instruction]:
        """What `peer` tells as it asks for heads."""
        out: list[Instruction] = []
        for signed in list(heads)[:MAX_HEADS]:
            out += self._head(peer, signed, now, wall)
        for proof in list(proofs)[:MAX_PROOFS]:
            out += self._proof(proof)
        return [*out, *self._pulls(now)]

    def _tick(self, members: Collection[str], away: Collection[str], now: float) -> list[Instruction]:
        self._began = now if self._began is None else self._began
        self._members, self._away = set(members) - {self._domain}, set(away) - {self._domain}
        self._reached = self._members - self._away
        for known in self._feeds.values():
            self._forget_heads(known)
            for peer in [peer for peer, since in known.pulling.items() if now > since + UNANSWERED_S]:
                del known.pulling[peer]
                self._pause(known, peer, now)
        self._swapping = {peer: since for peer, since in self._swapping.items() if now <= since + UNANSWERED_S}
        for origin in self._members:
            for audience in (PUBLIC, PARTNER + self._domain):
                feed = Feed(origin, audience)
                self._feeds.setdefault(feed, _Known(Position(feed)))
        return [*self._swaps(now), *self._pulls(now)]

    def _wrote(self, at: Position, signed: Signed) -> list[Instruction]:
        known = self._feeds.setdefault(at.feed, _Known(at))
        head = head_in(signed)
        assert isinstance(head, Head)
        known.at = at
        if known.head is None or (head.place, head.issued) >= (known.head.place, known.head.issued):
            known.head, known.signed = head, signed
        if not self._is_frozen(known):
            known.proof = None
        return []

    def _forget_heads(self, known: _Known) -> None:
        """What a key has signed that its owner has taken back since says nothing any more."""
        if known.signed is not None and known.signed.key_id not in self._keys.keys:
            known.head, known.signed = None, None
            known.seen.clear()
            known.shown.clear()

    # Anti-entropy -----------------------------------------------------------------------------------------------------

    def _swaps(self, now: float) -> list[Instruction]:
        asking = self._reached - self._swapping.keys()
        unasked = asking - self._answered
        if now < self._swap_at and not (unasked and now < (self._began or 0.0) + ASK_S):
            return []
        drawn = self._random.sample(sorted(asking), min(PEERS, len(asking))) if now >= self._swap_at else []
        if now >= self._swap_at:
            self._swap_at = now + SWAP_S
        # At the start all are asked for what this domain itself has told.
        chosen = sorted({*drawn, *(unasked if self._began is not None and now < self._began + ASK_S else ())})
        self._swapping |= dict.fromkeys(chosen, now)
        return [Swap(peer, self.heads_for(peer), self.proofs_for(peer)) for peer in chosen]

    def _swapped(
        self, peer: str, heads: tuple[Signed, ...] | None, proofs: tuple[Proof, ...], now: float, wall: float
    ) -> list[Instruction]:
        self._swapping.pop(peer, None)
        if heads is None:
            return []
        self._answered.add(peer)
        return self.heard(peer, heads, proofs, now, wall)

    def _head(self, peer: str, signed: Signed, now: float, wall: float) -> list[Instruction]:
        head = head_in(signed)
        if isinstance(head, Refusal) or not head.feed.seen_by(self._domain) or head.feed.audience == LOCAL:
            return []
        known = self._feeds.get(head.feed)
        if known is None:
            if head.feed.origin not in (*self._members, self._domain):
                return []
            known = self._feeds[head.feed] = _Known(Position(head.feed))
        if known.seen.get(signed.signature) == signed:
            known.shown[peer] = head.place
            return []
        checked = read_head(signed, self._keys, wall)
        if isinstance(checked, Refusal):
            return self._alarm(known, head.feed, checked, once=f"{peer} {checked.code}")
        return self._believe(peer, known, checked, signed, now)

    def _believe(self, peer: str, known: _Known, head: Head, signed: Signed, now: float) -> list[Instruction]:
        at = known.at
        if at.root and head.root != at.root:
            text = f"the owner of {at.feed} tells another root than the one that is known"
            todo = "ask its owner; if the root is lost, join it again"
            return self._alarm(known, at.feed, Refusal("feed.root", text, self._domain, todo), once="root")
        proof = self._against(known, head, signed)
        if proof is not None:
            return self._frozen(known, proof)
        if not at.root:
            known.at = at = replace(at, root=head.root)
        if len(known.seen) >= SEEN:
            del known.seen[next(iter(known.seen))]
        known.seen[signed.signature] = signed
        known.shown[peer] = head.place
        if head.place > at.place and known.heard == float("-inf"):
            known.heard = now
        newest = known.head
        if newest is None or (head.place, head.issued) > (newest.place, newest.issued):
            known.head, known.signed = head, signed
            return [KeepHead(peer, head, signed)]
        return []

    def _against(self, known: _Known, head: Head, signed: Signed) -> Proof | None:
        """What is here that a head cannot stand beside."""
        claims = claims_of(signed)
        assert claims is not None
        at = known.at
        if head.epoch != at.epoch:
            return None
        mine = at.last if head.seq == at.seq else None
        if mine is None and 0 < head.seq <= at.seq:
            mine = self._log.entry_at(at.feed, head.epoch, head.seq)
        for other in (mine, known.signed):
            told = claims_of(other) if other is not None else None
            if other is not None and told is not None and contradict(told, claims):
                return Proof(other, signed)
        return None

    # Equivocation -----------------------------------------------------------------------------------------------------

    def _proof(self, proof: Proof) -> list[Instruction]:
        claims = claims_of(proof.first)
        known = self._feeds.get(claims.feed) if claims is not None else None
        if claims is None or known is None or self._is_frozen(known) or claims.epoch != known.at.epoch:
            return []
        return self._frozen(known, proof) if proves(proof, lambda signed: self._has_signed(known, signed)) else []

    def _has_signed(self, known: _Known, signed: Signed) -> bool:
        """One of the owner's keys: of its member record, or of the feed's roster."""
        roster = known_roster(known.at) if known.at.root else None
        keys = (
            {}
            if roster is None or isinstance(roster, Refusal)
            else {
                key_id(known.at.feed.origin, raw): raw for raw in (base64.b64decode(span.key) for span in roster.keys)
            }
        )
        return any(_verifies(trusted, signed) for trusted in (self._keys, TrustedKeys(keys)))

    def _frozen(self, known: _Known, proof: Proof) -> list[Instruction]:
        claims = claims_of(proof.first)
        assert claims is not None
        known.proof, known.frozen_epoch = proof, claims.epoch
        feed = known.at.feed
        text = (
            f"{feed.origin} has told two things at one place of its feed {feed.audience}; nothing more of it is taken"
        )
        todo = f"ask the owner of {feed.origin}; its root begins a new epoch"
        refusal = Refusal("feed.equivocation", text, self._domain, todo)
        return [Freeze(feed, claims.epoch, proof), Alarm(feed, refusal)]

    def _is_frozen(self, known: _Known) -> bool:
        return known.proof is not None and known.frozen_epoch >= known.at.epoch

    # Pulling ----------------------------------------------------------------------------------------------------------

    def _pulls(self, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for feed, known in self._feeds.items():
            if feed.audience == LOCAL or self._may_not_pull(known):
                continue
            peer, wait_s = self._whom(feed, known, now)
            if peer:
                known.pulling[peer] = now
                told = max(known.at.serial, known.head.serial if known.head is not None else 0)
                out.append(Pull(peer, replace(known.at, serial=told), wait_s))
        return out

    def _may_not_pull(self, known: _Known) -> bool:
        """Of a frozen feed only a new epoch is of use."""
        return self._is_frozen(known) and (known.head is None or known.head.epoch <= known.frozen_epoch)

    def _whom(self, feed: Feed, known: _Known, now: float) -> tuple[str, float]:
        """Who is asked next, and how long it may wait; nobody where nothing is to be asked."""
        mine, home = feed.origin == self._domain, feed.origin
        if not mine and home in self._reached and not known.pulling and self._is_due(known, home, now):
            return home, (0.0 if self._behind(known) else WAIT_S)
        if not self._behind(known) or (not mine and known.pulling and now < known.heard + RELAY_S):
            return "", 0.0
        newer = [
            peer
            for peer, place in known.shown.items()
            if place > known.at.place and peer in self._reached and peer not in known.pulling
        ]
        due = [peer for peer in sorted(newer) if self._is_due(known, peer, now)]
        if not due or len(known.pulling) > 1:
            return "", 0.0
        return self._random.choice(due), 0.0

    def _behind(self, known: _Known) -> bool:
        return known.head is not None and known.head.place > known.at.place

    def _is_due(self, known: _Known, peer: str, now: float) -> bool:
        paused = known.paused.get(peer)
        return paused is None or now >= paused.until

    def _pulled(self, event: Pulled, now: float, wall: float) -> list[Instruction]:
        known = self._feeds.get(event.feed)
        if known is None:
            return []
        asked = known.pulling.pop(event.peer, now)
        out: list[Instruction] = []
        moved = event.at is not None and event.at.place > known.at.place
        if event.at is not None and moved:
            known.at = replace(event.at, root=event.at.root or known.at.root)
            known.paused.pop(event.peer, None)
            known.told.clear()
        before = self._behind(known)
        if event.head is not None:
            out += self._head(event.peer, event.head, now, wall)
        news = moved or (self._behind(known) and not before)
        if not self._behind(known):
            known.heard = float("-inf")
        if isinstance(event.failed, Proof):
            out += self._frozen(known, event.failed)
        elif event.failed is not None and event.failed.code == MOVED:
            pass
        elif event.failed is not None:
            self._pause(known, event.peer, now)
            if event.failed.code != UNREACHABLE:
                out += self._alarm(known, event.feed, event.failed, once=f"{event.peer} {event.failed.code}")
        elif not news and now < asked + WAIT_S / 2:
            # It answers at once that there is nothing.
            self._pause(known, event.peer, now)
        return [*out, *self._pulls(now)]

    def _pause(self, known: _Known, peer: str, now: float) -> None:
        before = known.paused.get(peer)
        pause_s = PAUSE_S if before is None else min(2 * before.pause_s, MAX_PAUSE_S)
        known.paused[peer] = _Pause(now + pause_s, pause_s)

    def _alarm(self, known: _Known, feed: Feed, refusal: Refusal, once: str) -> list[Instruction]:
        if once in known.told:
            return []
        known.told.add(once)
        return [Alarm(feed, refusal)]


def _verifies(trusted: TrustedKeys, signed: Signed) -> bool:
    try:
        trusted.verify(signed)
    except Exception:  # hostile content cannot even be made canonical
        return False
    return True
