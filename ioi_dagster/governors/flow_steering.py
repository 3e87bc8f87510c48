"""What people have said about a run that is under way, as far as it holds from now on: what is paused, how many may run at once,
which priorities count, and from where steps are to stay away. What happens at once, the flow governor does itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from ioi_dagster.governors.flow_gangs import Gangs
from ioi_dagster.governors.flow_steps import OVER, Step, Steps, StepState
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.intervention import PART, Action, Intervention, names_of
from ioi_dagster.model.negotiation import Ask

V = TypeVar("V")
AT_ONCE = frozenset({StepState.AWARDING, StepState.RUNNING})


class Steering:
    def __init__(self, steps: Steps, gangs: Gangs) -> None:
        self._steps, self._gangs = steps, gangs
        self._paused: dict[str, Intervention] = {}
        """By step, or mapped step; the empty name is the whole run."""
        self._priorities: dict[str, int] = {}
        self._away: dict[str, frozenset[str]] = {}
        self._cap: int | None = None
        self._caps: dict[str, int] = {}
        """By step; the run has its own."""
        self._over: dict[str, str] = {}
        """Steps that wait since as many of theirs run as may, and why."""
        steps.held_by = self.why_held

    # What holds -------------------------------------------------------------------------------------------------

    def why_held(self, step: str) -> str:
        """Why the step must not start now; empty where it may."""
        pause = self._of(self._paused, step) if self._paused else None
        if pause is None:
            return self._over.get(step, "")
        return f"paused by {pause.who or 'somebody'}" + (f": {pause.why}" if pause.why else "")

    def shaped(self, ask: Ask) -> Ask:
        """The ask of a step that is ready, as it counts."""
        # The parts of a map come before steps of the same priority, or none would end before all have begun.
        part = PART in ask.step
        priority = self._of(self._priorities, ask.step.partition(PART)[0])
        return ask if priority is None else replace(ask, priority=priority + part)

    def agree(self, step: Step) -> list[Step]:
        """A gang starts as one: what was said last of a priority of one of it holds for all of it. All of the step's gang."""
        if not self._priorities or not step.ask.gang:
            return [step]
        unit = [step, *self._gangs.others(step, *StepState)]
        names = {"", *(name for one in unit for name in names_of(one.ask.step))}
        # What is said of more takes the place of what was said of less, so what is said later stands later.
        said = [priority for name, priority in self._priorities.items() if name in names][-1:]
        for one in unit:
            if said and one.state not in OVER and one.ask.priority != said[0]:
                self._steps.reask(one, replace(one.ask, priority=said[0]))
        return unit

    def away(self, step: str) -> frozenset[str]:
        """Nodes and clusters from which the step is to stay away."""
        return frozenset().union(*(self._away[name] for name in (*names_of(step), *_run(step)) if name in self._away))

    def room(self) -> int | None:
        """So many steps more may start; None: any number."""
        if self._cap is None:
            return None
        its = (step for step in self._steps.all() if not self.is_part(step))
        return max(0, self._cap - sum(step.state in AT_ONCE for step in its))

    def may_join(self, step: str) -> bool:
        """May it run besides what is counted, as a copy or in the task of another?"""
        return not self.why_held(step) and names_of(step)[-1] not in self._caps

    def recount(self) -> None:
        """Who of a step with a cap may start now: the most urgent, as many as there is room for. A gang starts whole or waits. To
        be called right before anything is negotiated for or awarded: it goes through all steps of the run."""
        if not self._caps and not self._over:
            return
        its: dict[str, list[Step]] = {name: [] for name in self._caps}
        for step in self._steps.all():
            if step.state not in OVER and (name := names_of(step.ask.step)[-1]) in its:
                its[name].append(step)
        over = {key: why for name, steps in its.items() for key, why in self._beyond(name, steps)}
        changed = over.keys() ^ self._over.keys()
        self._over = over
        self._steps.hold(changed)

    def _beyond(self, name: str, its: list[Step]) -> Iterator[tuple[str, str]]:
        """Those that wait and must not start, and why. `its`: all of the step `name` that are not over."""
        cap = self._caps[name]
        left = cap - sum(step.state in AT_ONCE for step in its)
        waiting = [step for step in its if step.state is StepState.WAITING and not self._is_paused(step)]
        why = f"the run may have {cap} of {name} at once"
        passed: set[str] = set()
        for step in sorted(waiting, key=lambda one: (-one.ask.priority, one.order)):
            if step.ask.step in passed:
                continue
            unit = [one for one in self._gangs.unit(step) if names_of(one.ask.step)[-1] == name]
            passed.update(one.ask.step for one in unit)
            if len(unit) > left:
                yield from ((one.ask.step, why) for one in unit)
            else:
                left -= len(unit)

    def _is_paused(self, step: Step) -> bool:
        return self._of(self._paused, step.ask.step) is not None

    def is_part(self, step: Step) -> bool:
        """Of a map inside a step that runs: no cap counts it."""
        return PART in step.ask.step

    @property
    def why_capped(self) -> str:
        return f"the run may have {counted(self._cap or 0, 'step')} at once"

    def _of(self, table: dict[str, V], step: str) -> V | None:
        return next((table[name] for name in (*names_of(step), *_run(step)) if name in table), None)

    # What is said -----------------------------------------------------------------------------------------------

    def pause(self, said: Intervention) -> str:
        known = self._paused.get(said.step)
        self._paused[said.step] = said
        self._steps.hold()
        return "paused already" if known is not None else "paused; what runs goes on to its end"

    def resume(self, said: Intervention) -> str:
        if said.step and "" in self._paused:
            return f"not resumed: the whole run is {self.why_held('')}"
        if not said.step:
            found = list(self._paused)
        else:
            above = next((name for name in names_of(said.step)[1:] if name != said.step and name in self._paused), None)
            if above is not None:
                return f"not resumed: {above} is paused as a whole"
            found = [name for name in self._paused if name and said.means(name)]
        for name in found:
            del self._paused[name]
        self._steps.hold()
        return "goes on" if found else "was not paused"

    def prioritise(self, said: Intervention) -> str:
        assert said.value is not None
        for name in [name for name in self._priorities if name and said.means(name)]:
            del self._priorities[name]
        self._priorities[said.step] = said.value
        steps = list(self._steps.all())
        for step in steps:
            ask = self.shaped(step.ask)
            if ask is not step.ask:
                self._steps.reask(step, ask)
        agreed: set[str] = set()
        for step in steps:
            if step.ask.step not in agreed:
                agreed.update(one.ask.step for one in self.agree(step))
        return f"has priority {said.value} from now on"

    def cap(self, said: Intervention) -> str:
        if said.step:
            self._caps.pop(said.step, None)
            if said.value is not None:
                self._caps[said.step] = said.value
            self.recount()
            return f"may have {'any number' if said.value is None else said.value} of {said.step} at once"
        self._cap = said.value
        return (
            "may have any number of steps at once"
            if said.value is None
            else f"may have {counted(said.value, 'step')} at once"
        )

    def stay_away(self, said: Intervention) -> None:
        self._away[said.step] = self._away.get(said.step, frozenset()) | {said.away}
        self._keep_away(said)

    def go_back(self, said: Intervention) -> str:
        """Steps may go there again; their places are looked up anew."""
        if said.step and said.away in self._away.get("", ()):
            return f"not taken back: the whole run stays away from {said.away}"
        above = next(
            (name for name in names_of(said.step)[1:] if name != said.step and self._stays(name, said.away)), None
        )
        if above is not None:
            return f"not taken back: {above} stays away from {said.away} as a whole"
        found = [name for name in self._away if self._stays(name, said.away) and (not said.step or said.means(name))]
        for name in found:
            self._away[name] -= {said.away}
        for step in self._keep_away(said) if found else ():
            step.looked_at = float("-inf")
        return f"may go to {said.away} again" if found else f"did not stay away from {said.away}"

    def _stays(self, name: str, away: str) -> bool:
        return away in self._away.get(name, ())

    def _keep_away(self, said: Intervention) -> list[Step]:
        meant = [step for step in self._steps.all() if said.means(step.ask.step)]
        for step in meant:
            step.away = self.away(step.ask.step)
        return meant

    def of_run(self, said: Intervention) -> str:
        """What came of one that holds from now on."""
        match said.action:
            case Action.PAUSE:
                return self.pause(said)
            case Action.RESUME:
                return self.resume(said)
            case Action.PRIORITISE:
                return self.prioritise(said)
            case Action.CAP:
                return self.cap(said)
            case Action.RETURN:
                return self.go_back(said)
            case _:
                raise AssertionError(said.action)


def _run(step: str) -> tuple[str, ...]:
    """Under which name what is said of the whole run stands, if the step goes by that."""
    return () if PART in step else ("",)
