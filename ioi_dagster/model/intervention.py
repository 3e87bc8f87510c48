"""What a person, or a governor, has done to a run that is under way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ioi_dagster.errors import BadInputError

CANCELLED = "flow.cancelled"
"""The code of the refusal that a cancelled step ends with."""
MAX_TEXT = 500
MAX_PRIORITY = 1_000
MAX_CAP = 100_000


class Action(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    REROUTE = "reroute"
    RETURN = "return"
    DRAIN = "drain"
    PRIORITISE = "prioritise"
    CAP = "cap"


ONCE = frozenset({Action.CANCEL, Action.REROUTE, Action.DRAIN})
"""Those that happen to what runs at the time. What the others say, a drain's pause and a reroute's way round hold until something
else is said, also in a process that goes on with the run."""


PART = "#"
"""In the keys of the parts of a map inside a step."""


def names_of(step: str) -> tuple[str, ...]:
    """What the step with that key goes by: its key, and that of the step that is mapped. A part of a map inside a step goes by
    its key alone: the step that waits for it has begun, and goes on to its end."""
    return (step,) if PART in step else (step, step.partition("[")[0])


@dataclass(frozen=True, slots=True)
class Intervention:
    """`step` is the key of a step, or of the step whose mapped ones are meant; empty for the whole run. `value` is the priority,
    or how many may run at once (None: any number). `away` is the node or the cluster to go away from, or back to. `number` is its
    place in the run's ledger, `at` Unix seconds; `answer` is what came of it, empty as long as no process of the run has seen it;
    `refused`: it names nobody, and counts for nothing."""

    run: str
    action: Action
    step: str = ""
    value: int | None = None
    away: str = ""
    why: str = ""
    who: str = ""
    at: float = 0.0
    number: int = 0
    answer: str = ""
    refused: bool = False

    def means(self, step: str) -> bool:
        return self.step in names_of(step) or (not self.step and PART not in step)

    def check(self) -> None:
        """Raises `BadInputError` for what makes no sense."""
        if max(map(len, (self.why, self.step, self.away, self.who))) > MAX_TEXT:
            raise BadInputError(f"a text of more than {MAX_TEXT} characters", todo="say it shorter")
        match self.action:
            case Action.PRIORITISE if self.value is None or abs(self.value) > MAX_PRIORITY:
                raise BadInputError(
                    f"{self.value} is no priority", todo=f"take a number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
                )
            case Action.CAP if self.value is not None and not 0 <= self.value <= MAX_CAP:
                raise BadInputError(
                    f"{self.value} is no number of steps", todo=f"take a number from 0 to {MAX_CAP}, or `none`"
                )
            case Action.CAP if "[" in self.step or PART in self.step:
                text = f"{self.step} is one step, of which one runs at a time"
                raise BadInputError(text, todo="name the step without its [key], or pause this one")
            case Action.REROUTE | Action.RETURN if not self.away:
                where = "away from" if self.action is Action.REROUTE else "back to"
                raise BadInputError(f"it is not said where to go {where}", todo="name a node or a cluster")
            case Action.CANCEL if not self.step:
                raise BadInputError(f"{self.action} is for steps here", todo="name the step")
            case _:
                pass
