"""What runs inside a Dask worker: `start` takes one request as bytes, admits it and runs it. No pickle of ours."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import msgspec
from dask.context import thread_state
from distributed import get_worker

from ioi_dagster.adapters.dask.apart import run_apart
from ioi_dagster.adapters.dask.flights import flights
from ioi_dagster.adapters.dask.forks import end_if_forked
from ioi_dagster.adapters.dask.memory import trim
from ioi_dagster.adapters.dask.outgoing import offered
from ioi_dagster.adapters.dask.replacing import Outdated
from ioi_dagster.adapters.dask.replica_thread import ReplicaLostError, Stream
from ioi_dagster.adapters.dask.replicas import BlockRefusedError, ReplicaHost
from ioi_dagster.adapters.dask.run_scope import scope
from ioi_dagster.adapters.dask.running import Running, end_revoked
from ioi_dagster.clock import Clock
from ioi_dagster.compound.attempt import Attempt, attempting, current_attempt
from ioi_dagster.compound.checkpoint import Checkpoint, checkpointing, current_checkpoint
from ioi_dagster.compound.invocation import answering
from ioi_dagster.compound.kept_pieces import KeptPieces
from ioi_dagster.compound.pieces import Tally, topic
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import (
    NodeUnableError,
    RetryableError,
    StepCrashedError,
    StepMemoryError,
    StepRevokedError,
    StepStoppedError,
    StepTimeoutError,
    TakenBackError,
)
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.load import MachineSeen
from ioi_dagster.governors.node import (
    CANCELLED,
    OVERLOADED,
    Admit,
    DrainAsked,
    InContact,
    Instruction,
    NodeGovernor,
    Refuse,
    RejoinAsked,
    RunningSeen,
    RunningStart,
    Shed,
    StartAsked,
    StopAll,
    Tick,
    Unload,
)
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest

log = logging.getLogger("ioi.node")
OUT_OF_CONTACT = "its node stopped it, since it had lost contact to its cluster governor for too long"
PermitCheck = Callable[[StartRequest], StepPermit | Refusal | None]

MAX_REVOKED = 1_000
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class _Admitted:
    """`give_up` tells its run that it is given up."""

    request: StartRequest
    give_up: Callable[[], object]


@dataclass(slots=True)
class NodeHost:
    """One per worker process: its governor, its replicas and what checks permits."""

    node: str
    governor: NodeGovernor
    replicas: ReplicaHost
    check_permit: PermitCheck
    clock: Clock
    step_runner: str = ""
    memory: Callable[[], float] = lambda: 0.0
    """How full the node's memory is (0..1)."""
    running: Running = field(default_factory=Running)
    outdated: Outdated = field(default_factory=lambda: Outdated(""))
    _deciding: threading.Lock = field(default_factory=threading.Lock)
    _admitted: dict[str, _Admitted] = field(default_factory=dict)
    """What runs, by attempt, in the order in which it began."""
    _fenced: bool = False
    _why: dict[str, str] = field(default_factory=dict)
    """Why what was to be stopped was, by key."""
    _cancelled: set[str] = field(default_factory=set)
    """Those of them that are to end for good."""
    _shed: set[str] = field(default_factory=set)
    """Those that the node has given up for want of memory."""
    _checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    """Of the steps that run, by key."""

    def start(self, data: bytes) -> bytes:
        """`StartRequest` in, `StartAnswer` out. Only a defect of this code raises."""
        attempt, started = uuid.uuid4().hex, self.clock.wall()
        result, refusal, error, cause, key, calls = None, None, None, "", "", False
        its, left = Checkpoint(end_revoked), None
        try:
            request = from_msgpack(data, StartRequest)
            key, calls = request.lease.key, request.kind == "block"
            permit, memory = self.check_permit(request), self._make_room()
            with self._deciding:
                decision = self._decide(request, permit, memory, started)
                if isinstance(decision, Admit):
                    tell = _teller(shed_topic(request.lease.run_key))
                    self._admitted[attempt] = _Admitted(request, partial(tell, key))
            if isinstance(decision, Refuse):
                refusal = decision.refusal
            else:
                try:
                    result = self._run(decision, attempt, its)
                finally:
                    end_if_forked()
                    with self._deciding:
                        del self._admitted[attempt]
                        self.outdated.ends(request.lease.run_key, request.lease.step)
        except msgspec.MsgspecError as problem:
            refusal = Refusal("node.malformed", f"the start request cannot be read: {problem}", f"node {self.node}")
        except (RetryableError, NodeUnableError) as problem:
            lacked = problem.cause if isinstance(problem, NodeUnableError) else problem
            if isinstance(lacked, BlockRefusedError):
                refusal = lacked.refusal
            elif isinstance(lacked, TakenBackError):
                refusal = self._refused(self._taken_back(key), key, str(lacked))
            elif isinstance(lacked, ReplicaLostError):
                # The call may have had its effect, so it counts as a loss.
                error, cause = str(lacked), Cause.NODE_ERROR
            else:
                refusal = Refusal("node.block_refused", str(lacked), f"node {self.node}", "place it elsewhere")
        except StepRevokedError:
            if key in self._cancelled:
                refusal = self._refused(CANCELLED, key, "")
            elif key in self._shed and calls:
                # To who called it from another domain it is as if it had not begun.
                refusal = self._refused(OVERLOADED, key, "")
            else:
                cause = Cause.SHED if key in self._shed else Cause.LEASE_LOST
                error, left = self._why_revoked(key), its.left
        except StepStoppedError:
            error = "the run stopped it"
        except (StepTimeoutError, StepMemoryError, StepCrashedError) as problem:
            error, cause = str(problem), _CAUSES[type(problem)]
        except Exception as problem:  # a broken block or runner is an answer, never a pickled exception
            last = traceback.extract_tb(problem.__traceback__)[-1]
            where = f"{os.path.basename(last.filename)}:{last.lineno}"
            error = f"{type(problem).__name__} at {where}: {problem}"
        self._shed.discard(key)
        return msgspec.msgpack.encode(
            StartAnswer(attempt, self.node, started, self.clock.wall(), result, refusal, error, cause, left)
        )

    def _decide(
        self, request: StartRequest, permit: StepPermit | Refusal | None, memory: float, wall: float
    ) -> Admit | Refuse:
        lease = request.lease
        asked = StartAsked(request, permit, memory, wall, self.outdated.awaits(lease.run_key, lease.step))
        (decision,) = self.governor.handle(asked, self.clock.monotonic())
        assert isinstance(decision, Admit | Refuse)
        if isinstance(decision, Admit):
            outdated = self.outdated.refusal(lease.run_key, lease.step)
            if outdated is not None:
                return Refuse(outdated)
            self.outdated.begins(lease.run_key, lease.step)
        return decision

    def leave(self) -> bool:
        """If nothing runs here, nothing will any more: the process is about to be replaced."""
        with self._deciding:
            return self.outdated.leave()

    def revoke(self, why: dict[str, str]) -> list[str]:
        """Stop what runs here under these keys, since its slot is somebody else's: `why` by key. What has not
        begun never will. A step that is ready to leave a checkpoint is asked, and has its grace."""
        if len(self._why) > MAX_REVOKED:
            self._why.clear()
        self._why |= why
        asked = [key for key in why if self._asks(key)]
        return asked + self.running.stop([key for key in why if key not in asked], StepRevokedError)

    def cancel(self, why: dict[str, str]) -> list[str]:
        """As `revoke`, for good: its run does not place it again. It is asked for no checkpoint."""
        if len(self._why) > MAX_REVOKED:
            self._why.clear()
            self._cancelled.clear()
        self._why |= why
        self._cancelled |= why.keys()
        return self.running.stop(list(why), StepRevokedError)

    async def end_abandoned(self, key: str, why: str) -> None:
        """As `revoke`, for a lease that has run out; returns when nothing runs under that key any more. What does not stop ends
        with its process, so that the caller hears nothing."""
        self.revoke({key: why})
        while self.running.runs(key):
            await asyncio.sleep(LOOK_S)

    def revoke_all(self) -> list[str]:
        """As `revoke`, for whatever runs here now. Said again it is no new grace."""
        return self.revoke(dict.fromkeys(self.running.keys(), ""))

    def _asks(self, key: str) -> bool:
        its = self._checkpoints.get(key)
        if its is not None and its.wanted:
            return True  # its grace has begun
        grace_s = its.ask() if its is not None else 0.0
        if not grace_s:
            return False
        late = threading.Timer(grace_s, self.running.stop, ([key], StepRevokedError))
        late.daemon = True
        late.start()
        return True

    def _taken_back(self, key: str) -> str:
        """The code of what was to be stopped before it had begun."""
        return CANCELLED if key in self._cancelled else OVERLOADED if key in self._shed else "node.taken_back"

    def _refused(self, code: str, key: str, otherwise: str) -> Refusal:
        self._cancelled.discard(key)
        return Refusal(code, self._why.pop(key, otherwise), f"node {self.node}")

    def _why_revoked(self, key: str) -> str:
        why = self._why.pop(key, "")
        if self._fenced:
            return OUT_OF_CONTACT
        drained = self.governor.draining
        return f"its node is drained: {drained}" if drained else why or "its slot was given to another tenant"

    def in_contact(self, sent: float) -> None:
        """Its cluster governor has answered a beat that was sent at monotonic time `sent`."""
        with self._deciding:
            self.governor.handle(InContact(sent), self.clock.monotonic())
            self._fenced = False

    def drain(self, why: str) -> None:
        """Take nothing new for the reason `why`; empty: take starts again."""
        with self._deciding:
            self.governor.handle(DrainAsked(why) if why else RejoinAsked(), self.clock.monotonic())

    def seen(self, machine: MachineSeen) -> None:
        """What others do on its machine now. Blocks where replicas are to be unloaded for that."""
        with self._deciding:
            now = self.clock.monotonic()
            self.governor.handle(machine, now)
            starts = tuple(self._running_start(one.request) for one in self._admitted.values())
            out = self.governor.handle(RunningSeen(starts), now)
        for instruction in out:
            self._relieve(instruction)

    def _running_start(self, request: StartRequest) -> RunningStart:
        once = request.kind == "block" and self.replicas.once(request.capability)
        its = self._checkpoints.get(request.lease.key)
        return RunningStart(request.lease.key, request.preemptible and not once, its is not None and its.grace_s > 0)

    def _relieve(self, instruction: Instruction) -> None:
        match instruction:
            case Unload():
                unloaded = 0
                while self.replicas.free_memory():
                    unloaded += 1
                if unloaded:
                    log.warning("%d idle replicas are unloaded: the machine has no memory left", unloaded)
                    trim()
            case Shed(key, why):
                log.warning("%s is stopped: %s", key, why)
                self._shed.add(key)
                # Before it is stopped: one that does not stop ends with this process, and its run hears of that alone.
                for one in list(self._admitted.values()):
                    if one.request.lease.key == key:
                        one.give_up()
                self.revoke({key: why})

    def fence(self) -> None:
        """Stop what runs here where the cluster governor has been away for too long. Called again and again."""
        with self._deciding:
            out = self.governor.handle(Tick(), self.clock.monotonic())
        for instruction in out:
            if isinstance(instruction, StopAll):
                log.warning("what runs is stopped: %s", instruction.why)
                self._fenced = True
                self.running.stop_all(StepRevokedError)

    @property
    def idle(self) -> bool:
        with self._deciding:
            return not self._admitted

    def _make_room(self) -> float:
        """Unload idle replicas until a start fits, or none is left; returns how full the memory is then."""
        while (memory := self.memory()) > self.governor.max_memory and self.replicas.free_memory():
            continue
        return memory

    def _run(self, admitted: Admit, attempt: str, checkpoint: Checkpoint) -> bytes:
        request, lease = admitted.request, admitted.request.lease
        if request.kind == "block":
            with self.running.step(
                lease.key, request.timeout_s, over=partial(_teller(over_topic(lease.run_key)), lease.key)
            ):
                payload = decode_payload(request.payload)
                if not request.stream:
                    return encode_payload(self.replicas.invoke(request.capability, payload))
                with (
                    offered(request.stream) as pieces,
                    self.replicas.streaming(request.capability, payload, Stream(pieces, request.after, request.made)),
                ):
                    pieces.wait()
                return encode_payload(Payload({}))
        if not self.step_runner:
            raise BlockRefusedError(
                Refusal("node.blocks_only", "this node takes blocks only, not steps", f"node {self.node}")
            )
        its = Attempt(attempt, lease.run, lease.step, lease.fence, lease.key, self.node, lease.origin)
        begun, over = (partial(_teller(of(its.run_key)), its.key) for of in (begun_topic, over_topic))
        with self.running.step(lease.key, request.timeout_s, begun, over), attempting(its):
            if request.own_process:
                return run_apart(self.step_runner, request.payload, its)
            self._checkpoints[lease.key] = checkpoint
            try:
                with answering(self._answer, self._stream), checkpointing(checkpoint):
                    return load_runner(self.step_runner)(request.payload)
            finally:
                self._checkpoints.pop(lease.key, None)

    def _answer(self, block: BlockSpec, payload: Payload) -> Payload:
        """A governed node has blocks of its owner's; alone, the step brings its own."""
        try:
            if self.governor.governed:
                return self.replicas.invoke(block.capability, payload)
            return self.replicas.invoke_own(block, payload)
        except RetryableError as error:
            # What the node cannot do is no failure of the step's.
            raise NodeUnableError(error) from error

    def _stream(self, block: BlockSpec, payload: Payload, keeps: bool) -> Iterator[Payload]:
        """As `_answer`; the run is told how far it has come."""
        its = current_attempt() or Attempt()
        checkpoint = current_checkpoint() if keeps and block.contract.resumes else None
        kept = KeptPieces(checkpoint, payload) if checkpoint is not None else None
        tally = Tally(its.key, _teller(topic(its.run_key)))

        def came(size: int) -> None:
            tally.first = kept.first if kept is not None else 0
            tally.came(size)

        stream = self.replicas.stream if self.governor.governed else self.replicas.stream_own
        name: Any = block.capability if self.governor.governed else block
        try:
            with closing(stream(name, payload, came, kept)) as pieces:
                yield from pieces
        except Exception as error:
            tally.broke()
            if isinstance(error, RetryableError):
                raise NodeUnableError(error) from error
            raise


_CAUSES = {
    StepTimeoutError: Cause.TIMEOUT,
    StepMemoryError: Cause.MEMORY,
    StepCrashedError: Cause.OWN_PROCESS,
}

_host: NodeHost | None = None
_runners: dict[str, Callable[[bytes], bytes]] = {}


def begun_topic(its_run: str) -> str:
    """`its_run`: the run's key. Under it a node tells the key of each start with a limit of time when its code begins."""
    return f"ioi-begun-{its_run}"


def over_topic(its_run: str) -> str:
    """`its_run`: the run's key. Under it a node tells the key of each start whose time is up, when it asks it to stop."""
    return f"ioi-over-{its_run}"


def shed_topic(its_run: str) -> str:
    """`its_run`: the run's key. Under it a node tells the key of each start that it gives up for want of memory."""
    return f"ioi-shed-{its_run}"


def _teller(topic: str) -> Callable[[Any], object]:
    """What tells something under `topic`, from any thread; made in a step's own."""
    try:
        worker = get_worker()
    except ValueError:
        return lambda _: None  # outside of a Dask worker nobody listens
    return lambda told: worker.log_event(topic, told)


def install(host: NodeHost) -> None:
    """Called once by the worker's preload."""
    global _host
    _host = host
    scope.open = True


def installed() -> NodeHost | None:
    """The node that this process is, if it is one already."""
    return _host


def start(data: bytes) -> bytes:
    """What Dask runs for a run process: another process of the run may take over what is under way."""
    with flights.flight(thread_state.key) as flight:
        flight.answer = start_here(data)
    return flight.answer


def start_here(data: bytes) -> bytes:
    """The same, for who waits for it by himself."""
    if _host is None:
        raise RuntimeError("this worker has no node governor: start it with our preload")
    return _host.start(data)


def stop(node: str, keys: list[str]) -> list[str]:
    """Stop what runs at `node` under `keys`; returns which did. Run by Dask on every worker, beside the steps."""
    return _host.running.stop(keys, StepStoppedError) if _host is not None and _host.node == node else []


def revoke(node: str, why: dict[str, str]) -> list[str]:
    """As `stop`, for the cluster governor: the slots are somebody else's, for the reason that stands at their key."""
    return _host.revoke(why) if _host is not None and _host.node == node else []


def cancel(node: str, why: dict[str, str]) -> list[str]:
    """As `revoke`, for good."""
    return _host.cancel(why) if _host is not None and _host.node == node else []


async def end_abandoned(node: str, key: str, why: str) -> None:
    """As `revoke`, for one step whose lease has run out; returns when it has ended."""
    if _host is not None and _host.node == node:
        await _host.end_abandoned(key, why)


def revoke_all() -> list[str]:
    """As `revoke`, for whatever runs at the node of this process."""
    return _host.revoke_all() if _host is not None else []


def drain(why: dict[str, str]) -> None:
    """From now on this process's node is drained for the reason that stands at its name, and not where none does."""
    if _host is not None:
        _host.drain(why.get(_host.node, ""))


def take_back(node: str, keys: list[str]) -> list[str]:
    """The starts under `keys` that have not begun at `node`, and now never will."""
    return take_back_here(keys) if _host is not None and _host.node == node else []


def take_back_here(keys: list[str]) -> list[str]:
    """The same, at the node of this process."""
    return _host.running.take_back(keys) if _host is not None else []


def load_runner(name: str) -> Callable[[bytes], bytes]:
    """The step runner of that name, "module:function". It takes a second or two when it is loaded first."""
    if name not in _runners:
        module, _, function = name.partition(":")
        _runners[name] = getattr(import_module(module), function)
    return _runners[name]
