"""Tokens by which people and tools outside of a network's members use a domain's registry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ioi_dagster.model.data_class import DataClass


class TokenScope(StrEnum):
    """What a token may be used for."""

    READ = "ras:read"
    REGISTER = "ras:register"
    INVOKE = "ras:invoke"
    METRICS = "ras:metrics"


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of one: never itself, only the `digest` of its secret. `audience`: which records it is shown, as records have
    it: `public`, `partner:<domain>`, or `local`, which is all that the domain itself sees. `highest`: the highest data class that
    may be given with it. Times are Unix seconds; `revoked`: 0 where it was not."""

    id: str
    name: str
    digest: str
    scopes: tuple[TokenScope, ...]
    created: float
    expires: float
    audience: str = "public"
    highest: DataClass = DataClass.PUBLIC
    revoked: float = 0.0
