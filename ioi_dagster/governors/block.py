"""The block governor of one node: which replicas are warm, who waits for them, what is called together, and when not.

    replica    LOADING ──► IDLE ◄──► BUSY ──► FINISHING ──► LEAVING ──► gone
    version    COMING ──► CURRENT ──► GOING ──► gone
    breaker    CLOSED ──► OPEN ──► HALF_OPEN ──► CLOSED or OPEN

The tables below hold every transition. The circuit breaker is that of M. Nygard, "Release It!" (2007). No I/O, no clock,
no threads: `adapters.dask.replicas` performs the instructions and feeds back events.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from ioi_dagster.governors.block_messages import (
    Answer,
    BatchEnd,
    BatchEnded,
    BlockReport,
    CallAsked,
    CallGivenUp,
    Event,
    Instruction,
    Load,
    LoadFailed,
    MemoryShort,
    Offered,
    ReaderAwaited,
    ReaderBack,
    RefuseCall,
    ReplicaLoaded,
    ReplicaUnloaded,
    RunBatch,
    StopBatch,
    StopLoad,
    Tick,
    Unload,
)
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.refusal import Refusal

MIB = 2**20
ELSEWHERE = "place it elsewhere"


class ReplicaState(StrEnum):
    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    FINISHING = "finishing"
    LEAVING = "leaving"
    GONE = "gone"


class ReplicaSign(StrEnum):
    LOADED = "it has loaded"
    NOT_LOADED = "it could not load"
    GIVEN = "it is given a batch"
    EMPTIED = "its last batch has ended"
    SENT_AWAY = "it is no longer wanted"
    UNLOADED = "it has unloaded"


_R, _RS = ReplicaState, ReplicaSign
REPLICA: dict[tuple[ReplicaState, ReplicaSign], ReplicaState] = {
    (_R.LOADING, _RS.LOADED): _R.IDLE,
    (_R.LOADING, _RS.NOT_LOADED): _R.GONE,
    (_R.IDLE, _RS.GIVEN): _R.BUSY,
    (_R.IDLE, _RS.SENT_AWAY): _R.LEAVING,
    (_R.BUSY, _RS.GIVEN): _R.BUSY,
    (_R.BUSY, _RS.EMPTIED): _R.IDLE,
    (_R.BUSY, _RS.SENT_AWAY): _R.FINISHING,  # what runs there ends there
    (_R.FINISHING, _RS.EMPTIED): _R.LEAVING,
    (_R.LEAVING, _RS.UNLOADED): _R.GONE,
}
"""How a replica goes on. `Unload` is ordered on the way into LEAVING; what is not in the table does not happen."""

LIVING = frozenset({_R.LOADING, _R.IDLE, _R.BUSY})


class Breaker(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerSign(StrEnum):
    GOOD = "a call came out well"
    FAULT = "a call, or a load, failed"
    TOO_MANY = "one failure too many in a row"
    TRIED = "it has rested and a call tries"
    UNTRIED = "the call that tried was given up"


_B, _BS = Breaker, BreakerSign
BREAKER: dict[tuple[Breaker, BreakerSign], Breaker] = {
    (_B.CLOSED, _BS.GOOD): _B.CLOSED,
    (_B.CLOSED, _BS.FAULT): _B.CLOSED,
    (_B.CLOSED, _BS.TOO_MANY): _B.OPEN,
    (_B.OPEN, _BS.GOOD): _B.OPEN,  # calls of before, which say nothing about now
    (_B.OPEN, _BS.TOO_MANY): _B.OPEN,
    (_B.OPEN, _BS.TRIED): _B.HALF_OPEN,
    (_B.HALF_OPEN, _BS.GOOD): _B.CLOSED,  # of the call that tries; others are not told to the breaker
    (_B.HALF_OPEN, _BS.TOO_MANY): _B.OPEN,
    (_B.HALF_OPEN, _BS.UNTRIED): _B.OPEN,
}
"""How a version's circuit goes on. OPEN refuses every call for `rest_s`; HALF_OPEN every call but the one that tries."""


class VersionState(StrEnum):
    COMING = "coming"
    CURRENT = "current"
    GOING = "going"


# State --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Call:
    """`alone`: it shares no batch, since it was in one that failed, or is streamed. `tries`: it is what a half-open circuit lets
    through."""

    id: int
    asked_at: float
    alone: bool = False
    tries: bool = False


@dataclass(slots=True)
class _Batch:
    id: int
    calls: tuple[_Call, ...]
    until: float
    given_up: set[int] = field(default_factory=set)
    stopped: bool = False
    waits_since: float | None = None
    """From when on it has waited for who reads it."""

    @property
    def late_at(self) -> float:
        """What it waits for its reader is no time that its block takes."""
        return self.until if self.waits_since is None else float("inf")


@dataclass(slots=True)
class _Replica:
    name: str
    state: ReplicaState = ReplicaState.LOADING
    used_at: float = 0.0
    late_at: float = float("inf")
    """When its loading is broken off."""
    batches: dict[int, _Batch] = field(default_factory=dict)

    def go_on(self, sign: ReplicaSign) -> None:
        self.state = REPLICA[self.state, sign]


@dataclass(slots=True)
class _Version:
    block: str
    spec: BlockSpec
    state: VersionState
    queue: deque[_Call] = field(default_factory=deque)
    replicas: dict[str, _Replica] = field(default_factory=dict)
    breaker: Breaker = Breaker.CLOSED
    failures: int = 0
    open_until: float = float("-inf")
    load_after: float = float("-inf")

    @property
    def memory(self) -> int:
        return self.spec.memory_mb * MIB

    def living(self) -> list[_Replica]:
        return [replica for replica in self.replicas.values() if replica.state in LIVING]

    def sign(self, sign: BreakerSign, now: float) -> None:
        if sign is BreakerSign.FAULT:
            self.failures += 1
            sign = BreakerSign.TOO_MANY if self.failures >= self.spec.max_failures else sign
        was, self.breaker = self.breaker, BREAKER[self.breaker, sign]
        if self.breaker is Breaker.CLOSED and sign is BreakerSign.GOOD:
            self.failures = 0
        if self.breaker is Breaker.OPEN and was is not Breaker.OPEN:
            self.open_until = now if sign is BreakerSign.UNTRIED else now + self.spec.rest_s


class BlockGovernor:
    """One per node, over all blocks that it offers. `memory`: bytes that its replicas may take together (0: no limit)."""

    def __init__(self, node: str, memory: int = 0) -> None:
        self._node, self._memory = node, memory
        self._versions: list[_Version] = []
        self._batch_of: dict[int, tuple[_Version, _Replica, _Batch]] = {}
        self._loads = self._batches = 0

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds); return what is to be done, in order."""
        match event:
            case Offered(block, spec):
                out = self._offered(block, spec, now)
            case CallAsked(call, block, streams):
                out = self._asked(call, block, streams, now)
            case CallGivenUp(call):
                out = self._given_up(call, now)
            case ReplicaLoaded(name):
                out = self._loaded(name, now)
            case LoadFailed(name, why):
                out = self._load_failed(name, why, now)
            case ReaderAwaited(batch) | ReaderBack(batch):
                out = self._read(batch, isinstance(event, ReaderBack), now)
            case BatchEnded(batch, end, unread):
                out = self._batch_ended(batch, end, unread, now)
            case ReplicaUnloaded(name):
                out = self._unloaded(name)
            case MemoryShort():
                out = self._evict_one()
            case Tick():
                out = []
        return [*out, *self._advance(now)]

    def next_wake(self, now: float) -> float | None:
        """When a `Tick` is due, if nothing else happens before."""
        first = min((moment for version in self._versions for moment in self._moments(version, now)), default=None)
        return None if first == float("inf") else first

    def warm(self) -> frozenset[str]:
        """The capabilities of which a replica is loaded."""
        ready = (ReplicaState.IDLE, ReplicaState.BUSY)
        return frozenset(version.spec.capability for version, one in self._all() if one.state in ready)

    def snapshot(self) -> tuple[BlockReport, ...]:
        return tuple(
            BlockReport(
                block=version.spec.name,
                capability=version.spec.capability,
                version=version.spec.version,
                state=version.state,
                breaker=version.breaker,
                failures=version.failures,
                queue=len(version.queue),
                running=sum(len(batch.calls) for one in version.replicas.values() for batch in one.batches.values()),
                replicas=dict(Counter(replica.state.value for replica in version.replicas.values())),
            )
            for version in self._versions
        )

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        by_state = Counter((version.block, version.state) for version in self._versions)
        for version in self._versions:
            assert by_state[version.block, VersionState.CURRENT] == 1, f"{version.block} has one current version"
            assert by_state[version.block, VersionState.COMING] <= 1, version.block
            _validate_version(version)
        calls = [call.id for version in self._versions for call in version.queue]
        calls += [call.id for _, _, batch in self._batch_of.values() for call in batch.calls]
        assert len(calls) == len(set(calls)), "a call is in one place"
        held = {identity: batch for _, one in self._all() for identity, batch in one.batches.items()}
        assert held == {identity: batch for identity, (_, _, batch) in self._batch_of.items()}
        assert not self._memory or self._used() <= self._memory

    # Versions ---------------------------------------------------------------------------------------------------

    def _offered(self, block: str, spec: BlockSpec, now: float) -> list[Instruction]:
        current, coming = self._find(block, VersionState.CURRENT), self._find(block, VersionState.COMING)
        if coming is not None and coming.spec != spec:
            coming.state = VersionState.GOING
        if current is None:
            self._versions.append(_Version(block, spec, VersionState.CURRENT))
        elif current.spec != spec and (coming is None or coming.spec != spec):
            newer = _Version(block, spec, VersionState.COMING)
            self._versions.append(newer)
            if self._fits(newer) and not current.living():
                self._cut_over(newer, now)
        return []

    def _fits(self, version: _Version, beside: int = 0) -> bool:
        """Is there memory for one replica of it, with `beside` bytes in use?"""
        return not self._memory or beside + version.memory <= self._memory

    def _cut_over(self, newer: _Version, now: float) -> None:
        """From now on calls go to the newer version, also those that wait; those in flight end where they are."""
        current = self._find(newer.block, VersionState.CURRENT)
        assert current is not None
        current.state, newer.state = VersionState.GOING, VersionState.CURRENT
        for call in current.queue:
            if call.tries:
                call.tries = False
                current.sign(BreakerSign.UNTRIED, now)
        newer.queue, current.queue = current.queue, deque()

    # Calls ------------------------------------------------------------------------------------------------------

    def _asked(self, call: int, block: str, streams: bool, now: float) -> list[Instruction]:
        version = self._find(block, VersionState.CURRENT)
        refusal = self._refusal(version, block, streams, now)
        if refusal is not None:
            return [RefuseCall(call, refusal)]
        assert version is not None
        tries = version.breaker is Breaker.OPEN
        if tries:
            version.sign(BreakerSign.TRIED, now)
        version.queue.append(_Call(call, now, alone=tries or streams, tries=tries))
        return []

    def _refusal(self, version: _Version | None, block: str, streams: bool, now: float) -> Refusal | None:
        """In order: what is not here, what does not fit, what fails, what is full."""
        if version is None:
            return Refusal("block.not_offered", f"{block} is not offered here", f"node {self._node}")
        spec = version.spec
        resting = version.breaker is Breaker.OPEN and now < version.open_until
        checks = (
            (
                spec.contract.streams and not streams,
                "block.streams",
                f"{spec.name} gives its result in pieces, and is asked for all of it at once",
            ),
            (
                not self._fits(version),
                "block.no_memory",
                f"a replica of {spec.name} needs {spec.memory_mb} MiB, and this node has {self._memory // MIB} for all",
            ),
            (
                resting or version.breaker is Breaker.HALF_OPEN,
                "block.circuit_open",
                f"{spec.name} {spec.version} failed {counted(version.failures, 'time')} in a row",
            ),
            (
                len(version.queue) >= spec.max_queue,
                "block.queue_full",
                f"the queue of {spec.name} is full: {counted(len(version.queue), 'call')} here already",
            ),
        )
        for refused, code, text in checks:
            if refused:
                return Refusal(code, text, f"node {self._node}", ELSEWHERE)
        return None

    def _given_up(self, call: int, now: float) -> list[Instruction]:
        for version in self._versions:
            for waiting in version.queue:
                if waiting.id == call:
                    version.queue.remove(waiting)
                    if waiting.tries:
                        version.sign(BreakerSign.UNTRIED, now)
                    return []
        for _, replica, batch in self._batch_of.values():
            if call in {one.id for one in batch.calls}:
                batch.given_up.add(call)
                if len(batch.given_up) == len(batch.calls) and not batch.stopped:
                    batch.stopped = True
                    return [StopBatch(batch.id, replica.name, "nobody waits for it any more")]
        return []

    def _read(self, identity: int, back: bool, now: float) -> list[Instruction]:
        known = self._batch_of.get(identity)
        if known is not None:
            _, _, batch = known
            batch.until += now - batch.waits_since if batch.waits_since is not None else 0.0
            batch.waits_since = None if back else now
        return []

    def _batch_ended(self, identity: int, end: BatchEnd, unread: bool, now: float) -> list[Instruction]:
        known = self._batch_of.pop(identity, None)
        if known is None:
            return []
        version, replica, batch = known
        del replica.batches[identity]
        replica.used_at = now
        out: list[Instruction] = []
        if end in (BatchEnd.DIED, BatchEnd.UNTOUCHED):
            out += self._send_away(replica)
        if not replica.batches and replica.state in (ReplicaState.BUSY, ReplicaState.FINISHING):
            replica.go_on(ReplicaSign.EMPTIED)
            out += [Unload(replica.name)] if replica.state is ReplicaState.LEAVING else []
        wanted = [call for call in batch.calls if call.id not in batch.given_up]
        again = end is BatchEnd.UNTOUCHED or (end is not BatchEnd.DONE and len(batch.calls) > 1)
        self._judge(version, batch, end, bool(wanted) and not unread, now)
        if not again:
            return [*out, *(Answer(call.id, identity) for call in wanted)]
        # One of them is to blame at most, so each is tried by itself; before all others, since they have waited longest.
        current = self._find(version.block, VersionState.CURRENT)
        assert current is not None
        for call in reversed(wanted):
            call.alone = call.alone or end is not BatchEnd.UNTOUCHED
            call.tries = call.tries and current is version
            current.queue.appendleft(call)
        return out

    def _judge(self, version: _Version, batch: _Batch, end: BatchEnd, wanted: bool, now: float) -> None:
        """Tell the breaker what the batch says about the block."""
        tried = any(call.tries for call in batch.calls)
        if version.breaker is Breaker.HALF_OPEN and not tried:
            return
        if end is BatchEnd.DONE:
            version.sign(BreakerSign.GOOD, now)
        elif not wanted and end is not BatchEnd.UNTOUCHED:
            # It was stopped because nobody waited, or read on: that says nothing.
            if tried and version.breaker is Breaker.HALF_OPEN:
                version.sign(BreakerSign.UNTRIED, now)
        elif len(batch.calls) == 1 or end is BatchEnd.UNTOUCHED:
            version.sign(BreakerSign.FAULT, now)

    # Replicas ---------------------------------------------------------------------------------------------------

    def _loaded(self, name: str, now: float) -> list[Instruction]:
        known = self._replica(name)
        if known is None:
            return []
        version, replica = known
        replica.go_on(ReplicaSign.LOADED)
        replica.used_at = now
        if version.state is VersionState.COMING:
            self._cut_over(version, now)
        return []

    def _load_failed(self, name: str, why: str, now: float) -> list[Instruction]:
        known = self._replica(name)
        if known is None:
            return []
        version, replica = known
        replica.go_on(ReplicaSign.NOT_LOADED)
        del version.replicas[name]
        out: list[Instruction] = []
        if version.state is VersionState.COMING:
            # The older one goes on serving; this one is tried again after a rest.
            version.load_after = now + version.spec.rest_s
        elif not version.living():
            text = f"{version.spec.name} {version.spec.version} did not load: {why}"
            refusal = Refusal("block.not_loaded", text, f"node {self._node}", ELSEWHERE)
            out += [RefuseCall(call.id, refusal) for call in version.queue]
            version.queue.clear()
        version.sign(BreakerSign.FAULT, now)
        return out

    def _unloaded(self, name: str) -> list[Instruction]:
        known = self._replica(name)
        if known is not None:
            version, replica = known
            replica.go_on(ReplicaSign.UNLOADED)
            del version.replicas[name]
        return []

    def _send_away(self, replica: _Replica) -> list[Instruction]:
        """It gets nothing more, and goes when it has nothing any more."""
        if replica.state not in (ReplicaState.IDLE, ReplicaState.BUSY):
            return []
        replica.go_on(ReplicaSign.SENT_AWAY)
        return [Unload(replica.name)] if replica.state is ReplicaState.LEAVING else []

    def _evict_one(self, sparing: _Version | None = None) -> list[Instruction]:
        """The least recently used idle replica goes."""
        idle = [one for version, one in self._all() if one.state is ReplicaState.IDLE and version is not sparing]
        return self._send_away(min(idle, key=lambda one: (one.used_at, one.name))) if idle else []

    # What follows -----------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for version in list(self._versions):
            match version.state:
                case VersionState.GOING:
                    for replica in version.replicas.values():
                        out += self._send_away(replica)
                    if not version.replicas:
                        self._versions.remove(version)
                case VersionState.COMING:
                    out += self._bring(version, now)
                    if version.state is not VersionState.COMING:
                        # It took over at once: the older one goes, and what waited for that one waits for this one.
                        return [*out, *self._advance(now)]
                case VersionState.CURRENT:
                    out += self._refuse_what_rests(version)
                    out += self._run(version, now)
                    out += self._grow(version, now)
                    out += self._let_idle_go(version, now)
            out += self._stop_late(version, now)
        return out

    def _bring(self, version: _Version, now: float) -> list[Instruction]:
        """Load its first replica beside the older version's; where there is no room for both, the older one makes way."""
        if version.replicas or now < version.load_after or not self._fits(version):
            return []
        if not self._fits(version, self._used()):
            self._cut_over(version, now)
            return []
        return self._load(version, first=True, now=now)

    def _refuse_what_rests(self, version: _Version) -> list[Instruction]:
        """Those that came before the circuit opened need not wait for it to close."""
        if version.breaker is Breaker.CLOSED:
            return []
        text = f"{version.spec.name} {version.spec.version} failed {counted(version.failures, 'time')} in a row"
        refusal = Refusal("block.circuit_open", text, f"node {self._node}", ELSEWHERE)
        half_open = version.breaker is Breaker.HALF_OPEN
        refused = [call for call in version.queue if not (half_open and call.tries)]
        version.queue = deque(call for call in version.queue if half_open and call.tries)
        return [RefuseCall(call.id, refusal) for call in refused]

    def _run(self, version: _Version, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        while version.queue:
            replica = self._free(version)
            calls = _next_calls(version, now) if replica is not None else ()
            if replica is None or not calls:
                break
            for _ in calls:
                version.queue.popleft()
            self._batches += 1
            limit = version.spec.timeout_s or float("inf")
            batch = replica.batches[self._batches] = _Batch(self._batches, calls, now + limit)
            self._batch_of[batch.id] = (version, replica, batch)
            replica.go_on(ReplicaSign.GIVEN)
            replica.used_at = now
            out.append(RunBatch(batch.id, replica.name, tuple(call.id for call in calls)))
        return out

    def _free(self, version: _Version) -> _Replica | None:
        """The most recently used one that has room: the others may then become idle for good."""
        free = [
            replica
            for replica in version.replicas.values()
            if replica.state in (ReplicaState.IDLE, ReplicaState.BUSY)
            and len(replica.batches) < version.spec.concurrency
        ]
        return max(free, key=lambda one: (-len(one.batches), one.used_at, one.name), default=None)

    def _grow(self, version: _Version, now: float) -> list[Instruction]:
        """One more replica where calls wait that those there, and those on their way, will not take."""
        out: list[Instruction] = []
        while version.queue and self._free(version) is None:
            living = version.living()
            loading = sum(replica.state is ReplicaState.LOADING for replica in living)
            on_its_way = loading * version.spec.concurrency * version.spec.max_batch
            if len(living) >= version.spec.replicas or len(version.queue) <= on_its_way:
                break
            loaded = self._load(version, first=not living, now=now)
            out += loaded
            if not any(isinstance(one, Load) for one in loaded):
                break
        return out

    def _load(self, version: _Version, first: bool, now: float) -> list[Instruction]:
        """Load a replica if there is room. For the `first` of its version idle ones of others make room, one at a time."""
        if not self._fits(version, self._used()):
            leaving = any(one.state in (ReplicaState.LEAVING, ReplicaState.FINISHING) for _, one in self._all())
            return self._evict_one(sparing=version) if first and not leaving else []
        self._loads += 1
        name = f"{version.spec.name}@{version.spec.version}/{self._loads}"
        version.replicas[name] = _Replica(name, late_at=now + (version.spec.load_timeout_s or float("inf")))
        return [Load(name, version.spec)]

    def _let_idle_go(self, version: _Version, now: float) -> list[Instruction]:
        idle_s = version.spec.idle_s
        if not idle_s or version.queue:
            return []
        return [
            instruction
            for replica in version.replicas.values()
            if replica.state is ReplicaState.IDLE and now >= replica.used_at + idle_s
            for instruction in self._send_away(replica)
        ]

    def _stop_late(self, version: _Version, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for replica in version.replicas.values():
            if replica.state is ReplicaState.LOADING and now >= replica.late_at:
                replica.late_at = float("inf")
                why = f"it took longer than its load_timeout_s of {version.spec.load_timeout_s:g} s"
                out.append(StopLoad(replica.name, why))
            for batch in replica.batches.values():
                if now >= batch.late_at and not batch.stopped:
                    batch.stopped = True
                    why = f"it ran longer than its timeout_s of {version.spec.timeout_s:g} s"
                    out.append(StopBatch(batch.id, replica.name, why))
        return out

    def _moments(self, version: _Version, now: float) -> Iterator[float]:
        """What will have to be looked at, and when."""
        if version.queue and self._free(version) is not None:
            yield version.queue[0].asked_at + version.spec.max_wait_ms / 1000
        if version.state is VersionState.COMING and not version.replicas and now < version.load_after:
            yield version.load_after
        for replica in version.replicas.values():
            if replica.state is ReplicaState.IDLE and version.spec.idle_s:
                yield replica.used_at + version.spec.idle_s
            if replica.state is ReplicaState.LOADING:
                yield replica.late_at
            yield from (batch.late_at for batch in replica.batches.values() if not batch.stopped)

    # Looking things up ------------------------------------------------------------------------------------------

    def _find(self, block: str, state: VersionState) -> _Version | None:
        return next((one for one in self._versions if one.block == block and one.state is state), None)

    def _all(self) -> Iterable[tuple[_Version, _Replica]]:
        return [(version, replica) for version in self._versions for replica in version.replicas.values()]

    def _replica(self, name: str) -> tuple[_Version, _Replica] | None:
        return next(((version, one) for version, one in self._all() if one.name == name), None)

    def _used(self) -> int:
        return sum(version.memory for version, _ in self._all())


def _next_calls(version: _Version, now: float) -> tuple[_Call, ...]:
    """The next batch; empty while it is worth waiting for more of it."""
    spec, queue = version.spec, version.queue
    if queue[0].alone:
        return (queue[0],)
    calls: list[_Call] = []
    for call in queue:
        if call.alone or len(calls) == spec.max_batch:
            break
        calls.append(call)
    waited = now >= queue[0].asked_at + spec.max_wait_ms / 1000
    return tuple(calls) if waited or len(calls) == spec.max_batch else ()


def _validate_version(version: _Version) -> None:
    spec = version.spec
    assert not version.queue or version.state is VersionState.CURRENT, "calls wait for the current version only"
    assert len(version.living()) <= spec.replicas, version.block
    if version.breaker is Breaker.OPEN:
        assert not version.queue, "nobody waits for an open circuit"
    if version.breaker is Breaker.HALF_OPEN:
        trying = [call for call in version.queue if call.tries]
        trying += [
            call for one in version.replicas.values() for b in one.batches.values() for call in b.calls if call.tries
        ]
        assert len(trying) == 1, "one call tries"
        assert all(call.tries for call in version.queue)
    for replica in version.replicas.values():
        assert (replica.state in (ReplicaState.BUSY, ReplicaState.FINISHING)) == bool(replica.batches), replica.name
        assert len(replica.batches) <= spec.concurrency, replica.name
        assert replica.state is not ReplicaState.GONE
        for batch in replica.batches.values():
            assert 1 <= len(batch.calls) <= spec.max_batch
            assert len(batch.calls) == 1 or not any(call.alone for call in batch.calls), "who is alone shares no batch"
