"""Who answers when a graph node calls its block: set by whoever runs the step, so that the node's code is the same
in a warm worker, beside a foreign domain's answer, or in a plain Python loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ioi_dagster.errors import FinalError
from ioi_dagster.model.block import Payload
from ioi_dagster.model.refusal import Refusal

Invoker = Callable[[str, Payload], Payload | Refusal]
"""(capability, payload) → result, or the refusal that a person will read."""

_invoker: ContextVar[Invoker | None] = ContextVar("ioi_invoker", default=None)


@contextmanager
def answering(invoker: Invoker) -> Iterator[None]:
    """Let `invoker` answer block calls made inside this context."""
    token = _invoker.set(invoker)
    try:
        yield
    finally:
        _invoker.reset(token)


def invoke(capability: str, payload: Payload) -> Payload | Refusal:
    """Call the block that offers `capability`, wherever the step was placed."""
    invoker = _invoker.get()
    if invoker is None:
        raise FinalError(f"nobody answers for capability {capability!r}: the step was started outside a node")
    return invoker(capability, payload)


def has_invoker() -> bool:
    return _invoker.get() is not None
