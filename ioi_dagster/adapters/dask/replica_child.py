"""The process of one replica (`python -m`), and the messages between it and its worker: framed payloads, no pickle.

A message is a letter, the number of its frames and each frame behind its length (big endian). The child ends when its
worker does: the kernel kills it then, and it finds its socket closed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import cast

import msgspec

from ioi_dagster.adapters.dask.project_code import project_code
from ioi_dagster.compound.pieces import framed
from ioi_dagster.errors import FinalError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Block, Payload, StreamingBlock

LOADED, INVOKE, BEGUN, RESULTS, ERROR, UNLOAD = b"L", b"I", b"B", b"R", b"E", b"U"
STREAM, PIECE = b"S", b"P"
"""A streamed call: its payload and, as a decimal number, how many pieces are there already; then a message for each piece."""
_HEAD, _LENGTH = struct.Struct(">cI"), struct.Struct(">Q")
_PR_SET_PDEATHSIG = 1
_FIRST_TO_GO = "800"
"""When memory runs out the kernel shall end a replica rather than the worker (proc(5), oom_score_adj)."""


def send(sock: socket.socket, kind: bytes, frames: Sequence[bytes] = ()) -> None:
    """Raises `OSError` when the other side is gone."""
    sock.sendall(_HEAD.pack(kind, len(frames)) + b"".join(_LENGTH.pack(len(frame)) for frame in frames))
    for frame in frames:
        sock.sendall(frame)


def receive(sock: socket.socket, look: Callable[[], None] = lambda: None) -> tuple[bytes, list[bytes]]:
    """The next message; raises `EOFError` at its end. `look` is called whenever the socket's timeout passes."""
    kind, count = _HEAD.unpack(_read(sock, _HEAD.size, look))
    lengths = [_LENGTH.unpack(_read(sock, _LENGTH.size, look))[0] for _ in range(count)]
    return kind, [_read(sock, length, look) for length in lengths]


def _read(sock: socket.socket, size: int, look: Callable[[], None]) -> bytes:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        try:
            count = sock.recv_into(view[got:])
        except TimeoutError:
            look()
            continue
        except ConnectionError as error:
            raise EOFError from error
        if count == 0:
            raise EOFError
        got += count
    return bytes(data)


def make(entrypoint: str) -> Block | StreamingBlock:
    """A new instance of `module:Class`."""
    module, _, name = entrypoint.partition(":")
    return getattr(import_module(module), name)()


def invoke(block: Block | StreamingBlock, batch: Sequence[Payload]) -> Sequence[Payload]:
    """Call the block; raises what it raises, and `FinalError` when it does not answer each call."""
    results = cast(Block, block).invoke(batch)
    if len(results) != len(batch):
        raise FinalError(f"{type(block).__name__} was given {len(batch)} calls and returned {len(results)} results")
    return results


def pieces(block: Block | StreamingBlock, payload: Payload, after: int) -> Generator[bytes, None, None]:
    """What the block gives for the call, framed; one piece where it does not stream. Raises as `framed`, and what it raises."""
    made = (
        cast(StreamingBlock, block).stream(payload, after)
        if hasattr(block, "stream")
        else iter(invoke(block, [payload]))
    )
    try:
        yield from framed(made, after)
    finally:
        if isinstance(made, Generator):
            made.close()


def main() -> None:
    """`argv`: the socket's descriptor, the worker's process id, the entrypoint."""
    descriptor, parent, entrypoint = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    _end_with(parent)
    project_code.watch()
    faulthandler.enable()
    sock = socket.socket(fileno=descriptor)
    with suppress(EOFError, ConnectionError):
        _serve(sock, entrypoint)


def _serve(sock: socket.socket, entrypoint: str) -> None:
    try:
        block = make(entrypoint)
        block.load()
    except Exception as error:
        return send(sock, ERROR, [_told(error)])
    send(sock, LOADED, [msgspec.json.encode(project_code.loaded())])
    while True:
        kind, frames = receive(sock)
        if kind == UNLOAD:
            return block.unload()
        # From here on the batch may have had its effect.
        send(sock, BEGUN)
        try:
            if kind == STREAM:
                for piece in pieces(block, decode_payload(frames[0]), int(frames[1])):
                    send(sock, PIECE, [piece])
                results = []
            else:
                results = [encode_payload(one) for one in invoke(block, [decode_payload(frame) for frame in frames])]
        except Exception as error:
            send(sock, ERROR, [_told(error)])
        else:
            send(sock, RESULTS, results)


def _told(error: Exception) -> bytes:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}:{last.lineno}"
    return encode_payload(Payload({"text": f"{type(error).__name__} at {where}: {error}"}))


def _end_with(parent: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


if __name__ == "__main__":
    main()
