"""Domains that tell each other feeds, on virtual time: what one sends comes late, twice, in another order, or not at all.

After each event is checked what must hold whatever happens: see `Lab.check`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.head import Head, head_in
from ioi_dagster.ras.feeds.memory import MemoryFeeds
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.reader import Taken, read_entries
from ioi_dagster.ras.feeds.replica import Replica
from ioi_dagster.ras.feeds.replica_messages import (
    MOVED,
    UNREACHABLE,
    Alarm,
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
from ioi_dagster.ras.feeds.store import Page
from ioi_dagster.ras.record import PUBLIC, Kind, make_record
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys

EPOCH = 1_700_000_000.0
LIMIT = 3
"""Entries of an answer: small, so that feeds come in pieces."""


def key_of(name: str, number: int = 0) -> SigningKey:
    """The same each time; -1 is its root."""
    return _key(name, number)


@cache
def _key(name: str, number: int) -> SigningKey:
    return SigningKey.generate(name)


def record(name: str, what: str, version: str = "1", audience: str = PUBLIC, number: int = 0, **spec: Any) -> Signed:
    return make_record(key_of(name, number), Kind.BLOCK, what, version, spec, audience=audience).signed


@dataclass
class Domain:
    """`truth`: what it states, by feed; `ever`: digests of all that it has ever stated in a feed."""

    name: str
    keys: TrustedKeys
    random: Random
    store: MemoryFeeds = field(default_factory=MemoryFeeds)
    number: int = 0
    skew_s: float = 0.0
    alarms: list[Alarm] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    @property
    def owner(self) -> Owner:
        return Owner(key_of(self.name, self.number), self.store, key_of(self.name, -1))

    def start(self) -> None:
        self.replica = Replica(self.name, self.store.kept(), self.keys, self.store, self.random)

    def stated(self, feed: Feed) -> dict[str, bytes]:
        return {one.item: one.body for one in self.store.stated(feed)}


class Lab:
    """`cut`: pairs that do not reach each other, in that direction. `lose`: the share of messages that are lost; `twice`: of
    answers that come once more, later."""

    def __init__(self, names: Sequence[str], seed: int = 0, lose: float = 0.0, twice: float = 0.0) -> None:
        self.random = Random(seed)
        self.now, self.lose, self.twice = 0.0, lose, twice
        self._trusted: dict[str, bytes] = {}
        self.names = tuple(names)
        for name in names:
            self._trusted[key_of(name).key_id] = key_of(name).public_bytes
        self.keys = TrustedKeys(self._trusted)
        self.cut: set[tuple[str, str]] = set()
        self.down: set[str] = set()
        self.domains = {name: Domain(name, self.keys, Random(self.random.random())) for name in names}
        self.ever: dict[Feed, set[bytes]] = {}
        """What an owner has signed for a feed."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._touched: set[str] = set()
        self._lives = dict.fromkeys(names, 0)
        for name in names:
            self._later(self.random.random(), lambda name=name: self._tick(name))

    # What happens -----------------------------------------------------------------------------------------------------

    def say(self, name: str, act: Callable[[Owner, float], Sequence[Wrote]]) -> bool:
        """Its owner writes, if the domain lets him."""
        domain = self.domains[name]
        if domain.replica.may_write(self.now) is not None:
            return False
        self._wrote(domain, act(domain.owner, self._wall(name)))
        return True

    def state(self, name: str, *records: Signed) -> bool:
        return self.say(name, lambda owner, now: owner.state(records, now))

    def new_epoch(self, name: str, feed: Feed, **its: Any) -> None:
        """By the root's hand: also where the domain may not write."""
        domain = self.domains[name]
        self._wrote(domain, domain.owner.new_epoch(feed, self._wall(name), **its))

    def new_key(self, name: str) -> None:
        """Told by its member record, then taken into its feeds."""
        domain = self.domains[name]
        key = key_of(name, domain.number + 1)
        self._trusted[key.key_id] = key.public_bytes
        domain.number += 1
        self._wrote(domain, domain.owner.change_key(self._wall(name)))

    def drop_key(self, name: str, number: int) -> None:
        """Of its member record."""
        del self._trusted[key_of(name, number).key_id]

    def restart(self, name: str) -> None:
        self._lives[name] += 1
        self.domains[name].start()

    def backup(self, name: str) -> MemoryFeeds:
        return deepcopy(self.domains[name].store)

    def restore(self, name: str, copy: MemoryFeeds) -> None:
        self.domains[name].store = deepcopy(copy)
        self.restart(name)

    def split(self, *groups: Sequence[str]) -> None:
        where = {name: number for number, group in enumerate(groups) for name in group}
        self.cut |= {(a, b) for a in self.names for b in self.names if where.get(a, -1) != where.get(b, -1)}

    def heal(self) -> None:
        self.cut.clear()

    def run(self, seconds: float) -> None:
        """Let time pass, and check after each event."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, act = heapq.heappop(self._queue)
            act()
            self.check()
        self.now = end

    def skip(self, seconds: float) -> None:
        """Time in which nobody is there: what was on its way is lost."""
        self.now += seconds
        self._queue.clear()
        for name in self.names:
            self.restart(name)
            self._later(self.random.random(), lambda name=name: self._tick(name))

    # What must hold ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Nobody has what its owner has not signed for that audience; nobody has a feed, or knows of one, that he may not see."""
        touched, self._touched = self._touched, set()
        for name in touched:
            domain = self.domains[name]
            for kept in domain.store.kept():
                feed = kept.at.feed
                if not kept.at.seq and kept.head is None:
                    continue
                assert feed.seen_by(name), f"{name} has {feed}"
                strange = set(domain.stated(feed).values()) - self.ever.get(feed, set())
                assert not strange, f"{name} has what the owner of {feed} never signed: {strange}"

    def agreed(self, but: Sequence[str] = ()) -> bool:
        """Has everybody what is stated, and nothing else? `but`: those whose feeds are left out."""
        return not self.differences(but)

    def differences(self, but: Sequence[str] = ()) -> list[str]:
        found: list[str] = []
        for origin in self.names:
            if origin in but:
                continue
            for kept in self.domains[origin].store.kept():
                feed = kept.at.feed
                if feed.origin != origin:
                    continue
                for name in self.names:
                    its, theirs = self.domains[name].stated(feed), self.domains[origin].stated(feed)
                    if feed.seen_by(name) and feed.audience != "local" and its != theirs:
                        at = self.domains[name].replica.position(feed)
                        found.append(f"{name} has {feed} to {at.place}, not {kept.at.place}")
        return found

    # The wire ---------------------------------------------------------------------------------------------------------

    def _wall(self, name: str) -> float:
        return EPOCH + self.now + self.domains[name].skew_s

    def _wrote(self, domain: Domain, wrote: Sequence[Wrote]) -> None:
        for one in wrote:
            self.ever.setdefault(one.at.feed, set()).update(domain.stated(one.at.feed).values())
            self._perform(domain.name, domain.replica.handle(one, self.now, self._wall(domain.name)))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, act))

    def _tick(self, name: str) -> None:
        self._later(1.0, lambda: self._tick(name))
        if name in self.down:
            return
        domain = self.domains[name]
        away = [other for other in self.names if not self._reach(name, other)]
        self._perform(name, domain.replica.handle(Tick(self.names, away), self.now, self._wall(name)))
        if domain.replica.may_write(self.now) is None:
            self._wrote(domain, domain.owner.renew(self._wall(name)))

    def _reach(self, one: str, other: str) -> bool:
        return other not in self.down and (one, other) not in self.cut and (other, one) not in self.cut

    def _perform(self, name: str, instructions: Sequence[Instruction]) -> None:
        domain = self.domains[name]
        for told in instructions:
            match told:
                case Pull() | Swap():
                    self._ask(name, told)
                case KeepHead(peer, head, signed):
                    domain.store.keep_head(peer, head, signed)
                case Freeze(feed, epoch, proof):
                    domain.store.freeze(feed, epoch, proof)
                case Alarm():
                    domain.alarms.append(told)

    def _ask(self, name: str, told: Pull | Swap) -> None:
        domain, life = self.domains[name], self._lives[name]

        def back(event: Pulled | Swapped) -> None:
            self._touched.add(name)
            if self._lives[name] == life and name not in self.down:
                self._perform(name, domain.replica.handle(event, self.now, self._wall(name)))

        def answered(page: Page) -> None:
            assert isinstance(told, Pull)
            if self._lives[name] == life and name not in self.down:
                back(pulled(domain, told, page))

        def arrives(waited: float = 0.0) -> None:
            if not self._reach(name, told.peer) or self.random.random() < self.lose:
                self._later(5.0, lambda: back(_no_answer(told)))
                return
            self._touched |= {name, told.peer}
            act: Callable[[], None]
            if isinstance(told, Swap):
                event = self._swap(name, told)
                act = lambda: back(event)
            else:
                page = self.page(told.peer, name, told)
                if not _news(told, page) and waited < told.wait_s:
                    self._later(0.5, lambda: arrives(waited + 0.5))
                    return
                act = lambda: answered(page)
            self._later(self.random.uniform(0.01, 0.3), act)
            if self.random.random() < self.twice:
                self._later(self.random.uniform(0.3, 60.0), act)

        self._later(self.random.uniform(0.01, 0.3), arrives)

    def page(self, peer: str, asker: str, told: Pull) -> Page:
        """What `peer` answers; a liar overrides it."""
        feed = told.at.feed
        if not feed.seen_by(asker) or feed.audience == "local":
            return Page()
        return self.domains[peer].store.page(feed, *told.at.place, LIMIT if told.at.root else 0)

    def _swap(self, name: str, told: Swap) -> Swapped:
        peer = self.domains[told.peer]
        heads, proofs = peer.replica.heads_for(name), peer.replica.proofs_for(name)
        self._perform(told.peer, peer.replica.heard(name, told.heads, told.proofs, self.now, self._wall(told.peer)))
        return Swapped(told.peer, heads, proofs)


def _no_answer(told: Pull | Swap) -> Pulled | Swapped:
    if isinstance(told, Swap):
        return Swapped(told.peer, None)
    return Pulled(told.peer, told.at.feed, failed=Refusal(UNREACHABLE, "no answer", told.peer))


def _news(told: Pull, page: Page) -> bool:
    """Is it worth an answer at once?"""
    head = head_in(page.head) if page.head is not None else None
    return bool(page.entries) or (isinstance(head, Head) and head.place > told.at.place)


def pulled(domain: Domain, told: Pull, page: Page) -> Pulled:
    """As a driver does it: read, and keep if the feed is at that place still."""
    peer, feed = told.peer, told.at.feed
    taken = read_entries(told.at, page.entries, page.roster)
    if not isinstance(taken, Taken):
        return Pulled(peer, feed, failed=taken, head=page.head)
    if taken.entries and not domain.store.keep([taken]):
        return Pulled(peer, feed, failed=Refusal(MOVED, "", domain.name), head=page.head)
    return Pulled(peer, feed, taken.at, head=page.head)
