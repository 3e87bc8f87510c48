"""The folder of results: each file is there whole or not at all, and one command at a time fills it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ioi_dagster.errors import BadInputError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write what shall be `path` when the block ends; when it fails, `path` stays as it was.

    Raises `OSError` naming `path`: a write that fails for want of room does not say of itself which file it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """No other command fills `folder` meanwhile. Made when it is not there. Raises `BadInputError` where another command does,
    and where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInputError(
            f"results cannot be written there: {error.strerror}", where=str(folder), todo="give another --out"
        ) from error
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInputError(
                "another run writes its results there", where=str(folder), todo="wait for it, or give another --out"
            ) from None
        except OSError:
            pass  # a file system without locks: then nobody is kept out
        yield
    finally:
        os.close(place)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits until no other run reads results in `folder` to write them anew; a process that dies lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".merge.lock"
    while True:
        file = path.open("w")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file.fileno(), path):
            break
        file.close()  # whoever held it has removed it: this is a lock on nothing
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _clear(path: Path) -> None:
    """Remove what a process that was killed had begun to write."""
    for begun in path.parent.glob(f".{path.name}.*"):
        writer = begun.name.rpartition(".")[2]
        if writer.isdigit() and not _alive(int(writer)):
            begun.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
