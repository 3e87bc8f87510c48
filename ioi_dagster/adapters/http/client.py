"""Clients of gateways. What a gateway answers is bounded in time and size and decoded into types."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
import uvloop

from ioi_dagster.adapters.http.clocks import PeerClock
from ioi_dagster.adapters.http.doors import MAX_INVOKE, For
from ioi_dagster.adapters.http.protocol import (
    CLOCK_HEADER,
    DOORS,
    PERMIT_HEADER,
    PREFIX,
    PROOF_HEADER,
    CopiesOf,
    Held,
    Invocation,
    Invoked,
    JoinAnswer,
    JoinRequest,
    OrderAnswer,
    OrderRequest,
    RunAnswer,
    RunOrder,
)
from ioi_dagster.adapters.http.streams import Opened, Stream
from ioi_dagster.adapters.http.tls import TlsTo, explain
from ioi_dagster.adapters.http.transport import MAX_ANSWER, Answer, Pool
from ioi_dagster.clock import Clock, SystemClock
from ioi_dagster.decoding import converted, from_json
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import FinalError, GatewayFullError, GatewayRefusedError, RetryableError, UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import NOBODY, Made, Payload
from ioi_dagster.model.negotiation import Announce, Award, Awarded, Bid, Lease, ReleaseRequest, Renewed, RenewRequest
from ioi_dagster.model.order import Order
from ioi_dagster.model.refusal import GATEWAY_FULL, Refusal
from ioi_dagster.model.standing import Experiences, Standing
from ioi_dagster.policy.permits import encode
from ioi_dagster.policy.proof import prove
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.selection import Discovery, Query
from ioi_dagster.signing import Signed, SigningKey, digest_bytes

T = TypeVar("T")
DISCOVER_S = 2.0
"""A registry that answers later than this counts as unreachable for now; it is asked again."""
JOIN_S = 10.0
STANDING_S = MEMBERS_S = 1.0
COPIES_S = 10.0

MAX_WAITING = 64
"""Announcements of one run process at one gateway that wait for room."""
_PERMITTED = frozenset(door.path for door in DOORS if door.who is For.RUN)
"""The doors that ask for the run permit; nobody else gets to see it."""


class Asked(Generic[T]):
    """A question that is on its way."""

    def __init__(self, future: Future[Any], read: Callable[[], T]) -> None:
        self.future, self._read = future, read

    def result(self) -> T:
        """Waits for the answer. Raises what the question's method says."""
        return self._read()

    def then(self, take: Callable[[Callable[[], T]], None]) -> None:
        """`take` gets `result` as soon as that does not wait, in the thread of the clients, which it must not hold up."""
        self.future.add_done_callback(lambda _: take(self.result))


class GatewayClient:
    """One gateway. Raises `UnreachableError` when it does not answer, `RetryableError` and `FinalError` on its errors.

    `key` signs each request in the name of the caller's domain, and `permit` is the run's that is shown; each may be a call that
    gives the one of now. `tls` is what `tls_to` makes for the asked one, or the `TlsTo` that follows its changes. What is refused
    as the caller's keys change is asked once more, by the new ones. Thread-safe; connections are kept; proxies and redirects are
    not followed; every call has a wall-clock deadline and a limit of bytes."""

    def __init__(
        self,
        url: str,
        domain: str,
        key: SigningKey | Callable[[], SigningKey] | None = None,
        permit: Signed | Callable[[], Signed] | None = None,
        tls: ssl.SSLContext | TlsTo | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = PeerClock(domain, clock or SystemClock())
        self.url, self.domain = url, domain
        self._key = (lambda: key) if isinstance(key, SigningKey) else key
        self._permit = (lambda: permit) if isinstance(permit, Signed) else permit
        self._encoded: tuple[Signed | None, str] = None, ""
        self._waiting: dict[tuple[str, str, int], Future[Any]] = {}
        self._tls = tls
        self._shown = tls() if isinstance(tls, TlsTo) else tls
        self._pool = self._opened(self._shown)

    @property
    def ahead_s(self) -> float:
        """By how much the gateway's clock is ahead of ours; what is sent to it is dated by its clock."""
        return self._clock.ahead_s

    def close(self) -> None:
        for future in list(self._waiting.values()):
            future.cancel()
        _on_loop(self._pool.close(), 1.0)

    def _opened(self, tls: ssl.SSLContext | None) -> Pool:
        # Announcements that wait take a connection each, beside those of the other calls.
        return Pool(self.url, 32 + MAX_WAITING, tls, self.domain)

    async def _current(self) -> Pool:
        """Connections that were opened with what counts now; those of before are asked for nothing more. On the clients'
        loop."""
        if isinstance(self._tls, TlsTo) and (tls := self._tls()) is not self._shown:
            older, self._shown, self._pool = self._pool, tls, self._opened(tls)
            await older.retire()
        return self._pool

    def health(self, timeout: float = 1.0) -> dict[str, Any]:
        return self._get("health", dict, timeout)

    def join(self, record: Signed) -> JoinAnswer:
        """Become a member, over a connection that an invitation opens. Raises `FinalError` where the host refuses."""
        return self._asked("join", JoinRequest(record), JoinAnswer, JOIN_S).result()

    def members(self) -> dict[str, dict[str, Any]]:
        return self.seeing().result()

    def seeing(self) -> Asked[dict[str, dict[str, Any]]]:
        """Which members there are and whether they are there, as that domain sees them."""
        return self._getting("members", dict[str, dict[str, Any]], MEMBERS_S)

    def status(self) -> dict[str, Any]:
        return self._get("status", dict, 3.0)

    def standing(self, told: Experiences) -> Asked[tuple[Standing, ...]]:
        """Tell the run's own gateway what the run has seen of clusters; the answer is how they stand with the domain."""
        return self._asked("standing", told, tuple[Standing, ...], STANDING_S)

    def records(self, kind: str | None = None) -> list[Signed]:
        return self._get(f"registry/records{'?kind=' + kind if kind else ''}", list[Signed], 3.0)

    def state(self, timeout: float = 1.0) -> dict[str, Any]:
        return self._get("registry/state", dict, timeout)

    def copies(self, urn: str) -> Asked[CopiesOf]:
        """Which copies the domain holds of an asset, a URN."""
        return self._getting(f"data/copies?asset={quote(urn, safe='')}", CopiesOf, COPIES_S)

    def hold(self, copies: Iterable[Copy], withdrawn: Iterable[Copy] = ()) -> None:
        """Tell the domain's own gateway what it holds now, and what no longer."""
        self._asked("data/held", Held(tuple(copies), tuple(withdrawn)), dict, COPIES_S).result()

    def order(self, order: Order, subject: str, unseen: bool = False) -> OrderAnswer:
        """Have `subject` give an order for what the domain owns, see `OrderRequest`. Raises `GatewayRefusedError` where it
        may not or it makes no sense."""
        return self._asked("order", OrderRequest(order, subject, unseen), OrderAnswer, 5.0).result()

    def intervene(self, said: RunOrder) -> RunAnswer:
        """Say something to a run of the domain's. Raises as `order`."""
        return self._asked("intervene", said, RunAnswer, 15.0).result()

    def discover(self, query: Query) -> Discovery:
        return self.discovering(query).result()

    def discovering(self, query: Query) -> Asked[Discovery]:
        return self._asked("registry/discover", query, Discovery, DISCOVER_S)

    def announce(self, cluster: str, announce: Announce) -> Bid:
        """Waits as long as the announcement says. Raises `RetryableError` when it is withdrawn meanwhile."""
        return self.announcing(cluster, announce).result()

    def announcing(self, cluster: str, announce: Announce) -> Asked[Bid]:
        key = (cluster, announce.run, announce.round)
        asked = self._asked("announce", {"cluster": cluster, "announce": announce}, Bid, announce.patience_s)
        self._may_be_hung_up_on(asked.future, key)
        return asked

    def withdraw(self, cluster: str, run: str, round_: int) -> None:
        """Hang up on an announcement that waits; its cluster sees that. One that is answered by now is no error."""
        future = self._waiting.get((cluster, run, round_))
        if future is not None:
            future.cancel()

    def award(self, award: Award) -> Awarded:
        return self.awarding(award).result()

    def awarding(self, award: Award) -> Asked[Awarded]:
        if self._key is not None:
            award = replace(award, origin=self._key().domain)  # who asks is who signs
        return self._asked("award", award, Awarded, 3.0)

    def renew(self, cluster: str, renew: RenewRequest) -> Renewed:
        return self._asked("renew", {"cluster": cluster, "renew": renew}, Renewed, 3.0).result()

    def release(self, cluster: str, release: ReleaseRequest) -> None:
        self.releasing(cluster, release).result()

    def releasing(self, cluster: str, release: ReleaseRequest) -> Asked[dict]:
        return self._asked("release", {"cluster": cluster, "release": release}, dict, 3.0)

    def invoke(
        self, lease: Lease, permit: Signed, capability: str, payload: Payload, *, timeout: float
    ) -> tuple[Payload, Invoked] | Refusal:
        """Run a block there. Loss of its node or cluster is a `RetryableError`, an error of the block a `FinalError`, and
        `GatewayRefusedError` a call that was not taken, `GatewayFullError` one that is not taken for now. Raises `BadInputError`
        for an answer that cannot be read."""
        invocation = Invocation(lease, msgspec.to_builtins(permit), capability, payload.document, timeout)
        request = encode_payload(Payload(msgspec.to_builtins(invocation), payload.parts))
        sent = self._send("POST", "invoke", request, timeout + 5.0, MAX_INVOKE)
        self._may_be_hung_up_on(sent.future, _call(lease.key))
        frame = decode_payload(sent.result())
        try:
            answer = converted(frame.document, Invoked)
        except msgspec.MsgspecError as error:
            raise RetryableError(f"{self.domain} answered a call with something else: {error}") from error
        if answer.refusal is not None:
            return answer.refusal
        if answer.ok and answer.payload is not None:
            return Payload(answer.payload, frame.parts), answer
        text = f"{self.domain}: {answer.error or 'no further word'}"
        raise RetryableError(text) if answer.infrastructure else FinalError(text)

    def stream(
        self,
        lease: Lease,
        permit: Signed,
        capability: str,
        payload: Payload,
        *,
        timeout: float,
        idle_s: float,
        after: int = 0,
        made: Made = NOBODY,
    ) -> Stream | Refusal:
        """As `invoke`, with the result in pieces as they come, each within `idle_s` seconds of the one before. `after`: so many
        pieces are there already, of `made`; the stream says whether it goes on there or begins anew."""
        invocation = Invocation(
            lease, msgspec.to_builtins(permit), capability, payload.document, timeout, after, made.block, made.version
        )
        its = Stream(self.domain, invocation, payload.parts, partial(self._open, "invoke/stream"), idle_s)
        self._may_be_hung_up_on(its.closed, _call(lease.key))
        refusal: Refusal | None = None
        try:
            refusal = its.begin()
        except BaseException:
            its.close()
            raise
        if refusal is not None:
            its.close()
        return refusal or its

    def _open(self, path: str, content: bytes, timeout: float) -> Opened:
        body = digest_bytes(content) if self._key is not None else ""

        opened: list[Answer] = []

        async def asked() -> Answer:
            pool = await self._current()
            answer = await pool.open("POST", PREFIX + path, content, self._headers("POST", path, body))
            opened.append(answer)
            return answer

        async def begun() -> bytes | None:
            """What the gateway says instead."""
            dated, since, shown = self.ahead_s, time.monotonic(), (self._key_now(), self._shown)
            answer = await asked()
            misdated = self._misdated(answer.status, answer.headers, dated, since)
            if misdated or self._outdated(answer.status, shown):
                await opened.pop().close()
                answer = await asked()
            return None if answer.status == 200 else await _all_of(answer)

        async def closed() -> None:
            for answer in opened:
                await answer.close()

        beginning = _begun(begun(), timeout)
        under_way: list[Future[Any]] = [beginning]

        def wait() -> None:
            problem = beginning.result()
            if problem is not None:
                close()
                raise self._problem(opened[0].status, problem)

        def read(patience_s: float) -> bytes:
            under_way[:] = [_begun(opened[0].read(), patience_s)]
            return under_way[0].result()

        def close() -> None:
            for future in under_way:
                future.cancel()
            _begun(closed(), 5.0)  # on the loop after what was cancelled there

        return Opened(wait, read, close)

    def hang_up(self, key: str) -> None:
        """Nobody wants the answer of the call under the lease of that key: the other side stops it. One that is over is
        no error."""
        future = self._waiting.get(_call(key))
        if future is not None:
            future.cancel()

    def _may_be_hung_up_on(self, future: Future[Any], key: tuple[str, str, int]) -> None:
        self._waiting[key] = future
        future.add_done_callback(lambda _: self._waiting.pop(key, None))

    def _get(self, path: str, kind: type[T], timeout: float) -> T:
        return self._getting(path, kind, timeout).result()

    def _getting(self, path: str, kind: type[T], timeout: float) -> Asked[T]:
        sent = self._send("GET", path, b"", timeout)
        return Asked(sent.future, lambda: self._decode(sent.result(), kind))

    def _asked(self, path: str, message: Any, kind: type[T], timeout: float) -> Asked[T]:
        sent = self._send("POST", path, msgspec.json.encode(message), timeout)
        return Asked(sent.future, lambda: self._decode(sent.result(), kind))

    def _decode(self, data: bytes, kind: type[T]) -> T:
        try:
            return from_json(data, kind)
        except msgspec.MsgspecError as error:
            raise RetryableError(f"{self.domain} answered with something else than {kind}: {error}") from error

    def _send(
        self, method: str, path: str, content: bytes, timeout: float, max_bytes: int = MAX_ANSWER
    ) -> Asked[bytes]:
        # A large body is read through here, not on the loop that all clients share.
        body = digest_bytes(content) if self._key is not None else ""
        future = _begun(self._exchange(method, path, content, body, max_bytes), timeout)
        return Asked(future, lambda: self._answered(future, timeout))

    async def _exchange(self, method: str, path: str, content: bytes, body: str, max_bytes: int) -> tuple[int, bytes]:
        asked = partial(self._exchanged, method, path, content, body, max_bytes)
        dated, since, shown = self.ahead_s, time.monotonic(), (self._key_now(), self._shown)
        status, headers, data = await asked()
        if self._misdated(status, headers, dated, since) or self._outdated(status, shown):
            status, _, data = await asked()
        return status, data

    async def _exchanged(
        self, method: str, path: str, content: bytes, body: str, max_bytes: int
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = self._headers(method, path, body)
        return await (await self._current()).exchange(method, PREFIX + path, content, headers, most=max_bytes)

    def _misdated(self, status: int, headers: Mapping[str, str], dated: float, since: float) -> bool:
        """Is what was refused to be signed once more, by a better date? The clock that an answer tells counts where a
        certificate says whose it is."""
        if self._shown is not None:
            self._clock.heard(headers.get(CLOCK_HEADER), since)
        return status == 401 and self.ahead_s != dated

    def _outdated(self, status: int, shown: tuple[SigningKey | None, ssl.SSLContext | None]) -> bool:
        """Is what was refused to be sent once more, since the domain changed its keys while it was on its way? Nothing was done
        of it yet. `shown`: by what it was signed and sent; the permit goes with the key."""
        if status not in (401, 403):
            return False
        return shown != (self._key_now(), self._tls() if isinstance(self._tls, TlsTo) else self._tls)

    def _key_now(self) -> SigningKey | None:
        return self._key() if self._key is not None else None

    def _permit_text(self) -> str:
        if self._permit is None:
            return ""
        permit = self._permit()
        if permit is not self._encoded[0]:
            self._encoded = permit, encode(permit)
        return self._encoded[1]

    def _headers(self, method: str, path: str, body: str) -> dict[str, str]:
        permit = self._permit_text() if path in _PERMITTED else ""
        headers = {PERMIT_HEADER: permit} if permit else {}
        if self._key is not None:
            headers[PROOF_HEADER] = prove(
                self._key(),
                audience=self.domain,
                method=method,
                path=PREFIX + path.partition("?")[0],
                body=body,
                now=self._clock.wall(),
                ahead_s=self.ahead_s,
            )
        return headers

    def _answered(self, future: Future[tuple[int, bytes]], timeout: float) -> bytes:
        try:
            status, data = future.result()
        except CancelledError as error:
            raise RetryableError(f"nobody waits for {self.domain} to answer any longer") from error
        except TimeoutError as error:
            why = f"no answer within {timeout:g} s: it has stopped, or its machine is too busy"
            raise UnreachableError(f"gateway of {self.domain}", why) from error
        except OSError as error:
            raise UnreachableError(f"gateway of {self.domain}", explain(error) or type(error).__name__) from error
        if status == 200:
            return data
        raise self._problem(status, data)

    def _problem(self, status: int, data: bytes) -> RetryableError | GatewayRefusedError:
        code = ""
        try:
            problem = from_json(data)["error"]
            code = problem["code"]
            todo = f" — {problem['remedy']}" if problem.get("remedy") else ""
            text = f"{self.domain}: {problem['text']} [{problem['code']}]{todo}"
        except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
            text = f"{self.domain} answered {status}"
        if status == 503 and code in GATEWAY_FULL:
            return GatewayFullError(text, code)
        return RetryableError(text) if status >= 500 or status == 429 else GatewayRefusedError(text)


async def _all_of(answer: Answer) -> bytes:
    data = b""
    while len(data) < MAX_ANSWER and (more := await answer.read()):
        data += more
    return data


def _call(key: str) -> tuple[str, str, int]:
    """What a call waits as, beside announcements (cluster, run, round)."""
    return ("", key, 0)


_loops: list[asyncio.AbstractEventLoop] = []
_making_loop = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """One loop in a thread for all clients of this process: only there does a deadline hold against a peer that
    drips."""
    with _making_loop:
        # A connection belongs to the loop in which it was opened, so there must never be a second one.
        if not _loops:
            _loops.append(uvloop.new_event_loop())
            threading.Thread(target=_loops[0].run_forever, name="gateway clients", daemon=True).start()
        return _loops[0]


def _begun(work: Coroutine[Any, Any, T], timeout: float) -> Future[T]:
    async def bounded() -> T:
        return await asyncio.wait_for(work, timeout)

    return asyncio.run_coroutine_threadsafe(bounded(), _loop())


def _on_loop(work: Coroutine[Any, Any, T], timeout: float) -> T:
    return _begun(work, timeout).result()


def own_gateway(home: DomainHome) -> GatewayClient:
    """A client of the domain's own gateway, as the domain itself."""
    return GatewayClient(home.config().gateway, home.name, home.own_key(), tls=TlsTo(home, home.name))
