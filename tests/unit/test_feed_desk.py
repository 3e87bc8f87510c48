"""What a gateway makes of what other registries tell it, where its own machine fails it."""

from __future__ import annotations

import asyncio
import errno
import os
from random import Random
from typing import Any

import msgspec

from ioi_dagster.adapters.http.feeds import FeedDesk
from ioi_dagster.clock import ManualClock
from ioi_dagster.ras.feeds.memory import MemoryFeeds
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.reader import Position
from ioi_dagster.ras.feeds.replica import Replica
from ioi_dagster.ras.feeds.replica_messages import Pull
from ioi_dagster.ras.feeds.roster import public_text
from ioi_dagster.signing import TrustedKeys
from tests.feeds import EPOCH, key_of, record

A, B = "a.example", "b.example"


class Full(MemoryFeeds):
    def keep(self, *_: Any, **__: Any) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_kept_here_is_no_silence_of_the_peer():
    told, kept = MemoryFeeds(), Full()
    Owner(key_of(A), told, key_of(A, -1)).state([record(A, "r")], EPOCH)
    page = msgspec.json.encode(told.page(Feed(A), 0, 0, 100))
    trusted = TrustedKeys({key_of(A).key_id: key_of(A).public_bytes})
    replica = Replica(B, [], trusted, kept, Random(0))
    desk = FeedDesk(B, kept, replica, lambda: key_of(B), lambda: None, dict, None, ManualClock())
    pull = Pull(A, Position(Feed(A), root=public_text(key_of(A, -1))))
    failed = asyncio.run(desk._taken(pull, page)).failed
    assert (failed.code, failed.by) == ("feed.not_kept", B)
    assert "No space left on device" in failed.text
