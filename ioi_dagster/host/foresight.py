"""What the flow governor is told of a run before its steps are ready: which steps are to come, and how long their like took."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.governors.flow_to_come import ToCome, graph_to_come
from ioi_dagster.host import tags
from ioi_dagster.host.demand import demand_of
from ioi_dagster.host.private import ExecutionPlan, ExecutionStep
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.placement import Link


def graph_of(
    plan: ExecutionPlan,
    took: Mapping[str, float],
    over: Collection[str],
    run: Mapping[str, str],
    places_in: Callable[[str], Collection[str]],
    links: Iterable[Link] = (),
) -> GraphKnown:
    """The steps of the plan that are known before it runs, without those that are `over`; those that an op is mapped to are not.
    `took`: see `Ledger.took`; `run`: its tags; `places_in`: the domains that a tag `ioi/place_in` means; `links`: see
    `Network`."""
    return graph_to_come(tuple(_steps(plan, run, places_in)), over, took, links)


def _steps(
    plan: ExecutionPlan, run: Mapping[str, str], places_in: Callable[[str], Collection[str]]
) -> Iterator[ToCome]:
    needs = plan.get_executable_step_deps()
    for key, before in needs.items():
        step = plan.get_step_by_key(key)
        if not isinstance(step, ExecutionStep):
            continue
        takes = _takes(step.tags, run)
        yield ToCome(
            key,
            tuple(sorted(before)),
            step.tags.get(tags.CAPABILITY, OWN_STEP),
            takes.get("memory", 0.0),
            takes.get("gpu", 0.0),
            frozenset(places_in(step.tags.get(tags.PLACE_IN, ""))) or None,
        )


def _takes(step: Mapping[str, str], run: Mapping[str, str]) -> dict[str, float]:
    try:
        return dict(demand_of(step, run).resources)
    except BadInputError:
        # That is told of the step when it is ready.
        return {}
