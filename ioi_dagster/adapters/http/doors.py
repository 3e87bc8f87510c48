"""What a door of a gateway is: who may use it, what it takes and answers, and how much of it anybody may have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ioi_dagster.model.token import TokenScope

MAX_JSON = 2**20
MAX_INVOKE = 64 * 2**20


class For(StrEnum):
    """Who may use a door."""

    ANYONE = "anyone"
    DOMAIN = "a known domain, by a proof"
    RUN = "a run's own domain, by a proof and the run's permit"
    OWN = "the domain's own processes, by its token"
    HOME = "runs of the domain itself, by its proof"
    INVITED = "who opens the connection with an invitation's certificate"
    SCOPED = "a known domain, by a proof, or who shows a token with the door's scope"
    SHOWN = "who shows a token with the door's scope"


@dataclass(frozen=True, slots=True)
class Param:
    """One of a query (`?name=…`)."""

    name: str
    text: str
    kind: str = "string"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests a second, of one who asks at one door, after `burst` at once."""

    per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Door:
    """`asks` is None where there is no body. `framed`: both bodies are frames (magic, header, parts) around that JSON. `scope`:
    what a token has to be for; None: no token opens it, but for the domain's own. `rate`: None where nothing is counted."""

    method: str
    path: str
    who: For
    asks: Any
    answers: Any
    text: str
    framed: bool = False
    streamed: bool = False
    """The answer is any number of frames, each behind its length in bytes (u32, big endian), of `MAX_FRAME` bytes at most."""
    query: tuple[Param, ...] = ()
    scope: TokenScope | None = None
    rate: Rate | None = None
    media: str = "application/json"
    """Of the answer, where it is not framed."""
    most: int = 0
    """Bytes that a request's body may have, where that is not what others may have."""

    @property
    def limit(self) -> int:
        """Bytes that a request's body may have."""
        return self.most or (MAX_INVOKE if self.framed else MAX_JSON)
