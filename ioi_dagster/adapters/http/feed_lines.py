"""A gateway's lines to those of other members, by which it asks for their feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from ioi_dagster.adapters.http.clocks import ahead_of
from ioi_dagster.adapters.http.protocol import CLOCK_HEADER, PREFIX, PROOF_HEADER
from ioi_dagster.clock import Clock
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.policy.proof import prove
from ioi_dagster.signing import SigningKey, digest_bytes

MAX_ANSWER = 2**24


@dataclass(slots=True)
class _Line:
    record: MemberRecord
    shown: object
    http: httpx.AsyncClient
    ahead_s: float = 0.0


class FeedLines:
    """`key` gives what the domain signs its questions by, `http_to` what asks a member's gateway (None: nobody is asked),
    `members` the records of those that take part, `shown` the certificate that is shown now."""

    def __init__(
        self,
        key: Callable[[], SigningKey],
        members: Callable[[], Mapping[str, MemberRecord]],
        http_to: Callable[[MemberRecord], httpx.AsyncClient] | None,
        clock: Clock,
        shown: Callable[[], object],
    ) -> None:
        self._key, self._members, self._http_to, self._clock, self._shown = key, members, http_to, clock, shown
        self._lines: dict[str, _Line] = {}

    async def close(self) -> None:
        for line in self._lines.values():
            await line.http.aclose()

    async def ask(
        self, peer: str, method: str, door: str, query: dict[str, str], body: bytes, timeout_s: float
    ) -> bytes:
        """Raises `OSError`, httpx's errors and `TimeoutError`."""
        record = self._members().get(peer)
        if self._http_to is None or record is None:
            raise httpx.ConnectError("nobody is asked")
        line = await self._line(record)
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

    async def _line(self, record: MemberRecord) -> _Line:
        """Kept as long as the member's record is the same, and the certificate that is shown."""
        assert self._http_to is not None
        known, shown = self._lines.get(record.domain), self._shown()
        if known is None or (known.record, known.shown) != (record, shown):
            before = known
            known = self._lines[record.domain] = _Line(record, shown, self._http_to(record))
            if before is not None:
                await before.http.aclose()
        return known
