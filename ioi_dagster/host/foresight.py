"""What the flow governor is told of a run before its steps are ready: which steps are to come, how long their like took, and how
much those made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.governors.flow_to_come import ToCome, graph_to_come, op_of
from ioi_dagster.host import tags
from ioi_dagster.host.demand import demand_of
from ioi_dagster.host.private import ExecutionPlan, ExecutionStep, StepOutputHandle
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.placement import Link, Made


def graph_of(
    plan: ExecutionPlan,
    took: Mapping[str, float],
    made: Mapping[tuple[str, str], Made],
    over: Collection[str],
    run: Mapping[str, str],
    places_in: Callable[[str], Collection[str]],
    home: str,
    links: Iterable[Link] = (),
) -> GraphKnown:
    """The steps of the plan that are known before it runs, without those that are `over`; those that an op is mapped to are not.
    `took`, `made`: see `Ledger`; `run`: its tags; `places_in`: the domains that a tag `ioi/place_in` means; `home`, `links`: see
    `Network`."""
    return graph_to_come(tuple(_steps(plan, run, places_in)), over, took, made, home, links)


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
            tuple((op_of(source.step_key), source.output_name) for source in dict.fromkeys(_sources(step))),
        )


def _sources(step: ExecutionStep) -> Iterator[StepOutputHandle]:
    for its in step.step_inputs:
        yield from its.get_step_output_handle_dependencies()


def _takes(step: Mapping[str, str], run: Mapping[str, str]) -> dict[str, float]:
    try:
        return dict(demand_of(step, run).resources)
    except BadInputError:
        # That is told of the step when it is ready.
        return {}
