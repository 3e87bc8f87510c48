"""Where in the sources of policies a rule stands, for those who may change it."""

from __future__ import annotations

from pathlib import Path


class Rules:
    """Of the folder `policies`, which need not hold sources."""

    def __init__(self, policies: Path) -> None:
        self._policies = policies

    def where(self, policy: str, code: str) -> str:
        """The file and line of the rule of `policy` (as `book/library/launch`) that gives `code`, from the folder that holds the
        policies; empty where there is none."""
        below = self._policies / "domains"
        file = below / f"{policy}.rego"
        try:
            if not file.resolve().is_relative_to(below.resolve()):
                return ""
            lines = file.read_text().splitlines()
        except (OSError, ValueError):
            return ""
        line = next((number for number, text in enumerate(lines, 1) if f'"{code}"' in text), None)
        return "" if line is None else f"{self._policies.name}/{file.relative_to(self._policies)}:{line}"
