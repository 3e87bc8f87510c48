"""From the answers of all scopes to one decision: any deny wins, a hold beats an allow, obligations add up.

A lower scope can only tighten: adding an answer never turns a deny or a hold into an allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ioi_dagster.errors import RetryableError
from ioi_dagster.model.decision import Obligation, Verdict
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.reasons import render

LET_IN = "let_in"
"""`{"domains": [...]}`: those, and no others, may give orders here as the domain's own people may."""
POLICY = "policy "
"""Before the name of a policy, as that which refuses."""
KNOWN_OBLIGATIONS = frozenset({"require_approval"})
"""Those that the gates enforce. Any other is a deny: an obligation that nobody meets is no allowance."""


@dataclass(frozen=True, slots=True)
class Composed:
    verdict: Verdict
    refusals: tuple[Refusal, ...]
    warnings: tuple[Refusal, ...]
    obligations: tuple[Obligation, ...]
    ttl_s: float


def compose(answers: Iterable[tuple[str, Any]], known: frozenset[str] = KNOWN_OBLIGATIONS) -> Composed:
    """(scope, policy value) pairs → one verdict; obligations that are not `known` are denies. Raises `RetryableError` for a value
    that is not a verdict."""
    refusals: list[Refusal] = []
    warnings: list[Refusal] = []
    obligations: list[Obligation] = []
    ttl = float("inf")
    seen = False
    for scope, value in answers:
        seen = True
        denies, warns, owed, lifetime = _checked(scope, value)
        refusals += denies
        warnings += warns
        obligations += owed
        ttl = min(ttl, lifetime)
    if not seen:
        raise RetryableError("no scope has a policy for this decision")
    for obligation in obligations:
        if obligation.kind not in known:
            refusals.append(
                Refusal("policy.unknown_obligation", f"obligation {obligation.kind!r} cannot be met here", "policy")
            )
    held = [obligation for obligation in obligations if obligation.kind == "require_approval"]
    if refusals:
        verdict = Verdict.DENY
    elif held:
        verdict = Verdict.HOLD
        of = held[0].params.get("of", "someone")
        refusals.append(
            Refusal("policy.approval_needed", f"it waits for the approval of {of}", "policy", "approve it, or deny it")
        )
    else:
        verdict = Verdict.ALLOW
    return Composed(verdict, tuple(refusals), tuple(warnings), tuple(obligations), 0.0 if ttl == float("inf") else ttl)


def _checked(scope: str, value: Any) -> tuple[list[Refusal], list[Refusal], list[Obligation], float]:
    if not isinstance(value, Mapping) or not isinstance(value.get("allow"), bool):
        raise RetryableError(f"scope {scope} answered with something that is not a verdict")
    denies, warns, owed = value.get("deny"), value.get("warn", []), value.get("obligations", [])
    if not isinstance(denies, list) or not isinstance(warns, list) or not isinstance(owed, list):
        raise RetryableError(f"scope {scope} answered with a malformed verdict")
    if value["allow"] != (not denies):
        raise RetryableError(f"scope {scope} contradicts itself: allow={value['allow']} with {len(denies)} denies")
    ttl = value.get("ttl_s", 0)
    if not isinstance(ttl, int | float) or isinstance(ttl, bool) or ttl < 0:
        raise RetryableError(f"scope {scope} answered with a ttl that is not a duration")
    return (
        [_refusal(scope, item) for item in denies],
        [_refusal(scope, item) for item in warns],
        [_obligation(scope, item) for item in owed],
        float(ttl),
    )


def _refusal(scope: str, item: Any) -> Refusal:
    if not isinstance(item, Mapping) or not isinstance(item.get("code"), str):
        raise RetryableError(f"scope {scope} gave a reason without a code")
    params = item.get("params", {})
    return Refusal(
        item["code"],
        render(item["code"], params if isinstance(params, Mapping) else {}),
        f"{POLICY}{item.get('policy', scope)}",
        str(item.get("remedy", "")),
    )


def _obligation(scope: str, item: Any) -> Obligation:
    if not isinstance(item, Mapping) or not isinstance(item.get("kind"), str):
        raise RetryableError(f"scope {scope} gave an obligation without a kind")
    params = item.get("params", {})
    return Obligation(item["kind"], dict(params) if isinstance(params, Mapping) else {})
