"""The maps inside steps of one run: which chunks are out, which are answered, and whose step is over.

A chunk is an ask like any other and is placed, fenced and re-placed by the flow governor; this one says which chunks there are
and who waits for them. No I/O, no clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ioi_dagster.governors.failures import CHUNK_TODO
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.refusal import Refusal

# Events -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MapAsked:
    """The step `parent` under `fence` wants chunks of `sizes` items run and waits at `worker`. Told again, it is answered again.

    `label`: the step of Dagster's plan that it is told under.
    """

    map: str
    parent: str
    fence: int
    label: str
    number: int
    worker: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChunkCommitted:
    step: str
    attempt: str
    fence: int
    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkLost:
    """Its node went away while it ran there, and it may be why."""

    step: str


@dataclass(frozen=True, slots=True)
class ChunkRefused:
    step: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class MapOver:
    """Its step does not wait any more: it has all answers, or does not want the others."""

    map: str


@dataclass(frozen=True, slots=True)
class ParentOver:
    """The attempt of a step that may have asked for maps has ended, however."""

    parent: str
    fence: int


Event = MapAsked | ChunkCommitted | ChunkLost | ChunkRefused | MapOver | ParentOver

# Instructions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlaceChunk:
    step: str
    parent: str
    map: str
    index: int
    worker: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """(chunk, attempt, refusal) for those who wait at `worker`; none: the request was heard."""

    map: str
    worker: str
    answers: tuple[tuple[int, str, Refusal | None], ...]


@dataclass(frozen=True, slots=True)
class DropChunk:
    """Nobody waits for it: stop it, release its lease."""

    step: str


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One chunk in a report. `fence` counts its starts."""

    step: str
    first: int
    last: int
    node: str
    fence: int
    attempt: str
    seconds: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a map, once, when it is over."""

    map: str
    parent: str
    label: str
    number: int
    rows: tuple[ChunkRow, ...]


@dataclass(frozen=True, slots=True)
class HoldSlot:
    """The step waits (`waits`) and another may run in its place, or it goes on."""

    parent: str
    fence: int
    waits: bool


Instruction = PlaceChunk | Deliver | DropChunk | Report | HoldSlot

MAX_LOSSES = 5

# State --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Chunk:
    index: int
    row: ChunkRow
    answer: tuple[int, str, Refusal | None] | None = None


@dataclass(slots=True)
class _Map:
    asked: MapAsked
    chunks: dict[str, _Chunk] = field(default_factory=dict)


class MapGovernor:
    """See the module. Losses of a chunk are counted over all attempts of the step that asks for it."""

    def __init__(self) -> None:
        self._maps: dict[str, _Map] = {}
        self._of_chunk: dict[str, str] = {}
        self._losses: dict[str, int] = {}

    def handle(self, event: Event) -> list[Instruction]:
        match event:
            case MapAsked():
                return self._asked(event)
            case ChunkCommitted():
                return self._committed(event)
            case ChunkLost(step):
                self._losses[_identity(step)] = self._losses.get(_identity(step), 0) + 1
                return []
            case ChunkRefused(step, refusal):
                return self._refused(step, refusal)
            case MapOver(map_id):
                return self._over(map_id)
            case ParentOver(parent, fence):
                mine = [m.asked.map for m in self._maps.values() if (m.asked.parent, m.asked.fence) == (parent, fence)]
                return [instruction for map_id in mine for instruction in self._over(map_id)]

    def clashes(self, asked: MapAsked) -> bool:
        """Is another map under way whose chunks have the same names?"""
        its = (asked.parent, asked.fence, asked.number)
        return any(
            (m.asked.parent, m.asked.fence, m.asked.number) == its and m.asked.map != asked.map
            for m in self._maps.values()
        )

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        assert self._of_chunk == {step: m.asked.map for m in self._maps.values() for step in m.chunks}
        for one in self._maps.values():
            assert len(one.chunks) == len(one.asked.sizes)

    def _asked(self, event: MapAsked) -> list[Instruction]:
        known = self._maps.get(event.map)
        if known is not None:
            answers = tuple(chunk.answer for chunk in known.chunks.values() if chunk.answer is not None)
            return [Deliver(event.map, event.worker, answers)]
        one = self._maps[event.map] = _Map(event)
        out: list[Instruction] = [Deliver(event.map, event.worker, ()), HoldSlot(event.parent, event.fence, True)]
        first = 0
        for index, size in enumerate(event.sizes):
            step = f"{event.parent}#{event.fence}.{event.number}/{index}"
            one.chunks[step] = _Chunk(index, ChunkRow(step, first, first + size - 1, "", 0, "", 0.0, "dropped"))
            self._of_chunk[step] = event.map
            first += size
            losses = self._losses.get(_identity(step), 0)
            if losses < MAX_LOSSES:
                out.append(PlaceChunk(step, event.parent, event.map, index, event.worker))
                continue
            # The node that it took down was its step's own each time or some times, so the step began again and again.
            text = f"nodes were lost {counted(losses, 'time')} while it ran there"
            out += self._refused(step, Refusal("flow.poison_chunk", text, "flow governor", CHUNK_TODO))
        return out

    def _committed(self, event: ChunkCommitted) -> list[Instruction]:
        found = self._open(event.step)
        if found is None:
            return []
        one, chunk = found
        old = chunk.row
        chunk.row = ChunkRow(
            old.step, old.first, old.last, event.node, event.fence, event.attempt, event.seconds, "done"
        )
        chunk.answer = (chunk.index, event.attempt, None)
        return [Deliver(one.asked.map, one.asked.worker, (chunk.answer,))]

    def _refused(self, step: str, refusal: Refusal) -> list[Instruction]:
        found = self._open(step)
        if found is None:
            return []
        one, chunk = found
        old = chunk.row
        chunk.row = ChunkRow(old.step, old.first, old.last, "", old.fence, "", 0.0, str(refusal))
        chunk.answer = (chunk.index, "", refusal)
        return [Deliver(one.asked.map, one.asked.worker, (chunk.answer,))]

    def _open(self, step: str) -> tuple[_Map, _Chunk] | None:
        map_id = self._of_chunk.get(step)
        if map_id is None:
            return None
        one = self._maps[map_id]
        chunk = one.chunks[step]
        return (one, chunk) if chunk.answer is None else None

    def _over(self, map_id: str) -> list[Instruction]:
        one = self._maps.pop(map_id, None)
        if one is None:
            return []
        asked = one.asked
        out: list[Instruction] = [HoldSlot(asked.parent, asked.fence, False)]
        for step, chunk in one.chunks.items():
            del self._of_chunk[step]
            if chunk.answer is None:
                out.append(DropChunk(step))
        rows = tuple(chunk.row for chunk in one.chunks.values())
        return [*out, Report(map_id, asked.parent, asked.label, asked.number, rows)]


def _identity(step: str) -> str:
    """The chunk whatever attempts of its steps it was asked by: `fan#2.1/0` without the fence."""
    return re.sub(r"#\d+\.", "#", step)
