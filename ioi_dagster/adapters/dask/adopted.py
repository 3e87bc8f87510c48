"""A client's side of `flights`: starts that it has not sent itself, but takes the answers of."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from distributed import Client
from distributed.client import Future

from ioi_dagster.adapters.dask import flights

LOOK_EVERY_S = 0.25
ANSWER_S = 3.0
CLAIM_S = 15.0
"""A worker whose code holds the interpreter, or whose machine is busy, answers late; to run its step anew costs more."""
MISSED = 3
"""So often no worker knows of a start before it is told as lost: an answer may be on its way from one look to the next."""
GONE = "the worker no longer knows of it"

OnDone = Callable[[str, bytes | None, str | None], None]


class Adopted:
    """Used in the event loop of a `DaskFleetClient`, which lends its client, its outstanding starts and how one is finished."""

    def __init__(
        self,
        client: Callable[[], Client | None],
        outstanding: dict[str, tuple[Future | None, OnDone, str]],
        finish: Callable[[str, bytes | None, str | None], None],
    ) -> None:
        self._client, self._outstanding, self._finish = client, outstanding, finish
        self._keys: set[str] = set()
        self._missed: Counter[str] = Counter()
        self._looking: asyncio.Task[None] | None = None

    async def claim(self, keys: list[str]) -> list[str]:
        found = await self._ask(flights.claim, keys, CLAIM_S)
        return [key for its in (found or {}).values() for key in its]

    async def wait(self, key: str, node: str, on_done: OnDone) -> None:
        self._outstanding[key] = (None, on_done, node)
        self._keys.add(key)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        """Ask for the answers again and again, until there is one to each or its start was finished otherwise."""
        while True:
            self._keys &= self._outstanding.keys()
            if not self._keys:
                return
            keys = list(self._keys)
            told = await self._ask(flights.answers, keys)
            answers = {key: answer for its in (told or {}).values() for key, answer in its.items()}
            taken = [key for key, answer in answers.items() if answer]
            for key in taken:
                self._finish(key, answers[key], None)
            if told is not None:
                self._missed = Counter({key: self._missed[key] + 1 for key in keys if key not in answers})
            for key in [key for key, times in self._missed.items() if times >= MISSED]:
                self._finish(key, None, GONE)
            if taken:
                await self._ask(flights.drop, taken)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _ask(
        self, question: Callable[[list[str]], Any], keys: list[str], patience_s: float = ANSWER_S
    ) -> dict[str, Any] | None:
        """The answers of all workers that answer, by address; None where that cannot be said now."""
        client = self._client()
        if client is None:
            return None
        try:
            return await asyncio.wait_for(_run(client, question, keys), patience_s)
        except Exception:  # a scheduler or a worker that goes away just then: asked again
            return None


async def _run(client: Client, question: Callable[[list[str]], Any], keys: list[str]) -> dict[str, Any]:
    return await client.run(question, keys, on_error="ignore")  # pyright: ignore[reportGeneralTypeIssues]
