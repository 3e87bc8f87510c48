"""What a step forks is not the worker: it must not answer for it, nor keep its connections open.

A copy of the worker that holds its sockets would hide the worker's death from the scheduler, and one that comes back from the
step's code would go on as if it were the worker.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker

_here = 0
"""The process that is guarded; 0: none is."""
_ports: Callable[[], set[int]] = set


def guard_forks(ports: Callable[[], set[int]]) -> None:
    """From now on copies of this process have no open connection from or to one of `ports` (asked at each fork)."""
    global _ports, _here
    _ports, _here = ports, os.getpid()
    _register()


def end_if_forked() -> None:
    """In a copy of the worker: end. Called where a step's code comes back to ours."""
    if _here and os.getpid() != _here:
        os._exit(0)


def ports_of(worker: Worker) -> set[int]:
    """The ports by which the worker and its scheduler know each other."""
    addresses = (worker.address, worker.scheduler.address)
    return {int(address.rpartition(":")[2]) for address in addresses}


@cache
def _register() -> None:
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    """Point the worker's connections to nothing. Not closed: whoever closes them later would close a number in use."""
    ports = _ports()
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        try:
            number = int(name)
            if stat.S_ISSOCK(os.fstat(number).st_mode) and _ends(number) & ports:
                os.dup2(nothing, number)
        except (OSError, ValueError):
            continue
    os.close(nothing)


def _ends(number: int) -> set[int]:
    """The TCP ports at both ends of a socket."""
    with socket.socket(fileno=os.dup(number)) as one:
        if one.family not in (socket.AF_INET, socket.AF_INET6):
            return set()
        found = {one.getsockname()[1]}
        with contextlib.suppress(OSError):
            found.add(one.getpeername()[1])
        return found
