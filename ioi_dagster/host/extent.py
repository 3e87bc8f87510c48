"""How many steps a run has in all: known when every step that makes others has said how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ioi_dagster.host.private import ExecutionPlan, UnresolvedMappedExecutionStep

Mappings = Mapping[str, Mapping[str, Any]]
"""Step → output → its mapping keys, or None: `KnownExecutionState.dynamic_mappings`."""


class Extent:
    """Of one plan, as it was before anything was mapped."""

    def __init__(self, plan: ExecutionPlan) -> None:
        steps = [plan.get_step(handle) for handle in plan.step_handles_to_execute]
        mapped = [step for step in steps if isinstance(step, UnresolvedMappedExecutionStep)]
        self._fixed = len(steps) - len(mapped)
        self._mapped = Counter((step.resolved_by_step_key, step.resolved_by_output_name) for step in mapped)

    def steps(self, mappings: Mappings) -> int | None:
        """All steps of the run; None as long as that is open."""
        total = self._fixed
        for (step, output), its_steps in self._mapped.items():
            if step not in mappings:
                return None
            total += its_steps * len(mappings[step].get(output) or ())
        return total
