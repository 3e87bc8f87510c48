"""Warm instances of AI blocks in one worker, under the block governor's rules."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import import_module

from ioi_dagster.clock import Clock
from ioi_dagster.errors import RetryableError
from ioi_dagster.governors.block import (
    BlockGovernor,
    Call,
    CallAsked,
    CallEnded,
    Load,
    LoadFailed,
    MemoryShort,
    RefuseCall,
    Unload,
)
from ioi_dagster.model.block import Block, Payload
from ioi_dagster.model.capability import BlockSpec


class ReplicaHost:
    """Loads each block once, calls it one batch at a time."""

    def __init__(self, blocks: Sequence[BlockSpec], node: str, clock: Clock) -> None:
        self._specs = {block.capability: block for block in blocks}
        self._governor = BlockGovernor(frozenset(self._specs), node)
        self._clock = clock
        self._replicas: dict[str, Block] = {}
        self._locks = {capability: threading.Lock() for capability in self._specs}
        self._state = threading.Lock()

    @property
    def offers(self) -> frozenset[str]:
        return frozenset(self._specs)

    def invoke(self, capability: str, payload: Payload) -> Payload:
        """Call the block; raises `RetryableError` when the governor refuses, and whatever the block raises."""
        wanted = self._ask(CallAsked(capability))
        for instruction in wanted:
            if isinstance(instruction, RefuseCall):
                raise RetryableError(str(instruction.refusal))
        failed = True
        try:
            with self._locks[capability]:
                replica = self._replica(capability)
                result = replica.invoke([payload])[0]
            failed = False
            return result
        finally:
            self._ask(CallEnded(capability, failed))

    def free_memory(self) -> bool:
        """Unload the least recently used idle replica; False when none is idle."""
        freed = False
        for instruction in self._ask(MemoryShort()):
            if isinstance(instruction, Unload):
                with self._locks[instruction.capability]:
                    replica = self._replicas.pop(instruction.capability, None)
                    if replica is not None:
                        replica.unload()
                        freed = True
        return freed

    def warm(self) -> frozenset[str]:
        with self._state:
            return self._governor.warm()

    def _ask(self, event: CallAsked | CallEnded | LoadFailed | MemoryShort) -> list[Load | Call | Unload | RefuseCall]:
        with self._state:
            return self._governor.handle(event, self._clock.monotonic())

    def _replica(self, capability: str) -> Block:
        replica = self._replicas.get(capability)
        if replica is None:
            module, _, name = self._specs[capability].entrypoint.partition(":")
            replica = getattr(import_module(module), name)()
            try:
                replica.load()
            except BaseException:
                self._ask(LoadFailed(capability))
                raise
            self._replicas[capability] = replica
        return replica
