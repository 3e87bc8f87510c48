"""Tells how far a run is: in Dagster's log for those who look at the run, in the ledger for `ioi runs --watch`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dagster import MetadataValue, TableColumn, TableRecord, TableSchema

from ioi_dagster.adaptive.telling import Telling
from ioi_dagster.clock import Clock
from ioi_dagster.governors.flow import FlowSnapshot
from ioi_dagster.governors.flow_steps import StepState
from ioi_dagster.host.extent import Extent, Mappings
from ioi_dagster.host.flow_driver import FlowDriver
from ioi_dagster.host.private import DagsterEvent, EngineEventData, ExecutionPlan, PlanOrchestrationContext
from ioi_dagster.model.progress import Progress, commonest
from ioi_dagster.model.story import Chapter


class ProgressTeller:
    """One a run process; asked once a turn, and looks when it may be time to say something."""

    def __init__(self, driver: FlowDriver, clock: Clock, plan: ExecutionPlan, epoch: int) -> None:
        now = clock.monotonic()
        self._driver, self._clock, self._extent, self._epoch = driver, clock, Extent(plan), epoch
        self._log = Telling(now)
        self._ledger = Telling(now, first_s=1.0, apart_s=2.0, quiet_s=4.0)

    def tell(self, plan_context: PlanOrchestrationContext, mappings: Callable[[], Mappings]) -> Iterator[DagsterEvent]:
        """`mappings`: what is known by now of what steps map over."""
        now = self._clock.monotonic()
        if not (self._ledger.due(now) or self._log.due(now)):
            return
        of = None if self._driver.maps else self._extent.steps(mappings())
        progress = progress_of(self._driver.snapshot(), of)
        if self._ledger.worth(progress, now):
            self._driver.tell(Chapter.PROGRESS, str(progress), {**progress.facts(), "epoch": self._epoch})
        if self._log.worth(progress, now):
            yield DagsterEvent.engine_event(plan_context, str(progress), EngineEventData(metadata=_metadata(progress)))


def progress_of(snapshot: FlowSnapshot, of: int | None) -> Progress:
    """Steps that are being negotiated for count as waiting; those that are at a node count as running. `of`: see `Extent`."""
    counts = snapshot.counts
    awarding = counts.get(StepState.AWARDING, 0)
    why = [*snapshot.waiting.values(), *["an award is being answered"] * awarding]
    return Progress(
        done=counts.get(StepState.DONE, 0),
        running=counts.get(StepState.RUNNING, 0),
        waiting=counts.get(StepState.WAITING, 0) + awarding,
        failed=counts.get(StepState.FAILED, 0) + counts.get(StepState.REFUSED, 0),
        reasons=commonest(why),
        of=of or 0,
        more=of is None,
    )


def _metadata(progress: Progress) -> dict[str, MetadataValue]:
    rows = [("done", progress.done, ""), ("running", progress.running, "")]
    rows += [("waiting", count, reason) for reason, count in progress.reasons]
    told = sum(count for _, count in progress.reasons)
    rows += [("waiting", progress.waiting - told, "other reasons")] if progress.waiting > told else []
    rows += [("failed or refused", progress.failed, "")] if progress.failed else []
    records = [TableRecord({"steps": steps, "count": count, "why": why}) for steps, count, why in rows]
    columns = [TableColumn("steps", "string"), TableColumn("count", "int"), TableColumn("why", "string")]
    return {"ioi/progress": MetadataValue.table(records, TableSchema(columns))}
