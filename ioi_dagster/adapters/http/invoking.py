"""Calls of blocks at a gateway, whole or streamed: who may have one run, and what he is sent of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace

import msgspec
from starlette.requests import Request

from ioi_dagster.adapters.http.calls import REJOIN_S, Call, Calls, ForgottenError
from ioi_dagster.adapters.http.clusters import Clusters
from ioi_dagster.adapters.http.context import BlockRunner, GatewayContext
from ioi_dagster.adapters.http.protocol import BY_PATH, PREFIX, Invocation, Invoked, Streamed, Word
from ioi_dagster.adapters.http.refusals import ProblemError, RefusalLog
from ioi_dagster.adapters.http.streaming import StreamedAnswer, written
from ioi_dagster.adapters.http.who_asks import WhoAsks, wanted
from ioi_dagster.decoding import converted, from_msgpack
from ioi_dagster.errors import BadInputError, FinalError, UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.model.block import Begun, Made, Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Lease, Renewed, VerifyRequest
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.policy.permits import check_step_permit, from_plain
from ioi_dagster.policy.proof import Caller
from ioi_dagster.signing import digest_bytes

MAX_INVOKE_S = 3_600.0
LOOK_AGAIN_S = 1.0
"""So often it is asked whether what a streamed call gives may still go out."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that may be run."""

    door: str
    body: Invocation
    payload: bytes
    run_permit: RunPermit
    data_class: DataClass
    nonce: str
    runner: BlockRunner
    timeout_s: float

    @property
    def lease(self) -> Lease:
        return self.body.lease

    @property
    def key(self) -> tuple[str, ...]:
        """Of the permit, which its issuer makes anew for each start."""
        return (self.run_permit.issuer, self.lease.key, self.nonce)

    @property
    def call(self) -> str:
        """Tells it apart, also from one under the same permit at another door, whose result is of another kind."""
        return f"{self.door}/{self.nonce}"

    def start(self, stream: str = "") -> bytes:
        body = self.body
        request = StartRequest("block", body.lease, body.permit, body.capability, self.payload, self.timeout_s)
        made = Made(body.block, body.version)
        return msgspec.msgpack.encode(replace(request, stream=stream, after=body.after, made=made))


class Invoking:
    def __init__(self, context: GatewayContext, who: WhoAsks, clusters: Clusters, refusals: RefusalLog) -> None:
        self._c, self._who, self._clusters, self._refusals = context, who, clusters, refusals
        self._calls = Calls(context.clock.monotonic)

    async def invoke(self, request: Request) -> bytes:
        asked = await self._checked(request, "invoke")
        if isinstance(asked, Refusal):
            return self._refusal(asked)
        call = self._known(asked)
        if isinstance(call, Refusal):
            return self._refusal(call)
        if call is None:
            call = self._calls.begin(asked.key, asked.door, self._whole(asked))
        try:
            with call.reading():
                data = await wanted(request, call.result())
        except UnreachableError as error:
            return _frame(Invoked(False, error=str(error), infrastructure=True))
        answer = from_msgpack(data, StartAnswer)
        return self._refusal(answer.refusal) if answer.refusal is not None else _answer(answer)

    def _known(self, asked: Asked) -> Call | Refusal | None:
        """The call of that permit, if there is one; a permit is for one call, whole or streamed."""
        call, name = self._calls.get(asked.key), self._c.config.spec.name
        if call is not None and call.door != asked.door:
            return Refusal(
                "gateway.other_door", f"the permit is used at {call.door} already", name, "issue another one"
            )
        if call is None and asked.body.rejoin:
            text = "nothing is there of the call that is to be gone on with"
            return Refusal("gateway.no_call", text, name, "begin it anew, under a new fence")
        return call

    async def _whole(self, asked: Asked) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        yield await asked.runner.run(asked.start(), asked.lease.key, asked.call, asked.lease.node, asked.timeout_s)

    async def stream(self, request: Request) -> StreamedAnswer:
        asked = await self._checked(request, "invoke/stream")
        if isinstance(asked, Refusal):
            return StreamedAnswer(_refused_stream(self._refused_call("invoke/stream", asked)))
        call = self._known(asked)
        if isinstance(call, Refusal):
            return StreamedAnswer(_refused_stream(self._refused_call("invoke/stream", call)))
        if call is None:
            name = "/".join(asked.key)
            source = asked.runner.stream(
                asked.start(name), name, asked.lease.key, asked.call, asked.lease.node, asked.timeout_s
            )
            call = self._calls.begin(asked.key, asked.door, source, REJOIN_S)
        return StreamedAnswer(self._streamed(request, asked, call))

    async def _streamed(self, request: Request, asked: Asked, call: Call) -> AsyncGenerator[bytes, None]:
        """Policy has its word on what goes out as long as something goes out."""
        body, looked = asked.body, self._c.clock.monotonic()
        number = first = body.after
        with call.reading() as reader:
            try:
                # Only the node knows which version takes the call, and so after what it can go on.
                begun = await call.beginning()
                if begun is not None:
                    made = begun.made
                    goes_on = body.rejoin and made == Made(body.block, body.version)
                    number = first = first if goes_on else min(first, begun.number)
                    yield written(Streamed(Word.BEGUN, first, block=made.block, version=made.version))
                async for number, frames in call.pieces(reader, first):
                    if self._c.clock.monotonic() >= looked + LOOK_AGAIN_S:
                        refusal, looked = await self._refused_by_now(request, asked), self._c.clock.monotonic()
                        if refusal is not None:
                            end = Invoked(False, refusal=self._refused_call("invoke/stream", refusal))
                            yield written(Streamed(Word.ENDED, number, end=end))
                            return
                    yield b"".join(_piece(at, frame) for at, frame in enumerate(frames, number))
                    number += len(frames)
                answer = from_msgpack(await call.result(), StartAnswer)
                end = _ended(answer)[0]
            except ForgottenError:
                text = f"its pieces from {number} on are not kept any more"
                refusal = Refusal("gateway.no_call", text, self._c.config.spec.name, "begin it anew, under a new fence")
                end = Invoked(False, refusal=refusal)
            except UnreachableError as error:
                end = Invoked(False, error=str(error), infrastructure=True)
            except BadInputError as error:
                end = Invoked(False, error=f"piece {number} cannot be passed on: {error}")
        if end.refusal is not None:
            self._refused_call("invoke/stream", end.refusal)
        yield written(Streamed(Word.ENDED, call.count if end.ok else number, end=end))

    async def _refused_by_now(self, request: Request, asked: Asked) -> Refusal | None:
        try:
            self._who.check_connection(request)
        except ProblemError as problem:
            return Refusal(problem.code, problem.text, self._c.config.spec.name, problem.remedy)
        wanted = {(asked.body.capability, asked.data_class)}
        return (await self._who.verdicts(asked.run_permit, wanted, new=False)).popitem()[1]

    async def _checked(self, request: Request, door: str) -> Asked | Refusal:
        """A call that may be run here under the lease that it names, which it holds."""
        run_permit, caller = self._who.permitted(request)
        async with self._who.body(request, BY_PATH[door].limit, caller) as data:
            body, payload = _taken_apart(data)
            del data
            return await self._may_run(door, run_permit, caller, body, payload)

    async def _may_run(
        self, door: str, run_permit: RunPermit, caller: Caller, body: Invocation, payload: bytes
    ) -> Asked | Refusal:
        lease, name = body.lease, self._c.config.spec.name
        self._who.for_run(run_permit, lease.run)
        runner = self._c.runners.get(lease.cluster)
        if lease.domain != name or runner is None:
            return Refusal("gateway.not_ours", f"the lease is not one of {name}'s", name)
        signed = from_plain(body.permit)
        permit = (
            signed
            if isinstance(signed, Refusal)
            else check_step_permit(
                signed,
                self._c.trusted,
                lease=lease,
                payload=digest_bytes(payload),
                audience=name,
                now=self._c.clock.wall(),
            )
        )
        if isinstance(permit, Refusal):
            return permit
        if permit.issuer != run_permit.issuer:
            return Refusal("gateway.other_issuer", "the step permit is not of the run's own domain", name)
        if permit.capability != body.capability:
            return Refusal("gateway.other_capability", f"the permit is for {permit.capability}", name)
        refusal = (await self._who.verdicts(run_permit, {(body.capability, permit.data_class)}, new=False)).popitem()[1]
        if refusal is not None:
            return refusal
        held = await self._clusters.ask(lease.cluster, "verify", VerifyRequest(lease, caller.domain), Renewed)
        if lease.id not in held.held:
            return Refusal("gateway.no_lease", f"{lease.cluster} granted no such lease", name, "ask again")
        timeout_s = min(max(body.timeout_s, 1.0), MAX_INVOKE_S)
        return Asked(door, body, payload, run_permit, permit.data_class, permit.nonce, runner, timeout_s)

    def _refusal(self, refusal: Refusal) -> bytes:
        """The answer to an invocation that is not run."""
        return _frame(Invoked(False, refusal=self._refused_call("invoke", refusal)))

    def _refused_call(self, door: str, refusal: Refusal) -> Refusal:
        self._refusals.refused(PREFIX + door, refusal.code, self._c.clock.monotonic())
        return refusal


def _taken_apart(data: bytes) -> tuple[Invocation, bytes]:
    """With what the block is sent, framed."""
    try:
        frame = decode_payload(data)
        body = converted(frame.document, Invocation)
    except (BadInputError, msgspec.MsgspecError) as error:
        raise ProblemError(400, "gateway.malformed", str(error)) from error
    return body, encode_payload(Payload(body.payload, frame.parts))


def _answer(answer: StartAnswer) -> bytes:
    return _frame(*_ended(answer))


def _ended(answer: StartAnswer) -> tuple[Invoked, Mapping[str, bytes]]:
    if answer.refusal is not None:
        return Invoked(False, refusal=answer.refusal), {}
    if answer.result is None:
        # Of a call that was stopped for others, or since its block is drained, another place may make something.
        lost = answer.cause in (Cause.NODE_ERROR, Cause.LEASE_LOST)
        return Invoked(False, error=answer.error or "the node returned nothing", infrastructure=lost), {}
    try:
        result = decode_payload(answer.result)
    except FinalError as error:
        return Invoked(False, error=str(error)), {}
    where = {"node": answer.node, "attempt": answer.attempt, "started": answer.started, "ended": answer.ended}
    return Invoked(True, result.document, **where), result.parts


def _piece(number: int, frame: bytes) -> bytes:
    """Raises `BadInputError` for what a node has not framed as it should."""
    payload = decode_payload(frame)
    return written(Streamed(Word.PIECE, number, payload.document), payload.parts)


async def _refused_stream(refusal: Refusal) -> AsyncGenerator[bytes, None]:
    yield written(Streamed(Word.ENDED, end=Invoked(False, refusal=refusal)))


def _frame(answer: Invoked, parts: Mapping[str, bytes] | None = None) -> bytes:
    return encode_payload(Payload(msgspec.to_builtins(answer), parts or {}))
