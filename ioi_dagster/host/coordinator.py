"""Gate 1: every launch (UI, schedule, sensor, backfill, retry, API) passes here, and nothing starts undecided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from dagster import Field, MetadataValue
from typing_extensions import override

from ioi_dagster.domain import home_domain
from ioi_dagster.errors import IoiError
from ioi_dagster.host import tags
from ioi_dagster.host.governance import gate_one
from ioi_dagster.host.private import (
    ConfigurableClassData,
    DagsterRun,
    DagsterRunStatus,
    EngineEventData,
    QueuedRunCoordinator,
    RunQueueConfig,
    SubmitRunContext,
    UserConfigSchema,
)
from ioi_dagster.local.gate import open_gate
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.policy.gate import Gate

DEQUEUE_S = 0.5
"""Dagster's own daemon waits in steps of so long, so less would be none. Its queue waits 5 s, in whole seconds only."""


class GovernedRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue behind a policy decision: allow → queued with a permit; hold → queued, but never dequeued while
    it carries `ioi/held`; deny → ended, with the reasons in its log. Never raises for a policy's sake."""

    _gate: Gate | None = None
    _interval_s = DEQUEUE_S

    @classmethod
    @override
    def config_type(cls) -> UserConfigSchema:
        interval = Field(float, default_value=DEQUEUE_S, description="Seconds between two looks at the queue.")
        return {**super().config_type(), "dequeue_interval_seconds": interval}  # pyright: ignore[reportGeneralTypeIssues]

    @classmethod
    @override
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        made = super().from_config_value(inst_data, {**config_value, "dequeue_interval_seconds": None})
        made._interval_s = float(config_value.get("dequeue_interval_seconds", DEQUEUE_S))
        return made

    @property
    @override
    def dequeue_interval_seconds(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._interval_s

    @override
    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        home = home_domain()
        if home is None or run.status != DagsterRunStatus.NOT_STARTED:
            return super().submit_run(context)
        try:
            if self._gate is None:
                self._gate = open_gate(home)
            decision, permit = gate_one(home, self._gate, run, self._steps(run))
        except (IoiError, OSError) as error:
            return self._hold(context, f"policy could not decide: {error}", {})
        match decision.verdict:
            case Verdict.ALLOW:
                self._instance.add_run_tags(run.run_id, {tags.PERMIT: permit})
                self._say(run, f"Gate 1 allowed this run (decision {decision.id})", _metadata(decision))
                return super().submit_run(self._fresh(context))
            case Verdict.HOLD:
                return self._hold(context, _reasons(decision), _metadata(decision))
            case Verdict.DENY:
                self._say(run, f"Gate 1 denied this run: {_reasons(decision)}", _metadata(decision))
                self._instance.report_run_failed(run, f"Denied at gate 1: {_reasons(decision)}")
                return self._fresh(context).dagster_run

    @override
    def get_run_queue_config(self) -> RunQueueConfig:
        config = super().get_run_queue_config()
        limits = [*(config.tag_concurrency_limits or []), {"key": tags.HELD, "limit": 0}]
        return config._replace(tag_concurrency_limits=limits)

    def _hold(self, context: SubmitRunContext, why: str, metadata: dict[str, Any]) -> DagsterRun:
        run = context.dagster_run
        # The UI shows no log of a run that is queued, but its tags.
        self._instance.add_run_tags(run.run_id, {tags.HELD: why[:250]})
        self._say(run, f"Gate 1 holds this run: {why}", metadata)
        return super().submit_run(self._fresh(context))

    def _say(self, run: DagsterRun, text: str, metadata: dict[str, Any]) -> None:
        self._instance.report_engine_event(text, run, EngineEventData(metadata=metadata), cls=self.__class__)

    def _fresh(self, context: SubmitRunContext) -> SubmitRunContext:
        run = self._instance.get_run_by_id(context.dagster_run.run_id)
        assert run is not None
        return context._replace(dagster_run=run)

    def _steps(self, run: DagsterRun) -> int:
        if run.execution_plan_snapshot_id is None:
            return 0
        return len(self._instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).step_keys_to_execute)


def _reasons(decision: Decision) -> str:
    told = (f"{its.text} [{its.code}]" + (f" — {its.remedy}" if its.remedy else "") for its in decision.refusals)
    return "; ".join(told)


def _metadata(decision: Decision) -> dict[str, Any]:
    return {
        "ioi/decision": MetadataValue.text(decision.id),
        "ioi/verdict": MetadataValue.text(str(decision.verdict)),
        "ioi/reasons": MetadataValue.text(_reasons(decision) or "–"),
        "ioi/remedy": MetadataValue.text("; ".join(r.remedy for r in decision.refusals if r.remedy) or "–"),
        "ioi/policy_revision": MetadataValue.text(decision.revision or "–"),
        "ioi/evaluated": MetadataValue.text(", ".join(decision.evaluated) or "–"),
    }
