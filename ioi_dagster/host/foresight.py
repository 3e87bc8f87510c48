"""What the flow governor is told of a run before its steps are ready: which steps are to come, and how long their like took."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.host import tags
from ioi_dagster.host.private import ExecutionPlan, ExecutionStep
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.placement import Edge, Step


def graph_of(plan: ExecutionPlan, took: Mapping[str, float], over: Collection[str]) -> GraphKnown:
    """The steps of the plan that are known before it runs, without those that are `over`; those that an op is mapped to are not.
    `took`: see `Ledger.took`."""
    needs = plan.get_executable_step_deps()
    steps, edges = [], []
    for key, before in needs.items():
        step = plan.get_step_by_key(key)
        if not isinstance(step, ExecutionStep) or key in over:
            continue
        capability = step.tags.get(tags.CAPABILITY, OWN_STEP)
        steps.append(Step(key, 0.0, kind=key.partition("[")[0], capability=capability))
        edges += [Edge(one, key) for one in sorted(before) if one in needs]
    known = {step.id for step in steps}
    return GraphKnown(
        tuple(steps),
        tuple(edge for edge in edges if edge.producer in known),
        kinds=tuple(sorted(took.items())),
    )
