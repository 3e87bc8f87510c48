"""What Dagster's UI shows of a streamed call that is under way, or that broke."""

from __future__ import annotations

from dagster import MetadataValue

from ioi_dagster.host.private import DagsterEvent, EngineEventData, PlanOrchestrationContext
from ioi_dagster.host.starts import Came
from ioi_dagster.model.negotiation import Lease


def pieces_event(context: PlanOrchestrationContext, lease: Lease, came: Came) -> DagsterEvent:
    """An engine event: how far the call of the step under `lease` has come."""
    metadata = {
        "ioi/step": MetadataValue.text(lease.step),
        "ioi/pieces": MetadataValue.int(came.pieces),
        "ioi/pieces_before": MetadataValue.int(came.first),
        "ioi/bytes": MetadataValue.int(came.bytes),
        "ioi/broke": MetadataValue.bool(came.broke),
        "ioi/node": MetadataValue.text(f"{lease.node} of {lease.cluster} ({lease.domain})"),
    }
    return DagsterEvent.engine_event(context, f"{lease.step}: {came}", EngineEventData(metadata=metadata))
