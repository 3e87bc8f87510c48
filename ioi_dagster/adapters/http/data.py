"""What a gateway says of data: which copies its domain holds, as it saw when it looked last, to who may see their record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import msgspec

from ioi_dagster.adapters.http.protocol import CopiesOf, Held
from ioi_dagster.clock import Clock
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset, asset_of
from ioi_dagster.ras.data.copies import Copy, copies_of, tell_copy, withdraw_copy
from ioi_dagster.ras.leases import LeasedState
from ioi_dagster.ras.record import PARTNER, PUBLIC, Record
from ioi_dagster.ras.store import RecordStore
from ioi_dagster.ras.urn import read_urn

LASTS = 3.0
"""A copy is counted on for so many times the time from one look to the next."""
MAX_EARLIER = 8
"""Versions before the one in force of which records are told."""
log = logging.getLogger("ioi.data")

MayHave = Callable[[Asset, str], tuple[Refusal, ...]]
"""What stands against giving an asset to a domain, as this domain and its policy see it; blocks."""


class Stores(Protocol):
    """The domain's own."""

    def copies(self) -> tuple[tuple[Copy, ...], bool]:
        """What is there now, and whether every store could be looked into. Blocks; never raises."""
        ...


class DataDesk:
    """On one event loop; files, the registry and policy are asked in threads."""

    def __init__(
        self, name: str, records: RecordStore, clock: Clock, stores: Stores, may_have: MayHave, every_s: float
    ) -> None:
        self._name, self._records, self._clock = name, records, clock
        self._stores, self._may_have, self._every_s = stores, may_have, every_s
        self._state = LeasedState()
        self._known: dict[tuple[str, str, str], Copy] = {}

    async def run(self) -> None:
        """Look into the stores again and again."""
        while True:
            try:
                await self.survey()
            except Exception:  # whatever is wrong with one look, the next is made
                log.exception("the stores of %s could not be looked into", self._name)
            await asyncio.sleep(self._every_s)

    async def survey(self) -> None:
        before = dict(self._known)
        found, everywhere = await asyncio.to_thread(self._stores.copies)
        for copy in found:
            self._hold(copy)
        if not everywhere:
            return
        there = {_key(copy) for copy in found}
        for key, copy in before.items():
            # What was told while it looked may have come behind its back.
            if key not in there and self._known.get(key) is copy:
                self._let_go(copy)

    def held(self, told: Held) -> Refusal | None:
        """What its owner's commands have made or removed, until the next look."""
        for copy in (*told.copies, *told.withdrawn):
            if copy.domain != self._name:
                text = f"it is told of a copy of {copy.domain[:100]}"
                return Refusal("data.not_its_own", text, self._name, "tell it to that domain's own gateway")
        for copy in told.withdrawn:
            self._let_go(copy)
        return next((why for copy in told.copies if (why := self._hold(copy)) is not None), None)

    async def copies(self, asker: str, urn: str) -> CopiesOf:
        """Nothing where the domain has no record of it that the asker may see. Where this domain or its policy has anything
        against giving it to the asker, that is told, and where the copies lie is not. Raises `BadInputError` for no URN."""
        urn = str(read_urn(urn))
        known = copies_of(self._state, urn, self._clock.monotonic())
        return await asyncio.to_thread(self._told, asker, urn, known)

    def _told(self, asker: str, urn: str, known: tuple[Copy, ...]) -> CopiesOf:
        record = self._records.get(urn)
        if record is None or not self._sees(asker, record):
            return CopiesOf()
        asset = asset_of(record)
        earlier: dict[str, Record] = {}
        seen: list[Copy] = []
        for copy in known:
            its = record if copy.of == asset.digest else earlier.get(copy.of) or self._records.by_digest(copy.of)
            if its is None or not self._sees(asker, its):
                continue
            if its is not record and len(earlier) < MAX_EARLIER:
                earlier[copy.of] = its
            seen.append(copy)
        against = self._may_have(asset, asker) if seen and asker != self._name else ()
        if against:
            seen = [replace(copy, url="") for copy in seen]
        return CopiesOf(
            record.signed,
            tuple(its.signed for its in earlier.values()),
            tuple(msgspec.to_builtins(copy) for copy in seen),
            against,
        )

    def _sees(self, asker: str, record: Record) -> bool:
        return asker == self._name or record.audience in (PUBLIC, PARTNER + asker)

    def _hold(self, copy: Copy) -> Refusal | None:
        refused = tell_copy(self._state, copy, self._every_s * LASTS, self._clock.monotonic())
        if refused is None:
            self._known[_key(copy)] = copy
        else:
            log.warning("%s at %s: %s", copy.asset, copy.url, refused.text)
        return refused

    def _let_go(self, copy: Copy) -> None:
        withdraw_copy(self._state, copy)
        self._known.pop(_key(copy), None)


def _key(copy: Copy) -> tuple[str, str, str]:
    return copy.asset, copy.url, copy.of
