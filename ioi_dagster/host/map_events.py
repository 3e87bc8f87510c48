"""What Dagster's UI shows of a map inside a step: one event with a table of its chunks."""

from __future__ import annotations

from typing import cast

from dagster import MetadataValue, TableColumn, TableRecord, TableSchema

from ioi_dagster.governors.mapping import Report
from ioi_dagster.host.private import (
    DagsterEvent,
    EngineEventData,
    ExecutionPlan,
    ExecutionStep,
    PlanOrchestrationContext,
)

SHOWN = 200
"""Rows of the table; of more chunks, those that took longest."""
_SCHEMA = TableSchema(
    columns=[
        TableColumn("chunk", "string"),
        TableColumn("items", "string"),
        TableColumn("node", "string"),
        TableColumn("fence", "int"),
        TableColumn("attempt", "string"),
        TableColumn("seconds", "float"),
        TableColumn("outcome", "string"),
    ]
)


def map_event(context: PlanOrchestrationContext, plan: ExecutionPlan, report: Report) -> DagsterEvent:
    """An engine event of the step that asked for the map, or whose item did."""
    step = cast(ExecutionStep, plan.get_step_by_key(report.label))
    rows = sorted(report.rows, key=lambda row: -row.seconds)[:SHOWN] if len(report.rows) > SHOWN else report.rows
    items = report.rows[-1].last + 1
    table = MetadataValue.table(
        records=[
            TableRecord(
                {
                    "chunk": row.step,
                    "items": f"{row.first}–{row.last}",
                    "node": row.node,
                    "fence": row.fence,
                    "attempt": row.attempt,
                    "seconds": round(row.seconds, 4),
                    "outcome": row.outcome,
                }
            )
            for row in rows
        ],
        schema=_SCHEMA,
    )
    done = sum(row.outcome == "done" for row in report.rows)
    return DagsterEvent.engine_event(
        context.for_step(step),
        f"flow.map {report.number} of {report.parent}: {items} items, {done} of {len(report.rows)} chunks done",
        EngineEventData(
            metadata={
                "ioi/chunks": table,
                "ioi/items": MetadataValue.int(items),
                "ioi/placed_again": MetadataValue.int(sum(max(0, row.fence - 1) for row in report.rows)),
                "ioi/explain": MetadataValue.text(f"ioi explain run {context.run_id} '{report.label}'"),
            }
        ),
    )
