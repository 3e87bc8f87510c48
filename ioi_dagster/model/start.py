"""What a node is asked to start, and what it answers. On the wire: msgpack of these values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta

from ioi_dagster.model.block import NOBODY, Made
from ioi_dagster.model.negotiation import Lease
from ioi_dagster.model.refusal import Refusal

MAX_CHECKPOINT = 16 * 2**20
"""Bytes."""


class Streaming(StrEnum):
    """Does a step's block call give its result in pieces, and may one go on after those that another has given?"""

    NO = "false"
    YES = "true"
    RESUMES = "resumes"


@dataclass(frozen=True, slots=True)
class StartRequest:
    """`kind` is `step` (opaque bytes for the step runner) or `block` (a framed payload). `permit` is a `Signed` as a
    plain object, None only where no policy root is configured. `timeout_s`: how long a step may run, 0 for no limit.
    `own_process`: the step is run in a process that nobody shares. `versions`: of who sends a step, see `model.versions`;
    where they are not said nothing is compared. `stream`: the name under which the result of a block is fetched in pieces, of
    which `after` are there already, given by `made`: others begin anew. The answer's result is then an empty payload, once all
    were fetched. `preemptible`: its node may give it up, and it is placed again."""

    kind: str
    lease: Lease
    permit: dict[str, Any] | None
    capability: str
    payload: bytes
    timeout_s: float = 0.0
    own_process: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    stream: str = ""
    after: int = 0
    made: Made = NOBODY
    preemptible: bool = True


@dataclass(frozen=True, slots=True)
class StartAnswer:
    """`attempt` is drawn at start; `started` and `ended` are Unix seconds. Exactly one of `result`, `refusal` and `error` is
    set; `cause` says what kind of error it is, in a word of `governors.failures.Cause`. `checkpoint`: what it left for its next
    attempt, where it was stopped."""

    attempt: str
    node: str
    started: float
    ended: float
    result: bytes | None = None
    refusal: Refusal | None = None
    error: str | None = None
    cause: str = ""
    checkpoint: Annotated[bytes, Meta(max_length=MAX_CHECKPOINT)] | None = None
