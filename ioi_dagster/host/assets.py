"""Graph nodes that call AI blocks, as Dagster ops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dagster import In, OpDefinition, Out, op

from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.clock import SystemClock
from ioi_dagster.compound.invocation import has_invoker, invoke, stream
from ioi_dagster.host import tags as tag_names
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import Streaming


def block_op(
    block: BlockSpec,
    value_type: Any,
    *,
    name: str,
    description: str = "",
    on_refusal: Callable[[Any, Refusal], Any],
    needs_block: Callable[[Any], bool] = lambda value: True,
    tags: Mapping[str, str] | None = None,
) -> OpDefinition:
    """An op that hands its one input to `block`'s capability, wherever the step was placed, and returns the result.

    `value_type` has `to_payload()` and `from_payload(payload)`. `on_refusal(value, refusal)` says what becomes of a value
    that no place may take: a value, so that the rest of the pile goes on. `needs_block(value)` is False for a value that
    passes through as it is. Where the block's contract says that it streams, the result is made by
    `from_pieces(pieces)`, of an iterator of payloads in order. Under an executor that is not ours the block runs in the step's
    own process.
    """

    @op(
        name=name,
        description=description or block.contract.description,
        ins={"value": In()},
        out=Out(),
        tags={
            tag_names.CAPABILITY: block.capability,
            tag_names.EFFECT: Effect(block.contract.effect).value,
            **_tags_of_streams(block),
            **(tags or {}),
        },
    )
    def _call(value: Any) -> Any:
        if not needs_block(value):
            return value
        payload = value.to_payload()
        if block.contract.streams:
            pieces = stream(block, payload, keeps=True) if has_invoker() else stream_here(block, payload)
            return on_refusal(value, pieces) if isinstance(pieces, Refusal) else value_type.from_pieces(pieces)
        answer = invoke(block, payload) if has_invoker() else invoke_here(block, payload)
        if isinstance(answer, Refusal):
            return on_refusal(value, answer)
        return value_type.from_payload(answer)

    return _call


def _tags_of_streams(block: BlockSpec) -> dict[str, str]:
    contract = block.contract
    if not contract.streams:
        return {}
    if not contract.resumes:
        return {tag_names.STREAMS: Streaming.YES.value}
    goes_on = {tag_names.STREAMS: Streaming.RESUMES.value}
    # What may run once only is stopped for nobody.
    return goes_on if contract.effect == Effect.AT_MOST_ONCE else goes_on | {tag_names.CHECKPOINTABLE: "true"}


_here: list[ReplicaHost] = []
_here_lock = threading.Lock()


def invoke_here(block: BlockSpec, payload: Payload) -> Payload:
    """By a replica of this process, as a node would."""
    return _host_here().invoke_own(block, payload)


def stream_here(block: BlockSpec, payload: Payload) -> Iterator[Payload]:
    """As `invoke_here`, in pieces."""
    return _host_here().stream_own(block, payload)


def _host_here() -> ReplicaHost:
    with _here_lock:
        if not _here:
            _here.append(ReplicaHost([], "this process", SystemClock()))
    return _here[0]
