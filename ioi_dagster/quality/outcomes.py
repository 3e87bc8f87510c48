"""What expectations said about a table of rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """One expectation. `failing` are row numbers, empty for an expectation about the whole table."""

    expectation: str
    column: str
    passed: bool
    reason: str
    failing: tuple[int, ...] = ()
    observed: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All expectations of a suite over one table."""

    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    def reasons(self) -> dict[int, tuple[str, ...]]:
        """Row number → why it fails, for rows that do."""
        found: dict[int, tuple[str, ...]] = {}
        for outcome in self.outcomes:
            for row in outcome.failing:
                found[row] = (*found.get(row, ()), outcome.reason)
        return found
