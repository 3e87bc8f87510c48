"""What became of one record in a discovery: refused, and for what; or outranked, and by whom and in what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.discovery import COLUMNS, LET_PASS, Intent, Registry, detailed, discover
from ioi_dagster.ras.summary import Summary


class Verdict(StrEnum):
    """What became of a record."""

    CHOSEN = "chosen"
    OUTRANKED = "outranked"
    REFUSED = "refused"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Why:
    """`refusals`: all that it is refused for, not the first alone. `ahead`: options before it, best first; `lacks`: by criterion,
    how much of its utility the best one is ahead (behind, where negative)."""

    urn: str
    verdict: Verdict
    refusals: tuple[Refusal, ...] = ()
    ahead: tuple[str, ...] = ()
    dominated_by: tuple[str, ...] = ()
    lacks: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.verdict is Verdict.REFUSED:
            return f"{self.urn} is refused: " + "; ".join(map(str, self.refusals))
        if self.verdict is Verdict.OUTRANKED:
            worst = max(self.lacks, key=lambda name: self.lacks[name])
            return f"{self.urn} comes after {len(self.ahead)} others; {self.ahead[0]} is ahead most in {worst}"
        return f"{self.urn} is {self.verdict}" + (" from this registry" if self.verdict is Verdict.ABSENT else "")


def why_not_chosen(intent: Intent, registry: Registry, urn: str, version: str = "") -> Why:
    """Of a record, or one version of it: the best of its summaries counts."""
    own = [s for s in registry.summaries if s.urn == urn and version in ("", s.version)]
    if not own:
        return Why(urn, Verdict.ABSENT)
    options = discover(intent, registry).options
    place = next((place for place, one in enumerate(options) if one.summary in own), None)
    if place is None:
        return Why(urn, Verdict.REFUSED, _all_refusals(intent, registry, own))
    if place == 0:
        return Why(urn, Verdict.CHOSEN)
    best, one = options[0].score.parts, options[place]
    lacks = {name: round(part - one.score.parts[name], 12) for name, part in best.items()}
    ahead = tuple(other.summary.entry for other in options[:place])
    return Why(urn, Verdict.OUTRANKED, (), ahead, one.dominated_by, lacks)


def _all_refusals(intent: Intent, registry: Registry, own: Sequence[Summary]) -> tuple[Refusal, ...]:
    found: dict[Refusal, None] = {}
    for summary in own:
        for row in COLUMNS:
            if row.asked(intent) and (text := row.text(intent, summary, registry)):
                found[Refusal(row.code, text, registry.by, row.remedy)] = None
        _, refusals = detailed(intent, summary, registry)
        found |= {one: None for one in refusals if one.code not in LET_PASS or not intent.unknown_types}
    if not found:
        rejected = discover(intent, registry).rejected
        found |= {one.refusal: None for one in rejected if one.summary in own}
    return tuple(found)
