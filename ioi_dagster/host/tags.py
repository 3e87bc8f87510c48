"""The tags by which ops and runs speak to the governors; documented in `docs/reference/tags.md`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import TypeVar

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.negotiation import Effect

E = TypeVar("E", bound=Enum)
MOST_S = 1e9
"""Of a deadline; more than thirty years."""

CAPABILITY = "ioi/capability"
"""The capability that the op's block call needs; without it the op is the project's own code."""
STREAMS = "ioi/streams"
"""On an op: `true` where its block call gives its result in pieces, `resumes` where it may also go on elsewhere."""
DATA_CLASS = "ioi/data_class"
"""The least data class of the step; its inputs may raise it."""
ASSIGNS_CLASS = "ioi/assigns_class"
"""`true`: the step may state a lower class for its outputs than its inputs have (the owner's own classifier)."""
PLACE_IN = "ioi/place_in"
"""Comma-separated domains, or `home`: the only places allowed."""
EFFECT = "ioi/effect"
PERMIT = "ioi/permit"
RUN_PROCESS = "ioi/run_process"
"""On a run: its newest process, see `run_process.RunProcess.text`."""
HELD = "ioi/held"
OBJECTIVE = "ioi/objective"
BUDGET = "ioi/budget"
"""On a run: credits that its steps may cost together."""
DEADLINE = "ioi/deadline"
"""On a run: when it is to be over, as a date and time with its zone (ISO 8601), or in so many seconds after it was created."""
TENANT = "ioi/tenant"
HIGHEST = "ioi/highest"
"""On a run: the highest data class that it may touch."""
APPROVAL = "ioi/approval"
TIMEOUT = "ioi/timeout_s"
"""On an op: seconds that a step may run. Then it is interrupted and fails; its retry policy applies."""
COPIES = "ioi/copies"
"""On an op: how often a step of it may run besides, where it is late and room is idle: 0 or 1."""
SUBJECT = "ioi/subject"
RESOURCES = "ioi/resources"
"""On an op: what a step takes of its node besides a slot, as in `gpu=1, memory=4GiB`."""
GANG = "ioi/gang"
"""On an op: a name; the steps of one gang start together, in one cluster, or none does."""
CHECKPOINTABLE = "ioi/checkpointable"
"""On an op, `true`: a step that is stopped for another tenant loses little."""
PRIORITY = "ioi/priority"
"""On a run: added to the `dagster/priority` of each of its steps. On an op: instead of its `dagster/priority`."""
NEAR = "ioi/near"
"""On an op: comma-separated steps, or a word that others have here too: its step rather runs where those do."""
APART = "ioi/apart"
"""The same of steps on whose nodes it runs only where there is no other."""


def seconds(tags: Mapping[str, str], name: str) -> float:
    """The tag's seconds, 0 where it is not set. Raises `BadInputError`."""
    return _amount(tags, name, "seconds") or 0.0


def copies_of(tags: Mapping[str, str], effect: Effect) -> int:
    """How often a step of this effect may run besides. Raises `BadInputError`."""
    text = tags.get(COPIES, "1" if effect is Effect.PURE else "0")
    if text not in ("0", "1"):
        raise BadInputError(f"the tag {COPIES} says {text[:80]!r}", todo="give 0 or 1")
    if text == "1" and effect is Effect.AT_MOST_ONCE:
        raise BadInputError(f"the tag {COPIES} says 1, and {EFFECT} says {effect}", todo="take one of them away")
    return int(text)


def credits_of(tags: Mapping[str, str], name: str) -> float | None:
    """The tag's credits, None where it is not set. Raises `BadInputError`."""
    return _amount(tags, name, "credits")


def deadline_of(tags: Mapping[str, str], created: float) -> float | None:
    """When (Unix s) a run that was `created` then is to be over; None where the tag is not set. Raises `BadInputError`."""
    text = tags.get(DEADLINE, "").strip()
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is not None and at.tzinfo is not None:
        return at.timestamp()
    try:
        seconds = float(text) if at is None else -1.0
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= MOST_S:
        todo = "give a date and time with its zone, as in 2030-01-31T06:00+01:00, or seconds after the run's creation, as in 3600"
        raise BadInputError(f"the tag {DEADLINE} says {text[:80]!r}", todo=todo)
    return created + seconds


def _amount(tags: Mapping[str, str], name: str, unit: str) -> float | None:
    text = tags.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise BadInputError(f"the tag {name} says {text!r}", todo=f"give a number of {unit}, as in '90'")
    return value


def truth(tags: Mapping[str, str], name: str) -> bool:
    """Does the tag say `true`? False where it is not set. Raises `BadInputError`."""
    text = tags.get(name, "false")
    if text not in ("true", "false"):
        raise BadInputError(f"the tag {name} says {text[:80]!r}", todo="use `true` or `false`")
    return text == "true"


def words(tags: Mapping[str, str], name: str) -> tuple[str, ...]:
    """What stands in the tag between commas."""
    return tuple(dict.fromkeys(word for part in tags.get(name, "").split(",") if (word := part.strip())))


def one_of(kind: type[E], tags: Mapping[str, str], name: str, otherwise: E) -> E:
    """The tag's word as one of `kind`, `otherwise` where it is not set. Raises `BadInputError`."""
    if name not in tags:
        return otherwise
    try:
        return kind(tags[name])
    except ValueError:
        known = ", ".join(str(word.value) for word in kind)
        raise BadInputError(f"the tag {name} says {tags[name]!r}", todo=f"use one of: {known}") from None
