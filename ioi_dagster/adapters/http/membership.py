"""The live driver of the network governor: asks peers, keeps what is believed, tells others what there is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from ioi_dagster.adapters.http.clocks import ahead_of
from ioi_dagster.adapters.http.protocol import CLOCK_HEADER, PREFIX, VERSION, Health, JoinAnswer
from ioi_dagster.adapters.http.tls import explain
from ioi_dagster.clock import Clock
from ioi_dagster.decoding import from_json
from ioi_dagster.governors.network import (
    Displaced,
    Event,
    Heard,
    Instruction,
    Joined,
    Keep,
    NetworkGovernor,
    NotBelieved,
    Probe,
    ProbeAnswered,
    ProbeMissed,
    Pull,
    RecordsPulled,
    Tick,
    expelled_by,
)
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.member import Invited, MemberRecord
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.signing import Signed

log = logging.getLogger("ioi.members")
TICK_S = 0.2
ANSWER_S = 1.0
MAX_ANSWER = 2**20
"""Bytes of an answer about members; of more the rest is not read."""
_Answer = tuple[bytes, Mapping[str, str]]
"""With its headers."""


class MemberBook(Protocol):
    """What a domain knows of the members, and where it keeps that."""

    def records(self) -> dict[str, Signed]:
        """Domain → its newest record, also of those that have left and of this domain."""
        ...

    def read(self) -> dict[str, MemberRecord]:
        """The same, read."""
        ...

    def authorities(self) -> dict[str, str]:
        """Domain → the name of its authority."""
        ...

    def chain(self, domain: str, after: int) -> tuple[Signed, ...]:
        """Its records of a higher serial, oldest first; of others than this domain the newest alone."""
        ...

    def keep(self, kept: Keep, give: DataClass | None = None, by: Invited | None = None) -> bool:
        """For good: it counts after a restart too. `give`: the highest class that the member may be given from now on, by an
        invitation. `by`: that invitation as it was read; by whom it was used is kept first. False, and nothing is kept, where
        the owner has put the member out, or the invitation is not as it was read any more."""
        ...

    def forget(self, name: str) -> None:
        """It is no member any more; nobody has put it out."""
        ...

    def expelled(self) -> Collection[str]:
        """Whom the owner has put out."""
        ...

    def vouched(self) -> Mapping[str, str]:
        """Whom a member has introduced → that member."""
        ...

    def introductions(self) -> bool:
        """Whether whom a member tells of is one too."""
        ...

    def may_be_given(self, domain: str) -> DataClass:
        """The highest class."""
        ...

    def invited(self, name: str) -> Invited | None:
        """The invitation whose certificate has that name."""
        ...

    def changed_at(self) -> object:
        """Differs when the owner has changed something."""
        ...

    def leaving(self) -> bool:
        """The owner takes the domain out of the network."""
        ...


class NoMembers:
    """A `MemberBook` of a domain that knows nobody."""

    def records(self) -> dict[str, Signed]:
        return {}

    def read(self) -> dict[str, MemberRecord]:
        return {}

    def authorities(self) -> dict[str, str]:
        return {}

    def chain(self, domain: str, after: int) -> tuple[Signed, ...]:
        return ()

    def keep(self, kept: Keep, give: DataClass | None = None, by: Invited | None = None) -> bool:
        """It is forgotten with the process."""
        return True

    def forget(self, name: str) -> None:
        """It knows nobody."""

    def expelled(self) -> Collection[str]:
        return ()

    def vouched(self) -> Mapping[str, str]:
        return {}

    def introductions(self) -> bool:
        return True

    def may_be_given(self, domain: str) -> DataClass:
        return DataClass.PUBLIC

    def invited(self, name: str) -> Invited | None:
        return None

    def changed_at(self) -> object:
        return 0

    def leaving(self) -> bool:
        return False


class _OtherVersionError(Exception):
    def __init__(self, spoken: tuple[int, ...]) -> None:
        super().__init__(f"it speaks version {', '.join(map(str, spoken))} of the protocol, not {VERSION}")


@dataclass(slots=True)
class _Connection:
    record: MemberRecord
    shown: object
    http: httpx.AsyncClient


class Members:
    """`http_to`: what asks a member's gateway, by its record; None: nobody is asked. `shown`: differs when that shows another
    certificate."""

    def __init__(
        self,
        domain: str,
        book: MemberBook,
        http_to: Callable[[MemberRecord], httpx.AsyncClient] | None,
        clock: Clock,
        shown: Callable[[], object] = lambda: None,
    ) -> None:
        self._shown = shown
        self._domain, self._book, self._http_to, self._clock = domain, book, http_to, clock
        self._governor = NetworkGovernor(domain, book.read(), book.introductions(), book.expelled(), book.vouched())
        self._seen = book.changed_at()
        self._connections: dict[str, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def view(self) -> tuple[Heard, ...]:
        return self._governor.view()

    def snapshot(self) -> dict[str, dict[str, object]]:
        return self._governor.snapshot(self._clock.monotonic())

    def join(self, shown: str, signed: Signed, now: float) -> JoinAnswer | Refusal:
        """A guest, whose connection was opened with the certificate named `shown`, becomes a member. Who is one already
        is replaced, and given what the invitation says, by one that was made for it and not used before. `now`: Unix
        seconds."""
        invited = self._book.invited(shown)
        name = str(signed.body.get("domain", ""))[:100]
        gone = "the invitation has expired, or is not one of ours any more"
        not_any_more = Refusal("member.not_invited", gone, self._domain, "ask for another: `ioi domain invite`")
        if invited is None or invited.expires < now:
            return not_any_more
        if invited.domain not in ("", name) or invited.used_by not in ("", name):
            text = f"the invitation is for {invited.domain or invited.used_by}, not for {name}"
            return Refusal("member.not_invited", text, self._domain, "ask for one of your own: `ioi domain invite`")
        known = self._book.read().get(name)
        there, used = known is not None and not known.left, bool(invited.used_by)
        if used and not there:
            text = f"the invitation was used by {name}, which is no member"
            return Refusal("member.not_invited", text, self._domain, "ask for another: `ioi domain invite`")
        anew = invited.domain == name and not used
        if name in self._book.expelled() and not anew:
            return expelled_by(self._domain, name)
        for said in self._governor.handle(Joined(signed, anew), self._clock.monotonic()):
            if isinstance(said, NotBelieved):
                return said.refusal
            if isinstance(said, Displaced):
                self._perform(said)  # whatever becomes of the guest: it may be introduced again
                continue
            assert isinstance(said, Keep)
            if not self._keep(said, invited.give if anew or not there else None, invited):
                return expelled_by(self._domain, name) if name in self._book.expelled() else not_any_more
        return JoinAnswer(self._book.records()[self._domain], self._book.may_be_given(name))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self.look()
                self._handle(Tick())
            except (
                Exception
            ) as error:  # a disk that is full, a file that is being written: the next time it is looked again
                log.warning("members are not looked after for now: %s", error)
            await asyncio.sleep(TICK_S)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in self._connections.values():
            await connection.http.aclose()

    def look(self) -> None:
        """What the owner has changed: his own record, whom he has joined or put out, whether members introduce others. After what
        was kept here it is looked too: the owner may have said something in between."""
        changed = self._book.changed_at()
        if changed == self._seen:
            return
        expelled = self._book.expelled()
        self._governor.expel(expelled)
        self._governor.introductions = self._book.introductions()
        self._governor.vouched_by(self._book.vouched())
        known, signed = self._governor.records(), self._book.records()
        for name, record in self._book.read().items():
            if name == self._domain:
                self._governor.own_changed(record)
            elif not record.left and name not in expelled and record != known.get(name):
                self._handle(Joined(signed[name], anew=True))
        self._seen = changed

    def _handle(self, event: Event) -> None:
        for instruction in self._governor.handle(event, self._clock.monotonic()):
            self._perform(instruction)

    def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case Probe(peer):
                self._begin(self._probe(peer))
            case Pull(peer, domain, after):
                self._begin(self._pull(peer, domain, after))
            case Keep():
                self._keep(instruction)
            case Displaced(domain, by):
                log.warning("%s is no member any more: there is no room beside %s, who was invited", domain, by)
                self._book.forget(domain)
            case NotBelieved(peer, domain, refusal):
                log.warning(
                    "what %s told of %s is not taken: %s [%s]", peer or "it", domain, refusal.text, refusal.code
                )

    def _keep(self, kept: Keep, give: DataClass | None = None, by: Invited | None = None) -> bool:
        told = f", as {kept.vouched} tells" if kept.vouched else ""
        left = ", it has left" if kept.record.left else ""
        log.info("%s: record %d%s%s", kept.record.domain, kept.record.serial, told, left)
        if self._book.keep(kept, give, by):
            return True
        # Its owner has said so a moment ago. It is forgotten first, whoever it is; what stands of it is looked at next.
        expelled = self._book.expelled()
        self._governor.expel({*expelled, kept.record.domain})
        self._governor.expel(expelled)
        self._seen = None
        return False

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, peer: str) -> None:
        event: Event
        try:
            since = self._clock.monotonic()
            data, headers = await self._get(peer, "health")
            ahead_s = ahead_of(headers.get(CLOCK_HEADER), self._clock.wall(), self._clock.monotonic() - since)
            health = from_json(data, Health)
            if health.protocols and VERSION not in health.protocols:
                raise _OtherVersionError(health.protocols)
            event = ProbeAnswered(peer, health.epoch, health.heard, ahead_s)
        except Exception as error:  # whatever a peer sends, the answer to the governor is owed
            told = str(error) if isinstance(error, _OtherVersionError) else explain(error)
            event = ProbeMissed(peer, told or type(error).__name__)
        self._handle(event)

    async def _pull(self, peer: str, domain: str, after: int) -> None:
        chain: tuple[Signed, ...] = ()
        try:
            answer, _ = await self._get(peer, "member", {"domain": domain, "after": str(after)})
            chain = from_json(answer, tuple[Signed, ...])
        except Exception as error:  # the governor waits for an end of this
            log.info("%s did not tell its records of %s: %s", peer, domain, explain(error) or type(error).__name__)
        self._handle(RecordsPulled(peer, domain, chain))

    async def _get(self, peer: str, door: str, query: dict[str, str] | None = None) -> _Answer:
        record = self._book.read().get(peer)
        if self._http_to is None or record is None:
            raise httpx.ConnectError("nobody is asked")
        return await asyncio.wait_for(self._bounded(self._connection(peer, record), record, door, query), ANSWER_S)

    async def _bounded(
        self, http: httpx.AsyncClient, record: MemberRecord, door: str, query: dict[str, str] | None
    ) -> _Answer:
        parts, size = [], 0
        url = f"{record.gateway}{PREFIX}{door}"
        async with http.stream("GET", url, params=query, timeout=ANSWER_S) as answer:
            async for part in answer.aiter_bytes():
                size += len(part)
                if answer.status_code != 200 or size > MAX_ANSWER:
                    raise httpx.ReadError(f"status {answer.status_code}, {size} bytes")
                parts.append(part)
        return b"".join(parts), answer.headers

    def _connection(self, peer: str, record: MemberRecord) -> httpx.AsyncClient:
        """Kept as long as the member's record is the same, since a newer one may name another authority, and the own
        certificate, since the one of before may be revoked."""
        known, shown = self._connections.get(peer), self._shown()
        if known is None or (known.record, known.shown) != (record, shown):
            assert self._http_to is not None
            if known is not None:
                self._begin(known.http.aclose())
            known = self._connections[peer] = _Connection(record, shown, self._http_to(record))
        return known.http
