"""Calls of blocks whose result is streamed. Those that are refused reach no block; those that are run give it `Subject.call`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from ioi_dagster.adapters.http.conformance.asker import Asker, BrokenError
from ioi_dagster.adapters.http.conformance.room import Room
from ioi_dagster.adapters.http.protocol import PREFIX, Invocation, Invoked, Streamed, Word
from ioi_dagster.adapters.http.streaming import FrameReader
from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Payload
from ioi_dagster.model.negotiation import Lease
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.policy.permits import issue
from ioi_dagster.policy.proof import VALID_S
from ioi_dagster.signing import digest_bytes

STREAM, WHOLE = "invoke/stream", "invoke"
CALL_S = 60.0


@dataclass(slots=True)
class Call:
    """One under a lease that was granted; its permit is the same each time it is sent."""

    asker: Asker
    lease: Lease
    payload: Payload
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, room: Room) -> Call:
        awarded = room.award(room.asker.request(room.asker.step(), 1))
        if not awarded.leases:
            raise BrokenError(f"there was room before, and nothing was leased: {awarded.rejected}")
        return cls(room.asker, awarded.leases[0], room.asker.subject.call or Payload({}))

    def permit(self, **change: Any) -> dict[str, Any]:
        its, lease = self.asker.subject, self.lease
        permit = StepPermit.of(
            lease,
            issuer=its.key.domain,
            data_class=its.data_class,
            payload=digest_bytes(encode_payload(self.payload)),
            nonce=self.nonce,
            now=its.now(),
        )
        permit = replace(permit, audience=its.domain, not_before=its.now() - VALID_S, expires=its.now() + VALID_S)
        return msgspec.to_builtins(issue(its.key, replace(permit, **change)))

    def body(self, permit: dict[str, Any] | None = None, **change: Any) -> bytes:
        sent = Invocation(
            self.lease, permit or self.permit(), self.lease.capability, dict(self.payload.document), CALL_S
        )
        return encode_payload(Payload(msgspec.to_builtins(replace(sent, **change)), self.payload.parts))

    def streamed(self, body: bytes | None = None) -> list[Streamed]:
        status, data = self.asker.send("POST", STREAM, self.body() if body is None else body)
        return frames_of(status, data)


def frames_of(status: int, data: bytes) -> list[Streamed]:
    """Of a streamed answer that has all it should have. Raises `BrokenError`."""
    if status != 200:
        raise BrokenError(f"status {status}: {data[:200].decode(errors='replace')}")
    try:
        frames = [frame for frame, _ in FrameReader().feed(data)]
    except BadInputError as error:
        raise BrokenError(f"an answer of another kind: {error}") from error
    words = [frame.word for frame in frames]
    if words[-1:] != [Word.ENDED] or frames[-1].end is None:
        raise BrokenError(f"a stream without an end, but with {words[-3:]}")
    if len(frames) > 1 and (words[0] is not Word.BEGUN or set(words[1:-1]) - {Word.PIECE}):
        raise BrokenError(f"a stream of {words[:5]}")
    return frames


def _refuses(code: str, change: Callable[[Call], bytes]) -> Callable[[Room], None]:
    def probe(room: Room) -> None:
        call = Call.of(room)
        frames = call.streamed(change(call))
        refusal = frames[-1].end.refusal if frames[-1].end is not None else None
        if len(frames) > 1 or refusal is None or refusal.code != code or not refusal.text:
            raise BrokenError(f"{len(frames)} frames with {frames[-1].end}, not a refusal with {code}")

    return probe


def _refuses_what_is_no_call(room: Room) -> None:
    for body in (b"", b"rubbish", encode_payload(Payload({"lease": 1}))):
        room.asker.refused(400, "gateway.malformed", room.asker.send("POST", STREAM, body))


def _comes_in_order(room: Room) -> None:
    frames = Call.of(room).streamed()
    numbers, count, end = [frame.number for frame in frames[1:-1]], len(frames) - 2, frames[-1].end
    if end is None or not end.ok:
        raise BrokenError(f"the call was not answered: {end}")
    if numbers != list(range(count)) or frames[0].number != 0 or frames[-1].number != count:
        raise BrokenError(f"it begins at {frames[0].number}, {numbers[:10]} follow, and {frames[-1].number} are told")


def _is_begun_once(room: Room) -> None:
    call = Call.of(room)
    first, second = call.streamed(), call.streamed()
    if first != second:
        raise BrokenError(f"sent again, it ended with {second[-1].end} after {len(second)}, not {first[-1].end}")


def _is_for_one_door(room: Room) -> None:
    call = Call.of(room)
    call.streamed()
    status, data = room.asker.send("POST", WHOLE, call.body())
    try:
        answer = converted(decode_payload(data).document, Invoked)
    except (BadInputError, msgspec.MsgspecError) as error:
        raise BrokenError(f"status {status}, and an answer of another kind: {error}") from error
    if answer.refusal is None or answer.refusal.code != "gateway.other_door":
        raise BrokenError(f"its permit at the other door was answered with {answer}")


def _may_be_hung_up_on(room: Room) -> None:
    """Whoever comes again hears what became of it: all of it, or that it was stopped."""
    call, path = Call.of(room), PREFIX + STREAM
    body = call.body()
    room.asker.subject.ask("POST", path, body, room.asker.headers("POST", path, body), 0.001)
    time.sleep(room.asker.subject.settle_s)
    end = call.streamed()[-1].end
    if end is None or not (end.ok or end.infrastructure or end.refusal is not None):
        raise BrokenError(f"who came again was answered with {end}")


REFUSED: dict[str, Callable[[Room], None]] = {
    "a streamed call under a lease that was not granted is refused": _refuses(
        "gateway.no_lease",
        lambda call: call.body(call.permit(lease="no-such-lease"), lease=replace(call.lease, id="no-such-lease")),
    ),
    "a streamed call with the permit of another step is refused": _refuses(
        "permit.step_mismatch", lambda call: call.body(call.permit(step="another"))
    ),
    "a streamed call with the permit for another payload is refused": _refuses(
        "permit.payload_mismatch", lambda call: call.body(call.permit(payload=digest_bytes(b"another")))
    ),
    "a streamed call with a permit that has expired is refused": _refuses(
        "permit.expired", lambda call: call.body(call.permit(expires=call.asker.subject.now() - 1))
    ),
    "a streamed call of which nothing is there is not gone on with": _refuses(
        "gateway.no_call", lambda call: call.body(rejoin=True)
    ),
    "what is no streamed call is refused": _refuses_what_is_no_call,
}
RUN: dict[str, Callable[[Room], None]] = {
    "pieces come in order, and how many they are is told at the end": _comes_in_order,
    "a streamed call that is sent again is not begun again": _is_begun_once,
    "the permit of a streamed call is of no use at the other door": _is_for_one_door,
    "who hung up on a streamed call hears what became of it": _may_be_hung_up_on,
}
