"""A gateway's feeds: what it answers to who asks for them, and its own questions to the gateways of others."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from ioi_dagster.adapters.http.clocks import ahead_of
from ioi_dagster.adapters.http.protocol import (
    CLOCK_HEADER,
    PREFIX,
    PROOF_HEADER,
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
from ioi_dagster.policy.proof import prove
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
from ioi_dagster.ras.feeds.store import FeedStore, Page
from ioi_dagster.ras.record import LOCAL
from ioi_dagster.ras.urn import Kind
from ioi_dagster.signing import Signed, SigningKey, digest_bytes

log = logging.getLogger("ioi.feeds")
TICK_S = 0.25
RENEW_S = 10.0
"""So often it is looked whether heads or tombstones have become old."""
LIMIT = 1_000
"""Entries that are asked for at a time, and answered at most."""
ANSWER_S = 10.0
"""Besides what the other side was told that it may wait."""
MAX_ANSWER = 2**24
READERS = 2
"""Pages that are read and kept at a time: a gateway has other things to do."""


@dataclass(slots=True)
class _Line:
    record: MemberRecord
    shown: object
    http: httpx.AsyncClient
    ahead_s: float = 0.0


class FeedDesk:
    """`key` gives what the domain signs by, `root` its feeds' root, None where that is not on this machine; `http_to` what asks a
    member's gateway, and `members` the records of those that take part. `check_may_sign` raises `FinalError` where nothing may be
    signed for now."""

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
    ) -> None:
        self._domain, self._store, self._replica, self._clock = domain, store, replica, clock
        self._key, self._root, self._members, self._http_to, self._shown = key, root, members, http_to, shown
        self._check_may_sign = check_may_sign
        self._lines: dict[str, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news: dict[Feed, asyncio.Event] = {}
        self._renew_at = float("-inf")
        self._writing = asyncio.Lock()
        self._readers = asyncio.Semaphore(READERS)
        self.first: Callable[[], Sequence[Signed]] | None = None
        """Gives what is stated from the start on, and nothing else, as soon as the domain may write: as it is by then, since
        more may have been stated meanwhile."""

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

    def _restate(self, records: Callable[[], Sequence[Signed]]) -> Callable[[Owner, float], Sequence[Wrote]]:
        def act(owner: Owner, now: float) -> list[Wrote]:
            return [*owner.change_key(now), *owner.state_only(records(), tuple(Kind), now)]

        return act

    # What is asked ----------------------------------------------------------------------------------------------------

    async def run(self, away: Callable[[], Collection[str]]) -> None:
        """Until cancelled. `away`: members that do not answer, as far as is known."""
        while True:
            try:
                self._handle(Tick(tuple(self._members()), tuple(away())))
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
        if self.first is not None:
            await self.write(self._restate(self.first))
            self.first = None

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for line in self._lines.values():
            await line.http.aclose()

    def _handle(self, event: Event) -> None:
        self._perform(self._replica.handle(event, self._clock.monotonic(), self._clock.wall()))

    def _perform(self, instructions: Sequence[Instruction]) -> None:
        for told in instructions:
            match told:
                case Pull():
                    self._begin(self._pull(told))
                case Swap():
                    self._begin(self._swap(told))
                case KeepHead(peer, head, signed):
                    self._begin(asyncio.to_thread(self._store.keep_head, peer, head, signed))
                    self._tell(head.feed)
                case Freeze(feed, epoch, proof):
                    self._begin(asyncio.to_thread(self._store.freeze, feed, epoch, proof))
                    self._tell(feed)
                case Alarm(feed, refusal):
                    log.warning("feed %s: %s [%s] — %s", feed, refusal.text, refusal.code, refusal.remedy)

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

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
            data = await self._asked(told.peer, "GET", "feeds/entries", query, b"", told.wait_s + ANSWER_S)
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
            swapped = from_json(await self._asked(told.peer, "POST", "feeds/heads", {}, body, ANSWER_S), HeadsSwapped)
            event = Swapped(told.peer, swapped.heads, swapped.proofs)
        except Exception as error:  # as above
            log.info("%s does not tell how far its feeds are: %s", told.peer, explain(error) or type(error).__name__)
            event = Swapped(told.peer, None)
        self._handle(event)

    async def _asked(
        self, peer: str, method: str, door: str, query: dict[str, str], body: bytes, timeout_s: float
    ) -> bytes:
        """Raises `OSError`, httpx's errors and `TimeoutError`."""
        record = self._members().get(peer)
        if self._http_to is None or record is None:
            raise httpx.ConnectError("nobody is asked")
        line = self._line(record)
        return await asyncio.wait_for(self._exchanged(line, method, door, query, body), timeout_s)

    async def _exchanged(self, line: _Line, method: str, door: str, query: dict[str, str], body: bytes) -> bytes:
        path, whose, now = PREFIX + door, line.record.domain, self._clock.wall()
        digest = digest_bytes(body)
        proof = prove(self._key(), audience=whose, method=method, path=path, body=digest, now=now, ahead_s=line.ahead_s)
        url, parts, size = line.record.gateway + path, [], 0
        since = self._clock.monotonic()
        headers = {PROOF_HEADER: proof}
        async with line.http.stream(
            method, url, params=query, content=body or None, headers=headers, timeout=None
        ) as answer:
            took = self._clock.monotonic() - since
            if took < 1.0:
                ahead = ahead_of(answer.headers.get(CLOCK_HEADER), self._clock.wall(), took)
                line.ahead_s = ahead if ahead is not None else line.ahead_s
            async for part in answer.aiter_bytes():
                size += len(part)
                if answer.status_code != 200 or size > MAX_ANSWER:
                    raise httpx.ReadError(f"status {answer.status_code}, {size} bytes: {part[:200]!r}")
                parts.append(part)
        return b"".join(parts)

    def _line(self, record: MemberRecord) -> _Line:
        """Kept as long as the member's record is the same, and the certificate that is shown."""
        assert self._http_to is not None
        known, shown = self._lines.get(record.domain), self._shown()
        if known is None or (known.record, known.shown) != (record, shown):
            if known is not None:
                self._begin(known.http.aclose())
            known = self._lines[record.domain] = _Line(record, shown, self._http_to(record))
        return known


def _unreachable(peer: str, error: Exception) -> Refusal:
    return Refusal(UNREACHABLE, f"{peer} did not answer: {explain(error) or type(error).__name__}"[:300], peer)
