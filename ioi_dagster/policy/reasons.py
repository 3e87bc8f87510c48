"""What people read: texts rendered here from the codes and parameters that policies return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXTS = {
    "launch.no_subject": "nobody is named as the one who starts this run",
    "launch.unknown_class": "the run's highest data class {class!r} is not a known one",
    "launch.too_many_steps": "the plan has {steps} steps, the network allows {limit}",
    "launch.unknown_code": "the code location {code!r} was not reviewed here",
    "intervene.no_subject": "nobody is named as the one who asks for this",
    "intervene.no_order_reason": "{action} of {kind} {name} stops the work of others, and no reason is given",
    "intervene.foreign": "{whose} does not order what {domain} owns",
    "intervene.no_reason": "{action} ends or moves work of {whose}, and no reason is given",
    "placement.class_too_high": "{class} data may not go to {who}, which handles {limit} at most",
    "placement.restricted_leaves_home": "restricted data stays in {home} and may not go to {who}",
    "placement.internal_leaves_authority": "internal data stays with {authority} and may not go to {who}",
    "placement.own_code_abroad": "own code may not run at {who}, which has another certificate authority",
    "data.unknown_class": "the data's class {class!r} is not a known one",
    "data.class_too_high": "{class} data may not go to {who}, which handles {limit} at most",
    "data.restricted_leaves_home": "restricted data stays in {home} and may not go to {who}",
    "data.internal_leaves_authority": "internal data stays with {authority} and may not go to {who}",
    "data.leaves_region": "the data has to stay in {regions}, and {who} keeps it in {keeps}",
    "lab.not_a_partner": "{origin} is not a partner of the lab",
    "lab.above_internal": "the lab takes internal data at most, not {class}",
    "cloud.public_only": "the cloud takes public data only, not {class}",
    "cloud.no_foreign_code": "the cloud runs its own blocks only, never somebody's code",
    "step.above_permit": "the step's data is {class}, the run's permit ends at {limit}",
    "step.domain_not_permitted": "the run's permit does not name {who}",
}


def render(code: str, params: Mapping[str, Any]) -> str:
    """The text for a code; an unknown code is shown with its parameters rather than hidden."""
    text = _TEXTS.get(code)
    if text is None:
        return f"{code} ({', '.join(f'{key}={value}' for key, value in sorted(params.items()))})"
    return text.format_map(_Lenient(params))


class _Lenient(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"
