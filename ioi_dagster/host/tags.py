"""The tags by which ops and runs speak to the governors; documented in `docs/reference/tags.md`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from ioi_dagster.errors import BadInputError

E = TypeVar("E", bound=Enum)

CAPABILITY = "ioi/capability"
"""The capability that the op's block call needs; without it the op is the project's own code."""
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
TENANT = "ioi/tenant"
HIGHEST = "ioi/highest"
"""On a run: the highest data class that it may touch."""
APPROVAL = "ioi/approval"
TIMEOUT = "ioi/timeout_s"
"""On an op: seconds that a step may run. Then it is interrupted and fails; its retry policy applies."""
SUBJECT = "ioi/subject"


def seconds(tags: Mapping[str, str], name: str) -> float:
    """The tag's seconds, 0 where it is not set. Raises `BadInputError`."""
    text = tags.get(name, "")
    try:
        value = float(text or 0.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise BadInputError(f"the tag {name} says {text!r}", todo="give a number of seconds, as in '90'")
    return value


def one_of(kind: type[E], tags: Mapping[str, str], name: str, otherwise: E) -> E:
    """The tag's word as one of `kind`, `otherwise` where it is not set. Raises `BadInputError`."""
    if name not in tags:
        return otherwise
    try:
        return kind(tags[name])
    except ValueError:
        words = ", ".join(str(word.value) for word in kind)
        raise BadInputError(f"the tag {name} says {tags[name]!r}", todo=f"use one of: {words}") from None
