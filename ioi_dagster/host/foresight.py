"""What the flow governor is told of a run before its steps are ready: which steps are to come, and how long their like took."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.host import tags
from ioi_dagster.host.demand import demand_of
from ioi_dagster.host.private import ExecutionPlan, ExecutionStep
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.placement import Edge, Step


def graph_of(
    plan: ExecutionPlan,
    took: Mapping[str, float],
    over: Collection[str],
    run: Mapping[str, str],
    places_in: Callable[[str], Collection[str]],
) -> GraphKnown:
    """The steps of the plan that are known before it runs, without those that are `over`; those that an op is mapped to are not.
    `took`: see `Ledger.took`; `run`: its tags; `places_in`: the domains that a tag `ioi/place_in` means."""
    needs = plan.get_executable_step_deps()
    steps, edges = [], []
    for key, before in needs.items():
        step = plan.get_step_by_key(key)
        if not isinstance(step, ExecutionStep) or key in over:
            continue
        capability = step.tags.get(tags.CAPABILITY, OWN_STEP)
        takes = _takes(step.tags, run)
        steps.append(
            Step(
                key,
                0.0,
                memory=takes.get("memory", 0.0),
                gpus=takes.get("gpu", 0.0),
                domains=frozenset(places_in(step.tags.get(tags.PLACE_IN, ""))) or None,
                kind=key.partition("[")[0],
                capability=capability,
            )
        )
        edges += [Edge(one, key) for one in sorted(before) if one in needs]
    known = {step.id for step in steps}
    return GraphKnown(
        tuple(steps),
        tuple(edge for edge in edges if edge.producer in known),
        kinds=tuple(sorted(took.items())),
    )


def _takes(step: Mapping[str, str], run: Mapping[str, str]) -> dict[str, float]:
    try:
        return dict(demand_of(step, run).resources)
    except BadInputError:
        # That is told of the step when it is ready.
        return {}
