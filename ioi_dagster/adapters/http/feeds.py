"""A gateway's feeds: what it answers to who asks for them, and its own questions to the gateways of others."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import httpx
import msgspec

from ioi_dagster.adapters.http.feed_lines import FeedLines
from ioi_dagster.adapters.http.protocol import (
    HeadsSwapped,
    SwapHeads,
    Telling,
)
from ioi_dagster.adapters.http.refusals import ProblemError
from ioi_dagster.adapters.http.tls import explain
from ioi_dagster.clock import Clock
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError, FinalError, RetryableError
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.names import Feed, read_feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.reader import Taken, read_entries
from ioi_dagster.ras.feeds.replica import WAIT_S, Replica
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
from ioi_dagster.ras.feeds.store import FeedStore, OwnWord, Page
from ioi_dagster.ras.record import LOCAL
from ioi_dagster.signing import SigningKey

log = logging.getLogger("ioi.feeds")
TICK_S = 0.25
FOLLOW_S = 0.5
"""So often it is looked whether the registry has something new of the domain's own."""
FORGET_S = 60.0
"""So long is kept what they state who take part no longer."""
RENEW_S = 10.0
"""So often it is looked whether heads or tombstones have become old."""
LIMIT = 1_000
"""Entries that are asked for at a time, and answered at most."""
ANSWER_S = 10.0
"""Besides what the other side was told that it may wait."""
READERS = 2
"""Pages that are read and kept at a time: a gateway has other things to do."""


class FeedDesk:
    """`key` gives what the domain signs by, `root` its feeds' root, None where that is not on this machine; `http_to` what asks a
    member's gateway, and `members` the records of those that take part. `check_may_sign` raises `FinalError` where nothing may be
    signed for now. What `own` has is told: all of it at the start, then what comes."""

    def __init__(
        self,
        domain: str,
        store: FeedStore,
        replica: Replica,
        key: Callable[[], SigningKey],
        root: Callable[[], SigningKey | None],
        members: Callable[[], Mapping[str, MemberRecord]],
        http_to: Callable[[MemberRecord], httpx.AsyncClient] | None,
        clock: Clock,
        shown: Callable[[], object] = lambda: None,
        check_may_sign: Callable[[], None] = lambda: None,
        own: OwnWord | None = None,
    ) -> None:
        self._domain, self._store, self._replica, self._clock = domain, store, replica, clock
        self._key, self._root, self._members = key, root, members
        self._lines = FeedLines(key, members, http_to, clock, shown)
        self._check_may_sign, self._own = check_may_sign, own
        self._tasks: set[asyncio.Task[None]] = set()
        self._news: dict[Feed, asyncio.Event] = {}
        self._heads: dict[tuple[str, Feed], KeepHead] = {}
        """To be kept, oldest first."""
        self._keeping: asyncio.Task[None] | None = None
        self._renew_at = float("-inf")
        self._writing = asyncio.Lock()
        self._readers = asyncio.Semaphore(READERS)
        self._told: object | None = None
        """As of which mark of `own` all is told; None before the first time, when what `own` has not is stated no longer."""
        self._told_by = ""
        self._keys: dict[str, tuple[str, ...]] = {}
        """Of members, by which what they state was taken."""
        self._strange: dict[str, float] = {}
        """Who takes part no longer, and since when that is seen."""
        self._follow_at = self._hear_at = float("-inf")

    # What is answered -------------------------------------------------------------------------------------------------

    async def entries(self, asker: str, query: Mapping[str, str]) -> Page:
        """Entries after a place, at once where there are some. Raises `ProblemError`; it tells no feed that `asker` may not see
        from one that is none."""
        try:
            feed = read_feed(query.get("origin", ""), query.get("audience", ""))
            names = ("epoch", "after", "limit")
            epoch, after, limit = (int(query.get(name, "0")[:20]) for name in names)
            asked_s = float(query.get("wait", "0")[:20])
            if not math.isfinite(asked_s):
                raise ValueError
            wait_s = min(max(asked_s, 0.0), WAIT_S)
        except BadInputError as error:
            raise ProblemError(400, "feeds.malformed", error.what, error.todo or "") from error
        except ValueError:
            raise ProblemError(400, "feeds.malformed", "`epoch`, `after`, `limit` and `wait` are numbers") from None
        if not feed.seen_by(asker) or feed.audience == LOCAL:
            raise ProblemError(404, "feeds.none", f"there is no feed {feed} for {asker}")
        limit = min(max(limit, 0), LIMIT)
        until = self._clock.monotonic() + wait_s
        while True:
            news = self._news.setdefault(feed, asyncio.Event())
            page = await asyncio.to_thread(self._store.page, feed, epoch, after, limit)
            left = until - self._clock.monotonic()
            known = self._replica.position(feed).place
            if page.entries or left <= 0 or (limit == 0 and known > (epoch, after)):
                if known == (0, 0):
                    # Feeds that there are not can be named without end.
                    self._news.pop(feed, None)
                return page
            try:
                await asyncio.wait_for(news.wait(), left)
            except TimeoutError:
                continue

    def heads(self, asker: str, told: SwapHeads) -> HeadsSwapped:
        """Those that `asker` may see, for those that it has."""
        answer = HeadsSwapped(self._replica.heads_for(asker), self._replica.proofs_for(asker))
        self._perform(self._replica.heard(asker, told.heads, told.proofs, self._clock.monotonic(), self._clock.wall()))
        return answer

    async def tell(self, told: Telling) -> dict[str, Any]:
        """What the domain's own processes have it state, and state no longer."""
        refusal = self._replica.may_write(self._clock.monotonic())
        if refusal is not None:
            raise ProblemError(503, refusal.code, refusal.text, refusal.remedy)
        try:
            await self.write(lambda owner, now: [*owner.state(told.state, now), *owner.withdraw(told.withdraw, now)])
        except BadInputError as error:
            raise ProblemError(400, "feeds.malformed", error.what, error.todo or "") from error
        except FinalError as error:
            raise ProblemError(403, "feeds.not_written", str(error)[:500]) from error
        except RetryableError as error:
            raise ProblemError(503, "feeds.not_written", str(error)[:500]) from error
        return {}

    def snapshot(self) -> dict[str, Any]:
        return self._replica.snapshot(self._clock.wall())

    # What is written --------------------------------------------------------------------------------------------------

    async def write(self, act: Callable[[Owner, float], Sequence[Wrote]]) -> None:
        """One after the other, beside the event loop. Raises what `act` does."""
        async with self._writing:
            try:
                await asyncio.to_thread(self._check_may_sign)
            except FinalError as error:
                # Nothing is wrong with what is to be written.
                raise FinalError(str(error)) from error
            owner = Owner(self._key(), self._store, self._root())
            for wrote in await asyncio.to_thread(act, owner, self._clock.wall()):
                self._handle(wrote)
                self._tell(wrote.at.feed)

    async def _hear_own(self) -> None:
        """A command may have begun a new epoch; all else of the domain's own feeds is written here."""
        for one in await asyncio.to_thread(self._store.kept, self._domain):
            if one.head is not None and one.at.epoch > self._replica.position(one.at.feed).epoch:
                self._handle(Wrote(one.at, one.head))
                self._tell(one.at.feed)

    async def _look_who_takes_part(self) -> None:
        """What was left out for want of a key is tried again when its owner has other keys; of those who take part no longer
        nothing is kept, and after a while: a record of theirs may only be replaced just now."""
        now, members = self._clock.monotonic(), self._members()
        for name, record in members.items():
            if name != self._domain and self._keys.get(name) != record.keys:
                self._keys[name] = record.keys
                self._begin(self._again(name))
        strangers = self._replica.strangers() - members.keys()
        self._strange = {name: self._strange.get(name, now) for name in strangers}
        for name in [name for name, since in self._strange.items() if now >= since + FORGET_S]:
            log.info("%s takes part no longer: what its feeds state is forgotten", name)
            await asyncio.to_thread(self._store.forget, name)
            self._replica.forget(name)
            self._keys.pop(name, None)

    async def _again(self, name: str) -> None:
        try:
            await asyncio.to_thread(self._store.again, name)
        except Exception:
            self._keys.pop(name, None)
            raise

    async def _follow(self) -> None:
        """Tell what the registry has of the domain's own, and by which key it signs."""
        key = self._key().key_id
        if key != self._told_by:
            await self.write(lambda owner, now: owner.change_key(now))
            self._told_by = key
        own, since = self._own, self._told
        if own is None or (since is not None and await asyncio.to_thread(own.mark) == since):
            return
        told: list[object] = []

        def act(owner: Owner, now: float) -> Sequence[Wrote]:
            # Read when others that write have done so: what they have told meanwhile is there, and not taken back.
            news, mark = own.news(since)
            told.append(mark)
            return owner.tell_all(news, now) if since is None else owner.tell(news, now)

        await self.write(act)
        self._told = told[0]

    # What is asked ----------------------------------------------------------------------------------------------------

    async def run(self, away: Callable[[], Collection[str]]) -> None:
        """Until cancelled. `away`: members that do not answer, as far as is known."""
        while True:
            try:
                self._handle(Tick(tuple(self._members()), tuple(away())))
                if self._clock.monotonic() >= self._hear_at:
                    self._hear_at = self._clock.monotonic() + FOLLOW_S
                    await self._hear_own()
                    await self._look_who_takes_part()
                if self._replica.may_write(self._clock.monotonic()) is None:
                    await self._look_after()
            except Exception as error:  # a disk that is full, a root that is away: the next time it is looked again
                log.warning("feeds are not looked after for now: %s", error)
                await asyncio.sleep(5.0)
            await asyncio.sleep(TICK_S)

    async def _look_after(self) -> None:
        # Heads are renewed also where something cannot be stated: without them all that is stated goes stale.
        if self._clock.monotonic() >= self._renew_at:
            await self.write(lambda owner, now: owner.renew(now))
            self._renew_at = self._clock.monotonic() + RENEW_S
        if self._clock.monotonic() >= self._follow_at:
            await self._follow()
            self._follow_at = self._clock.monotonic() + FOLLOW_S

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._lines.close()

    def _handle(self, event: Event) -> None:
        self._perform(self._replica.handle(event, self._clock.monotonic(), self._clock.wall()))

    def _perform(self, instructions: Sequence[Instruction]) -> None:
        for told in instructions:
            match told:
                case Pull():
                    self._begin(self._pull(told))
                case Swap():
                    self._begin(self._swap(told))
                case KeepHead(peer, head):
                    self._heads.pop((peer, head.feed), None)
                    self._heads[peer, head.feed] = told
                    if self._keeping is None or self._keeping.done():
                        self._keeping = self._begin(self._keep_heads())
                    self._tell(head.feed)
                case Freeze(feed, epoch, proof):
                    self._begin(asyncio.to_thread(self._store.freeze, feed, epoch, proof))
                    self._tell(feed)
                case Alarm(feed, refusal):
                    log.warning("feed %s: %s [%s] — %s", feed, refusal.text, refusal.code, refusal.remedy)

    async def _keep_heads(self) -> None:
        """In the order in which they were found to be the newest."""
        while self._heads:
            told = self._heads.pop(next(iter(self._heads)))
            await asyncio.to_thread(self._store.keep_head, told.peer, told.head, told.signed)

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("what feeds tell could not be noted: %s: %s", type(error).__name__, error)

    def _tell(self, feed: Feed) -> None:
        """Whoever waits for more of it looks again."""
        event = self._news.pop(feed, None)
        if event is not None:
            event.set()

    async def _pull(self, told: Pull) -> None:
        feed, at = told.at.feed, told.at
        event: Pulled
        try:
            query = {
                "origin": feed.origin,
                "audience": feed.audience,
                "epoch": str(at.epoch),
                "after": str(at.seq),
                # Who nobody has said the root of cannot be read yet.
                "limit": str(LIMIT if at.root else 0),
                "wait": f"{told.wait_s:g}",
            }
            data = await self._lines.ask(told.peer, "GET", "feeds/entries", query, b"", told.wait_s + ANSWER_S)
        except Exception as error:  # however a peer fails, the answer to the replica is owed
            event = Pulled(told.peer, feed, failed=_unreachable(told.peer, error))
        else:
            event = await self._taken(told, data)
        self._handle(event)
        if event.at is not None and event.at.place > at.place:
            self._tell(feed)

    async def _taken(self, told: Pull, data: bytes) -> Pulled:
        try:
            async with self._readers:
                return await asyncio.to_thread(self._take, told, data)
        except Exception as error:  # as above; a disk that is full is no fault of the peer's
            text = f"what {told.peer} tells cannot be kept here: {type(error).__name__}: {error}"[:300]
            todo = "see the disk and the database; it is asked for again"
            return Pulled(told.peer, told.at.feed, failed=Refusal("feed.not_kept", text, self._domain, todo))

    def _take(self, told: Pull, data: bytes) -> Pulled:
        peer, feed = told.peer, told.at.feed
        try:
            page = from_json(data, Page)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            return Pulled(
                peer, feed, failed=Refusal("feed.malformed", f"what {peer} tells is none: {error}"[:300], peer)
            )
        taken = read_entries(told.at, page.entries, page.roster)
        if not isinstance(taken, Taken):
            return Pulled(peer, feed, failed=taken, head=page.head)
        for refusal in taken.left_out[:10]:
            log.warning("%s [%s]", refusal.text, refusal.code)
        if taken.entries and not self._store.keep([taken]):
            return Pulled(peer, feed, failed=Refusal(MOVED, "it has gone on", self._domain), head=page.head)
        return Pulled(peer, feed, taken.at, head=page.head)

    async def _swap(self, told: Swap) -> None:
        try:
            body = msgspec.json.encode(SwapHeads(told.heads, told.proofs))
            swapped = from_json(
                await self._lines.ask(told.peer, "POST", "feeds/heads", {}, body, ANSWER_S), HeadsSwapped
            )
            event = Swapped(told.peer, swapped.heads, swapped.proofs)
        except Exception as error:  # as above
            log.info("%s does not tell how far its feeds are: %s", told.peer, explain(error) or type(error).__name__)
            event = Swapped(told.peer, None)
        self._handle(event)


def _unreachable(peer: str, error: Exception) -> Refusal:
    return Refusal(UNREACHABLE, f"{peer} did not answer: {explain(error) or type(error).__name__}"[:300], peer)
