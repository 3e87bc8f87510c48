"""What a step is sent of all that is known of its run. The whole would grow with the square of the run."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from ioi_dagster.host.private import (
    ExecutionPlan,
    ExecutionStep,
    KnownExecutionState,
    PastExecutionState,
    StepOutputHandle,
    dynamic_sources,
    takes_several,
    unresolved_key,
)


class StepStates:
    """For the steps of one plan."""

    def __init__(self, plan: ExecutionPlan) -> None:
        # What collects does not say of what, once that is made. So it is noted before.
        self._sources = dynamic_sources(plan)
        self._made_before = frozenset(plan.known_state.dynamic_mappings)

    def of(
        self, step: ExecutionStep, state: KnownExecutionState, takes: Set[StepOutputHandle] = frozenset()
    ) -> KnownExecutionState:
        """`takes`: outputs that will be there when the step starts."""
        # By handle and not by step: a mapped step needs one of the outputs of what it is mapped over, and there may be 10,000.
        needed = {handle for its in step.step_inputs for handle in its.get_step_output_handle_dependencies()}
        retries = state.previous_retry_attempts
        return KnownExecutionState(
            previous_retry_attempts={step.key: retries[step.key]} if step.key in retries else {},
            dynamic_mappings=self._mappings(step, state),
            step_output_versions=state.step_output_versions,
            ready_outputs={handle for handle in needed if handle in state.ready_outputs} | takes,
            parent_state=_past(state.parent_state, needed),
        )

    def _mappings(self, step: ExecutionStep, state: KnownExecutionState) -> dict[str, Any]:
        """The keys of the dynamic outputs that the step collects; of those that it is mapped over, its own key."""
        known, its_own = state.dynamic_mappings, getattr(step.handle, "mapping_key", None)
        sources = self._sources.get(unresolved_key(step))
        if sources is None:
            # It may collect what an earlier run has made.
            return {source: known[source] for source in self._made_before if source in known and takes_several(step)}
        mappings: dict[str, Any] = {}
        for source, output in sources:
            if output in known.get(source, {}):
                mappings.setdefault(source, {})[output] = known[source][output] if its_own is None else [its_own]
        return mappings


def _past(past: PastExecutionState | None, needed: set[StepOutputHandle]) -> PastExecutionState | None:
    if past is None:
        return None
    return PastExecutionState(past.run_id, past.produced_outputs & needed, _past(past.get_parent_state(), needed))
