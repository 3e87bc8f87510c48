"""`python -m ioi_dagster.host.warm_main FD`: a process that has imported what every run process imports, and forks one on demand.

It imports Dagster and this package, never code of users: that is read anew by each run process, as in a process that is started
the usual way. It has no connection and no database open. Where a file of what it has imported is not what it was, it ends, and
run processes are started the usual way until there is a new one.

It says when it is ready. Each request is one message on the socket `FD` that carries a socket of its own. On that the forked
process says who it is, reads its command, and becomes what `python -m dagster ARGUMENTS` would have been; whoever closes it
without a command has asked for nothing. When that process has ended, its exit code follows. The end of `FD` ends this process,
and none that it has forked.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import selectors
import socket
import sys
from collections.abc import Iterable

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.host.run_process import RunProcess

MODULES = (
    "dagster._cli",
    "dagster._cli.api",
    "dagster._core.execution.api",
    "ioi_dagster.adapters.dask.client",
    "ioi_dagster.adapters.sql.ledger",
    "ioi_dagster.host.executor",
    "ioi_dagster.host.launcher",
    "ioi_dagster.host.network",
    "ioi_dagster.host.resume",
    "ioi_dagster.host.storage",
    "ioi_dagster.policy.gate",
)


READY = b"r"


class Command(msgspec.Struct, frozen=True):
    """`arguments` of `python -m dagster`; what it prints goes to the end of the file `log`."""

    arguments: list[str]
    log: str


class Ended(msgspec.Struct, frozen=True):
    """Of a process: its exit code, or the negative number of the signal that ended it."""

    code: int


Stamps = dict[str, tuple[int, int]]


def stamps_of_modules() -> Stamps:
    """Of the file of every module that is loaded."""
    files = {str(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    return stamps(files)


def stamps(files: Iterable[str]) -> Stamps:
    """File → (modified in ns, size in bytes); zeros where there is none."""
    found: Stamps = {}
    for file in files:
        try:
            seen = os.stat(file)
        except OSError:
            found[file] = (0, 0)
        else:
            found[file] = (seen.st_mtime_ns, seen.st_size)
    return found


def serve(requests: socket.socket) -> socket.socket | None:
    """Fork on demand until nobody asks any more, then None. In a forked process: its own socket."""
    known = stamps_of_modules()
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    children: dict[int, tuple[int, socket.socket]] = {}
    # Nothing of what is there by now is ever garbage, and a collection would write to every page that the forks share.
    gc.collect()
    gc.freeze()
    try:
        requests.send(READY)
    except OSError:
        return None
    while True:
        for key, _ in selector.select():
            if key.fileobj is not requests:
                handle = key.fd
                pid, answers = children.pop(handle)
                selector.unregister(handle)
                os.close(handle)
                _, status = os.waitpid(pid, 0)
                _say(answers, Ended(os.waitstatus_to_exitcode(status)))
                answers.close()
                continue
            message, given, _, _ = socket.recv_fds(requests, 1, 1)
            if not message or stamps(known) != known:
                return None
            its = socket.socket(fileno=given[0])
            pid = os.fork()
            if pid == 0:
                selector.close()
                requests.close()
                for handle, (_, answers) in children.items():
                    os.close(handle)
                    answers.close()
                return its
            handle = os.pidfd_open(pid)
            children[handle] = (pid, its)
            selector.register(handle, selectors.EVENT_READ)


def become(its: socket.socket) -> None:
    """The run process that `its` other end asks for; returns where it asks for none."""
    os.setsid()
    _say(its, RunProcess.of(os.getpid()))
    with its, its.makefile("rb") as lines:
        line = lines.readline()
    if not line.endswith(b"\n"):
        return
    command = from_json(line, Command)
    log = os.open(command.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    _draw_anew()
    sys.argv = ["dagster", *command.arguments]
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)


def _draw_anew() -> None:
    """Python seeds its own generator in a fork, NumPy does not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _say(to: socket.socket, what: msgspec.Struct | RunProcess) -> None:
    """Nobody may be listening any more."""
    try:
        to.sendall(msgspec.json.encode(what) + b"\n")
    except OSError:
        return


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in MODULES:
        importlib.import_module(name)
    its = serve(requests)
    if its is not None:
        become(its)


if __name__ == "__main__":
    main()
