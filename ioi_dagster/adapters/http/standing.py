"""How clusters stand with the domain, as its gateway keeps it: told by the domain's own runs, saved from time to time."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ioi_dagster.clock import Clock
from ioi_dagster.governors.standing import Standings
from ioi_dagster.model.standing import Experiences, Standing

SAVED_S = 5.0
"""So much of what was told may be lost with the machine."""
_log = logging.getLogger(__name__)


class Saved(Protocol):
    """What outlives the gateway. Times are Unix seconds."""

    def load(self, now: float) -> tuple[tuple[Standing, ...], float]:
        """What was saved last, and how many seconds ago."""
        ...

    def save(self, standings: tuple[Standing, ...], now: float) -> None:
        """Raises `OSError`."""
        ...


class StandingDesk:
    """On one event loop. `saved`: None where nothing outlives the gateway."""

    def __init__(self, clock: Clock, saved: Saved | None = None) -> None:
        self._clock, self._saved = clock, saved
        self._governor = Standings()
        self._lock = asyncio.Lock()
        self._saved_at = float("-inf")
        self._changed = False
        if saved is not None:
            standings, since_s = saved.load(clock.wall())
            self._governor.restore(standings, since_s, clock.monotonic())

    async def told(self, told: Experiences) -> tuple[Standing, ...]:
        """How they stand with it, which is saved where it was not for a while."""
        now = self._clock.monotonic()
        self._governor.tell(told.seen, now)
        self._changed |= bool(told.seen)
        if self._changed and now - self._saved_at >= SAVED_S:
            self._saved_at = now
            await self._save()
        return self.all()

    def all(self) -> tuple[Standing, ...]:
        return self._governor.all(self._clock.monotonic())

    async def close(self) -> None:
        if self._changed:
            await self._save()

    async def _save(self) -> None:
        if self._saved is None:
            return
        async with self._lock:
            self._changed = False
            try:
                await asyncio.to_thread(self._saved.save, self.all(), self._clock.wall())
            except OSError as error:
                self._changed = True
                _log.warning("how clusters stand with the domain could not be saved: %s", error)
