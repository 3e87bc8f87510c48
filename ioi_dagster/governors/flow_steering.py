"""What people have said about a run that is under way, as far as it holds from now on: what is paused, how many may run at once,
which priorities count, and from where steps are to stay away. What happens at once, the flow governor does itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ioi_dagster.governors.flow_gangs import Gangs
from ioi_dagster.governors.flow_steps import OVER, Step, Steps, StepState
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
        steps.held_by = self.why_held

    # What holds -------------------------------------------------------------------------------------------------

    def why_held(self, step: str) -> str:
        """Why the step must not start now; empty where it may."""
        if not self._paused:
            return ""
        pause = self._of(self._paused, step)
        if pause is None:
            return ""
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
        return self._of(self._away, step) or frozenset()

    def room(self) -> int | None:
        """So many steps more may start; None: any number."""
        if self._cap is None:
            return None
        counted = (step for step in self._steps.all() if not self.is_part(step))
        return max(0, self._cap - sum(step.state in AT_ONCE for step in counted))

    def is_part(self, step: Step) -> bool:
        """Of a map inside a step that runs: no cap counts it."""
        return PART in step.ask.step

    @property
    def why_capped(self) -> str:
        return f"the run may have {self._cap} steps at once"

    def _of(self, table: dict[str, V], step: str) -> V | None:
        run = () if PART in step else ("",)
        return next((table[name] for name in (*names_of(step), *run) if name in table), None)

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
        self._cap = said.value
        return "may have any number of steps at once" if said.value is None else f"may have {said.value} steps at once"

    def stay_away(self, said: Intervention) -> None:
        self._away[said.step] = self._away.get(said.step, frozenset()) | {said.away}
        for step in self._steps.all():
            if said.means(step.ask.step):
                step.away = self.away(step.ask.step)

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
            case _:
                raise AssertionError(said.action)
