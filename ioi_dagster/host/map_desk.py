"""Maps inside steps, at the run process: requests from nodes in, chunks placed like steps, answers out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ioi_dagster.adapters.dask.mapping import deliver, topic
from ioi_dagster.decoding import converted
from ioi_dagster.governors import mapping
from ioi_dagster.host.exchange import encode_chunk
from ioi_dagster.model.negotiation import OWN_STEP, Lease, Name, Number
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

if TYPE_CHECKING:
    from ioi_dagster.host.fleets import Fleet
    from ioi_dagster.host.flow_driver import FlowDriver
    from ioi_dagster.host.work import Outcome

STALE = Refusal("flow.map_stale", "the step that asks was placed again elsewhere", "flow governor")
MAX_CHUNKS = 100_000
MAX_ITEMS = 2**31 - 1
"""Of one chunk."""


class _Request(msgspec.Struct):
    """What a node tells, see `adapters/dask/mapping.py`."""

    op: Literal["ask", "over"]
    map: Name
    worker: Annotated[str, Meta(max_length=500)] = ""
    parent: str = ""
    fence: Number = 0
    label: str = ""
    number: Number = 0
    chunks: Annotated[list[Annotated[int, Meta(ge=1, le=MAX_ITEMS)]], Meta(max_length=MAX_CHUNKS)] = []


@dataclass(frozen=True, slots=True)
class Heard:
    """In the driver's inbox: a message of a node of `cluster`."""

    cluster: str
    message: Any


class MapDesk:
    """One per run; in the thread of its driver. `its_run`: the run's key."""

    def __init__(self, its_run: str, driver: FlowDriver) -> None:
        self._run_key, self._driver = its_run, driver
        self._governor = mapping.MapGovernor()
        self._listening: set[str] = set()
        self._clusters: dict[str, str] = {}
        self._waiting: dict[tuple[str, int], tuple[Lease, int]] = {}
        self._reports: list[mapping.Report] = []
        self.any = False
        """Has a step of this run asked for a map?"""

    def listen(self, fleet: Fleet) -> None:
        """Hear the requests of the nodes of `fleet`, before the first step is sent there."""
        if fleet.cluster in self._listening:
            return
        self._listening.add(fleet.cluster)
        fleet.listen(topic(self._run_key), lambda message: self._driver.post(Heard(fleet.cluster, message)))

    @property
    def waiting(self) -> frozenset[str]:
        """Keys of starts that wait for their items, and so do nothing at their nodes."""
        return frozenset(lease.key for lease, _ in self._waiting.values())

    def reports(self) -> list[mapping.Report]:
        """Of the maps that are over since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def heard(self, heard: Heard) -> None:
        """Whatever another owner's node tells: what cannot be meant is told and dropped, and a map is its own cluster's."""
        try:
            request = converted(heard.message, _Request)
        except msgspec.ValidationError as error:
            return self._driver.tell(Chapter.MAP, f"{heard.cluster} told of a map that cannot be read: {error}")
        if self._clusters.get(request.map, heard.cluster) != heard.cluster:
            return self._driver.tell(Chapter.MAP, f"{heard.cluster} told of a map that is not its own")
        if request.op == "over":
            return self._perform(self._governor.handle(mapping.MapOver(request.map)))
        lease = self._driver.lease(request.parent)
        if lease is None or lease.fence != request.fence or lease.cluster != heard.cluster:
            stale = [(index, "", asdict(STALE)) for index in range(len(request.chunks))]
            return self._driver.fleet(heard.cluster).tell(request.worker, deliver, request.map, stale)
        asked = mapping.MapAsked(
            request.map,
            request.parent,
            request.fence,
            request.label,
            request.number,
            request.worker,
            tuple(request.chunks),
        )
        why = self._cannot_be_meant(asked)
        if why:
            return self._driver.tell(Chapter.MAP, f"{heard.cluster} told of a map that cannot be meant: {why}")
        self._clusters[request.map] = heard.cluster
        self._perform(self._governor.handle(asked))

    def _cannot_be_meant(self, asked: mapping.MapAsked) -> str:
        """Why; empty where it can."""
        if not asked.sizes:
            return "it has no chunks"
        # A map inside an item is told under the step whose item it is; a step that runs in one task after another, under itself.
        work = self._driver.work(asked.parent.partition("#")[0])
        if work is None or asked.label not in (work.ask.step, *(then.ask.step for then in work.then)):
            return f"it is not of the step {asked.label!r}"
        if self._governor.clashes(asked):
            return f"another map is number {asked.number} of {asked.parent}"
        return ""

    def ended(self, lease: Lease) -> None:
        """An attempt of a step, or of a chunk, has ended at its node."""
        if (lease.step, lease.fence) in self._waiting:
            self._perform(self._governor.handle(mapping.ParentOver(lease.step, lease.fence)))

    def lost(self, step: str) -> None:
        """A chunk, or any other step, was lost with its node and may be why."""
        if "#" in step:
            self._governor.handle(mapping.ChunkLost(step))

    def took(self, outcome: Outcome) -> bool:
        """Was it a chunk's outcome? Then it is told to the step that waits, not to Dagster."""
        step = outcome.step
        if not outcome.chunk:
            return False
        if outcome.refusal is not None:
            self._perform(self._governor.handle(mapping.ChunkRefused(step, outcome.refusal)))
        elif outcome.lease is not None:
            self._driver.published(step, outcome.attempt)
            node, fence = outcome.lease.node, outcome.lease.fence
            self._perform(
                self._governor.handle(mapping.ChunkCommitted(step, outcome.attempt, fence, node, outcome.seconds))
            )
        return True

    def _perform(self, instructions: list[mapping.Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case mapping.PlaceChunk():
                    self._place(instruction)
                case mapping.Deliver(map_id, worker, answers):
                    plain = [(index, attempt, asdict(no) if no else None) for index, attempt, no in answers]
                    self._fleet(map_id).tell(worker, deliver, map_id, plain)
                case mapping.DropChunk(step):
                    self._driver.drop(step)
                case mapping.HoldSlot(parent, fence, waits):
                    self._hold(parent, fence, waits)
                case mapping.Report():
                    self._reported(instruction)

    def _fleet(self, map_id: str) -> Any:
        return self._driver.fleet(self._clusters[map_id])

    def _place(self, chunk: mapping.PlaceChunk) -> None:
        self.any = True
        parent = self._driver.work(chunk.parent)
        assert parent is not None, "a step with a lease has its work"
        ask = replace(
            parent.ask,
            step=chunk.step,
            capability=OWN_STEP,
            # What it works on is at a worker there, and so is who takes its results.
            cluster=self._clusters[chunk.map],
            # Before other steps: else all that map would begin before any item of theirs.
            priority=parent.ask.priority + 1,
            input_bytes=0,
            # Those are the step's own, which holds them meanwhile.
            resources=(),
            gang="",
            gang_size=0,
            near=(),
            apart=(),
        )
        work = encode_chunk(chunk.map, chunk.index, chunk.worker, chunk.step)
        self._driver.submit(
            replace(
                parent,
                ask=ask,
                work=work,
                payload=None,
                priority=ask.priority,
                assigns_class=False,
                then=(),
                fused=None,
                timeout_s=0.0,
                chunk=True,
            )
        )

    def _hold(self, parent: str, fence: int, waits: bool) -> None:
        """A step may wait for several maps, one in each of its threads."""
        known = self._waiting.pop((parent, fence), None)
        lease = self._driver.lease(parent) if known is None else known[0]
        if lease is None:
            return
        count = (known[1] if known else 0) + (1 if waits else -1)
        if count > 0:
            self._waiting[parent, fence] = (lease, count)
        if waits != (known is not None):
            self._driver.fleet(lease.cluster).waits(lease, waits)

    def _reported(self, report: mapping.Report) -> None:
        self._clusters.pop(report.map, None)
        self._reports.append(report)
        items = report.rows[-1].last + 1 if report.rows else 0
        self._driver.tell(
            Chapter.MAP, f"map {report.number} of {items} items in {len(report.rows)} chunks", {}, report.label
        )
        for row in report.rows:
            text = f"{row.step}: items {row.first}–{row.last} {row.outcome}"
            if row.node:
                text += f" on {row.node} in {row.seconds:.3f} s, fence {row.fence}, attempt {row.attempt}"
            self._driver.tell(Chapter.MAP, text, {"step": row.step, "fence": row.fence, "node": row.node}, report.label)
