"""Memory of workers: a step that takes too much is stopped and named before the machine's own killer takes something else.

Twice, as a step is stopped for time: in the worker by an exception, which user code sees where it asks for more; and from
outside, by the end of the worker's process, for code that does not come back to the interpreter or takes it all at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from ioi_dagster.adapters.dask.running import Running
from ioi_dagster.errors import BadInputError, StepMemoryError

LOOK_S = 0.1
HARD = 1.2
"""From outside a worker is ended at so many times its limit."""
RESERVE = 0.04
"""Of the machine's memory: with less than this left, the largest worker is ended, if it holds more than an even share."""


def bytes_of(text: str) -> int:
    """Bytes of a size as "4 GiB"; raises `BadInputError`."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise BadInputError(f"{text!r} is no size of memory", todo="write it as '4 GiB'") from error


def watch_memory(running: Running, limit: int, unload: Callable[[], bool] = lambda: False) -> None:
    """In a worker: from now on the one step that runs when the process holds more than `limit` bytes is stopped, once there is
    nothing more to `unload`: that lets go of something which nobody uses, and says whether there was any."""
    threading.Thread(target=_watch, args=(running, limit, unload), name="ioi-memory", daemon=True).start()


def _watch(running: Running, limit: int, unload: Callable[[], bool]) -> None:
    process, stopped, seen, before = psutil.Process(), "", "", 0
    pause = threading.Event()
    while not pause.wait(LOOK_S):
        key, held = running.only() or "", process.memory_info().rss
        if key != seen:
            if held > limit / 2:
                gc.collect()
                trim()
                held = process.memory_info().rss
            seen, before = key, held
        while held > limit and unload():
            trim()
            held = process.memory_info().rss
        # What an earlier step left behind is not laid to this one.
        if key and key != stopped and held > max(limit, before + limit // 4):
            stopped = key
            running.stop([key], StepMemoryError)


def trim() -> None:
    """Give freed pages back (glibc's malloc_trim(3)); elsewhere there is nothing to call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def too_large(workers: Mapping[str, int], limit: int) -> dict[str, str]:
    """Of `workers` (name → process id) those that must end now, and why. `limit`: bytes each, 0 for none but the machine's."""
    held = {name: rss for name, pid in workers.items() if (rss := _resident(pid))}
    over = {
        name: f"it held {_gib(rss)}, and its limit is {_gib(limit)}"
        for name, rss in held.items()
        if limit and rss > HARD * limit
    }
    if over or not held:
        return over
    name, rss = max(held.items(), key=lambda item: item[1])
    room = min(psutil.virtual_memory().available, MEMORY_LIMIT - _cgroup_held(sum(held.values())))
    if room > RESERVE * MEMORY_LIMIT or rss < MEMORY_LIMIT / (len(workers) + 1):
        return {}
    return {name: f"it held {_gib(rss)}, and {_gib(room)} of the machine's {_gib(MEMORY_LIMIT)} were left"}


def _resident(pid: int) -> int:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss
    return 0


def _cgroup_held(otherwise: int) -> int:
    """What the container holds, without the cache that it may drop (cgroup v2's memory.current and memory.stat)."""
    folder = Path("/sys/fs/cgroup")
    try:
        current = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, current - int(stat.get("file", 0)))
    except (OSError, ValueError):
        return otherwise


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
