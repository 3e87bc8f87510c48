"""Gangs of a flow governor: steps that start together, in one cluster, or not at all.

The `gang_size` steps of one name that get ready one after the other are a gang. They are asked for, awarded and, where one of
them is lost, stopped together, and those that are not over by then are placed again together (D. Feitelson, L. Rudolph, "Gang
Scheduling Performance Benefits for Fine-Grain Synchronization", J. Parallel Distrib. Comput. 16, 1992).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ioi_dagster.governors.flow_steps import Step, Steps, StepState, group_of
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.negotiation import MAX_REQUESTS, Ask
from ioi_dagster.model.refusal import Refusal

BY = "flow governor"


class Gangs:
    """Which steps are in one with which."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._gathering: dict[str, dict[str, None]] = {}
        """By name, the steps of a gang that is not whole yet."""
        self._whole: dict[str, tuple[str, ...]] = {}
        """Of a step, all that are in one gang with it."""

    def ready(self, ask: Ask) -> Refusal | None:
        """A step waits, anew perhaps: it is in no older gang any more. Why it cannot, where its gang makes no sense."""
        self._whole.pop(ask.step, None)
        if not ask.gang:
            return None
        gathered = self._gathering.setdefault(ask.gang, {})
        gathered[ask.step] = None
        sizes = {self._steps[key].ask.gang_size for key in gathered}
        if len(sizes) > 1 or not 1 <= ask.gang_size <= MAX_REQUESTS:
            del gathered[ask.step]
            what = (
                f"{' and '.join(map(str, sorted(sizes)))} steps" if len(sizes) > 1 else counted(ask.gang_size, "step")
            )
            text = f"gang {ask.gang!r} is to have {what}"
            return Refusal("flow.gang_unfit", text, BY, f"one size for all of a gang, from 1 to {MAX_REQUESTS}")
        if len(gathered) == ask.gang_size:
            members = tuple(gathered)
            for key in members:
                self._whole[key] = members
            del self._gathering[ask.gang]
        return None

    def over(self, step: Step) -> None:
        """It will not start any more, at least not as what it is now."""
        gathered = self._gathering.get(step.ask.gang, {})
        if gathered.pop(step.ask.step, None) is None and step.ask.step in self._whole:
            for key in self._still(self._whole[step.ask.step]):
                del self._whole[key]
        if step.ask.gang and not gathered:
            self._gathering.pop(step.ask.gang, None)

    def others(self, step: Step, *states: StepState) -> list[Step]:
        """Those that are in one gang with it, or wait for it to be whole, and are in one of `states`."""
        if not step.ask.gang:
            return []
        members = self._whole.get(step.ask.step)
        keys = self._gathering.get(step.ask.gang, ()) if members is None else self._still(members)
        found = (self._steps[key] for key in keys if key != step.ask.step)
        return [other for other in found if other.state in states]

    def unit(self, step: Step) -> list[Step]:
        """What starts with it, itself first: of its gang those that wait."""
        return [step, *self.others(step, StepState.WAITING)] if step.ask.gang else [step]

    def _still(self, members: tuple[str, ...]) -> list[str]:
        """Without those that were made ready anew since."""
        return [key for key in members if self._whole.get(key) is members]

    def together(self, waiting: Iterable[Step]) -> Iterator[Step]:
        """Those of `waiting` that can start, since their gangs are whole; of each, with how many like it."""
        may: dict[tuple[str, ...], bool] = {}
        for step in waiting:
            if not step.ask.gang:
                yield step
                continue
            members = self._whole.get(step.ask.step)
            if members is None:
                missing = step.ask.gang_size - len(self._gathering[step.ask.gang])
                step.waiting_for = f"{counted(missing, 'step')} more of its gang {step.ask.gang!r} must be ready"
                continue
            if members not in may:
                held = not all(self._steps.may_start(key) for key in self._still(members))
                may[members] = False if held else self._count(self.unit(step))
            if may[members]:
                yield step

    def _count(self, unit: list[Step]) -> bool:
        """Can it start, as far as is known of its places?"""
        lacks = next((step for step in unit if not step.places), None)
        # It starts as one, so it is as urgent as the most urgent of it: those that are alike are one group, as their offer is.
        priority, not_before = max(step.ask.priority for step in unit), max(step.not_before for step in unit)
        for step in unit:
            step.group, step.not_before = group_of(step.ask)._replace(priority=priority), not_before
            if lacks is not None and step is not lacks:
                why = lacks.waiting_for or "its places are being looked up"
                step.waiting_for = f"{lacks.ask.step} of its gang has no place: {why}"
        alike = Counter(step.group for step in unit)
        for step in unit if len(unit) > 1 else ():
            step.group = step.group._replace(gang=alike[step.group])
        return lacks is None

    def validate(self) -> None:
        for name, gathered in self._gathering.items():
            assert gathered, name
            for key in gathered:
                step = self._steps[key]
                assert step.state is StepState.WAITING and step.ask.gang == name, key
                assert len(gathered) < step.ask.gang_size, key
        for key, members in self._whole.items():
            assert key in members
            states = {self._steps[other].state for other in self._still(members)}
            assert len(states - {StepState.DONE}) <= 1, (members, states)
