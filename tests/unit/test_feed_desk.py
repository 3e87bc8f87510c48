"""What a gateway makes of what other registries tell it, where its own machine fails it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from ioi_dagster.adapters.http.feeds import FeedDesk
from ioi_dagster.adapters.http.protocol import Telling
from ioi_dagster.adapters.http.refusals import ProblemError
from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.feeds.memory import MemoryFeeds
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.reader import Position
from ioi_dagster.ras.feeds.replica import Replica
from ioi_dagster.ras.feeds.replica_messages import Pull, Tick
from ioi_dagster.ras.feeds.roster import public_text
from ioi_dagster.signing import TrustedKeys
from tests.feeds import EPOCH, key_of, record

A, B = "a.example", "b.example"


class Full(MemoryFeeds):
    def keep(self, *_: Any, **__: Any) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def desk_of(store: MemoryFeeds, check_may_sign: Callable[[], None] = lambda: None) -> FeedDesk:
    trusted = TrustedKeys({key_of(A).key_id: key_of(A).public_bytes})
    replica = Replica(B, [], trusted, store, Random(0))
    root = key_of(B, -1)
    clock = ManualClock()
    desk = FeedDesk(
        B, store, replica, lambda: key_of(B), lambda: root, dict, None, clock, check_may_sign=check_may_sign
    )
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
    assert (failed.code, failed.by) == ("feed.not_kept", B)
    assert "No space left on device" in failed.text
