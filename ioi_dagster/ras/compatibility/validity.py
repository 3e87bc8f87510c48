"""Does a value satisfy a schema? True, False, or None where that is not known; within bounds, with the place and the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ioi_dagster.ras.compatibility.document import Budget, Node, in_place, is_number
from ioi_dagster.ras.compatibility.patterns import matches

FORMAT_EXAMPLES = {
    "date": "2024-02-29",
    "date-time": "2024-02-29T12:00:00Z",
    "time": "12:00:00Z",
    "email": "a@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.org/",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
}
"""A text of each common format (RFC 3339, 5321, 1123, 2673, 4291, 3986, 4122)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`ok`: True, False, or None (unknown); otherwise where, and why."""

    ok: bool | None
    path: str = ""
    reason: str = ""


FINE = Finding(True)


def type_of(value: Any) -> str:
    """The JSON type; `fraction` is a number that is no integer."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "fraction"
    return {str: "string", list: "array"}.get(type(value), "object")


def equal(one: Any, other: Any) -> bool:
    """As JSON has it: 1 is 1.0, and true is no number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    return one == other


def is_multiple(value: Any, step: Any) -> bool | None:
    """None where binary and decimal fractions differ on it, and so do validators."""
    exact = (Fraction(str(value)) / Fraction(str(step))).denominator == 1
    if isinstance(value, int) and isinstance(step, int):
        return exact
    try:
        quotient = value / step
        binary = quotient == int(quotient)
    except (OverflowError, ValueError):
        return None
    return exact if binary == exact else None


class Judge:
    """Spends the budget that it is given; raises `SpentError` when that is used up."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def judge(self, value: Any, node: Node, path: str = "$") -> Finding:
        self._budget.spend()
        if isinstance(node.schema, bool):
            return FINE if node.schema else Finding(False, path, "nothing is accepted here")
        unsure = FINE
        for keyword, wanted in node.keywords.items():
            rule = _RULES.get(keyword)
            found = rule(self, value, wanted, node, path) if rule else FINE
            if found.ok is False:
                return found
            if found.ok is None:
                unsure = found
        return unsure

    def all_of(self, findings: list[Finding]) -> Finding:
        return next((f for f in findings if f.ok is False), next((f for f in findings if f.ok is None), FINE))


_Rule = Callable[[Judge, Any, Any, Node, str], Finding]


def _check(applies: Callable[[Any], bool], holds: Callable[[Any, Any], bool | None], text: str) -> _Rule:
    def rule(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
        if not applies(value):
            return FINE
        ok = holds(value, wanted)
        return FINE if ok else Finding(ok, path, f"{_short(value)} {text} {_short(wanted)}")

    return rule


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _of_type(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    names = wanted if isinstance(wanted, list) else [wanted]
    own = type_of(value)
    if own in names or (own in ("integer", "fraction") and "number" in names):
        return FINE
    return Finding(
        False, path, f"{_short(value)} is {'a number' if own == 'fraction' else own}, not {' or '.join(names)}"
    )


def _enum(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    judge._budget.spend(1 + len(wanted) // 8)
    listed = any(equal(value, one) for one in wanted)
    return FINE if listed else Finding(False, path, f"{_short(value)} is none of {_short(wanted)}")


def _ref(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    target = node.target(wanted)
    return judge.judge(value, target, path) if target else Finding(None, path, f"{wanted} leads out of the schema")


def _all(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    return judge.all_of([judge.judge(value, node.at(part), path) for part in wanted])


def _any(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    found = [judge.judge(value, node.at(part), path) for part in wanted]
    if any(f.ok for f in found):
        return FINE
    why = f"{_short(value)} is none of the {len(found)} alternatives: {found[0].reason}"
    return Finding(None if any(f.ok is None for f in found) else False, path, why)


def _one(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    found = [judge.judge(value, node.at(part), path).ok for part in wanted]
    fits = found.count(True)
    if fits > 1:
        return Finding(False, path, f"{_short(value)} is {fits} of the alternatives, and may be one")
    if None in found:
        return Finding(None, path, "which alternatives it is, is not known")
    return FINE if fits else Finding(False, path, f"{_short(value)} is none of the {len(found)} alternatives")


def _not(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    ok = judge.judge(value, node.at(wanted), path).ok
    return FINE if ok is False else Finding(None if ok is None else False, path, f"{_short(value)} is what is excluded")


def _if(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    ok = judge.judge(value, node.at(wanted), path).ok
    both = [judge.judge(value, node.at(node.keywords.get(name, True)), path) for name in ("then", "else")]
    if ok is not None:
        return both[0 if ok else 1]
    return FINE if both[0].ok and both[1].ok else Finding(None, path, "which condition holds is not known")


def item_schemas(node: Node) -> tuple[list[Any], Any]:
    """Schemas of the first items, and of those after them."""
    keywords = node.keywords
    items = keywords.get("items", True)
    if isinstance(items, list):
        return items, keywords.get("additionalItems", True)
    return ([] if node.document.draft7 else keywords.get("prefixItems", [])), items


def _items(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not isinstance(value, list):
        return FINE
    first, rest = item_schemas(node)
    places = enumerate(value)
    return judge.all_of(
        [judge.judge(v, node.at(first[i] if i < len(first) else rest), f"{path}[{i}]") for i, v in places]
    )


def _contains(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not isinstance(value, list):
        return FINE
    found = [judge.judge(item, node.at(wanted), path).ok for item in value]
    new = not node.document.draft7
    least = node.keywords.get("minContains", 1) if new else 1
    most = node.keywords.get("maxContains", len(value)) if new else len(value)
    sure, perhaps = found.count(True), found.count(None)
    if sure + perhaps < least or sure > most:
        return Finding(False, path, f"contains {sure} of what it has to contain")
    return FINE if sure >= least and sure + perhaps <= most else Finding(None, path, "what it contains is not known")


def _unique(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not wanted or not isinstance(value, list):
        return FINE
    judge._budget.spend(len(value) ** 2)
    twice = any(equal(one, other) for place, one in enumerate(value) for other in value[:place])
    return Finding(False, path, "an item comes twice") if twice else FINE


def _properties(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not isinstance(value, dict):
        return FINE
    found = []
    for name, item in value.items():
        sure, perhaps = property_schemas(node, name, "additionalProperties")
        judge._budget.spend(1 + len(node.keywords.get("patternProperties", ())))
        here = f"{path}.{name}"
        found += [judge.judge(item, part, here) for part in sure]
        found += [Finding(None, here, "is perhaps restricted") for part in perhaps if not judge.judge(item, part).ok]
    return judge.all_of(found)


def property_schemas(node: Node, name: str, rest: str) -> tuple[list[Node], list[Node]]:
    """Schemas that apply to a property, and those that perhaps do. `rest`: the keyword of those that no other names."""
    keywords = node.keywords
    sure, perhaps = [], []
    if name in keywords.get("properties", {}):
        sure.append(node.at(keywords["properties"][name]))
    for pattern, part in keywords.get("patternProperties", {}).items():
        applies = matches(pattern, name)
        if applies is not False:
            (sure if applies else perhaps).append(node.at(part))
    if not sure and rest in keywords:
        (perhaps if perhaps else sure).append(node.at(keywords[rest]))
    return sure, perhaps


def _unevaluated(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not isinstance(value, dict | list) or not value or wanted is True:
        return FINE
    if in_place(node) or "additionalProperties" in node.keywords or isinstance(value, list):
        return Finding(None, path, "what other schemas leave over is not followed")
    found = []
    for name, item in value.items():
        sure, perhaps = property_schemas(node, name, "unevaluatedProperties")
        found += [judge.judge(item, part, f"{path}.{name}") for part in sure]
        found += [Finding(None, path, "is perhaps restricted") for part in perhaps]
    return judge.all_of(found)


def _unevaluated_items(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    return _unevaluated(judge, value, wanted, node, path) if isinstance(value, list) else FINE


def _unevaluated_properties(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    return _unevaluated(judge, value, wanted, node, path) if isinstance(value, dict) else FINE


def _names(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not isinstance(value, dict):
        return FINE
    return judge.all_of([judge.judge(name, node.at(wanted), f"{path}.{name}") for name in value])


def _required(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    missing = [name for name in wanted if name not in value] if isinstance(value, dict) else []
    return Finding(False, f"{path}.{missing[0]}", "is required and may be missing") if missing else FINE


def _dependent(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not isinstance(value, dict):
        return FINE
    found = []
    for name, then in wanted.items():
        if name in value:
            rule = _required if isinstance(then, list) else None
            found.append(rule(judge, value, then, node, path) if rule else judge.judge(value, node.at(then), path))
    return judge.all_of(found)


def _format(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    if not isinstance(value, str) or FORMAT_EXAMPLES.get(wanted) == value:
        return FINE
    return Finding(None, path, f"whether it is of the format {wanted} is not looked at")


def _opaque(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    return Finding(None, path, "a keyword that is not followed")


def _content(judge: Judge, value: Any, wanted: Any, node: Node, path: str) -> Finding:
    return Finding(None, path, "what a text holds is not looked at") if isinstance(value, str) else FINE


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_RULES: dict[str, _Rule] = {
    "type": _of_type,
    "enum": _enum,
    "const": _check(lambda value: True, equal, "is not"),
    "minimum": _check(is_number, lambda v, w: v >= w, "is below"),
    "maximum": _check(is_number, lambda v, w: v <= w, "is above"),
    "exclusiveMinimum": _check(is_number, lambda v, w: v > w, "is not above"),
    "exclusiveMaximum": _check(is_number, lambda v, w: v < w, "is not below"),
    "multipleOf": _check(is_number, is_multiple, "is no multiple of"),
    "minLength": _check(_is(str), lambda v, w: len(v) >= w, "is shorter than"),
    "maxLength": _check(_is(str), lambda v, w: len(v) <= w, "is longer than"),
    "pattern": _check(_is(str), lambda v, w: matches(w, v), "does not match"),
    "minItems": _check(_is(list), lambda v, w: len(v) >= w, "has fewer items than"),
    "maxItems": _check(_is(list), lambda v, w: len(v) <= w, "has more items than"),
    "minProperties": _check(_is(dict), lambda v, w: len(v) >= w, "has fewer properties than"),
    "maxProperties": _check(_is(dict), lambda v, w: len(v) <= w, "has more properties than"),
    "format": _format,
    "items": _items,
    "prefixItems": _items,
    "contains": _contains,
    "uniqueItems": _unique,
    "properties": _properties,
    "patternProperties": _properties,
    "additionalProperties": _properties,
    "propertyNames": _names,
    "required": _required,
    "dependentRequired": _dependent,
    "dependentSchemas": _dependent,
    "dependencies": _dependent,
    "allOf": _all,
    "anyOf": _any,
    "oneOf": _one,
    "not": _not,
    "if": _if,
    "$ref": _ref,
    "unevaluatedItems": _unevaluated_items,
    "unevaluatedProperties": _unevaluated_properties,
    **dict.fromkeys(("$dynamicRef", "$recursiveRef"), _opaque),
    **dict.fromkeys(("contentEncoding", "contentMediaType", "contentSchema"), _content),
}
