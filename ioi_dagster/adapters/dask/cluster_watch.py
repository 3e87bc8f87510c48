"""In a scheduler: which of its nodes live. Performs what `governors/liveness.py` wants: asks witnesses, and evicts.

A worker with a nanny has that for a witness, which is asked over Dask's wire; any other has the supervisor that started it and
this scheduler, which is asked over a pair of sockets between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.protocol.pickle import dumps

from ioi_dagster.adapters.dask.nanny_plugin import WitnessPlugin
from ioi_dagster.adapters.dask.periodic import Periodic, TimeOfDay
from ioi_dagster.adapters.dask.witness import MAX_MESSAGE, WITNESS_FD
from ioi_dagster.clock import Clock
from ioi_dagster.governors import liveness
from ioi_dagster.governors.liveness import TICK_S, Liveness, NodeWatch

log = logging.getLogger("ioi.cluster")
ANSWER_S = 0.3
"""A witness that takes longer has not answered."""
BEAT_OP = "ioi_beat"


class ClusterWatch:
    """`changed(node)` is called when a node becomes a suspect, and when it is none any more."""

    def __init__(self, scheduler: Scheduler, clock: Clock, changed: Callable[[str], None]) -> None:
        self._scheduler, self._clock, self._changed = scheduler, clock, changed
        self._watch = NodeWatch()
        self._supervisor = Supervised.connected()
        self._time_of_day = TimeOfDay(scheduler)
        self._pids: dict[str, int] = {}
        self._doing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._scheduler.handlers[BEAT_OP] = self._heard
        if self._supervisor is not None:
            self._supervisor.listen()
        await self._scheduler.register_nanny_plugin(
            comm=None, plugin=dumps(WitnessPlugin()), name=WitnessPlugin.name, idempotent=True
        )
        self._ticking = Periodic(self._tick, TICK_S)
        self._ticking.start()

    def joined(self, address: str, node: str) -> None:
        witnessed = bool(self._scheduler.workers[address].nanny) or self._supervisor is not None
        self._handle(liveness.Joined(node, address, witnessed))

    def left(self, address: str, node: str) -> None:
        self._pids.pop(address, None)
        self._handle(liveness.Left(node, address))

    def suspects(self, node: str) -> bool:
        """It may be lost: nothing new is to be placed there."""
        return self._watch.state(node) not in (Liveness.ALIVE, None)

    def told(self, node: str) -> dict[str, Any]:
        """Its state, for people."""
        return self._watch.told(node, self._clock.monotonic())

    # ------------------------------------------------------------------------------------------------------------------

    def _heard(self, node: str, life: str, pid: int) -> dict[str, bool]:
        """A beat, from the worker at the address `life`. One that is given up is told so."""
        known = self._watch.knows(node, life)
        if known:
            self._pids[life] = pid
            self._handle(liveness.Beat(node, life))
        return {"known": known}

    def _tick(self) -> None:
        self._time_of_day.look()
        self._handle(liveness.Tick())

    def _handle(self, event: liveness.Event) -> None:
        for instruction in self._watch.handle(event, self._clock.monotonic()):
            match instruction:
                case liveness.Look(node, life):
                    self._do(self._look(node, life))
                case liveness.Suspected(node, why):
                    log.warning("%s is a suspect: %s", node, why)
                    self._changed(node)
                case liveness.Refuted(node, silent_s):
                    log.warning("%s is heard again after %.2f s", node, silent_s)
                    self._changed(node)
                case liveness.Evict(node, life, why):
                    log.warning("%s is lost: %s", node, why)
                    self._do(self._evict(node, life))

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _look(self, node: str, life: str) -> None:
        try:
            told = await asyncio.wait_for(self._ask("look", node, life), ANSWER_S)
            seen = liveness.Seen(node, life, str(told["state"]), float(told["cpu_s"]))
        except Exception:  # whatever became of the question, there is no answer to it
            self._handle(liveness.Unseen(node, life))
        else:
            self._handle(seen)

    async def _evict(self, node: str, life: str) -> None:
        """What ran there is lost at once, wherever the process is; then it is ended, if its witness can be reached. With its
        default, `close=True`, Dask would end the nanny too."""
        question = self._ask("end", node, life)
        await self._scheduler.remove_worker(life, stimulus_id="ioi-lost", close=False)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(question, ANSWER_S)

    def _ask(self, what: str, node: str, life: str) -> Any:
        """An awaitable of the witness's answer. The worker is looked up now, since it may be gone when that is awaited."""
        state, pid = self._scheduler.workers.get(life), self._pids.get(life, 0)
        nanny = state.nanny if state is not None else None
        if nanny:
            return getattr(self._scheduler.rpc(nanny), f"ioi_{what}")(pid=pid)
        if self._supervisor is None:
            raise LookupError(f"{node} has no witness")
        return self._supervisor.ask(what, node, pid)


class Supervised:
    """This end of the sockets between a scheduler and its supervisor: a message is a JSON object, each is answered."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._socket, self._number = ours, 0
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}

    @classmethod
    def connected(cls) -> Supervised | None:
        """None where no supervisor started this process."""
        descriptor = os.environ.pop(WITNESS_FD, "")
        return cls(socket.socket(fileno=int(descriptor))) if descriptor else None

    def listen(self) -> None:
        """In the event loop of who asks."""
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    async def ask(self, what: str, node: str, pid: int) -> dict[str, Any]:
        """Raises `OSError` where the supervisor cannot be asked."""
        self._number += 1
        number = self._number
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._socket.send(json.dumps({"number": number, "what": what, "name": node, "pid": pid}).encode())
            return await answer
        finally:
            self._asked.pop(number, None)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self._socket.recv(MAX_MESSAGE)
                if not message:
                    asyncio.get_running_loop().remove_reader(self._socket.fileno())
                    return
                told = json.loads(message)
                answer = self._asked.pop(told["number"], None)
                if answer is not None and not answer.done():
                    answer.set_result(told)
