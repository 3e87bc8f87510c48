"""Submitting starts to a Dask scheduler, and noticing at once when a worker or the scheduler is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from typing import Any

import msgspec
from distributed import Client
from distributed.client import Future

from ioi_dagster.adapters.dask.adopted import CLAIM_S, Adopted
from ioi_dagster.adapters.dask.batch import Answers, Batch, answered, start_batch
from ioi_dagster.adapters.dask.node import start, start_here, stop, take_back
from ioi_dagster.adapters.dask.orphans import key_of_call
from ioi_dagster.adapters.dask.outgoing import fetch, still_read
from ioi_dagster.adapters.dask.periodic import Periodic, TimeOfDay
from ioi_dagster.adapters.dask.running import GRACE_S
from ioi_dagster.adapters.dask.security import security_of
from ioi_dagster.adapters.dask.versions import check_versions, plain_versions
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import UnreachableError
from ioi_dagster.model.block import Begun
from ioi_dagster.model.versions import EXACT

CONNECT_S = 3.0
PROBE_S = 0.1
ANSWER_S = 0.5
CLOCK_S = 0.5
"""So often is looked whether the clock has been set."""
SILENT_AFTER = 3
TRIES = 6
FETCH_S, FETCHED = 0.5, 512 * 2**10
"""So long is waited for pieces of a stream at a time, and about so many bytes of them are fetched."""
READS_ON_S = 10.0
"""While a stream's reader is slow, its node is told so often that it is still read."""
COMES_S = 5.0
NOBODY = "no Dask scheduler answers"
NEVER_THERE = "its node was not there, as one that still starts"
"""Nothing ran, so nothing of it can be blamed."""
TAKEN_BACK = "taken back"
REPLACED = "its worker was restarted before it began"
WORKER_DIED = "the worker died"
SCHEDULER_LOST, SCHEDULER_AWAY = "the scheduler was lost", "the scheduler is away"
IN_ORDER = "0 s"
"""Of what is sent within Dask's `fifo_timeout` a worker begins the last first, and then nobody could tell which one it
was that ran when a worker died."""

log = logging.getLogger("ioi.dask")
THREAD = "ioi-dask"


class _NotOurs(logging.Filter):
    """Drops what Dask logs, with a stack, of the connections of our own clients: what became of one is told by who uses
    it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.threadName).startswith(THREAD)


logging.getLogger("distributed.client").addFilter(_NotOurs())

OnDone = Callable[[str, bytes | None, str | None], None]


class DaskRunner:
    """One scheduler, from inside an event loop. Connects when first used and again after a loss."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._client: Client | None = None
        self._clock: Periodic | None = None
        self._connecting = asyncio.Lock()

    async def run(self, request: bytes, key: str, call: str, node: str, timeout_s: float) -> bytes:
        """The answer's bytes; raises `UnreachableError` when the worker or the scheduler is lost, or time is up.
        Cancelled, it has what runs at the node stopped. `key`: that of the lease; `call`: under a key in flight Dask starts
        nothing and hands out the first result, so each call has one of its own."""
        client = await self._connected()
        dask_key, where = key_of_call(key, call), {f"node:{node}": 1}
        future = client.submit(start_here, request, key=dask_key, resources=where, pure=False, retries=0)
        waiting = asyncio.ensure_future(_result(future))
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=PROBE_S)
                if done:
                    if waiting.cancelled():
                        raise UnreachableError(self._scheduler, "the start was cancelled")
                    return waiting.result()
                if not connected(client):
                    raise UnreachableError(self._scheduler, "the scheduler went away")
                if time.monotonic() > deadline:
                    await client.cancel([future], force=True)  # pyright: ignore[reportGeneralTypeIssues]
                    raise UnreachableError(f"node {node}", f"no answer within {timeout_s:g} s")
        except UnreachableError:
            raise
        except asyncio.CancelledError:
            await self._stop(client, future, node, key)
            raise
        except Exception as error:
            raise UnreachableError(f"node {node}", why_lost(error)) from error
        finally:
            waiting.cancel()
            future.release()

    async def stream(
        self, request: bytes, stream: str, key: str, call: str, node: str, timeout_s: float
    ) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        """Who gives the pieces, pieces as they are fetched, the next when those before were taken, and the answer's bytes. As
        `run`; `stream` is the name that the request has for it."""
        client = await self._connected()
        asked = asyncio.ensure_future(self.run(request, key, call, node, timeout_s))
        fetched, address, told = 0, None, False
        reads_on = asyncio.ensure_future(_read_on(client, node, stream))
        try:
            # What was fetched by then is all there is: a node answers when nothing of it is left there.
            while not asked.done():
                try:
                    address = address or await _address_of(client, node)
                    came = await _fetched(client, address, stream, fetched) if address else None
                except UnreachableError:
                    # What became of the start says better why.
                    await asyncio.wait({asked}, timeout=CONNECT_S)
                    if asked.done():
                        asked.result()
                    raise
                if came is None:
                    await asyncio.wait({asked}, timeout=PROBE_S / 2)
                    continue
                begun, pieces = came
                if begun is not None and not told:
                    told = True
                    yield begun
                if pieces:
                    fetched += len(pieces)
                    yield pieces
            yield asked.result()
        finally:
            reads_on.cancel()
            if asked.cancel():
                await asyncio.wait({asked}, timeout=CONNECT_S)

    async def _stop(self, client: Client, future: Future, node: str, key: str) -> None:
        """A node that does not hear it goes on until its step ends; its answer is nobody's."""
        with contextlib.suppress(Exception):
            asked: Any = client.run(stop, node, [key], on_error="ignore")
            await asyncio.wait_for(asked, CONNECT_S)
            await client.cancel([future], force=True)  # pyright: ignore[reportGeneralTypeIssues]

    async def close(self) -> None:
        if self._clock is not None:
            self._clock.stop()
        if self._client is not None:
            await _close(self._client)

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None or not connected(self._client):
                await self.close()
                self._client = await connect(self._scheduler)
                self._clock = Periodic(TimeOfDay(self._client).look, CLOCK_S)
                self._clock.start()
            return self._client


class DaskFleetClient:
    """One scheduler, from a run process: an event loop in a thread, results by callback."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._client: Client | None = None
        self._alive = False
        self._known: dict[str, int] | None = None
        self._missed: dict[str, str] = {}
        self.closed: frozenset[str] = frozenset()
        """Nodes that take nothing new, since their processes are being replaced."""
        self._leaving: set[str] = set()
        """Nodes that run nothing any more: what is sent there never begins."""
        self._seen: set[str] = set()
        """Keys whose node was there after they were sent."""
        self._outstanding: dict[str, tuple[Future | None, OnDone, str]] = {}
        self._batches: dict[str, tuple[Future, set[str]]] = {}
        self._topics: dict[str, Callable[[Any], None]] = {}
        self._adopted = Adopted(lambda: self._client, self._outstanding, self._finish)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=f"{THREAD} {scheduler}", daemon=True).start()
        self.reconnect()

    def submit(self, key: str, request: bytes, node: str, priority: int, on_done: OnDone, once: bool = False) -> None:
        """Start on `node`; `on_done(key, answer, None)` or `on_done(key, None, why)` comes exactly once, from a thread.

        `once`: not sent before its node is there, so that of one that does not come nothing can have run: `TAKEN_BACK`.
        """
        asyncio.run_coroutine_threadsafe(self._submit(key, request, node, priority, on_done, once), self._loop)

    def submit_batch(self, requests: dict[str, bytes], node: str, priority: int, on_done: OnDone) -> None:
        """Several starts in one Dask task on `node`; `on_done` comes as from `submit`, once for each key. `TAKEN_BACK`
        is why for one that was not begun, since those before it took too long."""
        asyncio.run_coroutine_threadsafe(self._submit_batch(requests, node, priority, on_done), self._loop)

    def cancel(self, keys: list[str]) -> None:
        """Stop what runs under `keys` and drop what waits. Returns when that is done, within `GRACE_S` and a little."""
        self._call(self._stop(keys), GRACE_S + CONNECT_S)

    def take_back(self, node: str, keys: list[str]) -> None:
        """Those of `keys` that have not begun at `node`, and now never will, are done with `TAKEN_BACK`. Returns when
        that has been told, or when the node has had its time."""
        self._call(self._take_back(node, keys), 3 * CONNECT_S)

    def claim(self, keys: list[str]) -> list[str]:
        """Those of `keys` that an earlier client sent and that are under way at a node, or ended there unheard."""
        return self._call(self._adopted.claim(keys), CLAIM_S + 1) or []

    def adopt(self, key: str, node: str, on_done: OnDone) -> None:
        """Wait for the answer of what was claimed; `on_done` comes as from `submit`."""
        asyncio.run_coroutine_threadsafe(self._adopted.wait(key, node, on_done), self._loop)

    def end(self, node: str, keys: list[str]) -> None:
        """Stop what an earlier client sent to `node` and nobody wants any more."""
        self._call(self._ask_node(stop, node, keys), CONNECT_S)

    def alive(self) -> bool:
        return self._alive

    def reconnect(self) -> bool:
        """A fresh connection; False when the scheduler is not there."""
        return bool(self._call(self._reconnect(), CONNECT_S + 2.0))

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        """What workers log under `topic` goes to `take`, in this client's thread; after a reconnection too."""
        self._topics[topic] = take
        self._loop.call_soon_threadsafe(self._subscribe, topic)

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Have one worker call `function`, which must be importable there. Nothing is said of one that is gone."""
        asyncio.run_coroutine_threadsafe(self._tell(worker, function, arguments), self._loop)

    def tell_all(self, function: Callable[..., Any], *arguments: Any, patience_s: float = CONNECT_S) -> list[Any]:
        """Have every worker call `function`; waits until they did, for `patience_s` seconds at most. Returns their
        answers."""
        told = self._call(self._tell(None, function, arguments, patience_s), patience_s + 1.0)
        return list((told or {}).values())

    def _subscribe(self, topic: str) -> None:
        if self._client is not None:
            take = self._topics[topic]
            self._client.subscribe_topic(topic, lambda event: take(event[1]))

    async def _tell(
        self,
        worker: str | None,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        patience_s: float = CONNECT_S,
    ) -> dict[str, Any] | None:
        if self._client is None:
            return None
        with contextlib.suppress(Exception):
            return await asyncio.wait_for(
                _awaited(
                    self._client.run(function, *arguments, workers=[worker] if worker else None, on_error="ignore")
                ),  # pyright: ignore
                patience_s,
            )
        return None

    def become_nodes(self, step_runner: str) -> None:
        """Make every worker of the cluster, and each that joins later, a node.

        Raises `UnreachableError`, and `FinalError` where the cluster has other versions than this process."""
        from ioi_dagster.adapters.dask.nanny_plugin import WitnessPlugin
        from ioi_dagster.adapters.dask.node_plugin import NodePlugin

        client = self._client
        if client is None:
            # A scheduler of another version answers too, but not what a client of this one asks first.
            answer = self._call(plain_versions(self._scheduler), CONNECT_S * 2)
            if answer is not None:
                check_versions(self._scheduler, answer)
            raise UnreachableError(self._scheduler, NOBODY)
        answer = self._patiently(lambda: _versions(client), "it does not say its versions")
        check_versions(self._scheduler, answer)
        self._patiently(lambda: _register(client, NodePlugin(step_runner)), "its workers cannot be made nodes")
        self._patiently(lambda: _register(client, WitnessPlugin()), "its nannies cannot be made witnesses")

    def _patiently(self, question: Callable[[], Coroutine[Any, Any, Any]], what: str) -> Any:
        """The answer of all workers. One that dies or starts just then fails the whole question, so it is asked
        again."""
        for left in reversed(range(TRIES)):
            future = asyncio.run_coroutine_threadsafe(question(), self._loop)
            try:
                return future.result(CONNECT_S * 3)
            except Exception as error:
                future.cancel()
                if not left:
                    raise UnreachableError(self._scheduler, f"{what}: {error or type(error).__name__}") from error
                time.sleep(PROBE_S * 5)

    def nodes(self) -> dict[str, int] | None:
        """Name → threads of every worker that is a node now; None when the scheduler does not answer."""
        return self._call(self._nodes(), CONNECT_S)

    def known_nodes(self) -> dict[str, int] | None:
        """As `nodes`, by the scheduler's last answer, which is half a second old while it answers: nothing is waited
        for. None when it has not said anything since the last connection."""
        return self._known

    async def _nodes(self) -> dict[str, int]:
        assert self._client is not None
        identity = await self._client.scheduler.identity()  # pyright: ignore[reportOptionalMemberAccess]
        return self._look_at(identity)

    def _look_at(self, identity: Any) -> dict[str, int]:
        """Node → threads, by the abstract resource `node:<name>` that starts are pinned to."""
        there, closed = _nodes_of(identity), _nodes_that("replaced", identity)
        self._known = there
        self.closed = frozenset(closed)
        # One that is there again under its name is another process.
        self._leaving = (self._leaving - there.keys()) | _nodes_that("leaving", identity)
        return there

    def close(self) -> None:
        """Never hangs, whatever state the scheduler is in."""
        self._alive = False
        client, self._client = self._client, None
        if client is not None:
            self._call(_close(client), 2.0)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _call(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except Exception:  # a scheduler that is gone or frozen: the caller sees it by `alive`
            future.cancel()
            return None

    async def _reconnect(self) -> bool:
        if self._client is not None:
            old, self._client, self._known = self._client, None, None
            await _close(old)
        try:
            self._client = await connect(self._scheduler)
        except UnreachableError:
            return False
        with contextlib.suppress(Exception):
            # Before anybody acts on it that the scheduler is back. Where it does not answer, it is asked again at once.
            await asyncio.wait_for(self._nodes(), ANSWER_S)
        self._alive = True
        for topic in self._topics:
            self._subscribe(topic)
        self._watch = asyncio.ensure_future(self._watch_connection(self._client))
        return True

    async def _watch_connection(self, client: Client) -> None:
        watch, clock = asyncio.ensure_future(_until_silent(client, self._lose_gone)), TimeOfDay(client)
        while self._client is client and connected(client) and not watch.done():
            await asyncio.wait({watch}, timeout=PROBE_S)
            clock.look()
        watch.cancel()
        if self._client is client:
            self._alive = False
            for key in list(self._outstanding):
                self._finish(key, None, SCHEDULER_LOST)

    async def _lose_gone(self, identity: Any) -> None:
        """What was sent to a node that is not there any more is lost, also where Dask keeps it for that node's
        return."""
        there = self._look_at(identity)
        self._seen |= {key for key, (_, _, node) in self._outstanding.items() if node in there}
        gone = {key: node for key, (_, _, node) in self._outstanding.items() if node not in there}
        for key in [key for key, node in gone.items() if self._missed.get(key) == node]:
            await self._cancel([key])
            self._finish(key, None, WORKER_DIED if key in self._seen else NEVER_THERE)
        # Once is not enough: a node that has just joined may be awarded before it is seen here.
        self._missed = {key: node for key, node in gone.items() if key in self._outstanding}

    async def _submit(
        self, key: str, request: bytes, node: str, priority: int, on_done: OnDone, once: bool = False
    ) -> None:
        if once and not await self._comes(node):
            return on_done(key, None, TAKEN_BACK)
        if self._client is None or not self._alive:
            return on_done(key, None, SCHEDULER_AWAY)
        if key in self._outstanding:
            # Under a key in flight Dask starts nothing and hands out the first answer.
            return on_done(key, None, "a start under this key is under way")
        self._outstanding[key] = (None, on_done, node)
        try:
            future = self._client.submit(
                start,
                request,
                key=key,
                resources={f"node:{node}": 1},
                pure=False,
                retries=0,
                priority=priority,
                fifo_timeout=IN_ORDER,
            )
            self._outstanding[key] = (future, on_done, node)
            # It is as large as the step's inputs, and the answer may take hours.
            del request
            answer = await future.result()  # pyright: ignore[reportGeneralTypeIssues]
        except asyncio.CancelledError:
            self._finish(key, None, "the start was cancelled" if self._alive else SCHEDULER_LOST)
        except Exception as error:
            self._finish(key, None, why_lost(error) if connected(self._client) else SCHEDULER_LOST)
        else:
            self._finish(key, answer, None)

    async def _comes(self, node: str) -> bool:
        """Wait for a node that may be starting."""
        until = time.monotonic() + COMES_S
        while self._alive and time.monotonic() < until:
            with contextlib.suppress(Exception):
                if node in await asyncio.wait_for(self._nodes(), ANSWER_S):
                    return True
            await asyncio.sleep(PROBE_S)
        return False

    async def _submit_batch(self, requests: dict[str, bytes], node: str, priority: int, on_done: OnDone) -> None:
        for key in requests.keys() & self._outstanding.keys():
            on_done(key, None, "a start under this key is under way")
        fresh = {key: request for key, request in requests.items() if key not in self._outstanding}
        del requests
        if self._client is None or not self._alive:
            for key in fresh:
                on_done(key, None, SCHEDULER_AWAY)
            return
        entry = (None, on_done, node)
        self._outstanding |= dict.fromkeys(fresh, entry)
        answers: dict[str, bytes] = {}
        why, left = TAKEN_BACK, set(fresh)
        try:
            future = self._client.submit(
                start_batch,
                msgspec.msgpack.encode(Batch(fresh)),
                key=f"{next(iter(fresh))}+{len(fresh) - 1}",
                resources={f"node:{node}": 1},
                pure=False,
                retries=0,
                priority=priority,
                fifo_timeout=IN_ORDER,
            )
            fresh = dict.fromkeys(fresh, b"")
            for key in fresh:
                self._batches[key] = (future, left)
            answer: bytes = await future.result()  # pyright: ignore[reportGeneralTypeIssues]
            answers = from_msgpack(answer, Answers).answers
        except asyncio.CancelledError:
            why = "the start was cancelled" if self._alive else SCHEDULER_LOST
        except Exception as error:
            why = why_lost(error) if connected(self._client) else SCHEDULER_LOST
        for key in fresh:
            if self._outstanding.get(key) is entry:
                self._finish(key, answers.get(key), None if key in answers else why)

    def _finish(self, key: str, answer: bytes | None, why: str | None) -> None:
        self._leave_batch(key)
        known = self._outstanding.pop(key, None)
        self._seen.discard(key)
        if known is not None:
            future, on_done, node = known
            if why in (WORKER_DIED, NEVER_THERE) and node in self._leaving:
                why = REPLACED
            if future is not None:
                future.release()
            try:
                on_done(key, answer, why)
            except Exception:
                # One caller's defect must not keep the others' answers from them.
                log.exception("the answer of %s was not taken", key)

    def _leave_batch(self, key: str) -> None:
        future, left = self._batches.pop(key, (None, set()))
        left.discard(key)
        if future is not None and not left:
            # Also cancels what still waits for its node.
            future.release()

    async def _stop(self, keys: list[str]) -> None:
        by_node: dict[str, list[str]] = {}
        for key in keys:
            if key in self._outstanding:
                by_node.setdefault(self._outstanding[key][2], []).append(key)
        ran: set[str] = set()
        for node, its_keys in by_node.items():
            ran |= set(await self._ask_node(stop, node, its_keys))
        # Their resources are torn down and their processes live on, if they stop when they are asked to.
        deadline = time.monotonic() + GRACE_S
        while ran & self._outstanding.keys() and time.monotonic() < deadline and connected(self._client):
            await asyncio.sleep(PROBE_S / 2)
        await self._cancel(keys)

    async def _take_back(self, node: str, keys: list[str]) -> None:
        taken = await self._ask_node(take_back, node, keys)
        # Those of a batch that goes on have answers that need not wait for its end.
        for key, answer in (await self._answered([key for key in keys if key in self._batches])).items():
            self._finish(key, answer, None)
        futures = [future for key in taken if (future := self._outstanding.get(key, (None,))[0]) is not None]
        # Told first, and without a pause: a cancellation would be told as a loss, and what is told after a pause may never be.
        for key in taken:
            self._finish(key, None, TAKEN_BACK)
        if futures and self._client is not None:
            await self._client.cancel(futures, force=True)  # pyright: ignore[reportGeneralTypeIssues]

    async def _ask_node(self, question: Callable[[str, list[str]], list[str]], node: str, keys: list[str]) -> list[str]:
        """Ask every worker, since only it knows which node it is; one that does not answer has nothing to say."""
        if self._client is None:
            return []
        try:
            answers = await asyncio.wait_for(
                _awaited(self._client.run(question, node, keys, on_error="ignore")),  # pyright: ignore
                CONNECT_S,
            )
        except Exception:
            return []
        return [key for its_keys in (answers or {}).values() for key in its_keys]

    async def _answered(self, keys: list[str]) -> dict[str, bytes]:
        if self._client is None or not keys:
            return {}
        try:
            answers = await asyncio.wait_for(
                _awaited(self._client.run(answered, keys, on_error="ignore")),  # pyright: ignore
                CONNECT_S,
            )
        except Exception:
            return {}
        return {key: answer for its in (answers or {}).values() for key, answer in its.items()}

    def _batches_of(self, keys: list[str]) -> list[tuple[Future, set[str]]]:
        return [self._batches[key] for key in keys if key in self._batches]

    async def _cancel(self, keys: list[str]) -> None:
        futures = [self._outstanding[key][0] for key in keys if key in self._outstanding]
        batches = {id(left): (future, left) for future, left in self._batches_of(keys) if left <= set(keys)}
        futures += [future for future, _ in batches.values()]
        if self._client is not None and futures:
            await self._client.cancel([f for f in futures if f is not None], force=True)  # pyright: ignore[reportGeneralTypeIssues]


async def connect(scheduler: str) -> Client:
    """An asynchronous client; raises `UnreachableError` within `CONNECT_S`."""
    client = Client(
        scheduler,
        asynchronous=True,
        timeout=CONNECT_S,
        set_as_default=False,
        name="ioi",
        heartbeat_interval="5s",
        security=security_of(scheduler),
    )
    try:
        return await asyncio.wait_for(_awaited(client), CONNECT_S + 1)
    except Exception as error:  # what a scheduler of another version makes of the first question is anybody's guess
        await _close(client)
        raise UnreachableError(scheduler, f"{NOBODY}: {error}") from error


async def _register(client: Client, plugin: Any) -> None:
    answers = await client.register_plugin(plugin, name=plugin.name)  # pyright: ignore[reportGeneralTypeIssues]
    failed = [answer for answer in (answers or {}).values() if answer.get("status") != "OK"]
    if failed:
        raise failed[0].get("exception") or RuntimeError("a worker did not take the plugin")


async def _versions(client: Client) -> Any:
    return await client.get_versions(packages=list(EXACT))  # pyright: ignore[reportGeneralTypeIssues]


async def _address_of(client: Client, node: str) -> str | None:
    """Where its worker listens; None while it is not there. Raises `UnreachableError` where its scheduler does not say."""
    asked: Any = client.scheduler.identity()  # pyright: ignore[reportOptionalMemberAccess]
    try:
        identity: Any = await asyncio.wait_for(asked, CONNECT_S)
    except Exception as error:
        raise UnreachableError("the scheduler", why_lost(error)) from error
    workers = identity["workers"].items()
    return next((address for address, worker in workers if node in _pinned(worker["resources"])), None)


async def _read_on(client: Client, node: str, stream: str) -> None:
    """As long as it is not cancelled, however slow its reader is. What fails here fails where the pieces are fetched too."""
    address = None
    while True:
        await asyncio.sleep(READS_ON_S)
        with contextlib.suppress(Exception):
            address = address or await _address_of(client, node)
            asked: Any = client.run(still_read, stream, workers=[address], on_error="ignore") if address else None
            if asked is not None:
                await asyncio.wait_for(asked, CONNECT_S)


async def _fetched(client: Client, address: str, stream: str, number: int) -> tuple[Begun | None, list[bytes]] | None:
    """Raises `UnreachableError` where pieces are lost: with their worker, or on their way."""
    asked: Any = client.run(fetch, stream, number, FETCH_S, FETCHED, workers=[address])
    try:
        answers = await asyncio.wait_for(asked, FETCH_S + CONNECT_S)
    except Exception as error:
        raise UnreachableError(f"worker {address}", why_lost(error)) from error
    return answers.get(address)


async def _result(future: Future) -> bytes:
    return await future.result()  # pyright: ignore[reportGeneralTypeIssues]


async def _awaited(something: Any) -> Any:
    return await something


def _nodes_of(identity: Any) -> dict[str, int]:
    return {
        node: int(worker["nthreads"])
        for worker in identity["workers"].values()
        for node in _pinned(worker["resources"])
    }


def _nodes_that(say: str, identity: Any) -> set[str]:
    """Those whose heartbeat says so, see `node_beat`."""
    return {
        node
        for worker in identity["workers"].values()
        if ((worker.get("metrics") or {}).get("ioi") or {}).get(say)
        for node in _pinned(worker["resources"])
    }


def _pinned(resources: Iterable[str]) -> Iterator[str]:
    return (resource.removeprefix("node:") for resource in resources if resource.startswith("node:"))


async def _until_silent(client: Client, seen: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Returns when the scheduler left `SILENT_AFTER` probes unanswered: one that is stopped keeps its sockets open.

    Each answer goes to `seen`.
    """
    missed = 0
    while missed < SILENT_AFTER:
        try:
            identity = await asyncio.wait_for(client.scheduler.identity(), ANSWER_S)  # pyright: ignore
        except Exception:  # whatever a scheduler in trouble does, it did not answer
            missed += 1
        else:
            missed = 0
            await seen(identity)
        await asyncio.sleep(ANSWER_S)


def connected(client: Client | None) -> bool:
    """The socket to the scheduler is open."""
    if client is None:
        return False
    communication = client.scheduler_comm
    comm = communication.comm if communication is not None else None
    return client.status == "running" and comm is not None and not comm.closed()


async def _close(client: Client) -> None:
    try:
        await asyncio.wait_for(client._close(fast=True), 1.0)
    except Exception:  # the other side is gone: nothing is owed to it
        return


def why_lost(error: BaseException) -> str:
    """A sentence for what Dask raised."""
    name = type(error).__name__
    known = {"KilledWorker": WORKER_DIED, "FutureCancelledError": "the start was cancelled"}
    if name in known:
        return known[name]
    return f"{name}: {str(error).splitlines()[0] if str(error) else 'no further word'}"
