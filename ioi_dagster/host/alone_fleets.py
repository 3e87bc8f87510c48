"""A Dask cluster without governors of its own: one that is there already, or one that is started for the run."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ioi_dagster.adapters.dask.client import TAKEN_BACK, WORKER_DIED, DaskFleetClient
from ioi_dagster.adapters.dask.held import drop_run
from ioi_dagster.adapters.dask.local_cluster import start_local_cluster
from ioi_dagster.adapters.dask.node_plugin import CLUSTER
from ioi_dagster.clock import SystemClock
from ioi_dagster.governors.cluster import EVERYTHING, ClusterGovernor, NodeJoined, NodeLeft, NodeResized, Reply
from ioi_dagster.host.dask_starts import adopt, found, submit
from ioi_dagster.host.federated_fleets import DaskFleet
from ioi_dagster.host.fleets import EarlierStart, OnDone, Start
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    ReleaseRequest,
    Renewed,
    RenewRequest,
)
from ioi_dagster.model.start import StartAnswer

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
RUNNER = "ioi_dagster.host.step_runner:run"
"""What makes steps run on a node, by its import path."""


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
        self._governor = ClusterGovernor(CLUSTER, CLUSTER, 1, 0.0, max_memory=10.0, stop_s=0.0)
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

    def begin(self, message: Announce | Award | ReleaseRequest) -> None:
        return None  # as above

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
        return found(self._dask, self, pinned) if pinned else []

    def adopt(self, start: Start, on_done: OnDone) -> None:
        adopt(self._dask, start, self._queue([start], on_done))

    def names(self) -> list[str]:
        """Of its nodes."""
        return self._nodes()

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
                self._dask_cluster.end_stopped(now)
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
