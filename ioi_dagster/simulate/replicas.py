"""The replicas of a simulated node: the real block governor before blocks that take nothing but time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from ioi_dagster.governors import block_messages as block
from ioi_dagster.governors.block import BlockGovernor
from ioi_dagster.model.capability import BlockSpec, Contract, Isolate
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.simulate.engine import Engine
from ioi_dagster.simulate.faults import Seconds

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
LEAST_S = 0.001
"""A governor that wants to be woken is not sooner: what is due by its reckoning may not be by that of virtual time."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """How a block lives on each node of who offers it: `loads_s` until a replica has loaded; the others as in its spec, see
    `BlockSpec`."""

    loads_s: Seconds = 0.0
    replicas: Count = 1
    concurrency: Count = 1
    max_queue: Count = 64
    idle_s: Seconds = 900.0
    isolate: Isolate = Isolate.THREAD
    max_failures: Count = 5
    rest_s: Seconds = 20.0

    def spec(self, capability: str) -> BlockSpec:
        """Raises `BadInputError` for what no block may be."""
        return BlockSpec(
            name=capability,
            version="1",
            capability=capability,
            entrypoint="simulated:Block",
            contract=Contract(capability, capability),
            timeout_s=0.0,
            load_timeout_s=0.0,
            replicas=self.replicas,
            concurrency=self.concurrency,
            max_queue=self.max_queue,
            idle_s=self.idle_s,
            isolate=self.isolate,
            max_failures=self.max_failures,
            rest_s=self.rest_s,
        )


@dataclass(frozen=True, slots=True)
class Call:
    """`seconds`: so long it runs on a replica. `begun` is called when it does; then, unless it is given up, one of the others:
    `ended` with how, or `refused`."""

    capability: str
    seconds: float
    begun: Callable[[], None]
    ended: Callable[[block.BatchEnd], None]
    refused: Callable[[Refusal], None]


class SimReplicas:
    """Those of one process. `moves`: whether it does anything now; `changed` is called when another block is warm than before,
    and `check` after each event that the governor took."""

    def __init__(
        self,
        engine: Engine,
        node: str,
        blocks: Mapping[str, Replicas],
        moves: Callable[[], bool],
        changed: Callable[[], None],
        check: Callable[[BlockGovernor], None],
    ) -> None:
        self._engine, self._blocks = engine, blocks
        self._moves, self._changed, self._check = moves, changed, check
        self.governor = BlockGovernor(node)
        self.over = False
        """Its process has ended."""
        self._calls: dict[int, Call] = {}
        self._numbers = 0
        self._batches: dict[int, int] = {}
        """The call of each batch that runs."""
        self._ended = block.BatchEnd.DONE
        """How the batch ended of which the governor hears now."""
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        """What was due while its process stood still."""
        self._wake_at = float("inf")
        self._warm: frozenset[str] = frozenset()
        for capability, its in blocks.items():
            self._handle(block.Offered(capability, its.spec(capability)))

    @property
    def warm(self) -> frozenset[str]:
        return self._warm

    def offers(self, capability: str) -> bool:
        return capability in self._blocks

    def call(self, call: Call, after_s: float) -> int:
        """In so many seconds. Returns its number."""
        self._numbers += 1
        self._calls[self._numbers] = call
        self._later(after_s, self._ask, self._numbers)
        return self._numbers

    def give_up(self, number: int) -> None:
        """Nobody waits for it any more."""
        if self._calls.pop(number, None) is not None:
            self._handle(block.CallGivenUp(number))

    def crash(self, number: int) -> None:
        """The process of the replica that has it ends."""
        batch = next((batch for batch, call in self._batches.items() if call == number), None)
        if batch is not None:
            self._later(0.0, self._end, batch, block.BatchEnd.DIED)

    def go_on(self) -> None:
        """Its process moves again."""
        held, self._held = self._held, []
        for act, arguments in held:
            act(*arguments)

    # Time ---------------------------------------------------------------------------------------------------------

    def _later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        self._engine.after(seconds, self._due, act, arguments)

    def _due(self, act: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self.over:
            return
        if self._moves():
            act(*arguments)
        else:
            self._held.append((act, arguments))

    def _ask(self, number: int) -> None:
        if (call := self._calls.get(number)) is not None:
            self._handle(block.CallAsked(number, call.capability))

    def _end(self, batch: int, end: block.BatchEnd) -> None:
        if self._batches.pop(batch, None) is not None:
            self._ended = end
            self._handle(block.BatchEnded(batch, end))

    def _wake(self) -> None:
        self._wake_at = float("inf")
        self._handle(block.Tick())

    # Events and instructions --------------------------------------------------------------------------------------

    def _handle(self, event: block.Event) -> None:
        now = self._engine.now
        instructions = self.governor.handle(event, now)
        self._check(self.governor)
        for instruction in instructions:
            self._perform(instruction)
        due = self.governor.next_wake(now)
        if due is not None and due < self._wake_at:
            self._wake_at = due
            self._later(max(LEAST_S, due - now), self._wake)
        if (warm := self.governor.warm()) != self._warm:
            self._warm = warm
            self._changed()

    def _perform(self, instruction: block.Instruction) -> None:
        match instruction:
            case block.Load(name, spec):
                self._later(self._blocks[spec.capability].loads_s, self._handle, block.ReplicaLoaded(name))
            case block.Unload(name):
                self._later(0.0, self._handle, block.ReplicaUnloaded(name))
            case block.RunBatch(batch, _, (number,)):
                self._batches[batch] = number
                self._later(self._calls[number].seconds, self._end, batch, block.BatchEnd.DONE)
                self._calls[number].begun()
            case block.StopBatch(batch, _, _):
                self._later(0.0, self._end, batch, block.BatchEnd.DIED)
            case block.Answer(number, _):
                self._calls.pop(number).ended(self._ended)
            case block.RefuseCall(number, refusal):
                self._calls.pop(number).refused(refusal)
            case _:
                raise AssertionError(f"{instruction} is not asked for where nothing has a limit of time")
