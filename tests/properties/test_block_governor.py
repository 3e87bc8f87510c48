"""Whatever happens to the blocks of a node in whatever order, each call is answered once and its rules hold."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ioi_dagster.governors.block import MIB, BlockGovernor
from ioi_dagster.governors.block_messages import (
    Answer,
    BatchEnd,
    BatchEnded,
    CallAsked,
    CallGivenUp,
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
from ioi_dagster.model.capability import BlockSpec, Contract

MEMORY = 1_000 * MIB
NAMES = st.sampled_from(["ocr", "trim"])
SPECS = st.builds(
    BlockSpec,
    name=st.just("b"),
    version=st.sampled_from(["1", "2"]),
    capability=st.just("c"),
    entrypoint=st.just("m:C"),
    contract=st.just(Contract("c", "c")),
    memory_mb=st.sampled_from([0, 300, 700, 1_100]),
    timeout_s=st.sampled_from([0.0, 5.0]),
    load_timeout_s=st.sampled_from([0.0, 5.0]),
    max_batch=st.integers(1, 3),
    max_wait_ms=st.sampled_from([0.0, 2_000.0]),
    replicas=st.integers(1, 2),
    concurrency=st.integers(1, 2),
    max_queue=st.integers(1, 4),
    idle_s=st.sampled_from([0.0, 4.0]),
    max_failures=st.integers(1, 3),
    rest_s=st.sampled_from([0.0, 6.0]),
)


class Node(RuleBasedStateMachine):
    """The driver's part: it owes the governor an end of whatever was begun, and the callers one answer each."""

    def __init__(self) -> None:
        super().__init__()
        self.governor = BlockGovernor("n", MEMORY)
        self.now = 0.0
        self.calls = 0
        self.waiting: set[int] = set()
        self.streamed: set[int] = set()
        self.loading: list[str] = []
        self.leaving: list[str] = []
        self.running: dict[int, RunBatch] = {}
        self.begun: dict[int, int] = {}
        self.stopped: set[int] = set()
        self.unread: set[int] = set()
        self.specs: dict[str, BlockSpec] = {}

    def tell(self, event) -> list:
        out = self.governor.handle(event, self.now)
        for instruction in out:
            match instruction:
                case Load(name, spec):
                    self.loading.append(name)
                    self.specs[name] = spec
                case Unload(name):
                    assert not any(batch.replica == name for batch in self.running.values()), "unloaded while it runs"
                    self.leaving.append(name)
                case RunBatch(batch, _, calls):
                    assert self.waiting.issuperset(calls), "nobody waits for it"
                    assert len(calls) == 1 or self.streamed.isdisjoint(calls), "a streamed call shares no batch"
                    self.running[batch] = instruction
                case StopBatch(batch, _, why):
                    assert batch in self.running and batch not in self.stopped
                    assert batch not in self.unread or why == "nobody waits for it any more"
                    self.stopped.add(batch)
                case StopLoad(name, _):
                    assert name in self.loading
                case Answer(call, _) | RefuseCall(call, _):
                    assert call in self.waiting, "answered twice, or after it was given up"
                    self.waiting.remove(call)
        return out

    @rule(name=NAMES, spec=SPECS)
    def offer(self, name, spec):
        self.tell(Offered(name, spec))

    @rule(name=NAMES, streams=st.lists(st.booleans(), min_size=1, max_size=5))
    def ask(self, name, streams):
        for its in streams:
            self.calls += 1
            self.waiting.add(self.calls)
            if its:
                self.streamed.add(self.calls)
            self.tell(CallAsked(self.calls, name, its))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        call = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove(call)
        self.tell(CallGivenUp(call))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), well=st.booleans())
    def load(self, data, well):
        name = data.draw(st.sampled_from(self.loading))
        self.loading.remove(name)
        self.tell(ReplicaLoaded(name) if well else LoadFailed(name, "no weights"))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def await_reader(self, data):
        batch = data.draw(st.sampled_from(sorted(self.running)))
        self.unread ^= {batch}
        self.tell(ReaderAwaited(batch) if batch in self.unread else ReaderBack(batch))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), end=st.sampled_from(BatchEnd), unread=st.booleans())
    def end_batch(self, data, end, unread):
        batch = data.draw(st.sampled_from(sorted(self.running)))
        ended = self.running.pop(batch)
        self.tell(BatchEnded(batch, end, unread and end in (BatchEnd.FAILED, BatchEnd.DIED)))
        assert end is not BatchEnd.DONE or not self.waiting & set(ended.calls), "what is done is answered"

    @precondition(lambda self: self.leaving)
    @rule()
    def unload(self):
        self.tell(ReplicaUnloaded(self.leaving.pop(0)))

    @rule()
    def memory_is_short(self):
        self.tell(MemoryShort())

    @rule(later=st.floats(0, 8))
    def wait(self, later):
        self.now += later
        self.tell(Tick())
        due = self.governor.next_wake(self.now)
        assert due is None or due > self.now, "what was due has been done"

    @invariant()
    def holds(self):
        self.governor.validate()

    def teardown(self):
        """If all goes well from now on, every call is answered and what idles is all that is left."""
        for _ in range(400):
            while self.leaving:
                self.tell(ReplicaUnloaded(self.leaving.pop(0)))
            while self.loading:
                self.tell(ReplicaLoaded(self.loading.pop(0)))
            for batch in list(self.running):
                del self.running[batch]
                self.tell(BatchEnded(batch, BatchEnd.DONE))
            self.now += 10.0
            self.tell(Tick())
            if not (self.waiting or self.running or self.loading or self.leaving):
                break
        assert not self.waiting, self.governor.snapshot()
        self.governor.validate()


Node.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestNode = Node.TestCase


def test_a_spec_that_makes_no_sense_says_what_is_wrong():
    import pytest

    from ioi_dagster.errors import BadInputError

    good = BlockSpec("b", "1", "c", "m:C", Contract("c", "c"))
    for change, text in (
        ({"entrypoint": "m.C"}, "block 'b': entrypoint is 'm.C' — write it as module:Class"),
        ({"max_batch": 0}, "block 'b': max_batch is 0, and must be a number from 1 — correct it"),
        ({"rest_s": float("nan")}, "block 'b': rest_s is nan, and must be a number from 0 — correct it"),
        ({"isolate": "jail"}, "block 'b': isolate is 'jail' — one of thread, process"),
        (
            {"isolate": "process", "concurrency": 2},
            "block 'b': a replica in a process of its own takes one batch at a time, concurrency is 2 — "
            "set replicas instead",
        ),
        (
            {"contract": Contract("c", "c", effect="at_most_once"), "max_batch": 2},
            "block 'b': a batch that fails is tried again call by call, and this block may be called once only — "
            "set max_batch to 1",
        ),
    ):
        with pytest.raises(BadInputError) as problem:
            replace(good, **change)
        assert str(problem.value) == text
