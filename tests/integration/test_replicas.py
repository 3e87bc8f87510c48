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
from ioi_dagster.adapters.dask.replica_thread import ReplicaLostError
from ioi_dagster.adapters.dask.replicas import BlockRefusedError, ReplicaHost
from ioi_dagster.clock import SystemClock
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import Isolate
from tests.conftest import eventually
from tests.integration.block_project import LOUD, notes

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
