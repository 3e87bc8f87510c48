"""Whom an intervention names: steps of the run's plan, nodes and clusters that it may use. Or nobody, or what is over."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ioi_dagster.governors.flow_messages import Idle
from ioi_dagster.host.extent import Mappings
from ioi_dagster.host.private import ExecutionPlan, UnresolvedMappedExecutionStep, keys_of
from ioi_dagster.model.intervention import PART, Intervention
from ioi_dagster.model.names import near


class Named:
    """Of one plan, as it was before anything was mapped. `mappings`: what is known by now of what steps map over; `over`: keys of
    the steps that have ended for good; `places`: names of nodes and clusters."""

    def __init__(
        self,
        plan: ExecutionPlan,
        mappings: Callable[[], Mappings],
        over: Callable[[], Collection[str]],
        places: Callable[[], Collection[str]],
    ) -> None:
        self._mappings, self._over, self._places = mappings, over, places
        steps = [plan.get_step(handle) for handle in plan.step_handles_to_execute]
        mapped = [step for step in steps if isinstance(step, UnresolvedMappedExecutionStep)]
        self._mapped = {_base(step.key): step for step in mapped}
        self._fixed: dict[str, list[str]] = {}
        for step in steps:
            if not isinstance(step, UnresolvedMappedExecutionStep):
                self._fixed.setdefault(_base(step.key), []).append(step.key)

    def look(self, said: Intervention) -> Idle | None:
        """Why there is nothing to be done about it; None where there may be something."""
        if said.away:
            places = self._places()
            if said.away not in places:
                text = f"no node or cluster that the run knows is called {said.away!r}; {near(said.away, places)}"
                return Idle(text, refused=True)
        return self._look_at(said.step) if said.step else None

    def _look_at(self, name: str) -> Idle | None:
        step, _, _ = name.partition(PART)
        base = _base(step)
        mapped, mappings = self._mapped.get(base), self._mappings()
        keys = [*self._fixed.get(base, ()), *(keys_of(mapped, mappings) if mapped is not None else ())]
        if mapped is None and not keys:
            return Idle(f"the run has no step {name!r}; {near(base, (*self._fixed, *self._mapped))}", refused=True)
        if mapped is not None and mapped.resolved_by_step_key not in mappings:
            return None  # how many there will be is open
        if step != base and step not in keys:
            return Idle(f"the run has no step {name!r}; {near(step, keys)}", refused=True)
        over = self._over()
        if all(key in over for key in ([step] if step in keys else keys)):
            return Idle(f"gone: nothing to do; {name} is over", refused=False)
        return None


def _base(step: str) -> str:
    """What it is called where it is one of those that are mapped."""
    return step.partition("[")[0]
