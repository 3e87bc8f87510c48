"""The port behind which policies are evaluated."""

from __future__ import annotations

from typing import Any, Protocol


class Engine(Protocol):
    """Evaluates one entrypoint (`ioi/<scope…>/<decision>/verdict`) on one document.

    `evaluate` returns the policy's value or raises `RetryableError` (no value, trap, away) or `BadInputError` (a document
    over the limits). `revision` names the policy exactly; two engines with one revision answer alike.
    """

    name: str
    revision: str

    @property
    def entrypoints(self) -> frozenset[str]: ...

    def evaluate(self, entrypoint: str, document: dict[str, Any]) -> Any: ...
