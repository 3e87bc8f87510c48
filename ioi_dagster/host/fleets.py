"""Clusters as the flow driver sees them: ask, award, renew, release, start. Which start they accept is theirs to say."""

from __future__ import annotations

import contextlib
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from ioi_dagster.adapters.dask.client import TAKEN_BACK, WORKER_DIED, DaskFleetClient
from ioi_dagster.adapters.dask.held import drop_run
from ioi_dagster.adapters.dask.local_cluster import start_local_cluster
from ioi_dagster.adapters.dask.node_plugin import CLUSTER
from ioi_dagster.adapters.dask.run_scope import tear_down
from ioi_dagster.adapters.dask.versions import own_versions
from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.adapters.http.protocol import Invoked
from ioi_dagster.clock import SystemClock
from ioi_dagster.compound.invocation import answering
from ioi_dagster.errors import FinalError, IoiError, RetryableError
from ioi_dagster.governors.cluster import EVERYTHING, ClusterGovernor, NodeJoined, NodeLeft, NodeResized, Reply
from ioi_dagster.host import step_runner
from ioi_dagster.host.answers import checked_award
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
)
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.signing import Signed

MEMORY_EVERY_S = 0.2
AHEAD_S = 0.2
"""Alone, a node is given starts for this many seconds, by how long the last ones took: the next begins while the last one's
outcome travels."""
MAX_AHEAD = 16
"""Starts for a thread at most."""
AHEAD_BYTES = 32 * 2**20
"""What a thread's starts may have besides the one that runs: its scheduler and its worker hold them too."""
TAKE_BACK_AFTER_S = 0.3
"""What waits behind a step that runs longer than this is given to another node."""
SHARED_S = 0.1
MAX_SHARED = 8
"""Starts that share a task take so long at most, and are so many."""
SOON_IDLE = 3
"""With so few starts for a thread left, a node is sent what there is."""
MANY = 1_000_000
INVOKE_S = 600.0
"""How long a foreign call may take where its step sets no limit."""
TORN_DOWN_S = 10.0
"""How long the end of a run waits for nodes to tear down what it kept there. Where they live on they go on with it after that."""
RUNNER = "ioi_dagster.host.step_runner:run"


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a step. `work` is for the step runner; `payload` what a foreign block gets instead."""

    key: str
    lease: Lease
    permit: Signed | None
    capability: str
    work: bytes
    payload: Payload | None
    priority: int = 0
    timeout_s: float = 0.0
    brief_s: float = 0.0
    """Seconds that it is known to take where those are few, so that it may share a task with others; 0: not known."""
    own_process: bool = False

    def without_work(self) -> Start:
        """What is kept of it while it is out."""
        return replace(self, work=b"", payload=None)


OnDone = Callable[[Start, StartAnswer | None, str | None], None]
"""(start, answer, None) or (start, None, why it was lost). Called once, from any thread."""


@dataclass(frozen=True, slots=True)
class EarlierStart:
    """A start that an earlier process of the run had sent to `node`."""

    request: LeaseRequest
    node: str

    @property
    def key(self) -> str:
        request = self.request
        return f"{request.run}/{request.step}/{request.fence}/{request.copy}"


class Fleet(Protocol):
    """One cluster. Calls block and raise `RetryableError` when the other side does not answer in time."""

    cluster: str
    domain: str
    accepts: str
    """`step` (over Dask) or `block` (an invocation at the gateway)."""

    def at_once(self, node: str) -> int:
        """How many of the starts that were sent to a node it runs at the same time; what is beyond waits there."""
        ...

    def announce(self, announce: Announce) -> Bid:
        """What it offers. Takes up to the announcement's `deadline_s` and `wait_s` together."""
        ...

    def withdraw(self, run: str, round_: int) -> None:
        """Let the cluster know that nobody waits for its bid of that round. Does not wait."""
        ...

    def award(self, award: Award) -> Awarded:
        """Leases for what was chosen of its bid, as far as it has room still."""
        ...

    def renew(self, renew: RenewRequest) -> Renewed:
        """Hold leases for longer; says which it does not hold any more."""
        ...

    def release(self, release: ReleaseRequest) -> None:
        """Give leases back."""
        ...

    def start(self, starts: Sequence[Start], on_done: OnDone) -> None:
        """Send steps to the nodes of their leases; does not wait for them."""
        ...

    def find(self, wanted: Sequence[EarlierStart]) -> list[Lease]:
        """Leases of those of `wanted` that are under way still and may be adopted; what else of them runs is stopped."""
        ...

    def adopt(self, start: Start, on_done: OnDone) -> None:
        """As `start`, for what was found."""
        ...

    def alive(self) -> bool:
        """Is its scheduler there, as far as is known without asking?"""
        ...

    def recover(self) -> bool:
        """Try to reach a cluster that was lost; True when it is back."""
        ...

    def cancel(self, keys: list[str]) -> None:
        """Stop the starts under `keys`, or take them back; returns when that is done, within seconds."""
        ...

    def look_after(self, now: float) -> None:
        """Called again and again while the run goes on; must not block."""
        ...

    def close(self) -> None:
        """The run is over: its connection ends, and so do processes that were started for it alone."""
        ...

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        """From now on, and after a reconnection, what nodes tell under `topic` goes to `take`, from any thread."""
        ...

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Have the worker at the address `worker` call `function`. Does not wait; nothing is said of one that is gone."""
        ...

    def forget(self, run: str) -> None:
        """Drop the values of a run from its nodes' memory: it has ended."""
        ...

    def tear_down(self, run: str) -> list[str]:
        """Have the nodes tear down the resources that they keep for a run, which has ended; returns what was raised by that."""
        ...

    def waits(self, lease: Lease, waits: bool) -> None:
        """What runs under `lease` waits for others, so its node may take one start more; or it goes on."""
        ...


class _Negotiating:
    """What both kinds share: negotiation through the domain's gateway."""

    def __init__(self, domain: str, cluster: str, gateway: GatewayClient) -> None:
        self.domain, self.cluster, self._gateway = domain, cluster, gateway

    def at_once(self, node: str) -> int:
        """A lease is a slot: all that was sent runs."""
        return MANY

    def announce(self, announce: Announce) -> Bid:
        return self._gateway.announce(self.cluster, announce)

    def withdraw(self, run: str, round_: int) -> None:
        self._gateway.withdraw(self.cluster, run, round_)

    def award(self, award: Award) -> Awarded:
        return self._gateway.award(award)

    def look_after(self, now: float) -> None:
        """Its own governor does."""

    def renew(self, renew: RenewRequest) -> Renewed:
        return self._gateway.renew(self.cluster, renew)

    def release(self, release: ReleaseRequest) -> None:
        self._gateway.release(self.cluster, release)

    def forget(self, run: str) -> None:
        """Values in memory are refused in a federation."""


class DaskFleet(_Negotiating):
    """A cluster of our own certificate authority: steps go to its Dask scheduler."""

    accepts = "step"

    def __init__(self, domain: str, cluster: str, gateway: GatewayClient, scheduler: str) -> None:
        super().__init__(domain, cluster, gateway)
        self._dask = DaskFleetClient(scheduler)
        self._lending = ThreadPoolExecutor(1, thread_name_prefix=f"lend-{cluster}")

    def start(self, starts: Sequence[Start], on_done: OnDone) -> None:
        for start in starts:
            submit(self._dask, [start], on_done)

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        self._dask.listen(topic, take)

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        self._dask.tell(worker, function, *arguments)

    def tear_down(self, run: str) -> list[str]:
        return [text for texts in self._dask.tell_all(tear_down, run, patience_s=TORN_DOWN_S) for text in texts]

    def waits(self, lease: Lease, waits: bool) -> None:
        self._lending.submit(self._lend, RenewRequest(lease.run, (lease.id,), (lease.id,) if waits else ()))

    def _lend(self, renew: RenewRequest) -> None:
        # One that is not answered is made up for by the next renewal of all leases.
        with contextlib.suppress(RetryableError):
            self.renew(renew)

    def find(self, wanted: Sequence[EarlierStart]) -> list[Lease]:
        return _found(self._dask, self, wanted)

    def adopt(self, start: Start, on_done: OnDone) -> None:
        adopt(self._dask, start, on_done)

    def alive(self) -> bool:
        return self._dask.alive()

    def recover(self) -> bool:
        return self._dask.reconnect()

    def cancel(self, keys: list[str]) -> None:
        self._dask.cancel(keys)

    def close(self) -> None:
        self._lending.shutdown(wait=False, cancel_futures=True)
        self._dask.close()


def submit(dask: DaskFleetClient, starts: Sequence[Start], on_done: OnDone) -> None:
    """Send starts of one node and one priority to Dask, in one task."""
    by_key = {start.key: start.without_work() for start in starts}
    requests = {start.key: msgspec.msgpack.encode(_request(start)) for start in starts}
    first = by_key[starts[0].key]

    def done(key: str, answer: bytes | None, why: str | None) -> None:
        on_done(by_key[key], *_read(answer, why))

    if len(starts) == 1:
        dask.submit(first.key, requests[first.key], first.lease.node, first.priority, done, first.own_process)
    else:
        dask.submit_batch(requests, first.lease.node, first.priority, done)


def adopt(dask: DaskFleetClient, start: Start, on_done: OnDone) -> None:
    """Take the answer of a start that another process has sent."""

    def done(_key: str, answer: bytes | None, why: str | None) -> None:
        on_done(start, *_read(answer, why))

    dask.adopt(start.key, start.lease.node, done)


def _read(answer: bytes | None, why: str | None) -> tuple[StartAnswer | None, str | None]:
    """One that cannot be read is a loss: nobody may wait for it for ever."""
    if answer is None:
        return None, why
    try:
        return msgspec.msgpack.decode(answer, type=StartAnswer), None
    except msgspec.MsgspecError as error:
        return None, f"its answer cannot be read: {error}"


def _found(dask: DaskFleetClient, fleet: Fleet, wanted: Sequence[EarlierStart]) -> list[Lease]:
    """An award is answered with the lease that is held under its fence already. Where that has expired, or is for another node,
    somebody else may have the slot: then the step is not adopted."""
    there = set(dask.claim([one.key for one in wanted]))
    claimed = {one.request.step: one for one in wanted if one.key in there}
    if not claimed:
        return []
    run = wanted[0].request.run
    requests = tuple(one.request for one in claimed.values())
    award = Award(fleet.cluster, run, 0, fleet.domain, requests)
    leases = checked_award(fleet.award(award), award, fleet.domain)[0].leases
    good = [lease for lease in leases if lease.node == claimed[lease.step].node]
    fleet.release(ReleaseRequest(run, tuple(lease.id for lease in leases if lease not in good)))
    for one in claimed.values():
        if one.request.step not in {lease.step for lease in good}:
            dask.end(one.node, [one.key])
    return good


def _request(start: Start) -> StartRequest:
    return StartRequest(
        kind="step",
        lease=start.lease,
        permit=msgspec.to_builtins(start.permit) if start.permit else None,
        capability=start.capability,
        payload=start.work,
        timeout_s=start.timeout_s,
        own_process=start.own_process,
        versions=own_versions(),
    )


class InvokeFleet(_Negotiating):
    """A foreign domain: its gateway takes a block invocation with typed data, never our code.

    The Dagster step itself runs here, in the run process, and gets the foreign answer at its block call.
    """

    accepts = "block"

    def __init__(self, domain: str, cluster: str, gateway: GatewayClient, threads: int = 8) -> None:
        super().__init__(domain, cluster, gateway)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"invoke-{cluster}")
        self._clock = SystemClock()

    def start(self, starts: Sequence[Start], on_done: OnDone) -> None:
        for start in starts:
            self._pool.submit(self._invoke, start, on_done)

    def _invoke(self, start: Start, on_done: OnDone) -> None:
        began = self._clock.wall()
        answer: tuple[Payload, Invoked] | Refusal | FinalError
        try:
            assert start.payload is not None and start.permit is not None
            answer = self._gateway.invoke(
                start.lease, start.permit, start.capability, start.payload, timeout=start.timeout_s or INVOKE_S
            )
        except FinalError as error:
            # The block's own: its step raises it, as it would at home.
            answer = error
        except RetryableError as error:
            return on_done(start, None, str(error))
        except Exception as error:
            return on_done(start, None, f"{type(error).__name__}: {error}")
        if isinstance(answer, Refusal):
            return on_done(start, StartAnswer("", start.lease.node, 0.0, 0.0, refusal=answer), None)
        if isinstance(answer, FinalError):
            its, meta = answer, Invoked(False, None, start.lease.node, uuid.uuid4().hex, began, self._clock.wall())
        else:
            its, meta = answer
        try:
            result = run_shell(start.work, its)
        except IoiError as error:
            return on_done(start, None, str(error))
        except BaseException as error:  # an answer is owed, or the step would be in flight for ever
            return on_done(start, None, f"{type(error).__name__}: {error}")
        on_done(start, StartAnswer(meta.attempt, meta.node, meta.started, meta.ended, result=result), None)

    def find(self, wanted: Sequence[EarlierStart]) -> list[Lease]:
        """A foreign call is the connection of who made it."""
        return []

    def adopt(self, start: Start, on_done: OnDone) -> None:
        raise NotImplementedError("nothing was found here")

    def alive(self) -> bool:
        return True

    def recover(self) -> bool:
        return True

    def cancel(self, keys: list[str]) -> None:
        """A foreign call cannot be taken back in this version: its answer is discarded by its fence."""

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        """Steps run in the run process, and their maps with them."""

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        raise NotImplementedError("nobody was heard here")

    def tear_down(self, run: str) -> list[str]:
        """No node keeps any."""
        return []

    def waits(self, lease: Lease, waits: bool) -> None:
        raise NotImplementedError("nobody was heard here")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def run_shell(work: bytes, answer: Payload | Refusal | FinalError) -> bytes:
    """Run a Dagster step here whose block call is already answered, or raises the error that it ended with."""

    def invoker(_block: BlockSpec, _payload: Payload) -> Payload | Refusal:
        if isinstance(answer, FinalError):
            raise answer
        return answer

    with answering(invoker):
        return step_runner.run(work)


def tasks_of(starts: Sequence[Start], at_once: Callable[[str], int]) -> list[list[Start]]:
    """Which of `starts` go into one Dask task. Brief ones of one node and one priority share some, and there are at least as
    many tasks as the node runs `at_once`."""
    groups: dict[tuple[str, int], list[Start]] = {}
    tasks: list[list[Start]] = []
    for start in starts:
        if start.brief_s > 0:
            groups.setdefault((start.lease.node, start.priority), []).append(start)
        else:
            tasks.append([start])
    for (node, _), members in groups.items():
        longest = max(start.brief_s for start in members)
        size = min(MAX_SHARED, int(SHARED_S / longest), -(-len(members) // at_once(node)))
        tasks += [members[begin : begin + max(1, size)] for begin in range(0, len(members), max(1, size))]
    return tasks


@dataclass(slots=True)
class _Queue:
    """What was sent to one node and is not answered, first come first. `seconds`: how long a step took there, and `size`: how
    many bytes it was sent, averaged."""

    threads: int
    started: dict[str, tuple[Start, OnDone]] = field(default_factory=dict)
    moved: float = 0.0
    seconds: float | None = None
    closed: bool = False
    """It takes nothing new, but what its own steps wait for."""
    size: float = 0.0
    slots: int = 1
    """How many starts the governor lets it have, and `wanted`, how many it should, beside those in `waiting`."""
    wanted: int = 1
    held: list[tuple[Start, OnDone]] = field(default_factory=list)
    """Brief starts that wait here for others to share a task with."""
    waiting: set[str] = field(default_factory=set)
    """Starts that wait for others and leave their slot to them."""

    @property
    def open(self) -> int:
        return 0 if self.closed and not self.waiting else self.wanted + len(self.waiting)

    def weigh(self, size: int) -> None:
        self.size = 0.7 * self.size + 0.3 * size

    def learn(self, seconds: float) -> None:
        self.seconds = seconds if self.seconds is None else 0.7 * self.seconds + 0.3 * seconds
        ahead = min(int(AHEAD_S / max(self.seconds, 0.001)), max(1, int(AHEAD_BYTES / max(self.size, 1.0))))
        self.wanted = self.threads * (1 + min(ahead, MAX_AHEAD - 1))


class _AloneFleet(ABC):
    """A cluster without governors of its own: its capacity is kept count of in the run process, by the same governor."""

    accepts = "step"
    cluster = CLUSTER
    domain = CLUSTER
    _dask: DaskFleetClient

    def __init__(self) -> None:
        self._governor = ClusterGovernor(CLUSTER, CLUSTER, 1, 0.0, max_memory=10.0)
        self._clock = SystemClock()
        self._lock = threading.Lock()
        # Another one, since it is taken in the client's thread, which must not wait for those who wait for the client.
        self._queueing = threading.Lock()
        self._queues: dict[str, _Queue] = {}
        self._taking_back: set[str] = set()

    def announce(self, announce: Announce) -> Bid:
        return self._ask(replace(announce, wait_s=0.0))

    def withdraw(self, run: str, round_: int) -> None:
        return None  # it answers at once

    def award(self, award: Award) -> Awarded:
        return self._ask(award)

    def renew(self, renew: RenewRequest) -> Renewed:
        return self._ask(renew)

    def release(self, release: ReleaseRequest) -> None:
        self._ask(release)

    def start(self, starts: Sequence[Start], on_done: OnDone) -> None:
        due: list[Start] = []
        with self._queueing:
            for start in starts:
                queue = self._queues.get(start.lease.node)
                if start.brief_s and queue is not None:
                    queue.held.append((start, on_done))
                else:
                    due.append(start)
        self._send(due, on_done)
        self._send_held()

    def find(self, wanted: Sequence[EarlierStart]) -> list[Lease]:
        """This process has given out no lease yet, so each is given the one node where it runs."""
        nodes = self._nodes()
        pinned = [
            replace(one, request=replace(one.request, avoid=tuple(node for node in nodes if node != one.node)))
            for one in wanted
            if one.node in nodes
        ]
        return _found(self._dask, self, pinned) if pinned else []

    def adopt(self, start: Start, on_done: OnDone) -> None:
        adopt(self._dask, start, self._queue([start], on_done))

    def _nodes(self) -> list[str]:
        with self._lock:
            self._look(self._clock.monotonic())
            return list(self._queues)

    def _send(self, starts: Sequence[Start], on_done: OnDone) -> None:
        for task in tasks_of(starts, self.at_once):
            submit(self._dask, task, self._queue(task, on_done))

    def _send_held(self) -> None:
        """What is held for a node goes when it fills a task, or when the node would soon have nothing to do."""
        with self._queueing:
            due = [
                queue
                for queue in self._queues.values()
                if queue.held
                and (len(queue.held) >= MAX_SHARED * queue.threads or len(queue.started) <= SOON_IDLE * queue.threads)
            ]
            batches = [queue.held for queue in due]
            for queue in due:
                queue.held = []
        for batch in batches:
            # One run has one driver, so they have one `on_done`.
            self._send([start for start, _ in batch], batch[0][1])

    def _queue(self, task: Sequence[Start], on_done: OnDone) -> OnDone:
        """Keep count of the starts of one node; returns what is to be called with their answers."""
        node = task[0].lease.node
        with self._queueing:
            queue = self._queues.setdefault(node, _Queue(self.at_once(node)))
            if not queue.started:
                queue.moved = self._clock.monotonic()
            queue.started |= {start.key: (start.without_work(), on_done) for start in task}
            for start in task:
                queue.weigh(len(start.work))

        def done(its: Start, answer: StartAnswer | None, why: str | None) -> None:
            with self._queueing:
                queue.waiting.discard(its.key)
                if queue.started.pop(its.key, None) is None:
                    return
                queue.moved = self._clock.monotonic()
                if answer is not None and answer.result is not None:
                    queue.learn(answer.ended - answer.started)
                ends = self._queues.get(node) is queue
            on_done(its, answer, why and self._told(node, why, ends))

        return done

    def look_after(self, now: float) -> None:
        """Take back what waits behind a long step while there is another node that could run it."""
        self._send_held()
        with self._queueing:
            for node, queue in self._queues.items():
                waiting = len(queue.started) > queue.threads + len(queue.waiting)
                patience = max(TAKE_BACK_AFTER_S, 4 * (queue.seconds or 0.0))
                if waiting and len(self._queues) > 1 and now - queue.moved > patience and node not in self._taking_back:
                    self._taking_back.add(node)
                    queue.wanted = queue.threads
                    threading.Thread(
                        target=self._take_back, args=(node, queue, list(queue.started)), daemon=True
                    ).start()

    def _take_back(self, node: str, queue: _Queue, keys: list[str]) -> None:
        try:
            self._dask.take_back(node, keys)
        finally:
            with self._queueing:
                self._taking_back.discard(node)
                queue.moved = self._clock.monotonic()
                back, queue.held = queue.held, []
        for start, on_done in back:
            on_done(start, None, TAKEN_BACK)

    def _resize(self, now: float) -> None:
        with self._queueing:
            for node, queue in self._queues.items():
                if queue.open != queue.slots:
                    queue.slots = queue.open
                    self._governor.handle(NodeResized(node, queue.slots), now)

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        self._dask.listen(topic, take)

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        self._dask.tell(worker, function, *arguments)

    def forget(self, run: str) -> None:
        self._dask.tell_all(drop_run, run)

    def waits(self, lease: Lease, waits: bool) -> None:
        with self._queueing:
            queue = self._queues.get(lease.node)
            if queue is None:
                return
            if waits and lease.key in queue.started:
                queue.waiting.add(lease.key)
            else:
                queue.waiting.discard(lease.key)

    tear_down = DaskFleet.tear_down
    alive = DaskFleet.alive
    recover = DaskFleet.recover

    def cancel(self, keys: list[str]) -> None:
        with self._queueing:
            held = [item for queue in self._queues.values() for item in queue.held if item[0].key in keys]
            for queue in self._queues.values():
                queue.held = [(start, on_done) for start, on_done in queue.held if start.key not in keys]
        for start, on_done in held:
            on_done(start, None, TAKEN_BACK)
        self._dask.cancel(keys)

    def _told(self, node: str, why: str, ends: bool) -> str:
        """Why something was lost at `node`, as precisely as this fleet knows. `ends`: no other has its name by now."""
        return why

    @abstractmethod
    def at_once(self, node: str) -> int: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _look(self, now: float) -> None:
        """Tell the governor which nodes came and went."""

    def _join(self, node: str, threads: int, now: float) -> None:
        with self._queueing:
            before = self._queues.get(node)
            self._queues[node] = _Queue(threads, slots=threads, wanted=threads)
        self._return(before)
        self._governor.handle(NodeJoined(node, threads, EVERYTHING), now)

    def _leave(self, node: str, now: float) -> None:
        with self._queueing:
            queue = self._queues.pop(node, None)
        self._governor.handle(NodeLeft(node), now)
        self._return(queue)

    def _return(self, queue: _Queue | None) -> None:
        """What was held for a node that is gone."""
        held = queue.held if queue is not None else []
        for start, on_done in held:
            on_done(start, None, TAKEN_BACK)

    def _ask(self, message: Any) -> Any:
        with self._lock:
            now = self._clock.monotonic()
            self._look(now)
            self._resize(now)
            for instruction in self._governor.handle(message, now):
                if isinstance(instruction, Reply):
                    return instruction.answer
        return None


class AddressFleet(_AloneFleet):
    """A Dask cluster that is there already.

    Two runs on one such cluster do not know of each other's counts; Dask then queues what is more than a node's threads.
    """

    def __init__(self, scheduler: str, runner: str) -> None:
        super().__init__()
        self._dask = DaskFleetClient(scheduler)
        try:
            self._dask.become_nodes(runner)
            # Once; from now on the client keeps it up to date. The run's loop negotiates, and must not wait for answers.
            self._dask.nodes()
        except BaseException:
            self._dask.close()
            raise
        self._known: dict[str, int] = {}

    def at_once(self, node: str) -> int:
        return self._known.get(node, 1)

    def close(self) -> None:
        self._dask.close()

    def _look(self, now: float) -> None:
        there = self._dask.known_nodes()
        if there is None:
            return  # a scheduler that has not answered says nothing about its workers
        for node in self._known.keys() - there.keys():
            self._leave(node, now)
        for node in there.keys() - self._known.keys():
            self._join(node, there[node], now)
        self._known = there
        with self._queueing:
            for node, queue in self._queues.items():
                queue.closed = node in self._dask.closed


class EmbeddedFleet(_AloneFleet):
    """A Dask cluster of this run's own."""

    def forget(self, run: str) -> None:
        """Its processes end with the run."""

    def __init__(self, workers: int, folder: str, memory_limit: int = 0) -> None:
        super().__init__()
        self._memory_looked = 0.0
        self._dask_cluster = start_local_cluster(workers, folder, memory_limit)
        for node in self._dask_cluster.workers:
            self._join(node, 1, self._clock.monotonic())
        self._dask = DaskFleetClient(self._dask_cluster.address)

    def at_once(self, node: str) -> int:
        return 1

    def close(self) -> None:
        self._dask.close()
        with self._lock:
            self._dask_cluster.close()

    def look_after(self, now: float) -> None:
        if now - self._memory_looked > MEMORY_EVERY_S and self._lock.acquire(blocking=False):
            self._memory_looked = now
            try:
                self._dask_cluster.end_too_large()
            finally:
                self._lock.release()
        super().look_after(now)

    def _told(self, node: str, why: str, ends: bool) -> str:
        if why != WORKER_DIED:
            return why
        # Asked in the client's loop, which must not wait for a worker that has been started again.
        return f"{why} {self._dask_cluster.how_it_ended(node, 0.2 if ends else 0.0)}".strip()

    def recover(self) -> bool:
        """The scheduler is this run's own: nobody else starts it again."""
        with self._lock:
            self._look(self._clock.monotonic())
        return self._dask.reconnect()

    def _look(self, now: float) -> None:
        for node in self._dask_cluster.revive():
            self._join(node, 1, now)
