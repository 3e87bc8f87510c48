"""Dask's statistical profiler, which can freeze a worker for good under Python before 3.11.9.

It asks `sys._current_frames()` every few milliseconds. Until 3.11.9 that call could collect garbage while it held the
interpreter's lock on its threads; with a thread starting, ending or being stopped at that moment neither goes on
(https://github.com/python/cpython/issues/106883). The process keeps its connections and never answers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker

WITHOUT_PROFILE = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
"""For the environment of the schedulers and workers that we start: nobody reads their profiles, and each costs some of a core."""

QUIET = {
    **WITHOUT_PROFILE,
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__DISK": "False",
}
"""The same, for what each of them does while it has nothing to do: fifty times a second it looks how late it is, and twice how
busy the host's disks are. With this an idle one takes a quarter of the processor that it takes otherwise."""


def can_freeze(version: tuple[int, ...] = sys.version_info[:3]) -> bool:
    """Whether this Python is one that the profiler can freeze."""
    return version < (3, 11, 9)


def stop_profile(worker: Worker) -> None:
    """End the profiling of a worker that somebody else started or starts. (Under 3.11 Dask itself starts no thread that watches
    its event loops, for the same reason.)"""
    for name in ("profile", "profile-cycle"):
        # Out of the list, or a worker that is still starting would begin it later.
        callback = worker.periodic_callbacks.pop(name, None)
        if callback is not None:
            callback.stop()
