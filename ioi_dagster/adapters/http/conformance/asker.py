"""Who asks: a domain that the other side knows, with a run's permit, over the wire alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar

import msgspec

from ioi_dagster.adapters.http.protocol import (
    PERMIT_HEADER,
    PREFIX,
    PROOF_HEADER,
    AnnounceTo,
    ProblemAnswer,
    ReleaseAt,
    RenewAt,
)
from ioi_dagster.decoding import from_json
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    LeaseRequest,
    ReleaseRequest,
    RenewRequest,
)
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.policy.permits import encode, issue
from ioi_dagster.policy.proof import VALID_S, prove
from ioi_dagster.signing import SigningKey, digest_bytes

T = TypeVar("T")
Ask = Callable[[str, str, bytes, dict[str, str], float], tuple[int, bytes] | None]
"""(method, path, body, headers, seconds) → (status, body). None where no answer has come within so many seconds: the connection
is closed then. Called from two threads at a time."""
ANSWER_S = 10.0
"""So long an answer may take."""
NEXT_TO_NOTHING_S, NEVER_S = 0.001, 1e9
"""What a check has left to do, and when that is to be over. A cluster whose nodes come and go brings none for it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`found` is empty where the rule holds, else what was there instead."""

    rule: str
    found: str = ""

    @property
    def holds(self) -> bool:
        return not self.found


@dataclass(frozen=True, slots=True)
class Subject:
    """The gateway of `domain`, asked by the domain of `key`, which it must know; `cluster` is one of its clusters, where
    `capability` is offered for data of `data_class`. `now`: Unix seconds."""

    ask: Ask
    key: SigningKey
    domain: str
    cluster: str
    capability: str
    now: Callable[[], float]
    data_class: DataClass = DataClass.PUBLIC
    run: str = field(default_factory=lambda: f"conformance-{uuid.uuid4().hex}")
    wait_s: float = 6.0
    """So long an announcement waits for room that comes sooner; less than `ANSWER_S`."""
    settle_s: float = 0.4
    """So long after a message was sent, or a connection closed, whoever is asked has heard of it."""
    call: Payload | None = None
    """What its block may be called with; None: it is not called."""
    guest: Ask | None = None
    """Asks it over a connection that an invitation for anybody has opened; None: whom it lets join is not found out."""


class BrokenError(Exception):
    """What was found instead of what the rule asks for."""


def found(probe: Callable[[], None]) -> str:
    try:
        probe()
    except BrokenError as error:
        return str(error)
    return ""


@dataclass(slots=True)
class Asker:
    subject: Subject
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        answer = self.subject.ask(method, path, body, headers, ANSWER_S)
        if answer is None:
            raise BrokenError(f"no answer at {path} within {ANSWER_S:g} s")
        return answer

    def send(self, method: str, door: str, body: bytes = b"", **change: Any) -> tuple[int, bytes]:
        """Signed and permitted as it should be, but for what is changed."""
        path = change.pop("path", PREFIX + door)
        return self.ask(method, path, body, self.headers(method, path, body, **change))

    def headers(self, method: str, path: str, body: bytes, **change: Any) -> dict[str, str]:
        headers = {PERMIT_HEADER: change.pop("permit", self.permit()), PROOF_HEADER: change.pop("proof", None)}
        if headers[PROOF_HEADER] is None:
            headers[PROOF_HEADER] = self.proof(method, path, body, **change)
        return {name: text for name, text in headers.items() if text}

    def proof(self, method: str, path: str, body: bytes, *, audience: str = "", at: float = 0.0) -> str:
        its = self.subject
        asked = {"audience": audience or its.domain, "method": method, "path": path, "body": digest_bytes(body)}
        return prove(its.key, **asked, now=its.now() + at, ahead_s=0.0)

    def permit(self, **change: Any) -> str:
        its = self.subject
        permit = RunPermit(
            run=its.run,
            job="conformance",
            subject="conformance",
            issuer=its.key.domain,
            **dict.fromkeys(("job_snapshot", "plan", "config", "selection", "code", "revision"), ""),
            highest=its.data_class,
            domains=(its.domain,),
            decision_ids=(),
            not_before=its.now() - VALID_S,
            expires=its.now() + VALID_S,
            nonce=uuid.uuid4().hex,
        )
        return encode(issue(its.key, replace(permit, **change)))

    def answer(self, kind: type[T], door: str, message: Any) -> T:
        return self.read(kind, *self.send("POST", door, msgspec.json.encode(message)))

    def answer_within(self, seconds: float, door: str, message: Any) -> tuple[int, bytes] | None:
        """None where there was none, and the connection was closed."""
        body, path = msgspec.json.encode(message), PREFIX + door
        return self.subject.ask("POST", path, body, self.headers("POST", path, body), seconds)

    def meanwhile(self, announcement: AnnounceTo, act: Callable[[], object]) -> tuple[Bid, float]:
        """The bid for an announcement that waits until `act` is done, and the seconds from then."""
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(self.answer, Bid, "announce", announcement)
            time.sleep(self.subject.settle_s)
            if waits.done():
                raise BrokenError(f"it did not wait: {_short(waits.result())}")
            act()
            since = time.monotonic()
            return waits.result(), time.monotonic() - since

    def read(self, kind: type[T], status: int, body: bytes) -> T:
        if status != 200:
            raise BrokenError(f"status {status}: {body[:200].decode(errors='replace')}")
        try:
            return from_json(body, kind)
        except msgspec.MsgspecError as error:
            raise BrokenError(f"an answer of another kind: {error}") from error

    def refused(self, status: int, code: str, got: tuple[int, bytes]) -> None:
        try:
            found = from_json(got[1], ProblemAnswer).error.code
        except msgspec.MsgspecError:
            found = f"no code, but {got[1][:100].decode(errors='replace')!r}"
        if (got[0], found) != (status, code):
            raise BrokenError(f"status {got[0]} with {found}, not {status} with {code}")

    # What is sent -----------------------------------------------------------------------------------------------

    def step(self) -> str:
        """A step's key that was not asked for before."""
        return f"room-{next(self._numbers)}"

    def group(self, wanted: int = 1, **change: Any) -> AskGroup:
        return replace(AskGroup(self.subject.capability, self.subject.data_class, wanted), **change)

    def announcement(self, *groups: AskGroup, origin: str = "", **change: Any) -> AnnounceTo:
        its = self.subject
        asker, wanted = origin or its.key.domain, groups or (self.group(),)
        plain = Announce(its.run, 1, asker, wanted, remaining_s=NEXT_TO_NOTHING_S, due_s=NEVER_S)
        return AnnounceTo(its.cluster, replace(plain, **change))

    def award(self, *requests: LeaseRequest) -> Award:
        its = self.subject
        return Award(its.cluster, its.run, 1, its.key.domain, requests)

    def request(self, step: str, fence: int, run: str = "", **change: Any) -> LeaseRequest:
        its = self.subject
        return replace(LeaseRequest(run or its.run, step, fence, its.capability, its.data_class), **change)

    def bid(self, *groups: AskGroup, **change: Any) -> Bid:
        return self.answer(Bid, "announce", self.announcement(*groups, **change))

    def awarded(self, *requests: LeaseRequest) -> Awarded:
        return self.answer(Awarded, "award", self.award(*requests))

    def renewal(self, *leases: str) -> RenewAt:
        return RenewAt(self.subject.cluster, RenewRequest(self.subject.run, leases))

    def releasing(self, *leases: str) -> ReleaseAt:
        return ReleaseAt(self.subject.cluster, ReleaseRequest(self.subject.run, leases))


def _short(value: object) -> str:
    return str(value)[:300]
