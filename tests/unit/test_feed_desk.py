"""What a gateway makes of what other registries tell it, where its own machine fails it."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import time
from collections.abc import Callable
from random import Random
from typing import Any

import httpx
import msgspec
import pytest
from msgspec.json import encode

from ioi_dagster.adapters.http.doors import MAX_JSON
from ioi_dagster.adapters.http.feeds import FORGET_S, FeedDesk
from ioi_dagster.adapters.http.protocol import PREFIX, SwapHeads, Telling
from ioi_dagster.adapters.http.refusals import ProblemError
from ioi_dagster.clock import ManualClock, SystemClock
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.feeds.entry import NOTHING
from ioi_dagster.ras.feeds.head import Head, sign_head
from ioi_dagster.ras.feeds.memory import MemoryFeeds
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.reader import Position
from ioi_dagster.ras.feeds.replica import MAX_HEADS, Replica
from ioi_dagster.ras.feeds.replica_messages import Pull, Tick
from ioi_dagster.ras.feeds.roster import public_text
from ioi_dagster.ras.feeds.store import Kept, News, OwnWord
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys
from tests.feeds import EPOCH, key_of, record

A, B = "a.example", "b.example"


class Full(MemoryFeeds):
    def keep(self, *_: Any, **__: Any) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def desk_of(
    store: MemoryFeeds,
    check_may_sign: Callable[[], None] = lambda: None,
    own: OwnWord | None = None,
    clock: ManualClock | None = None,
    key: Callable[[], SigningKey] = lambda: key_of(B),
) -> FeedDesk:
    trusted = TrustedKeys({key_of(A).key_id: key_of(A).public_bytes})
    replica = Replica(B, store.kept(), trusted, store, Random(0))
    root = key_of(B, -1)
    clock = clock or ManualClock()
    desk = FeedDesk(B, store, replica, key, lambda: root, dict, None, clock, check_may_sign=check_may_sign, own=own)
    replica.handle(Tick((), ()), clock.monotonic(), clock.wall())
    return desk


def test_a_wait_that_is_no_number_is_refused():
    with pytest.raises(ProblemError) as refused:
        asyncio.run(desk_of(MemoryFeeds()).entries(A, {"origin": B, "audience": "public", "wait": "nan"}))
    assert (refused.value.status, refused.value.code) == (400, "feeds.malformed")


def test_a_registry_that_was_restored_tells_nothing_until_somebody_says_how():
    restored = True

    def check() -> None:
        if restored:
            raise BadInputError("the registry was restored", todo="`ioi ras go-on HOW`")

    store = MemoryFeeds()
    desk = desk_of(store, check)
    with pytest.raises(ProblemError, match="go-on") as refused:
        asyncio.run(desk.tell(Telling((record(B, "r"),))))
    assert (refused.value.status, refused.value.code, store.stated(Feed(B))) == (403, "feeds.not_written", [])
    restored = False
    asyncio.run(desk.tell(Telling((record(B, "r"),))))
    assert len(store.stated(Feed(B))) == 1


def test_what_cannot_be_kept_here_is_no_silence_of_the_peer():
    told, kept = MemoryFeeds(), Full()
    Owner(key_of(A), told, key_of(A, -1)).state([record(A, "r")], EPOCH)
    page = msgspec.json.encode(told.page(Feed(A), 0, 0, 100))
    desk = desk_of(kept)
    pull = Pull(A, Position(Feed(A), root=public_text(key_of(A, -1))))
    failed = asyncio.run(desk._taken(pull, page)).failed
    assert isinstance(failed, Refusal)
    assert (failed.code, failed.by) == ("feed.not_kept", B)
    assert "No space left on device" in failed.text


class Own:
    """What a registry has of its own: records, of which each piece of news brings what came since."""

    def __init__(self, *there: Signed) -> None:
        self.there = [*there]

    def mark(self) -> int:
        return len(self.there)

    def news(self, since: object | None) -> tuple[News, int]:
        first = since if isinstance(since, int) else 0
        return News(tuple(self.there[first:])), len(self.there)


def test_what_comes_into_the_registry_is_told_and_a_change_of_keys_too():
    store, own = MemoryFeeds(), Own(record(B, "r"))
    number = 0
    desk = desk_of(store, own=own, key=lambda: key_of(B, number))
    items = lambda: [one.item.split(":")[-1] for one in store.stated(Feed(B))]

    async def looks() -> None:
        # As the loop does, when it is time.
        await desk._follow()

    asyncio.run(looks())
    assert items() == ["r 1"]
    [before] = store.kept()
    asyncio.run(looks())
    assert store.kept() == [before]
    own.there.append(record(B, "s"))
    asyncio.run(looks())
    assert items() == ["r 1", "s 1"]
    number = 1
    own.there.append(record(B, "t", number=1))
    asyncio.run(looks())
    assert items() == ["r 1", "s 1", "t 1"]
    [kept] = store.kept()
    assert kept.at.last is not None
    assert kept.at.last.key_id == key_of(B, 1).key_id


def test_a_new_epoch_that_a_command_has_begun_is_told_by_the_gateway_that_runs():
    store = MemoryFeeds()
    desk = desk_of(store, own=Own(record(B, "r")))
    asyncio.run(desk._follow())
    [wrote] = Owner(key_of(B), store, key_of(B, -1)).new_epoch(Feed(B), EPOCH)
    asyncio.run(desk._hear_own())
    [row] = desk.snapshot().values()
    assert (row["epoch"], row["seq"]) == (2, 2) == wrote.at.place


def test_of_who_takes_part_no_longer_nothing_is_kept_after_a_while():
    store, clock = MemoryFeeds(), ManualClock()
    for name in (A, B):
        Owner(key_of(name), store, key_of(name, -1)).state([record(name, "r")], EPOCH)
    desk = desk_of(store, clock=clock)
    asyncio.run(desk._look_who_takes_part())
    assert {one.at.feed for one in store.kept()} == {Feed(A), Feed(B)}
    clock.advance(FORGET_S)
    asyncio.run(desk._look_who_takes_part())
    assert {one.at.feed for one in store.kept()} == {Feed(B)}
    assert desk.snapshot().keys() == {f"{B}/public"}


def test_heads_of_however_many_feeds_fit_into_one_message():
    names = [f"{number}.{'x' * 240}.example" for number in range(MAX_HEADS + 100)]
    key = key_of(B)
    root = public_text(key_of(B, -1))
    kept = []
    for name in (*names, A):
        head = Head(Feed(name, f"partner:{A}"), 2**53 - 1, 2**53 - 1, NOTHING, root, 2**53 - 1, 2**40, 2**40 + 600)
        signed = sign_head(SigningKey(name, key.private), head)
        kept.append(Kept(Position(head.feed), signed))
    replica = Replica(B, kept, TrustedKeys({}), MemoryFeeds(), Random(0))
    told = replica.heads_for(A)
    assert len(msgspec.json.encode(SwapHeads(told, ()))) < MAX_JSON * 2 / 3
    assert (len(told), told[0].body["origin"]) == (MAX_HEADS, A)


def test_two_that_ask_each_other_tell_what_comes_into_their_registries():
    names = (A, B)
    members = {name: member(name) for name in names}
    stores, owns = {name: MemoryFeeds() for name in names}, {name: Own(record(name, "r")) for name in names}
    desks: dict[str, FeedDesk] = {}
    trusted = TrustedKeys({key_of(name).key_id: key_of(name).public_bytes for name in names})

    def http_from(name: str) -> Callable[[MemberRecord], httpx.AsyncClient]:
        async def answer(request: httpx.Request) -> httpx.Response:
            asked = desks[request.url.host]
            if request.url.path == PREFIX + "feeds/heads":
                return httpx.Response(200, content=encode(asked.heads(name, from_json(request.content, SwapHeads))))
            return httpx.Response(200, content=encode(await asked.entries(name, dict(request.url.params))))

        return lambda _: httpx.AsyncClient(transport=httpx.MockTransport(answer))

    for name in names:
        replica = Replica(name, [], trusted, stores[name], Random(0))
        its = stores[name], replica, lambda name=name: key_of(name), lambda name=name: key_of(name, -1), lambda: members
        desks[name] = FeedDesk(name, *its, http_from(name), SystemClock(), own=owns[name])

    def items(at: str, of: str) -> list[str]:
        return [one.item.split(":")[-1] for one in stores[at].stated(Feed(of))]

    async def until(done: Callable[[], bool]) -> None:
        while not done():
            await asyncio.sleep(0.01)

    async def live() -> None:
        runs = [asyncio.create_task(desk.run(lambda: ())) for desk in desks.values()]
        await until(lambda: all(items(at, of) == ["r 1"] for at in names for of in names))
        owns[A].there.append(record(A, "s"))
        await until(lambda: items(B, A) == ["r 1", "s 1"])
        Owner(key_of(A), stores[A], key_of(A, -1)).new_epoch(Feed(A), time.time())
        await until(lambda: [one.at.epoch for one in stores[B].kept(A) if one.at.seq] == [2])
        assert items(B, A) == ["r 1", "s 1"]
        for run in runs:
            run.cancel()
        for desk in desks.values():
            await desk.close()

    asyncio.run(asyncio.wait_for(live(), 60))


def member(name: str) -> MemberRecord:
    key = base64.b64encode(key_of(name).public_bytes).decode()
    return MemberRecord("n", name, 1, f"https://{name}", f"{name}-authority", (), (key,), (), EPOCH)
