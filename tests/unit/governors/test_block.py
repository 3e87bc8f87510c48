"""The block governor, told as stories: events in, instructions out, no replica anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

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

SPEC = BlockSpec("echo", "1", "echo", "m:C", Contract("echo", "echo"))


class Story:
    """Feeds a governor; a replica loads and unloads at once unless `slow`."""

    def __init__(self, memory: int = 0, slow: bool = False) -> None:
        self.governor = BlockGovernor("n", memory)
        self.now = 0.0
        self.slow = slow

    def tell(self, event, later: float = 0.0) -> list:
        self.now += later
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        if not self.slow:
            for instruction in list(out):
                match instruction:
                    case Load(name, _):
                        out += self.tell(ReplicaLoaded(name))
                    case Unload(name):
                        out += self.tell(ReplicaUnloaded(name))
        return out

    def offer(self, block: str = "echo", **changes) -> list:
        spec = replace(SPEC, name=block, capability=block, **changes)
        return self.tell(Offered(block, spec))

    def ask(self, *calls: int, block: str = "echo") -> list:
        return [instruction for call in calls for instruction in self.tell(CallAsked(call, block))]

    def state(self) -> list:
        return [(one.block, one.version, one.state, one.replicas) for one in self.governor.snapshot()]


def code(out: list) -> dict[int, str]:
    return {one.call: one.refusal.code for one in out if isinstance(one, RefuseCall)}


def ran(out: list) -> list[tuple[int, ...]]:
    return [one.calls for one in out if isinstance(one, RunBatch)]


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_replica_is_loaded_once_and_takes_one_call_after_the_other(story):
    loaded = story.offer()
    assert loaded == []
    assert story.ask(1, 2) == [
        Load("echo@1/1", replace(SPEC, name="echo")),
        RunBatch(1, "echo@1/1", (1,)),
    ]
    assert story.tell(BatchEnded(1, BatchEnd.DONE)) == [Answer(1, 1), RunBatch(2, "echo@1/1", (2,))]
    assert story.tell(BatchEnded(2, BatchEnd.DONE)) == [Answer(2, 2)]
    assert story.state() == [("echo", "1", "current", {"idle": 1})]


def test_a_further_replica_is_loaded_where_calls_wait_up_to_the_bound(story):
    story.offer(replicas=2)
    out = story.ask(1, 2, 3)
    assert [one.replica for one in out if isinstance(one, Load)] == ["echo@1/1", "echo@1/2"]
    assert ran(out) == [(1,), (2,)]


def test_calls_that_one_replica_on_its_way_will_take_load_no_other():
    story = Story(slow=True)
    story.offer(replicas=3, max_batch=4)
    assert [type(one) for one in story.ask(1, 2, 3, 4)] == [Load]
    assert [type(one) for one in story.ask(5)] == [Load]


def test_a_full_queue_is_a_refusal(story):
    story.offer(max_queue=2)
    assert code(story.ask(1, 2, 3, 4)) == {4: "block.queue_full"}
    assert code(story.ask(5, block="other")) == {5: "block.not_offered"}


def test_calls_are_batched_within_the_latency_bound(story):
    story.offer(max_batch=3, max_wait_ms=100)
    assert ran(story.ask(1, 2)) == []
    assert story.governor.next_wake(story.now) == pytest.approx(0.1)
    assert ran(story.tell(Tick(), later=0.05)) == []
    assert ran(story.ask(3)) == [(1, 2, 3)]
    story.tell(BatchEnded(1, BatchEnd.DONE))
    assert ran(story.ask(4)) == []
    assert ran(story.tell(Tick(), later=0.1)) == [(4,)]


def test_a_streamed_call_shares_no_batch_and_keeps_its_turn(story):
    story.offer(max_batch=4)
    story.ask(1, 2, 3)
    story.tell(CallAsked(4, "echo", streams=True))
    story.ask(5, 6)
    batches = [ran(story.tell(BatchEnded(batch, BatchEnd.DONE))) for batch in (1, 2, 3)]
    assert batches == [[(2, 3)], [(4,)], [(5, 6)]]


def test_without_a_wait_a_batch_is_what_waits_when_a_replica_gets_free(story):
    story.offer(max_batch=8)
    assert ran(story.ask(1, 2, 3)) == [(1,)]
    assert ran(story.tell(BatchEnded(1, BatchEnd.DONE))) == [(2, 3)]


@pytest.mark.parametrize("end", [BatchEnd.FAILED, BatchEnd.DIED])
def test_a_batch_that_fails_is_tried_call_by_call_so_that_innocents_are_answered(story, end):
    story.offer(max_batch=3, max_wait_ms=100)
    story.ask(1, 2, 3)
    assert ran(story.tell(BatchEnded(1, end))) == [(1,)]
    assert story.ask(4, 5) == [], "they come after those that have waited longest"
    out = story.tell(BatchEnded(2, BatchEnd.DONE))
    assert out[0] == Answer(1, 2)
    assert ran(out) == [(2,)]
    out = story.tell(BatchEnded(3, end))
    assert Answer(2, 3) in out, "it gets the error of its own"
    assert ran(out) == [(3,)]


def test_a_call_that_had_not_begun_is_given_to_another_replica(story):
    story.offer()
    story.ask(1)
    assert story.tell(BatchEnded(1, BatchEnd.UNTOUCHED)) == [
        Unload("echo@1/1"),
        Load("echo@1/2", SPEC),
        RunBatch(2, "echo@1/2", (1,)),
    ]


def test_the_circuit_opens_rests_and_lets_one_call_try(story):
    story.offer(max_failures=2, rest_s=20)
    for batch in (1, 2):
        story.ask(batch)
        story.tell(BatchEnded(batch, BatchEnd.FAILED))
    assert code(story.ask(10)) == {10: "block.circuit_open"}
    story.now += 20
    assert ran(story.ask(11)) == [(11,)]
    assert code(story.ask(12)) == {12: "block.circuit_open"}, "one tries, the others do not"
    story.tell(BatchEnded(3, BatchEnd.FAILED))
    assert code(story.ask(13)) == {13: "block.circuit_open"}
    story.now += 20
    assert ran(story.ask(14)) == [(14,)]
    story.tell(BatchEnded(4, BatchEnd.DONE))
    assert ran(story.ask(15)) == [(15,)]
    assert [one.breaker for one in story.governor.snapshot()] == ["closed"]


def test_a_try_that_is_given_up_leaves_it_to_the_next(story):
    story.offer(max_failures=1)
    story.ask(1)
    story.tell(BatchEnded(1, BatchEnd.FAILED))
    story.now += 20
    story.ask(2)
    assert story.tell(CallGivenUp(2)) == [StopBatch(2, "echo@1/1", "nobody waits for it any more")]
    story.tell(BatchEnded(2, BatchEnd.DIED))
    assert ran(story.ask(3)) == [(3,)]


def test_those_that_wait_when_the_circuit_opens_are_refused_at_once(story):
    story.offer(max_failures=1)
    story.ask(1, 2, 3)
    out = story.tell(BatchEnded(1, BatchEnd.FAILED))
    assert out[0] == Answer(1, 1)
    assert code(out) == {2: "block.circuit_open", 3: "block.circuit_open"}


def test_a_replica_that_does_not_load_refuses_its_calls_and_counts_as_a_failure():
    story = Story(slow=True)
    story.offer(max_failures=2)
    for number in (1, 2):
        story.ask(number)
        assert code(story.tell(LoadFailed(f"echo@1/{number}", "no weights"))) == {number: "block.not_loaded"}
    assert code(story.ask(3)) == {3: "block.circuit_open"}


def test_the_least_recently_used_idle_replica_goes_first(story):
    for name in "abc":
        story.offer(name)
        story.now += 1
        story.ask(ord(name), block=name)
    for batch, _ in enumerate("bc", 2):
        story.tell(BatchEnded(batch, BatchEnd.DONE), later=1)
    assert story.tell(MemoryShort()) == [Unload("b@1/2")]
    assert story.governor.warm() == {"a", "c"}
    assert story.tell(MemoryShort()) == [Unload("c@1/3")]
    assert story.tell(MemoryShort()) == [], "a is at work"


def test_a_replica_that_nobody_calls_is_unloaded_after_a_while(story):
    story.offer(idle_s=60)
    story.ask(1)
    story.tell(BatchEnded(1, BatchEnd.DONE), later=5)
    assert story.governor.next_wake(story.now) == 65
    assert story.tell(Tick(), later=59) == []
    assert story.tell(Tick(), later=1) == [Unload("echo@1/1")]


def test_the_memory_of_the_node_bounds_what_is_loaded_and_idle_replicas_make_room():
    story = Story(memory=1_000 * MIB)
    story.offer("a", memory_mb=600)
    story.offer("b", memory_mb=600)
    story.offer("c", memory_mb=1_001)
    assert code(story.ask(1, block="c")) == {1: "block.no_memory"}
    story.ask(2, block="a")
    assert story.ask(3, block="b") == [], "a is at work, so b waits"
    out = story.tell(BatchEnded(1, BatchEnd.DONE))
    assert [type(one) for one in out] == [Answer, Unload, Load, RunBatch]
    assert story.governor.warm() == {"b"}


def test_a_new_version_takes_over_when_it_has_loaded_and_no_call_is_dropped():
    story = Story(slow=True)
    story.offer()
    story.ask(1)
    story.tell(ReplicaLoaded("echo@1/1"))
    (load,) = story.offer(version="2")
    assert story.ask(2) == [], "until then the older one is called"
    out = story.tell(ReplicaLoaded(load.replica))
    assert out == [RunBatch(2, "echo@2/2", (2,))]
    assert story.state() == [
        ("echo", "1", "going", {"finishing": 1}),
        ("echo", "2", "current", {"busy": 1}),
    ]
    assert story.tell(BatchEnded(1, BatchEnd.DONE)) == [Unload("echo@1/1"), Answer(1, 1)]
    story.tell(ReplicaUnloaded("echo@1/1"))
    assert story.state() == [("echo", "2", "current", {"busy": 1})]


def test_a_new_version_that_does_not_load_leaves_the_older_one_and_is_tried_again():
    story = Story(slow=True)
    story.offer()
    story.ask(1)
    story.tell(ReplicaLoaded("echo@1/1"))
    story.tell(BatchEnded(1, BatchEnd.DONE))
    (load,) = story.offer(version="2", rest_s=20)
    assert story.tell(LoadFailed(load.replica, "no weights")) == []
    assert ran(story.ask(2)) == [(2,)]
    assert story.governor.next_wake(story.now) == 20
    assert [type(one) for one in story.tell(Tick(), later=20)] == [Load]


def test_where_there_is_no_room_for_both_the_older_version_makes_way_and_calls_wait():
    story = Story(memory=1_000 * MIB)
    story.offer(memory_mb=600)
    story.ask(1)
    story.offer(version="2", memory_mb=700)
    assert story.ask(2) == []
    out = story.tell(BatchEnded(1, BatchEnd.DONE))
    assert [type(one) for one in out] == [Unload, Answer, Load, RunBatch]
    assert ran(out) == [(2,)]


def test_a_call_and_a_load_that_take_too_long_are_broken_off():
    story = Story(slow=True)
    story.offer(timeout_s=2, load_timeout_s=9)
    story.ask(1)
    assert story.tell(Tick(), later=9) == [StopLoad("echo@1/1", "it took longer than its load_timeout_s of 9 s")]
    assert story.tell(Tick(), later=9) == []
    story.tell(ReplicaLoaded("echo@1/1"))
    assert story.governor.next_wake(story.now) == 20
    assert story.tell(Tick(), later=2) == [StopBatch(1, "echo@1/1", "it ran longer than its timeout_s of 2 s")]
    out = story.tell(BatchEnded(1, BatchEnd.DIED))
    assert out == [Unload("echo@1/1"), Answer(1, 1)]


BATCHED = {"memory_mb": 700, "max_batch": 4, "max_wait_ms": 1_000.0}


def test_what_a_streamed_call_waits_for_its_reader_counts_for_no_limit(story):
    story.offer(timeout_s=10.0)
    assert ran(story.tell(CallAsked(1, "echo", streams=True))) == [(1,)]
    story.tell(ReaderAwaited(1), later=4.0)
    assert story.governor.next_wake(story.now) is None
    assert story.tell(Tick(), later=1_000.0) == []
    story.tell(ReaderBack(1))
    assert story.governor.next_wake(story.now) == story.now + 6.0
    late = "it ran longer than its timeout_s of 10 s"
    assert story.tell(Tick(), later=6.0) == [StopBatch(1, "echo@1/1", late)]


@pytest.mark.parametrize(("end", "states"), [(BatchEnd.FAILED, {"idle": 1}), (BatchEnd.DIED, {})])
def test_what_ends_since_nobody_read_on_says_nothing_about_its_block(story, end, states):
    story.offer(max_failures=1, rest_s=10.0)
    story.tell(CallAsked(1, "echo", streams=True))
    assert Answer(1, 1) in story.tell(BatchEnded(1, end, unread=True))
    (report,) = story.governor.snapshot()
    assert (report.breaker, report.failures, report.replicas) == ("closed", 0, states)


def test_a_try_that_nobody_reads_on_leaves_it_to_the_next(story):
    story.offer(max_failures=1, rest_s=10.0)
    story.ask(1)
    story.tell(BatchEnded(1, BatchEnd.FAILED))
    story.tell(Tick(), later=10.0)
    story.tell(CallAsked(2, "echo", streams=True))
    story.tell(BatchEnded(2, BatchEnd.FAILED, unread=True))
    assert ran(story.ask(3)) == [(3,)]


def test_a_call_that_waits_for_others_is_run_by_a_newer_version_that_took_the_memory_at_once() -> None:
    story = Story(memory=1_000 * MIB)
    story.offer(**BATCHED)
    story.ask(1)
    story.tell(Tick(), 1.0)
    story.tell(BatchEnded(1, BatchEnd.DONE))
    assert story.ask(2) == []
    out = story.offer(**BATCHED, version="2")
    assert [type(one) for one in out] == [Unload, Load]
    assert story.governor.next_wake(story.now) == story.now + 1.0
    assert RunBatch(2, "echo@2/2", (2,)) in story.tell(Tick(), 1.0)


def test_calls_are_refused_at_once_by_a_newer_version_that_could_not_load_and_took_over_all_the_same() -> None:
    story = Story(memory=1_000 * MIB, slow=True)
    story.offer(memory_mb=400)
    story.ask(1)
    story.tell(ReplicaLoaded("echo@1/1"))
    story.offer(memory_mb=500, version="2", max_failures=1, rest_s=20.0)
    story.tell(LoadFailed("echo@2/2", "no weights"))
    story.offer("other", memory_mb=300)
    story.ask(2, block="other")
    story.ask(3)
    refused = story.tell(Tick(), 20.0)
    assert [one.refusal.code for one in refused if isinstance(one, RefuseCall)] == ["block.circuit_open"]
