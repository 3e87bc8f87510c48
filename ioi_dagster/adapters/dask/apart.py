"""A step in a process of its own on its node: what ends that process ends this step and nothing else.

The child takes the work from its standard input, leaves the answer in a file and ends with the worker. A stop reaches it as
a signal, which also ends what a thread could not be woken from; what does not stop then is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import msgspec

from ioi_dagster.adapters.dask.forks import guard_forks
from ioi_dagster.adapters.dask.running import GRACE_S, ask_to_stop, code_begins, when_code_begins
from ioi_dagster.adapters.dask.stores import pass_on, tell_into
from ioi_dagster.compound.attempt import Attempt, attempting
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import RetryableError, StepCrashedError, StepStoppedError, StepTimeoutError

LOOK_S = 0.05
CHILD_GRACE_S = GRACE_S * 0.6
"""Less than the worker's own, or it would be ended with its child."""


class Said(msgspec.Struct):
    """The child's answer: what the step runner returned, or why this node is to blame."""

    result: bytes | None = None
    refusal: str = ""


class Given(msgspec.Struct):
    """What the child is to do."""

    attempt: Attempt
    work: bytes


def run_apart(step_runner: str, work: bytes, attempt: Attempt) -> bytes:
    """What `step_runner` ("module:function") returns for `work`, run in a fresh process.

    Raises `StepCrashedError` when the process ends without an answer, `RetryableError` where the runner did, and what was
    raised in this thread to stop it.
    """
    with tempfile.TemporaryDirectory(prefix="ioi-step-") as folder:
        answer = Path(folder) / "answer"
        (Path(folder) / "work").write_bytes(msgspec.msgpack.encode(Given(attempt, work)))
        with (Path(folder) / "work").open("rb") as given:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, step_runner, str(answer)],
                stdin=given,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))},
                start_new_session=True,
            )
        begun, stores = Path(folder) / "begun", Path(folder) / "stores"
        try:
            while child.poll() is None:
                if begun.exists():
                    begun.unlink()
                    code_begins()
                pass_on(stores)
                time.sleep(LOOK_S)
        except StepTimeoutError:
            if _stop(child, signal.SIGUSR1):
                raise
        except BaseException:
            _stop(child, signal.SIGTERM)
            raise
        finally:
            _kill(child)
            pass_on(stores)
        if child.returncode != 0 or not answer.exists():
            raise StepCrashedError(f"its process ended {ended_how(child.returncode)}")
        said = from_msgpack(answer.read_bytes(), Said)
        if said.result is None:
            raise RetryableError(said.refusal)
        return said.result


def ended_how(status: int) -> str:
    """A process's end in words, from the return code of `subprocess` (negative: a signal)."""
    if status >= 0:
        return f"with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    killer = " (the kernel's out-of-memory killer, or somebody)" if -status == signal.SIGKILL else ""
    return f"by {name}{killer}"


def _stop(child: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Ask the child to stop; True when it had to be killed."""
    child.send_signal(number)
    try:
        child.wait(CHILD_GRACE_S)
    except subprocess.TimeoutExpired:
        return True
    return child.returncode != 0


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The child, and what it started and left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def main(step_runner: str, answer: str) -> None:
    """In the child."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    guard_forks(set)
    for number, error in ((signal.SIGUSR1, StepTimeoutError), (signal.SIGTERM, StepStoppedError)):
        signal.signal(number, _raising(error))
    given = from_msgpack(sys.stdin.buffer.read(), Given)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    module, _, function = step_runner.partition(":")
    when_code_begins(Path(answer).with_name("begun").touch)
    tell_into(Path(answer).with_name("stores"))
    try:
        with attempting(given.attempt):
            said = Said(getattr(import_module(module), function)(given.work))
    except RetryableError as problem:
        said = Said(refusal=str(problem))
    path = Path(answer)
    path.with_suffix(".part").write_bytes(msgspec.msgpack.encode(said))
    path.with_suffix(".part").replace(path)


def _raising(error: type[BaseException]) -> Callable[[int, object], None]:
    def handle(_number: int, _frame: object) -> None:
        ask_to_stop(threading.get_ident(), error)
        raise error

    return handle


if __name__ == "__main__":
    main(*sys.argv[1:])
