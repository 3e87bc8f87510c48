"""Does a gateway keep to the protocol? Asked from outside, as a known peer, of any implementation.

Each rule is asked and answered over the wire; nothing of the other side's code is imported. The rules of negotiation take what
is free in one of its clusters for a moment, and give it back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from ioi_dagster.adapters.http.protocol import (
    MAX_JSON,
    PERMIT_HEADER,
    PREFIX,
    PROOF_HEADER,
    VERSION,
    AnnounceTo,
    Health,
    ProblemAnswer,
    ReleaseAt,
    RenewAt,
)
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    MAX_POINTS,
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
)
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.policy.permits import encode, issue
from ioi_dagster.policy.proof import VALID_S, prove
from ioi_dagster.signing import SigningKey, digest_bytes

T = TypeVar("T")
Ask = Callable[[str, str, bytes, dict[str, str]], tuple[int, bytes]]
"""(method, path, body, headers) → (status, body)"""

NOBODY_CAN = "conformance.nobody-can"
MORE = 2
"""Asked for beyond what a bid has."""


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


def check(subject: Subject) -> Iterator[Outcome]:
    """All rules, one after the other. What a gateway does beyond answering wrongly (silence, a broken connection) ends them
    with the error of `Subject.ask`."""
    asker = _Asker(subject)
    for rule, probe in _RULES.items():
        yield Outcome(rule, _found(lambda probe=probe: probe(asker)))
    yield from _negotiated(asker)


class _BrokenError(Exception):
    """What was found instead of what the rule asks for."""


def _found(probe: Callable[[], None]) -> str:
    try:
        probe()
    except _BrokenError as error:
        return str(error)
    return ""


@dataclass(slots=True)
class _Asker:
    subject: Subject

    def send(self, method: str, door: str, body: bytes = b"", **change: Any) -> tuple[int, bytes]:
        """Signed and permitted as it should be, but for what is changed."""
        path = change.pop("path", PREFIX + door)
        headers = {PERMIT_HEADER: change.pop("permit", self.permit()), PROOF_HEADER: change.pop("proof", None)}
        if headers[PROOF_HEADER] is None:
            headers[PROOF_HEADER] = self.proof(method, path, body, **change)
        return self.subject.ask(method, path, body, {name: text for name, text in headers.items() if text})

    def proof(self, method: str, path: str, body: bytes, *, audience: str = "", at: float = 0.0) -> str:
        its = self.subject
        asked = {"audience": audience or its.domain, "method": method, "path": path, "body": digest_bytes(body)}
        return prove(its.key, **asked, now=its.now() + at)

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

    def read(self, kind: type[T], status: int, body: bytes) -> T:
        if status != 200:
            raise _BrokenError(f"status {status}: {body[:200].decode(errors='replace')}")
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise _BrokenError(f"an answer of another kind: {error}") from error

    def refused(self, status: int, code: str, got: tuple[int, bytes]) -> None:
        try:
            found = msgspec.json.decode(got[1], type=ProblemAnswer).error.code
        except msgspec.MsgspecError:
            found = f"no code, but {got[1][:100].decode(errors='replace')!r}"
        if (got[0], found) != (status, code):
            raise _BrokenError(f"status {got[0]} with {found}, not {status} with {code}")

    # What is sent -----------------------------------------------------------------------------------------------

    def announcement(self, count: int = 1, capability: str = "", origin: str = "") -> AnnounceTo:
        its = self.subject
        group = AskGroup(capability or its.capability, its.data_class, count)
        return AnnounceTo(its.cluster, Announce(its.run, 1, origin or its.key.domain, (group,)))

    def award(self, *requests: LeaseRequest) -> Award:
        its = self.subject
        return Award(its.cluster, its.run, 1, its.key.domain, requests)

    def request(self, step: str, fence: int, run: str = "") -> LeaseRequest:
        its = self.subject
        return LeaseRequest(run or its.run, step, fence, its.capability, its.data_class)

    def renewal(self, *leases: str) -> RenewAt:
        return RenewAt(self.subject.cluster, RenewRequest(self.subject.run, leases))

    def releasing(self, *leases: str) -> ReleaseAt:
        return ReleaseAt(self.subject.cluster, ReleaseRequest(self.subject.run, leases))


# What can be asked without capacity ---------------------------------------------------------------------------------


def _says_who_it_is(asker: _Asker) -> None:
    health = asker.read(Health, *asker.subject.ask("GET", PREFIX + "health", b"", {}))
    if health.domain != asker.subject.domain or VERSION not in health.protocols or health.epoch < 1:
        raise _BrokenError(str(health))


def _refuses(status: int, code: str, method: str = "POST", door: str = "announce", **change: Any) -> Callable:
    def probe(asker: _Asker) -> None:
        made: dict[str, Any] = {name: value(asker) if callable(value) else value for name, value in change.items()}
        body = made.pop("body", None) or msgspec.json.encode(asker.announcement())
        asker.refused(status, code, asker.send(method, door, body, **made))

    return probe


def _changed(**change: Any) -> Callable[[_Asker], bytes]:
    """An announcement of which a group is changed."""

    def body(asker: _Asker) -> bytes:
        plain = msgspec.json.decode(msgspec.json.encode(asker.announcement()))
        plain["announce"]["groups"][0] |= change
        return msgspec.json.encode(plain)

    return body


def _ignores_fields_that_it_does_not_know(asker: _Asker) -> None:
    asker.read(Bid, *asker.send("POST", "announce", _changed(of_a_later_version=1)(asker)))


def _says_that_nobody_can(asker: _Asker) -> None:
    status, body = asker.send("POST", "announce", msgspec.json.encode(asker.announcement(1, NOBODY_CAN)))
    bid = asker.read(Bid, status, body)
    if bid.points or not all(refusal.code and refusal.text for refusal in bid.refusals) or not bid.refusals:
        raise _BrokenError(f"{bid.points} and {bid.refusals}, not a refusal alone")


_RULES: dict[str, Callable[[_Asker], None]] = {
    "health tells the domain, its epoch and the versions it speaks": _says_who_it_is,
    "another version of the protocol is refused by name": _refuses(404, "protocol.version", path="/v0/announce"),
    "a door that is not there is refused by name": _refuses(404, "protocol.no_door", door="no-such-door"),
    "a request that is not signed is refused": _refuses(401, "proof.missing", proof=""),
    "a request that was signed for another domain is refused": _refuses(
        401, "proof.audience_mismatch", audience="elsewhere.example"
    ),
    "a request that was signed for another door is refused": _refuses(
        401, "proof.path_mismatch", proof=lambda asker: asker.proof("POST", PREFIX + "award", b"")
    ),
    "a request that was signed for another body is refused": _refuses(
        401, "proof.body_mismatch", proof=lambda asker: asker.proof("POST", PREFIX + "announce", b"another")
    ),
    "a request that was signed long ago is refused": _refuses(401, "proof.stale", at=-2 * VALID_S),
    "a request that was signed in the future is refused": _refuses(401, "proof.stale", at=2 * VALID_S),
    "a request without a run permit is refused": _refuses(403, "permit.missing", permit=""),
    "a permit that does not name the domain is refused": _refuses(
        403, "permit.domain", permit=lambda asker: asker.permit(domains=("elsewhere.example",))
    ),
    "a permit that has expired is refused": _refuses(
        403, "permit.expired", permit=lambda asker: asker.permit(expires=asker.subject.now() - 1)
    ),
    "a permit of another run is refused": _refuses(
        403, "permit.run_mismatch", permit=lambda asker: asker.permit(run="another")
    ),
    "an announcement in another domain's name is refused": _refuses(
        403,
        "gateway.other_origin",
        body=lambda asker: msgspec.json.encode(asker.announcement(origin="elsewhere.example")),
    ),
    "a cluster that is not there is refused": _refuses(
        404,
        "gateway.no_cluster",
        body=lambda asker: msgspec.json.encode(replace(asker.announcement(), cluster="no-such-cluster")),
    ),
    "what is no JSON is refused": _refuses(400, "gateway.malformed", body=b"\x00rubbish"),
    "a message without a field that it needs is refused": _refuses(400, "gateway.malformed", body=b'{"cluster": "c"}'),
    "a negative amount is refused": _refuses(400, "gateway.malformed", body=_changed(count=-1)),
    "an absurd amount is refused": _refuses(400, "gateway.malformed", body=_changed(count=10**18)),
    "an unknown data class is refused": _refuses(400, "gateway.malformed", body=_changed(data_class="cosmic")),
    "a message that is too large is refused": _refuses(413, "gateway.too_large", body=b" " * (MAX_JSON + 1)),
    "fields of a later version are ignored": _ignores_fields_that_it_does_not_know,
    "what nobody there can do is refused in the bid": _says_that_nobody_can,
}


# Bids, awards and leases --------------------------------------------------------------------------------------------


def _negotiated(asker: _Asker) -> Iterator[Outcome]:
    """One negotiation from the bid to the last lease's end; each rule stands on what those before it found."""
    its = asker.subject
    leases: list[Lease] = []
    try:
        bid = asker.answer(Bid, "announce", asker.announcement(1_000_000))
        yield Outcome("a bid answers its announcement", _found(lambda: _bid_fits(its, bid)))
        room = sum(point.slots for point in bid.points)
        if not room:
            yield Outcome("a cluster that has room bids for it", f"no room, so nothing else was asked: {bid.refusals}")
            return
        requests = [asker.request(f"step-{number}", 2) for number in range(min(room + MORE, 1_000))]
        awarded = asker.answer(Awarded, "award", asker.award(*requests))
        leases += awarded.leases
        yield Outcome(
            "each request of an award is leased or rejected", _found(lambda: _award_fits(its, requests, awarded))
        )
        if not leases:
            yield Outcome("room that was bid is there a moment later", f"nothing was leased: {awarded.rejected[:3]}")
            return
        first = leases[0]
        again = asker.answer(Awarded, "award", asker.award(asker.request(first.step, first.fence)))
        yield Outcome(
            "an award that is sent again gives the same lease", "" if again.leases == (first,) else str(again)
        )
        older = asker.answer(Awarded, "award", asker.award(asker.request(first.step, first.fence - 1)))
        yield Outcome("an older fence gets no lease", "" if _rejected(older) else str(older))
        foreign = asker.answer(Awarded, "award", asker.award(asker.request("foreign", 1, "another-run")))
        yield Outcome("a request for another run gets no lease", "" if _rejected(foreign) else str(foreign))
        renewed = asker.answer(Renewed, "renew", asker.renewal(first.id, "no-such-lease"))
        expected = Renewed((first.id,), ("no-such-lease",))
        yield Outcome("renewing tells what is held and what is not", "" if renewed == expected else str(renewed))
        newer = asker.answer(Awarded, "award", asker.award(asker.request(first.step, first.fence + 1)))
        leases += newer.leases
        yield Outcome("a newer fence takes over the slot of the older", "" if newer.leases else str(newer))
        renewed = asker.answer(Renewed, "renew", asker.renewal(first.id))
        yield Outcome("a lease ends when a newer fence is granted", "" if renewed.lost == (first.id,) else str(renewed))
        ids = [lease.id for lease in leases]
        asker.answer(dict, "release", asker.releasing(*ids))
        renewed = asker.answer(Renewed, "renew", asker.renewal(*ids))
        yield Outcome("what was released is not held", "" if renewed == Renewed((), tuple(ids)) else str(renewed))
        asker.answer(dict, "release", asker.releasing(*ids))
        yield Outcome("releasing twice is no error")
        spent = asker.answer(Awarded, "award", asker.award(asker.request(leases[-1].step, leases[-1].fence)))
        leases += spent.leases
        yield Outcome("a fence that was released gets no lease again", "" if _rejected(spent) else str(spent))
    except _BrokenError as error:
        yield Outcome("every message of a negotiation is answered", str(error))
    finally:
        if leases:
            asker.send("POST", "release", msgspec.json.encode(asker.releasing(*(lease.id for lease in leases))))


def _bid_fits(its: Subject, bid: Bid) -> None:
    expected = (its.cluster, its.domain, its.run, 1)
    if (bid.cluster, bid.domain, bid.run, bid.round) != expected:
        raise _BrokenError(f"a bid of {bid.cluster}, {bid.domain} for {bid.run}, round {bid.round}, not {expected}")
    for point in bid.points:
        if (point.capability, point.data_class) != (its.capability, its.data_class) or point.warm > point.slots:
            raise _BrokenError(f"a point that nobody asked for: {point}")
    if len(bid.points) > MAX_POINTS:
        raise _BrokenError(f"a supply curve of {len(bid.points)} points, where {MAX_POINTS} are the most")


def _award_fits(its: Subject, requests: list[LeaseRequest], awarded: Awarded) -> None:
    told = sorted([*(lease.step for lease in awarded.leases), *(item.step for item in awarded.rejected)])
    if told != sorted(request.step for request in requests):
        raise _BrokenError(f"{len(requests)} requests, but {len(told)} answers")
    if not all(item.refusal.code and item.refusal.text for item in awarded.rejected):
        raise _BrokenError("a rejection without a code or a text")
    for lease in awarded.leases:
        given = (lease.run, lease.fence, lease.capability, lease.cluster, lease.domain, lease.ttl_s > 0)
        expected = (its.run, 2, its.capability, its.cluster, its.domain, True)
        if given != expected:
            raise _BrokenError(f"a lease of {given}, not {expected}")


def _rejected(awarded: Awarded) -> bool:
    return not awarded.leases and len(awarded.rejected) == 1
