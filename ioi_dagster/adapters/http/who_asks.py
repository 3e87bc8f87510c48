"""Who asks a gateway, what he shows for it, what he sends, and whether the domain's own policy lets him have it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from ioi_dagster.adapters.http.bodies import Bodies, Body
from ioi_dagster.adapters.http.context import GatewayContext
from ioi_dagster.adapters.http.doors import MAX_JSON
from ioi_dagster.adapters.http.hanging_up import HungUpError, hearing, while_wanted
from ioi_dagster.adapters.http.protocol import PERMIT_HEADER, PROOF_HEADER
from ioi_dagster.adapters.http.refusals import ProblemError
from ioi_dagster.adapters.http.tls import PEOPLE, STAMPS, Peers
from ioi_dagster.decoding import from_json
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import ReadPermits
from ioi_dagster.policy.proof import Caller, check_proof
from ioi_dagster.signing import digest_bytes

T = TypeVar("T")
BODY_S, LEAST_RATE = 10.0, 64 * 2**10
"""A message must be there after so long, and a second more for so many bytes of it."""
CANCEL_S = 5.0
"""So long may take what is done when nobody waits for an answer any more."""


class WhoAsks:
    """Raises `ProblemError` for who is not who he says, or sends what cannot be read."""

    def __init__(self, context: GatewayContext) -> None:
        self._c = context
        self._permits = ReadPermits(context.trusted)
        self.bodies = Bodies()

    def authority(self, domain: str) -> str:
        """The name of its certificate authority; empty where it is not known."""
        return self._c.book.authorities().get(domain) or self._c.config.authorities.get(domain, "")

    def is_own(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        if PEOPLE in request.scope:
            return False  # The domain's own processes have a certificate.
        return hmac.compare_digest(given.encode(), f"Bearer {self._c.token}".encode())

    def caller(self, request: Request) -> Caller:
        """Which domain signed this request for this gateway."""
        caller = check_proof(
            request.headers.get(PROOF_HEADER, ""),
            self._c.trusted,
            audience=self._c.config.spec.name,
            method=request.method,
            path=request.url.path,
            now=self._c.clock.wall(),
        )
        if isinstance(caller, Refusal):
            raise ProblemError(401, caller.code, caller.text, caller.remedy)
        if self._c.peers is not None:
            self._same_domain(request, self._c.peers, caller.domain)
        return caller

    def check_connection(self, request: Request) -> None:
        """Whoever would not be let in any more is not answered on a connection that he has kept either."""
        if self._c.peers is None or PEOPLE in request.scope:
            return
        name, now = self._c.config.spec.name, self._c.clock.wall()
        refusal = self._c.peers.refused(request.scope.get(STAMPS, ""), name, now)
        if refusal is not None:
            raise ProblemError(401, refusal.code, refusal.text, refusal.remedy, hang_up=True)

    def _same_domain(self, request: Request, peers: Peers, signer: str) -> None:
        """Who has opened the connection is who signed the request: nobody passes on what another signed."""
        name = self._c.config.spec.name
        shown = peers.domain(request.scope.get(STAMPS, ""), name)
        if isinstance(shown, Refusal):
            raise ProblemError(401, shown.code, shown.text, shown.remedy)
        if shown != signer:
            text = f"the connection is {shown}'s, and the request is signed by {signer}"
            raise ProblemError(401, "tls.other_domain", text, "send it with the signing domain's own certificate")

    def permitted(self, request: Request) -> tuple[RunPermit, Caller]:
        """The run permit, sent by its own issuer, for this domain. Checked before a byte of the body is read."""
        caller = self.caller(request)
        text = request.headers.get(PERMIT_HEADER)
        if not text:
            raise ProblemError(
                403, "permit.missing", "the request shows no run permit", f"send it as {PERMIT_HEADER!r}"
            )
        permit = self._permits.read(text, caller.clock, self._c.clock.monotonic())
        if isinstance(permit, Refusal):
            raise ProblemError(403, permit.code, permit.text, permit.remedy)
        # By whose clock its times were held against.
        if permit.issuer != caller.domain:
            raise ProblemError(403, "permit.not_yours", f"{caller.domain} shows a permit of {permit.issuer}")
        name = self._c.config.spec.name
        if name not in permit.domains:
            raise ProblemError(403, "permit.domain", f"the run's permit does not name {name}")
        return permit, caller

    def for_run(self, permit: RunPermit, run: str) -> None:
        if permit.run != run:
            raise ProblemError(403, "permit.run_mismatch", "the permit is for another run")

    def in_own_name(self, caller: Caller, origin: str) -> None:
        if origin != caller.domain:
            text = f"{caller.domain} asks in the name of {origin[:100]}"
            raise ProblemError(403, "gateway.other_origin", text, "name the domain that signs the request as origin")

    async def verdicts(
        self, permit: RunPermit, wanted: set[tuple[str, DataClass]], new: bool = True
    ) -> dict[tuple[str, DataClass], Refusal | None]:
        """This domain's word on each kind of ask, decided beside the event loop. `new`: it asks for a lease. One that leaves
        still gives some to its own runs, for whose end it waits."""
        name = self._c.config.spec.name
        if new and permit.issuer != name and self._c.book.leaving():
            text = f"{name} leaves the network: it takes nothing new"
            return dict.fromkeys(wanted, Refusal("gateway.leaving", text, name, "ask another domain"))
        return await asyncio.to_thread(lambda: {pair: self._refused(permit, *pair) for pair in wanted})

    def _refused(self, permit: RunPermit, capability: str, data_class: DataClass) -> Refusal | None:
        """This domain's own last word: the permit's bounds, then its own policy."""
        name = self._c.config.spec.name
        if not data_class.within(permit.highest):
            return Refusal("permit.class", f"the run's permit ends at {permit.highest}", name)
        decision = self._c.decide(permit.issuer, self.authority(permit.issuer), capability, data_class)
        if decision.allowed:
            return None
        return decision.refusals[0] if decision.refusals else Refusal("policy.held", "policy could not decide", name)

    async def read(
        self, request: Request, kind: Any, caller: Caller | None, limit: int = MAX_JSON, whose: str = ""
    ) -> Any:
        try:
            async with self.body(request, limit, caller, whose) as data:
                return from_json(data, kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise ProblemError(400, "gateway.malformed", str(error)) from error

    @asynccontextmanager
    async def body(self, request: Request, limit: int, caller: Caller | None, whose: str = "") -> AsyncIterator[bytes]:
        """The bytes that the caller signed; None for the domain's own processes, which show their token instead, for guests
        with an invitation, and for who shows a token, whose name is in `whose`. They count against what the gateway keeps of
        his domain's as long as this is open."""
        # Names that no domain can have.
        others = whose or ("(own)" if self.is_own(request) else "(guests)")
        whose = caller.domain if caller is not None else others
        with self.bodies.of(whose) as held:
            # Kept by who asked for it alone, who lets go of it when it is taken apart.
            yield await self._body(request, limit, caller, held)

    async def _body(self, request: Request, limit: int, caller: Caller | None, held: Body) -> bytes:
        parts, size, clock = [], 0, asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(BODY_S) as patience:
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise ProblemError(413, "gateway.too_large", f"a message here may have {limit} bytes at most")
                    if not held.grows(len(part)):
                        text = "more bytes of one domain's messages at a time than are left for others"
                        raise ProblemError(503, "gateway.too_much", text, "send fewer at a time, or wait")
                    parts.append(part)
                    patience.reschedule(began + BODY_S + size / LEAST_RATE)
        except TimeoutError:
            text = f"{size} bytes came in {clock() - began:.0f} s"
            raise ProblemError(408, "gateway.too_slow", text, "send it faster", hang_up=True) from None
        except ClientDisconnect:
            raise ProblemError(408, "gateway.hung_up", "the rest of the message never came", hang_up=True) from None
        data = b"".join(parts)
        if caller is not None and not hmac.compare_digest(caller.body, digest_bytes(data)):
            raise ProblemError(401, "proof.body_mismatch", "the request was signed for another body")
        return data


async def wanted(request: Request, work: Awaitable[T]) -> T:
    with hearing(request.receive) as gone:
        try:
            return await while_wanted(gone, work, CANCEL_S)
        except HungUpError:
            raise ProblemError(408, "gateway.hung_up", "nobody waits for the answer any longer") from None
