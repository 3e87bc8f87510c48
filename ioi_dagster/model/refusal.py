"""Why something was not done: a value with a stable code, a text, who refused and what would help."""

from __future__ import annotations

from dataclasses import dataclass

GATEWAY_FULL = frozenset({"gateway.too_many", "gateway.too_much"})
"""A gateway has more connections, or bytes of messages, than it may: nothing was done about the request, which is made again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """`code` is stable and dotted (`policy.data_class`), `by` names the refusing part, `remedy` says what would help."""

    code: str
    text: str
    by: str
    remedy: str = ""

    def __str__(self) -> str:
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"[{self.code}] {self.text} — refused by {self.by}{tail}"
