"""What a step prints, into files of its own, on a node that runs steps in threads and one after the other.

Dagster's own capture starts two processes for each step (a `tail` and what watches it), which costs more than most steps.
Here the descriptors 1 and 2 are pointed at the step's files while it runs. They belong to the process, so where two steps
run at once the second is captured by thread instead: what its own thread prints with Python, not what C code writes.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

_descriptors = threading.Lock()


@contextmanager
def captured(out: str, err: str) -> Iterator[None]:
    """Append what this step writes to stdout and stderr to the files `out` and `err`; makes their folders."""
    with ExitStack() as stack:
        files = []
        for path in (out, err):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            files.append(stack.enter_context(open(path, "a", buffering=1, encoding="utf-8")))
        if _descriptors.acquire(blocking=False):
            stack.callback(_descriptors.release)
            for descriptor, stream, file in ((1, sys.stdout, files[0]), (2, sys.stderr, files[1])):
                stack.enter_context(_pointed(descriptor, stream, file))
        else:
            stack.enter_context(_by_thread(files))
        yield


@contextmanager
def _pointed(descriptor: int, stream: TextIO, file: TextIO) -> Iterator[None]:
    stream.flush()
    before = os.dup(descriptor)
    os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(before, descriptor)
        os.close(before)


class _ByThread:
    """Stands for `sys.stdout` or `sys.stderr`: a thread that has a file of its own writes there."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._files: dict[int, TextIO] = {}

    def give(self, file: TextIO) -> None:
        self._files[threading.get_ident()] = file

    def take(self) -> None:
        self._files.pop(threading.get_ident(), None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files.get(threading.get_ident(), self._stream), name)


_streams: list[_ByThread] = []
_installing = threading.Lock()


@contextmanager
def _by_thread(files: list[TextIO]) -> Iterator[None]:
    with _installing:
        if not _streams:
            _streams.extend((_ByThread(sys.stdout), _ByThread(sys.stderr)))
            sys.stdout, sys.stderr = _streams  # pyright: ignore[reportAttributeAccessIssue]
    for stream, file in zip(_streams, files, strict=True):
        stream.give(file)
    try:
        yield
    finally:
        for stream in _streams:
            stream.take()
