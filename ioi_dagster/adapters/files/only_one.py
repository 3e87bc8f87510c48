"""That there is one of a kind: a lock on a file, which the kernel gives back when its process is gone, however that ended."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from ioi_dagster.errors import BadInputError


def only_one(path: Path, what: str) -> IO[str]:
    """Hold the lock at `path` as long as the returned file is open. Raises `BadInputError` where another process holds it, and
    names that."""
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read(20).strip()
        lock.close()
        raise BadInputError(
            f"{what} runs already" + (f", as process {holder}" if holder else ""),
            where=str(path),
            todo="end that one first, or leave this one",
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
