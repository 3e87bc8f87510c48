"""What a policy decided, and everything a person needs to understand it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ioi_dagster.model.refusal import Refusal


class Verdict(StrEnum):
    """HOLD: not decidable now (engine away, approval needed); nothing starts and nothing fails."""

    ALLOW = "allow"
    HOLD = "hold"
    DENY = "deny"


class Level(StrEnum):
    ADVISORY = "advisory"
    SOFT = "soft"
    HARD = "hard"


@dataclass(frozen=True, slots=True)
class Obligation:
    """A condition on an allowance, e.g. `place_in {"domains": [...]}`. An unknown kind is a deny."""

    kind: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """The composed answer of every scope. `revision` is the policy bundle's digest, `input_digest` that of the input."""

    id: str
    verdict: Verdict
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[Refusal, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    engine: str = ""
    revision: str = ""
    input_digest: str = ""
    evaluated: tuple[str, ...] = ()
    latency_s: float = 0.0
    ttl_s: float = 0.0

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW
