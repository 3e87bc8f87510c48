"""Who answers when a graph node calls its block: set by whoever runs the step, so that the node's code is the same
in a warm worker, beside a foreign domain's answer, or in a plain Python loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ioi_dagster.errors import FinalError, NodeUnableError
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.refusal import Refusal

Invoker = Callable[[BlockSpec, Payload], Payload | Refusal]
"""(block, payload) → result, or the refusal that a person will read. The block is what the graph's author has of it: where
somebody else offers its capability, that one's is called."""

Streamer = Callable[[BlockSpec, Payload, bool], Iterator[Payload] | Refusal]
"""As `Invoker`, for a result that comes in pieces, which are to be kept or not; the iterator may raise what a call may raise."""

_invoker: ContextVar[tuple[Invoker, Streamer] | None] = ContextVar("ioi_invoker", default=None)
_unable: ContextVar[list[NodeUnableError]] = ContextVar("ioi_unable")


@contextmanager
def answering(invoker: Invoker, streamer: Streamer) -> Iterator[None]:
    """Let these answer block calls made inside this context."""
    token = _invoker.set((invoker, streamer))
    try:
        yield
    finally:
        _invoker.reset(token)


@contextmanager
def noting_inability() -> Iterator[list[NodeUnableError]]:
    """What calls inside this context found their node unable to do. Dagster tells it as the step's failure, which it is not."""
    noted: list[NodeUnableError] = []
    token = _unable.set(noted)
    try:
        yield noted
    finally:
        _unable.reset(token)


def invoke(block: BlockSpec, payload: Payload) -> Payload | Refusal:
    """Call the block, or another one of its capability, wherever the step was placed.

    Raises `NodeUnableError` where that is a node which cannot do it now, and what the block raises.
    """
    invoker, _ = _answering(block)
    try:
        return invoker(block, payload)
    except NodeUnableError as error:
        _unable.get([]).append(error)
        raise


def stream(block: BlockSpec, payload: Payload, *, keeps: bool = False) -> Generator[Payload, None, None] | Refusal:
    """As `invoke`, with the result in pieces as they come: one where the block that answers does not stream. Closed before its
    end, the block is stopped. The iterator raises what `invoke` does. `keeps`: where the step is stopped for somebody else,
    what came is its checkpoint, and its next attempt gets it first and has the block go on after it, if its contract says that it
    `resumes`; for a step that leaves no other."""
    _, streamer = _answering(block)
    pieces = streamer(block, payload, keeps)
    return pieces if isinstance(pieces, Refusal) else _noted(pieces)


def _noted(pieces: Iterator[Payload]) -> Generator[Payload, None, None]:
    try:
        yield from pieces
    except NodeUnableError as error:
        _unable.get([]).append(error)
        raise


def _answering(block: BlockSpec) -> tuple[Invoker, Streamer]:
    found = _invoker.get()
    if found is None:
        raise FinalError(f"nobody answers for capability {block.capability!r}: the step was started outside a node")
    return found


def has_invoker() -> bool:
    return _invoker.get() is not None
