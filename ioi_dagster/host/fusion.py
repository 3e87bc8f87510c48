"""Which steps may run in one task after another: a chain that needs no decision between its steps.

What a step costs around its code (placement, submission, a transaction, two messages) is paid once for the chain. Each step
keeps its own events, commit and explanation. The node ends a chain after `FUSED_S` seconds, so steps that take their time
are never fused, and what was not reached is vended as ever.
"""

from __future__ import annotations

from ioi_dagster.host import tags
from ioi_dagster.host.pools import pool_of
from ioi_dagster.host.private import ExecutionPlan, ExecutionStep

MAX_FUSED = 16
_ALONE = (
    tags.CAPABILITY,
    tags.ASSIGNS_CLASS,
    tags.DATA_CLASS,
    tags.PLACE_IN,
    tags.EFFECT,
    tags.COPIES,
    tags.TIMEOUT,
    tags.RESOURCES,
    tags.GANG,
    tags.CHECKPOINTABLE,
    tags.PRIORITY,
    tags.NEAR,
    tags.APART,
    "dagster/priority",
)
"""A step with one of these is placed by itself: something is to be decided about it."""


class Chains:
    """The chains of one plan. Looks again when dynamic outputs have added steps."""

    def __init__(self, plan: ExecutionPlan) -> None:
        self._plan = plan
        self._steps = -1
        self._next: dict[str, str] = {}
        self._before: dict[str, str] = {}

    def after(self, step: ExecutionStep) -> list[ExecutionStep]:
        """The steps that may run in one task after `step`, in order."""
        if not _fusable(step) or _is_looked_for(step):
            return []
        self._look()
        chain: list[ExecutionStep] = []
        key = self._next.get(step.key)
        while key is not None and len(chain) < MAX_FUSED - 1:
            follower = self._plan.get_step_by_key(key)
            if not isinstance(follower, ExecutionStep) or not _fusable(follower):
                break
            chain.append(follower)
            if _is_looked_for(follower):
                break
            key = self._next.get(key)
        return chain

    def goes_on(self, step: ExecutionStep) -> bool:
        """Could `step` have run in one task after the one that it depends on?"""
        if not _fusable(step):
            return False
        self._look()
        before = self._before.get(step.key)
        first = self._plan.get_step_by_key(before) if before is not None else None
        return isinstance(first, ExecutionStep) and _fusable(first) and not _is_looked_for(first)

    def _look(self) -> None:
        """From each step to the one that depends on it, where neither has another."""
        if self._steps == len(self._plan.executable_map):
            return
        self._steps = len(self._plan.executable_map)
        needs = self._plan.get_executable_step_deps()
        needed_by: dict[str, list[str]] = {}
        for key, upstream in needs.items():
            for one in upstream:
                needed_by.setdefault(one, []).append(key)
        waits_for_many = {key for key, upstream in needs.items() if len(upstream) != 1}
        self._next = {
            key: followers[0]
            for key, followers in needed_by.items()
            if len(followers) == 1 and followers[0] not in waits_for_many
        }
        self._before = {follower: key for key, follower in self._next.items()}


def _is_looked_for(step: ExecutionStep) -> bool:
    """It makes an asset: what depends on it finds the asset's version, and a check what it judges, in the event log."""
    return any(output.properties.asset_key is not None for output in step.step_outputs)


def _fusable(step: ExecutionStep) -> bool:
    return (
        not pool_of(step)
        and not any(tag in step.tags for tag in _ALONE)
        and not any(output.is_dynamic for output in step.step_outputs)
    )
