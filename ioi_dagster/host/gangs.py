"""Steps that start together or not at all: the gangs of a plan, checked before the run begins, and held until each is whole.

D. Feitelson, L. Rudolph, "Gang Scheduling Performance Benefits for Fine-Grain Synchronization" (J. Parallel Distrib. Comput.
16, 1992): steps that wait for each other must be there at the same time. Who starts them so is the cluster; here their asks
are kept back until the last of them is ready, since no cluster can know what will still come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.host import tags
from ioi_dagster.host.demand import Demand, demand_of, gang_of
from ioi_dagster.host.extent import Mappings
from ioi_dagster.host.pools import pool_of
from ioi_dagster.host.private import (
    ExecutionPlan,
    TagConcurrencyLimitsCounter,
    UnresolvedMappedExecutionStep,
    keys_of,
)
from ioi_dagster.host.work import Work
from ioi_dagster.model.amounts import counted, shown
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import MAX_REQUESTS
from ioi_dagster.model.refusal import Refusal

_SAME = (tags.CAPABILITY, tags.PLACE_IN)
BY = "flow governor"


@dataclass(frozen=True, slots=True)
class Due:
    """`whole`: steps of gangs that are complete. `broken`: those that are refused, since their gang can never be. `wait`: those
    that are kept since a moment, and what for."""

    whole: tuple[Work, ...] = ()
    broken: tuple[tuple[str, Refusal], ...] = ()
    wait: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Gang:
    members: list[Any]
    """Steps of the plan, those that are mapped as they are before that."""
    ready: dict[str, Work] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """Those of them of whom it was said that they wait."""

    def taken(self) -> list[Work]:
        ready = list(self.ready.values())
        self.ready, self.told = {}, set()
        return ready

    def waits(self, name: str, for_: int) -> list[tuple[str, str]]:
        untold = self.ready.keys() - self.told
        self.told |= untold
        return [
            (step, f"waits for {counted(for_, 'step')} more of its gang {name!r}, with which it starts")
            for step in sorted(untold)
        ]

    def refused(self, name: str, why: str) -> list[tuple[str, Refusal]]:
        refusal = Refusal("flow.gang_incomplete", f"gang {name!r} cannot start whole: {why}", BY)
        return [(work.ask.step, refusal) for work in self.taken()]


class Gangs:
    """Of one plan, as it was before anything was mapped. `limit`: how many steps the executor has in flight at most, if that is
    limited; `limits`: its limits by tag; `run`: the run's tags.

    Raises `BadInputError` that lists all that is wrong with them."""

    def __init__(
        self,
        plan: ExecutionPlan,
        run: Mapping[str, str],
        limit: int | None = None,
        limits: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._gangs: dict[str, _Gang] = {}
        self._limit = limit
        for handle in plan.step_handles_to_execute:
            step = plan.get_step(handle)
            name = gang_of(step.tags or {})
            if name:
                self._gangs.setdefault(name, _Gang([])).members.append(step)
        if self._gangs:
            wrong = [f"gang {name!r}: {text}" for name, gang in self._gangs.items() for text in _wrong(gang, plan, run)]
            wrong += _held_back(self._gangs, limit, limits)
            if wrong:
                raise BadInputError("\n".join(wrong), todo=f"see the tag {tags.GANG} in docs/reference/tags.md")

    def __bool__(self) -> bool:
        return bool(self._gangs)

    def hold(self, work: Work) -> bool:
        """A step is ready: is it kept here until its gang is?"""
        gang = self._gangs.get(work.ask.gang)
        if gang is None:
            return False
        gang.ready[work.ask.step] = work
        return True

    def due(self, begun: Collection[str], over: Collection[str], mappings: Mappings) -> Due:
        """`begun`: steps that were handed over or have succeeded; `over`: those that will not run any more.

        Who was started with its gang and is to be tried again joins those that still run; where several are, they start
        together again."""
        whole: list[Work] = []
        broken: list[tuple[str, Refusal]] = []
        wait: list[tuple[str, str]] = []
        for name, gang in self._gangs.items():
            if not gang.ready:
                continue
            keys = [key for step in gang.members for key in keys_of(step, mappings)]
            lost = next((key for key in keys if key in over), None)
            if lost is not None:
                broken += gang.refused(name, f"{lost} of it will not run")
            elif len(keys) > MAX_REQUESTS:
                broken += gang.refused(name, f"it has {len(keys)} steps, and {MAX_REQUESTS} may start together")
            elif missing := sum(key not in begun for key in keys):
                wait += gang.waits(name, missing)
            else:
                whole += _together(gang.taken())
        held = sum(len(gang.ready) for gang in self._gangs.values())
        if self._limit is not None and held >= self._limit:
            # Nothing runs any more that would let another one in.
            name, gang = max(self._gangs.items(), key=lambda item: len(item[1].ready))
            broken += gang.refused(name, f"max_concurrent {self._limit} of the executor lets in only some of its steps")
        return Due(tuple(whole), tuple(broken), tuple(wait))


def _together(works: list[Work]) -> Iterator[Work]:
    """They are one ask to a cluster, so that all have the highest class among them."""
    highest = DataClass.highest(work.ask.data_class for work in works)
    for work in works:
        size = len(works) if len(works) > 1 else 0
        ask = replace(work.ask, gang=work.ask.gang if size else "", gang_size=size, data_class=highest)
        yield replace(work, ask=ask)


def _wrong(gang: _Gang, plan: ExecutionPlan, run: Mapping[str, str]) -> Iterator[str]:
    first, *others = gang.members
    wants = _told(demand_of(first.tags, run))
    for step in others:
        its = _told(demand_of(step.tags, run))
        if its != wants:
            yield f"{step.key} asks for {its}, {first.key} for {wants}"
        for tag in _SAME:
            if step.tags.get(tag) != first.tags.get(tag):
                yield f"{tag} of {step.key} is {step.tags.get(tag)!r}, and of {first.key} {first.tags.get(tag)!r}"
    sources = {_source(step) for step in gang.members}
    if len(sources) > 1:
        yield "its steps are mapped over different outputs, so that it is not known at once how many they are"
    keys = {step.key for step in gang.members}
    for step in gang.members:
        pool = pool_of(step)
        if pool:
            yield f"{step.key} is in the pool {pool!r}, which might let in only some of them"
        before = _before(plan, step.key) & keys
        if before:
            yield f"{step.key} needs what {min(before)} makes, so that they cannot start together"


def _told(demand: Demand) -> str:
    asked = ", ".join(f"{name}={shown(name, amount)}" for name, amount in demand.resources) or "a slot"
    return f"{asked} at priority {demand.priority}" if demand.priority else asked


def _source(step: Any) -> tuple[str, str] | None:
    if not isinstance(step, UnresolvedMappedExecutionStep):
        return None
    return step.resolved_by_step_key, step.resolved_by_output_name


def _before(plan: ExecutionPlan, key: str) -> set[str]:
    """All that the step depends on."""
    needs = plan.get_all_step_deps()
    found: set[str] = set()
    ahead = list(needs.get(key, ()))
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += needs.get(one, ())
    return found


def _held_back(gangs: Mapping[str, _Gang], limit: int | None, limits: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Would the executor's own limits keep some of them out for ever? That is so where each gang lacks one and none comes in."""
    members = [step for gang in gangs.values() for step in gang.members]
    if limit is not None and len(members) - len(gangs) >= limit:
        yield f"max_concurrent {limit} of the executor lets in only some of the {len(members)} steps of gangs"
    keys = {one["key"] for one in limits}
    for step in members:
        if isinstance(step, UnresolvedMappedExecutionStep) and keys & step.tags.keys():
            yield f"{step.key} is counted in the executor's tag_concurrency_limits, which might let in only some of its steps"
    counter = TagConcurrencyLimitsCounter(list(limits), [step for gang in gangs.values() for step in gang.members[1:]])
    if all(counter.is_blocked(gang.members[0]) for gang in gangs.values()):
        yield "the executor's tag_concurrency_limits let in only some of the steps of gangs"
