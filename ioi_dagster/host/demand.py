"""What the tags of a step and of its run say of what it takes and how it is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dagster import DagsterInstance, DagsterRun

from ioi_dagster.clock import Clock
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.flow_placing import objective_of
from ioi_dagster.host import tags
from ioi_dagster.model.amounts import RESOURCE, amount
from ioi_dagster.model.negotiation import DEFAULT_TENANT, SLOTS

MAX_RESOURCES = 16
MAX_PRIORITY = 1_000_000
MAX_NAME = 500
MAX_TENANT = 100
DAGSTERS = "dagster/priority"


@dataclass(frozen=True, slots=True)
class Demand:
    """`resources` in order of their names, none of 0."""

    resources: tuple[tuple[str, float], ...] = ()
    priority: int = 0
    gang: str = ""
    checkpointable: bool = False


def demand_of(step: Mapping[str, str], run: Mapping[str, str]) -> Demand:
    """Of the tags of a step and of its run. Raises `BadInputError`."""
    return Demand(
        resources=_resources(step.get(tags.RESOURCES, "")),
        priority=_priority(step, tags.PRIORITY if tags.PRIORITY in step else DAGSTERS) + run_priority(run),
        gang=gang_of(step),
        checkpointable=tags.truth(step, tags.CHECKPOINTABLE),
    )


def gang_of(step: Mapping[str, str]) -> str:
    """The gang of a step, empty where it is in none. Raises `BadInputError`."""
    name = step.get(tags.GANG, "").strip()
    if tags.GANG in step and not 0 < len(name) <= MAX_NAME:
        raise BadInputError(
            f"the tag {tags.GANG} says {name[:80]!r}", todo=f"give a name of at most {MAX_NAME} letters"
        )
    return name


@dataclass(frozen=True, slots=True)
class RunDemand:
    """`budget` in credits, `due` in monotonic seconds; None where the run does not say."""

    objective: str
    tenant: str
    budget: float | None
    due: float | None


def run_demand(run: DagsterRun, instance: DagsterInstance, clock: Clock, objective: str) -> RunDemand:
    """Of the tags of a run, `objective` where they name none. Raises `BadInputError` for any that makes no sense."""
    run_priority(run.tags)
    objective = run.tags.get(tags.OBJECTIVE, objective)
    objective_of(objective)
    return RunDemand(
        objective, tenant_of(run.tags), tags.credits_of(run.tags, tags.BUDGET), due_at(run, instance, clock)
    )


def check_run_tags(run: Mapping[str, str]) -> None:
    """Raises `BadInputError` for what `run_demand` would, before the run is."""
    run_priority(run)
    if tags.OBJECTIVE in run:
        objective_of(run[tags.OBJECTIVE])
    tenant_of(run)
    tags.credits_of(run, tags.BUDGET)
    tags.deadline_of(run, 0.0)


def tenant_of(run: Mapping[str, str]) -> str:
    """Who the run counts for. Raises `BadInputError`."""
    name = run.get(tags.TENANT, DEFAULT_TENANT).strip()
    if not 0 < len(name) <= MAX_TENANT:
        raise BadInputError(
            f"the tag {tags.TENANT} says {name[:80]!r}", todo=f"give a name of at most {MAX_TENANT} letters, or no tag"
        )
    return name


def run_priority(run: Mapping[str, str]) -> int:
    """What the run's tags add to the priority of each of its steps. Raises `BadInputError`."""
    return _priority(run, tags.PRIORITY)


def due_at(run: DagsterRun, instance: DagsterInstance, clock: Clock) -> float | None:
    """When (monotonic s) the run is to be over, by its tags; None where they do not say. Raises `BadInputError`."""
    record = instance.get_run_record_by_id(run.run_id) if tags.DEADLINE in run.tags else None
    at = tags.deadline_of(run.tags, clock.wall() if record is None else record.create_timestamp.timestamp())
    return None if at is None else clock.monotonic() + at - clock.wall()


def _resources(text: str) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for part in filter(str.strip, text.split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        try:
            if not (equals and RESOURCE.fullmatch(name)):
                raise BadInputError(
                    f"{part.strip()[:80]!r} is no resource with an amount", todo="write it as gpu=1, memory=4GiB"
                )
            if name == SLOTS or name in found:
                what = "each step takes one slot" if name == SLOTS else f"{name} is there twice"
                raise BadInputError(what, todo="name each resource besides the slot once")
            found[name] = amount(value)
        except BadInputError as error:
            raise BadInputError(f"the tag {tags.RESOURCES} says {text[:80]!r}: {error}") from None
    asked = sorted((name, value) for name, value in found.items() if value)
    if len(asked) > MAX_RESOURCES:
        raise BadInputError(
            f"the tag {tags.RESOURCES} names {len(asked)} resources", todo=f"name {MAX_RESOURCES} at most"
        )
    return tuple(asked)


def _priority(where: Mapping[str, str], name: str) -> int:
    text = where.get(name, "0")
    try:
        value = int(text)
    except ValueError:
        value = MAX_PRIORITY + 1
    if abs(value) > MAX_PRIORITY:
        todo = f"give a whole number between -{MAX_PRIORITY} and {MAX_PRIORITY}"
        raise BadInputError(f"the tag {name} says {text[:80]!r}", todo=todo)
    return value
