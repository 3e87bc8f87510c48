"""A simulated run: what of it outlives its processes, and which of them there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ioi_dagster.model.negotiation import Effect, Lease
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.simulate.process import SimProcess
from ioi_dagster.simulate.scenario import Workflow

if TYPE_CHECKING:
    from ioi_dagster.simulate.world import World


@dataclass(slots=True)
class SimLedger:
    """`epoch` rises with each process that takes the run over; an older one writes nothing any more. `away`: how many faults keep
    it from being written now. `spent`: credits; `took`: seconds of a step's work, without what it moved, as its node tells them;
    `made`: bytes of its output."""

    epoch: int = 0
    away: int = 0
    fences: dict[str, int] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Refusal] = field(default_factory=dict)
    spent: float = 0.0
    took: dict[str, float] = field(default_factory=dict)
    made: dict[str, float] = field(default_factory=dict)


class SimRun:
    """One workflow's run, with at most one process that may write; older ones may be alive that do not know it yet."""

    def __init__(self, world: World, workflow: Workflow) -> None:
        self.world, self.workflow = world, workflow
        self.name, self.domain = workflow.name, workflow.domain or world.scenario.topology.home
        self.tenant = workflow.tenant
        self.ledger = SimLedger()
        self.began = self.ended = float("nan")
        self.waits: list[float] = []
        self.starts = Counter[str]()
        """By step."""
        self.discarded = self.given_back = 0
        self.slot_s = 0.0
        self.lease_of: dict[str, Lease] = {}
        """By attempt."""
        self.worked: dict[str, float] = {}
        """By attempt that has ended, seconds."""
        self.after: dict[str, list[str]] = {}
        self.gangs: dict[str, list[str]] = {}
        for key, step in workflow.steps.items():
            if step.gang:
                self.gangs.setdefault(step.gang, []).append(key)
            for need in step.needs:
                self.after.setdefault(need, []).append(key)
        self._begun: set[str] = set()
        self._processes: list[SimProcess] = []
        """Those that are alive, the newest last."""
        self._due = False
        """One is to start as soon as the ledger can be written."""

    @property
    def over(self) -> bool:
        return self.ended == self.ended

    @property
    def process(self) -> SimProcess | None:
        """The newest that is alive."""
        return self._processes[-1] if self._processes else None

    @property
    def processes(self) -> tuple[SimProcess, ...]:
        return tuple(self._processes)

    def makes(self, step: str) -> float:
        """Bytes of its outputs."""
        its = self.workflow.steps
        if (writes := its[step].writes) is not None:
            return writes
        return max((its[one].inputs.get(step, 0.0) for one in self.after.get(step, ())), default=0.0)

    @property
    def running(self) -> int:
        """Starts that are out."""
        return self.process.running if self.process is not None else 0

    @property
    def waiting(self) -> int:
        """Steps that are ready and have no slot."""
        return self.process.waiting if self.process is not None else 0

    def why_waits(self) -> str:
        """One of its steps that wait, and why."""
        waiting = self.process.governor.snapshot().waiting if self.process is not None else {}
        step = next(iter(waiting), "")
        return f"{self.name}/{step}: {waiting[step]}" if step else self.name

    # Its processes ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The first process, or another where there is none that may write."""
        if self.process is None or self.process.epoch != self.ledger.epoch:
            self.start_another()

    def start_another(self) -> None:
        """A process that takes over, whether there is one or not."""
        if self.over:
            return
        if self.ledger.away:
            self._due = True
            return
        if not self.ledger.epoch:
            self.began = self.world.engine.now
            self.world.begins(self)
        self.ledger.epoch += 1
        process = SimProcess(self, self.ledger.epoch)
        self._processes.append(process)
        process.begin()

    def kill(self) -> None:
        """The process that has the run. Its connections close with it."""
        if self.process is not None:
            self.process.kill()

    def resume(self) -> None:
        """Another process takes over, if one is missing."""
        if self.ledger.epoch:
            self.start()

    def ended_process(self, process: SimProcess) -> None:
        self._processes.remove(process)

    def cannot_write(self) -> None:
        """Its ledger is away."""
        self.ledger.away += 1

    def can_write(self) -> None:
        """That is over; where several keep it away, with the last of them."""
        self.ledger.away -= 1
        if self.ledger.away:
            return
        for process in self.processes:
            process.write()
        if self._due:
            self._due = False
            self.start()

    def is_over(self) -> None:
        self.ended = self.world.engine.now
        for process in self.processes:
            process.leave()
        self.world.one_is_over()

    # What nodes say of it ---------------------------------------------------------------------------------------

    def begun(self, lease: Lease) -> None:
        """A node runs its code."""
        step = lease.step
        self.world.began(self, lease)
        if step not in self._begun:
            self._begun.add(step)
        elif self.workflow.steps[step].effect is Effect.AT_MOST_ONCE:
            self.world.violated(f"{self.name}/{step} may run once only, and began again")

    def answered(self, lease: Lease, attempt: str, took: float) -> None:
        """A node has ended what ran under `lease`, and its answer leaves."""
        self.slot_s += took
        self.lease_of[attempt] = lease
