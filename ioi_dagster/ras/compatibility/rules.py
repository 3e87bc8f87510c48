"""What each keyword of a schema asks of all values of an alternative: one rule each, that proves or does not know."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ioi_dagster.ras.compatibility.branches import NUMBERS, TEXT_KEYWORDS, Branch, rest_of, types_of
from ioi_dagster.ras.compatibility.document import Node, read_document
from ioi_dagster.ras.compatibility.validity import FINE, Finding, item_schemas, property_schemas

if TYPE_CHECKING:
    from ioi_dagster.ras.compatibility.proof import Prover

Rule = Callable[["Prover", Branch, tuple[Node, ...], Any, Node, str], Finding]


def _when(types: frozenset[str], holds: Callable[[Branch, Any], bool], text: str) -> Rule:
    def rule(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
        if not branch.types & types or holds(branch, wanted):
            return FINE
        return Finding(None, path, f"{text} {str(wanted)[:60]}")

    return rule


def _of_type(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    more = sorted(branch.types - types_of(wanted))
    if not more:
        return FINE
    shown = ", ".join("number" if kind == "fraction" else kind for kind in more)
    return Finding(
        None, path, f"may be {shown} where {wanted if isinstance(wanted, str) else ' or '.join(wanted)} is taken"
    )


def _enum(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    return Finding(None, path, "may be anything where only listed values are taken")


def _least(branch: Branch, wanted: Any, is_open: bool) -> bool:
    if (branch.low, branch.low_open) >= (wanted, is_open):
        return True
    # Between an excluded limit and the next integer there is none.
    if "fraction" in branch.types or math.isinf(branch.low):
        return False
    first = math.floor(branch.low) + 1 if branch.low_open else math.ceil(branch.low)
    return first > wanted or (first == wanted and not is_open)


def _most(branch: Branch, wanted: Any, is_open: bool) -> bool:
    if (-branch.high, branch.high_open) >= (-wanted, is_open):
        return True
    if "fraction" in branch.types or math.isinf(branch.high):
        return False
    last = math.ceil(branch.high) - 1 if branch.high_open else math.floor(branch.high)
    return last < wanted or (last == wanted and not is_open)


def _multiple(branch: Branch, wanted: Any) -> bool:
    """Of whole numbers only: of fractions validators differ."""
    steps = [step for step in branch.multiples if isinstance(step, int)] + (
        [1] if "fraction" not in branch.types else []
    )
    return isinstance(wanted, int) and any((Fraction(step) / wanted).denominator == 1 for step in steps)


def _text(keyword: str) -> Rule:
    def rule(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
        if "string" not in branch.types or (keyword, str(wanted)) in branch.texts:
            return FINE
        if keyword == "pattern" and wanted in ("", ".*"):
            return FINE
        return Finding(None, path, f"may be a text of another {keyword} than {str(wanted)[:60]!r}")

    return rule


def _all(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    found = (prover.takes(branch, given, node.at(part), path) for part in wanted)
    return next((f for f in found if not f.ok), FINE)


def _any(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    return prover.either(branch, given, [node.at(part) for part in wanted], path, alone=False)


def _one(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    return prover.either(branch, given, [node.at(part) for part in wanted], path, alone=True)


def _not(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    inner = node.at(wanted)
    if prover.branch_apart(branch, given, (inner,), path).ok:
        return FINE
    if any(prover.covers((inner,), excluded, path).ok for excluded in branch.excluded):
        return FINE
    return Finding(None, path, "may be what is excluded")


def _if(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    condition = node.at(wanted)
    then, otherwise = (node.at(node.keywords.get(name, True)) for name in ("then", "else"))
    found = prover.takes(branch, given, then, path)
    if not found.ok:
        return (
            prover.takes(branch, given, otherwise, path)
            if prover.apart_from(branch, given, [condition], path)
            else found
        )
    if prover.takes(branch, given, condition, path).ok:
        return FINE
    return prover.takes(branch, given, otherwise, path)


def _ref(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    target = node.target(wanted)
    if target is None:
        return Finding(None, path, f"{wanted} leads out of the schema, and is not followed")
    return prover.takes(branch, given, target, path)


def _items(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    if "array" not in branch.types:
        return FINE
    first, rest = item_schemas(node)
    alike = max(len(first), branch.prefix)
    for place in range(int(min(alike + 1, branch.size("array")[1]))):
        here = f"{path}[{place}]" if place < alike else f"{path}[*]"
        found = prover.covers(branch.item(place), node.at(first[place] if place < len(first) else rest), here)
        if not found.ok:
            return found
    return FINE


def _contains(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    if "array" not in branch.types:
        return FINE
    new = not node.document.draft7
    least = node.keywords.get("minContains", 1) if new else 1
    most = node.keywords.get("maxContains", math.inf) if new else math.inf
    low, high = branch.size("array")
    if most < high:
        return Finding(None, path, f"may contain more than {most}")
    if low >= least:
        places = range(int(min(branch.prefix + 1, high)))
        if all(prover.covers(branch.item(place), node.at(wanted), path).ok for place in places):
            return FINE
    for its in branch.contains:
        enough = (its.keywords.get("minContains", 1) if not its.document.draft7 else 1) >= least
        if enough and prover.covers((its.at(its.keywords["contains"]),), node.at(wanted), path).ok:
            return FINE
    return FINE if least == 0 else Finding(None, path, "may not contain what it has to contain")


def _properties(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    return _each_property(prover, branch, node, path, "additionalProperties")


def _each_property(prover: Prover, branch: Branch, node: Node, path: str, rest: str) -> Finding:
    """`rest`: the keyword of what is not named."""
    if "object" not in branch.types:
        return FINE
    named = set(node.keywords.get("properties", ()))
    named |= {name for its in branch.objects for name in its.keywords.get("properties", ())}
    for name in sorted(named):
        sure, perhaps = property_schemas(node, name, rest)
        for part in (*sure, *perhaps):
            found = prover.covers(branch.named(name), part, f"{path}.{name}")
            if not found.ok:
                return found
    return _unnamed(prover, branch, node, f"{path}.*", node.keywords.get(rest, True))


def _unnamed(prover: Prover, branch: Branch, node: Node, path: str, rest: Any) -> Finding:
    """Properties that neither side names: by pattern, or what is left."""
    patterns = node.keywords.get("patternProperties", {})
    theirs = [
        (pattern, its.at(part))
        for its in branch.objects
        for pattern, part in its.keywords.get("patternProperties", {}).items()
    ]
    left = tuple(its.at(rest_of(its)) for its in branch.objects)
    for pattern, part in patterns.items():
        same = tuple(its for other, its in theirs if other == pattern)
        cases = [same] if same else [(its,) for _, its in theirs] + [left]
        for case in cases:
            found = prover.covers(case, node.at(part), path)
            if not found.ok:
                return found
    if rest is True:
        return FINE
    for case in [(its,) for pattern, its in theirs if pattern not in patterns] + [left]:
        found = prover.covers(case, node.at(rest), path)
        if not found.ok:
            return Finding(None, found.path, f"may have properties that are not known there ({found.reason})")
    return FINE


def _names(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    if "object" not in branch.types or prover.covers((*branch.names, _A_NAME), node.at(wanted), path).ok:
        return FINE
    for its in branch.objects:
        if rest_of(its) is False and not its.keywords.get("patternProperties"):
            known = its.keywords.get("properties", {})
            wrong = [f for name in known if not (f := prover.judge.judge(name, node.at(wanted), path)).ok]
            return Finding(None, wrong[0].path, wrong[0].reason) if wrong else FINE
    return Finding(None, path, "may have properties of other names")


def _required(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    missing = [name for name in wanted if name not in branch.required] if "object" in branch.types else []
    return Finding(None, f"{path}.{missing[0]}", "is required and may be missing") if missing else FINE


def _dependent(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    if "object" not in branch.types:
        return FINE
    for name, then in wanted.items():
        if prover.covers(branch.named(name), node.at(False), path).ok:
            continue
        if isinstance(then, list):
            known = [others for other, others in branch.dependent if other == name]
            missing = set(then) - branch.required.union(*known)
            if missing:
                return Finding(None, f"{path}.{min(missing)}", f"is required beside {name} and may be missing")
        else:
            found = prover.takes(branch, given, node.at(then), path)
            if not found.ok:
                return found
    return FINE


def _fewest(branch: Branch, wanted: Any) -> bool:
    return max(branch.size("object")[0], len(branch.required)) >= wanted


def _most_properties(branch: Branch, wanted: Any) -> bool:
    closed = [
        len(its.keywords.get("properties", {}))
        for its in branch.objects
        if rest_of(its) is False and not its.keywords.get("patternProperties")
    ]
    return min([branch.size("object")[1], *closed]) <= wanted


def _left_over(kind: str) -> Rule:
    def rule(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
        if kind not in branch.types or wanted in (True, {}):
            return FINE
        if kind == "array" and branch.size("array")[1] == 0:
            return FINE
        return Finding(None, path, "what other schemas leave over is not followed")

    return rule


def _unevaluated_properties(
    prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str
) -> Finding:
    if "additionalProperties" not in node.keywords and rest_of(node) is wanted:
        return _each_property(prover, branch, node, path, "unevaluatedProperties")
    return _left_over("object")(prover, branch, given, wanted, node, path)


def _opaque(prover: Prover, branch: Branch, given: tuple[Node, ...], wanted: Any, node: Node, path: str) -> Finding:
    return Finding(None, path, "a keyword that is not followed")


_A_NAME = Node({"type": "string"}, read_document({"type": "string"}))
_STRING, _ARRAY, _OBJECT = frozenset({"string"}), frozenset({"array"}), frozenset({"object"})
RULES: dict[str, Rule] = {
    "type": _of_type,
    "enum": _enum,
    "const": _enum,
    "minimum": _when(NUMBERS, lambda b, w: _least(b, w, False), "may be below"),
    "exclusiveMinimum": _when(NUMBERS, lambda b, w: _least(b, w, True), "may not be above"),
    "maximum": _when(NUMBERS, lambda b, w: _most(b, w, False), "may be above"),
    "exclusiveMaximum": _when(NUMBERS, lambda b, w: _most(b, w, True), "may not be below"),
    "multipleOf": _when(NUMBERS, _multiple, "may be no multiple of"),
    "minLength": _when(_STRING, lambda b, w: b.size("string")[0] >= w, "may be shorter than"),
    "maxLength": _when(_STRING, lambda b, w: b.size("string")[1] <= w, "may be longer than"),
    "minItems": _when(_ARRAY, lambda b, w: b.size("array")[0] >= w, "may have fewer items than"),
    "maxItems": _when(_ARRAY, lambda b, w: b.size("array")[1] <= w, "may have more items than"),
    "uniqueItems": _when(_ARRAY, lambda b, w: not w or b.unique or b.size("array")[1] <= 1, "may have an item twice:"),
    "minProperties": _when(_OBJECT, _fewest, "may have fewer properties than"),
    "maxProperties": _when(_OBJECT, _most_properties, "may have more properties than"),
    **{keyword: _text(keyword) for keyword in TEXT_KEYWORDS},
    "contentSchema": _opaque,
    "items": _items,
    "prefixItems": _items,
    "contains": _contains,
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
    "unevaluatedItems": _left_over("array"),
    "unevaluatedProperties": _unevaluated_properties,
    **dict.fromkeys(("$dynamicRef", "$recursiveRef"), _opaque),
}
