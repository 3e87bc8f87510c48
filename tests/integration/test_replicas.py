"""Replicas in real threads and processes, without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ioi_dagster.adapters.dask.replica_process import BlockFailedError
from ioi_dagster.adapters.dask.replica_thread import ReplicaLostError, Stream
from ioi_dagster.adapters.dask.replicas import BlockRefusedError, ReplicaHost
from ioi_dagster.clock import SystemClock
from ioi_dagster.compound.pieces import Pieces
from ioi_dagster.errors import RetryableError
from ioi_dagster.framing import decode_payload
from ioi_dagster.model.block import MAX_PIECE, NOBODY, Begun, Made, Payload
from ioi_dagster.model.capability import Isolate
from tests.conftest import eventually
from tests.integration.block_project import LOUD, TELLING, notes

pytestmark = pytest.mark.integration
PROCESS = replace(LOUD, isolate=Isolate.PROCESS)
EACH = pytest.mark.parametrize("spec", [LOUD, PROCESS], ids=["thread", "process"])


_hosts: list[ReplicaHost] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("IOI_TEST_FOLDER", str(tmp_path))
    yield tmp_path
    while _hosts:
        blocks = _hosts.pop()
        while blocks.free_memory():
            continue


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def host(*specs, memory: int = 0) -> ReplicaHost:
    _hosts.append(ReplicaHost(specs, "n", SystemClock(), memory))
    return _hosts[-1]


def say(blocks: ReplicaHost, text: str, capability: str = "text.loud") -> dict:
    return blocks.invoke(capability, Payload({"text": text}, {"raw": b"\x00\xff"})).document


def states(blocks: ReplicaHost) -> list[tuple[str, str, dict[str, int]]]:
    return [(one["version"], one["state"], one["replicas"]) for one in blocks.report()]


@EACH
def test_a_replica_is_loaded_once_for_all_calls(spec):
    blocks = host(spec)
    answers = [say(blocks, text) for text in ("a", "b", "c")]
    assert [answer["text"] for answer in answers] == ["A", "B", "C"]
    assert len({answer["pid"] for answer in answers}) == 1
    assert (answers[0]["pid"] == os.getpid()) == (spec is LOUD)
    assert len(notes("load 1")) == 1
    assert blocks.warm() == {"text.loud"}
    assert blocks.free_memory()
    assert (len(notes("unload 1")), blocks.warm(), blocks.free_memory()) == (1, frozenset(), False)
    assert say(blocks, "d")["text"] == "D"


@EACH
def test_an_exception_of_the_block_reaches_its_caller_and_the_replica_lives_on(spec):
    blocks = host(spec)
    with pytest.raises((ValueError, BlockFailedError), match="this word is not known"):
        say(blocks, "raise")
    say(blocks, "a")
    assert len(notes("load 1")) == 1


@EACH
def test_a_block_that_does_not_load_is_refused_until_it_does(spec, folder):
    blocks = host(spec)
    (folder / "no weights").touch()
    with pytest.raises(BlockRefusedError, match="no weights") as refused:
        say(blocks, "a")
    assert refused.value.refusal.code == "block.not_loaded"
    (folder / "no weights").unlink()
    assert say(blocks, "a")["text"] == "A"


@pytest.mark.parametrize(
    ("word", "why"),
    [("crash", r"its process crashed \(SIGSEGV\)"), ("exit", "its process ended with status 3")],
)
def test_a_crash_is_the_loss_of_that_replica_and_the_next_call_gets_another(word, why):
    blocks = host(PROCESS)
    first = say(blocks, "a")["pid"]
    with pytest.raises(ReplicaLostError, match=f"the replica of loud 1 was lost during a call: {why}"):
        say(blocks, word)
    assert say(blocks, "b")["pid"] != first


def test_a_process_that_was_killed_between_two_calls_costs_neither():
    blocks = host(PROCESS)
    psutil.Process(say(blocks, "a")["pid"]).kill()
    assert say(blocks, "b")["text"] == "B"


@EACH
def test_a_call_that_takes_too_long_is_stopped(spec):
    blocks = host(replace(spec, timeout_s=0.5))
    say(blocks, "a")
    with pytest.raises(ReplicaLostError, match=r"it ran longer than its timeout_s of 0.5 s"):
        say(blocks, "for ever")
    assert say(blocks, "b")["text"] == "B"


def test_a_replica_that_takes_more_memory_than_it_was_given_is_ended():
    blocks = host(replace(PROCESS, memory_mb=300))
    with pytest.raises(ReplicaLostError, match="it took more than its memory_mb of 300 MiB"):
        say(blocks, "large")


@EACH
def test_calls_are_batched_and_a_bad_one_fails_by_itself(spec, callers):
    blocks = host(replace(spec, max_batch=4, max_wait_ms=20_000))
    said: list[Future] = [callers.submit(say, blocks, text) for text in ("a", "b", "raise", "c")]
    assert [said[at].result(60)["text"] for at in (0, 1, 3)] == ["A", "B", "C"]
    with pytest.raises((ValueError, BlockFailedError)):
        said[2].result(60)
    assert (len(notes("invoke 4")), len(notes("invoke 1"))) == (1, 4)
    said = [callers.submit(say, blocks, text) for text in "defg"]
    assert [one.result(60)["batch"] for one in said] == [4, 4, 4, 4]


def test_a_crash_in_a_batch_costs_the_others_nothing(callers):
    blocks = host(replace(PROCESS, max_batch=3, max_wait_ms=20_000))
    said = [callers.submit(say, blocks, text) for text in ("a", "crash", "b")]
    assert [said[at].result(60)["text"] for at in (0, 2)] == ["A", "B"]
    with pytest.raises(ReplicaLostError, match="SIGSEGV"):
        said[1].result(60)


def test_a_process_that_holds_its_interpreter_lock_does_not_hold_this_one():
    """This thread counts while the block holds its own lock."""
    blocks = host(PROCESS)
    say(blocks, "a")
    held = threading.Thread(target=say, args=(blocks, "hold"))
    held.start()
    eventually(lambda: notes("hold"))
    turns = 0
    while not notes("held"):
        turns += 1
        time.sleep(0.01)
    held.join()
    assert turns > 5


@EACH
def test_a_newer_version_takes_over_and_calls_in_flight_end_on_the_older(spec, folder, callers):
    blocks = host(spec)
    inflight = callers.submit(say, blocks, "wait")
    eventually(lambda: notes("waiting"))
    blocks.offer(replace(spec, version="2", entrypoint=spec.entrypoint.replace("Loud", "Louder")))
    during = callers.submit(say, blocks, "a")
    eventually(lambda: ("2", "current") in [(version, state) for version, state, _ in states(blocks)])
    assert during.result(60)["text"] == "A", "it is answered by one or the other"
    assert say(blocks, "b")["version"] == "2"
    assert ("1", "going", {"finishing": 1}) in states(blocks)
    (folder / "go").touch()
    assert inflight.result(60)["version"] == "1"
    eventually(lambda: states(blocks) == [("2", "current", {"idle": 1})], what="the older version's end")
    assert len(notes("unload 1")) == 1


def test_what_is_idle_makes_room_for_another_block():
    other = replace(LOUD, name="other", capability="text.other", entrypoint=LOUD.entrypoint + "er", memory_mb=60)
    blocks = host(replace(LOUD, memory_mb=60), other, memory=100 * 2**20)
    say(blocks, "a")
    assert say(blocks, "b", "text.other")["version"] == "2"
    assert blocks.warm() == {"text.other"}
    assert len(notes("unload 1")) == 1


def test_a_caller_that_is_stopped_stops_its_call(callers):
    """As when a step's time is up: what nobody waits for does not occupy the replica."""
    from ioi_dagster.adapters.dask.running import Running
    from ioi_dagster.errors import StepStoppedError

    blocks, steps = host(PROCESS), Running()
    say(blocks, "a")

    def step() -> str:
        try:
            with steps.step("s"):
                say(blocks, "for ever")
        except StepStoppedError:
            return "stopped"
        return "ended"

    stopped = callers.submit(step)
    eventually(lambda: len(notes("invoke 1")) == 2)
    steps.stop(["s"], StepStoppedError)
    assert stopped.result(60) == "stopped"
    assert say(blocks, "b")["text"] == "B"


def test_a_replica_ends_with_its_worker(folder):
    """Also where the worker is killed and can tell nobody."""
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert worker.stdout is not None
    replica = psutil.Process(int(worker.stdout.readline()))
    worker.kill()
    worker.wait()
    eventually(lambda: not replica.is_running() or replica.status() == psutil.STATUS_ZOMBIE, what="the replica's end")


_WORKER = """
import time
from tests.integration.test_replicas import PROCESS, host, say
print(say(host(PROCESS), "a")["pid"], flush=True)
time.sleep(60)
"""


TELLS = pytest.mark.parametrize("spec", [TELLING, replace(TELLING, isolate=Isolate.PROCESS)], ids=["thread", "process"])


def tell(blocks: ReplicaHost, count: int, size: int = 1, **more: object):
    return blocks.stream("text.telling", Payload({"text": "", "pieces": count, "size": size, **more}))


def go_on(blocks: ReplicaHost, after: int, made: Made) -> tuple[Begun | None, list[Payload]]:
    pieces = Pieces()
    with blocks.streaming("text.telling", Payload({"text": "", "pieces": 3, "size": 1}), Stream(pieces, after, made)):
        found = [decode_payload(frame) for frame in pieces]
    return pieces.begun, found


@TELLS
def test_pieces_come_in_order_and_a_hundred_thousand_are_no_trouble(spec):
    blocks = host(spec)
    assert [piece.document["number"] for piece in tell(blocks, 100_000)] == list(range(100_000))
    assert [(one.document["number"], one.parts["raw"]) for one in tell(blocks, 2)] == [(0, b"\0"), (1, b"\1")]
    assert (len(notes("load telling")), len(notes("stream 0"))) == (1, 2)


@TELLS
@pytest.mark.parametrize(
    ("made", "resumes", "first"),
    [
        (Made("telling", "1"), True, 1),
        (Made("telling", "0"), True, 0),
        (Made("other", "1"), True, 0),
        (NOBODY, True, 0),
        (Made("telling", "1"), False, 0),
    ],
)
def test_only_the_same_version_of_a_block_that_resumes_goes_on(spec, made, resumes, first):
    blocks = host(replace(spec, contract=replace(spec.contract, resumes=resumes)))
    begun, pieces = go_on(blocks, 1, made)
    assert begun == Begun(Made("telling", "1"), first)
    assert [piece.document["number"] for piece in pieces] == list(range(first, 3))


@TELLS
def test_a_version_that_takes_over_while_a_call_waits_goes_on_after_nothing_that_the_older_gave(spec, callers, folder):
    blocks = host(spec)
    waits = callers.submit(list, tell(blocks, 2, text="wait", at=1))
    eventually(lambda: notes("waiting"))
    asked = callers.submit(go_on, blocks, 1, Made("telling", "1"))
    blocks.offer(replace(spec, version="2"))
    eventually(lambda: ("2", "current") in [(version, state) for version, state, _ in states(blocks)])
    (folder / "go").touch()
    begun, pieces = asked.result(60)
    first = 0 if begun == Begun(Made("telling", "2"), 0) else 1
    assert [piece.document["number"] for piece in pieces] == list(range(first, 3))
    waits.result(60)


@TELLS
def test_a_piece_comes_before_the_next_is_made_and_a_slow_reader_slows_the_block_down(spec):
    blocks = host(spec)
    pieces = tell(blocks, 2, text="wait", at=1)
    assert next(pieces).document["number"] == 0
    (Path(os.environ["IOI_TEST_FOLDER"]) / "go").touch()
    assert [piece.document["number"] for piece in pieces] == [1]
    pieces = tell(blocks, 60, size=2**20, notes=True)
    for read, piece in enumerate(pieces, 1):
        assert len(piece.parts["raw"]) == 2**20
        assert read <= len(notes("piece")) <= read + 4, "it makes what there is room for, and no more"


@TELLS
def test_a_stream_that_is_closed_stops_its_block(spec):
    blocks = host(replace(spec, max_failures=1))
    pieces = tell(blocks, 2, text="wait", at=1)
    next(pieces)
    eventually(lambda: notes("waiting"), 60, "the block waits")
    pieces.close()
    eventually(lambda: len(notes("closed")) == 1 or spec.isolate is Isolate.PROCESS, 60, "the block is stopped")
    eventually(lambda: not any(one["running"] for one in blocks.report()), 60, "the call is over")
    assert [piece.document["number"] for piece in tell(blocks, 2)] == [0, 1]
    assert blocks.report()[-1]["breaker"] == "closed"


@TELLS
def test_a_reader_that_takes_his_time_costs_the_block_nothing(spec):
    blocks = host(replace(spec, max_failures=1, timeout_s=2.0))
    pieces = tell(blocks, 6, size=2**20)
    next(pieces)
    time.sleep(2.5)
    assert [piece.document["number"] for piece in pieces] == [1, 2, 3, 4, 5]
    assert (len(notes("load telling")), blocks.report()[-1]["failures"]) == (1, 0)


@TELLS
def test_a_reader_that_has_gone_without_a_word_opens_no_circuit(spec):
    blocks, pieces = host(replace(spec, max_failures=1)), Pieces(0.5)
    payload = Payload({"text": "", "pieces": 6, "size": 2**20})
    with blocks.streaming("text.telling", payload, Stream(pieces)):
        eventually(lambda: notes("stream 0"), 60, "the call has begun")
        eventually(lambda: not any(one["running"] for one in blocks.report()), 60, "the call is over")
    assert [piece.document["number"] for piece in tell(blocks, 2)] == [0, 1]
    assert len(notes("load telling")) <= 2


@TELLS
@pytest.mark.parametrize(
    ("harm", "error"),
    [
        ({"text": "raise", "at": 2}, "this word is not known"),
        ({"size": MAX_PIECE}, f"and may have {MAX_PIECE}"),
    ],
    ids=["raises", "too large"],
)
def test_a_stream_that_fails_has_given_what_it_had(spec, harm, error):
    blocks, found = host(spec), []
    with pytest.raises(Exception, match=error):
        found.extend(piece.document["number"] for piece in tell(blocks, 4, **harm))
    assert found == ([0, 1] if "at" in harm else [])
    assert [piece.document["number"] for piece in tell(blocks, 1)] == [0]


def test_a_process_that_dies_in_mid_stream_is_a_loss():
    blocks, found = host(replace(TELLING, isolate=Isolate.PROCESS)), []
    with pytest.raises(ReplicaLostError, match="its process ended with status 3"):
        found.extend(piece.document["number"] for piece in tell(blocks, 4, text="exit", at=3))
    assert found == [0, 1, 2]


def test_who_asks_for_all_of_a_stream_at_once_is_told_so_and_a_whole_result_is_one_piece():
    blocks = host(TELLING, LOUD)
    with pytest.raises(BlockRefusedError, match=r"block\.streams"):
        blocks.invoke("text.telling", Payload({}))
    (whole,) = blocks.stream("text.loud", Payload({"text": "a"}))
    assert whole.document["text"] == "A"


@EACH
def test_whole_and_streamed_calls_at_the_same_time_each_get_their_own(spec, callers):
    blocks = host(replace(spec, max_batch=4, max_wait_ms=300))
    say(blocks, "a")

    def streamed(text: str) -> list[str]:
        return [piece.document["text"] for piece in blocks.stream("text.loud", Payload({"text": text}))]

    said = [callers.submit(ask, text) for text in "bc" for ask in (lambda text: say(blocks, text)["text"], streamed)]
    assert [one.result(60) for one in said] == ["B", ["B"], "C", ["C"]]


def test_a_call_whose_answer_is_none_is_told_so_and_the_others_go_on(callers, folder):
    blocks = host(replace(LOUD, replicas=2))
    waits = callers.submit(say, blocks, "wait")
    eventually(lambda: notes("waiting"))
    with pytest.raises(RetryableError, match="the node's block governor failed"):
        say(blocks, "odd")
    assert say(blocks, "a")["text"] == "A"
    (folder / "go").touch()
    assert waits.result(60)["text"] == "WAIT"
