"""What may be said of a value that satisfies schemas, as alternatives: each a conjunction of plain limits.

Where a schema says more than is kept here, an alternative allows more than the schema does: it is never narrower. So whatever
holds of all values of the alternatives holds of those of the schema.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from ioi_dagster.ras.compatibility.document import Budget, Node
from ioi_dagster.ras.compatibility.patterns import matches
from ioi_dagster.ras.compatibility.validity import equal, item_schemas

MAX_BRANCHES = 64
ALL = frozenset({"null", "boolean", "integer", "fraction", "string", "array", "object"})
NUMBERS = frozenset({"integer", "fraction"})


class TooManyError(Exception):
    """More alternatives than are looked at."""


@dataclass(slots=True)
class Branch:
    """One alternative. Numbers: `low`, `high` and whether they are excluded; `sizes`: least and greatest length by type."""

    types: frozenset[str] = ALL
    values: list[Any] | None = None
    low: float | int = -math.inf
    low_open: bool = False
    high: float | int = math.inf
    high_open: bool = False
    multiples: list[Any] = field(default_factory=list)
    sizes: dict[str, tuple[float, float]] = field(default_factory=dict)
    texts: frozenset[tuple[str, str]] = frozenset()
    """(`pattern`, `format` or what a text holds; its value)."""
    unique: bool = False
    required: frozenset[str] = frozenset()
    arrays: tuple[Node, ...] = ()
    """Schemas that say something of items."""
    contains: tuple[Node, ...] = ()
    objects: tuple[Node, ...] = ()
    """Schemas that say something of properties."""
    names: tuple[Node, ...] = ()
    dependent: tuple[tuple[str, frozenset[str]], ...] = ()
    excluded: tuple[Node, ...] = ()
    absorbed: tuple[Node, ...] = ()
    """All that it comes of."""

    def copy(self) -> Branch:
        return replace(self, multiples=list(self.multiples), sizes=dict(self.sizes))

    def size(self, kind: str) -> tuple[float, float]:
        return self.sizes.get(kind, (0, math.inf))

    def item(self, place: int) -> tuple[Node, ...]:
        """What is said of the item there."""
        found = []
        for node in self.arrays:
            first, rest = item_schemas(node)
            found.append(node.at(first[place] if place < len(first) else rest))
        return tuple(found)

    @property
    def prefix(self) -> int:
        """From which place on all items are alike."""
        return max((len(item_schemas(node)[0]) for node in self.arrays), default=0)

    def named(self, name: str) -> tuple[Node, ...]:
        """What is said for certain of the property of that name."""
        return tuple(part for node in self.objects for part in sure_of(node, name))

    def only(self, kind: str) -> Branch:
        branch = self.copy()
        branch.types = branch.types & {kind}
        return branch


def sure_of(node: Node, name: str) -> list[Node]:
    keywords = node.keywords
    found = [node.at(keywords["properties"][name])] if name in keywords.get("properties", {}) else []
    perhaps = bool(found)
    for pattern, part in keywords.get("patternProperties", {}).items():
        applies = matches(pattern, name)
        perhaps = perhaps or applies is not False
        if applies:
            found.append(node.at(part))
    rest = rest_of(node)
    return found if perhaps else [node.at(rest)]


def rest_of(node: Node) -> Any:
    """The schema of properties that no other names; what is left over by other schemas counts where there are none."""
    keywords = node.keywords
    if "additionalProperties" in keywords:
        return keywords["additionalProperties"]
    left = keywords.get("unevaluatedProperties", True)
    return left if not _COMBINED & keywords.keys() else True


_COMBINED = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "dependentSchemas", "$dynamicRef"}
)


def branches_of(nodes: tuple[Node, ...], budget: Budget) -> list[Branch]:
    """The alternatives of what satisfies all of `nodes`; none where nothing does. Raises `TooManyError` and `SpentError`."""
    found = [Branch()]
    for node in nodes:
        found = _narrowed(found, node, budget)
    return found


def _narrowed(before: list[Branch], node: Node, budget: Budget) -> list[Branch]:
    budget.spend(1 + len(before) * (1 + len(node.keywords) // 8))
    if node.schema is False:
        return []
    if node.schema is True:
        return before
    found = [branch for old in before if (branch := _limited(old, node, budget)) is not None]
    keywords = node.keywords
    for part in keywords.get("allOf", ()):
        found = _narrowed(found, node.at(part), budget)
    target = node.target(keywords["$ref"]) if "$ref" in keywords else None
    if target is not None:
        found = _narrowed(found, target, budget)
    for keyword in ("anyOf", "oneOf"):
        if keyword in keywords:
            found = _either(found, [(node.at(part),) for part in keywords[keyword]], budget)
    if "if" in keywords and ("then" in keywords or "else" in keywords):
        condition, then, otherwise = (node.at(keywords.get(name, True)) for name in ("if", "then", "else"))
        found = _either(found, [(condition, then), (otherwise,)], budget)
    return found


def _either(before: list[Branch], alternatives: list[tuple[Node, ...]], budget: Budget) -> list[Branch]:
    found: list[Branch] = []
    for nodes in alternatives:
        more = before
        for node in nodes:
            more = _narrowed(more, node, budget)
        found += more
        if len(found) > MAX_BRANCHES:
            raise TooManyError
    return found


_SIZES = {
    "minLength": "string",
    "maxLength": "string",
    "minItems": "array",
    "maxItems": "array",
    "minProperties": "object",
    "maxProperties": "object",
}
_OF_ITEMS = ("items", "prefixItems", "additionalItems")
_OF_PROPERTIES = ("properties", "patternProperties", "additionalProperties", "unevaluatedProperties")
TEXT_KEYWORDS = ("pattern", "format", "contentEncoding", "contentMediaType")


def types_of(wanted: Any) -> frozenset[str]:
    names = wanted if isinstance(wanted, list) else [wanted]
    return frozenset(names) & ALL | (NUMBERS if "number" in names else frozenset())


def _limited(old: Branch, node: Node, budget: Budget) -> Branch | None:
    """With the plain limits of `node`; None where nothing is left."""
    keywords, new = node.keywords, old.copy()
    new.absorbed += (node,)
    if "type" in keywords:
        new.types &= types_of(keywords["type"])
    for listed in ([keywords["const"]] if "const" in keywords else None, keywords.get("enum")):
        if listed is not None:
            had = new.values
            budget.spend(len(listed) * len(had or ()) // 8)
            new.values = listed if had is None else [one for one in listed if any(equal(one, other) for other in had)]
    for keyword, is_open in (("minimum", False), ("exclusiveMinimum", True)):
        if keyword in keywords and (keywords[keyword], is_open) > (new.low, new.low_open):
            new.low, new.low_open = keywords[keyword], is_open
    for keyword, is_open in (("maximum", False), ("exclusiveMaximum", True)):
        if keyword in keywords and (-keywords[keyword], is_open) > (-new.high, new.high_open):
            new.high, new.high_open = keywords[keyword], is_open
    if "multipleOf" in keywords:
        new.multiples.append(keywords["multipleOf"])
    for keyword, kind in _SIZES.items():
        if keyword in keywords:
            low, high = new.size(kind)
            size = keywords[keyword]
            new.sizes[kind] = (max(low, size), high) if keyword.startswith("min") else (low, min(high, size))
    new.texts |= {(keyword, str(keywords[keyword])) for keyword in TEXT_KEYWORDS if keyword in keywords}
    new.unique = new.unique or keywords.get("uniqueItems", False)
    new.required |= frozenset(keywords.get("required", ()))
    new.arrays += (node,) if any(keyword in keywords for keyword in _OF_ITEMS) else ()
    new.objects += (node,) if any(keyword in keywords for keyword in _OF_PROPERTIES) else ()
    new.contains += (node,) if "contains" in keywords else ()
    new.names += (node.at(keywords["propertyNames"]),) if "propertyNames" in keywords else ()
    for keyword in ("dependentRequired", "dependencies"):
        needs = keywords.get(keyword, {}).items()
        new.dependent += tuple((name, frozenset(then)) for name, then in needs if isinstance(then, list))
    if "not" in keywords:
        if keywords["not"] in (True, {}):
            return None
        new.excluded += (node.at(keywords["not"]),)
    budget.spend(len(new.required))
    return _without_impossible(new)


def _without_impossible(branch: Branch) -> Branch | None:
    gone = {kind for kind in ("string", "array", "object") if branch.size(kind)[0] > branch.size(kind)[1]}
    if branch.low > branch.high or (branch.low == branch.high and (branch.low_open or branch.high_open)):
        gone |= NUMBERS
    if branch.low == branch.high and branch.low == int(branch.low):
        gone.add("fraction")
    if any(isinstance(step, int) for step in branch.multiples):
        gone.add("fraction")
    if any(node.schema is False for name in branch.required for node in branch.named(name)):
        gone.add("object")
    least = branch.size("array")[0]
    if any(node.schema is False for place in range(int(min(least, branch.prefix + 1))) for node in branch.item(place)):
        gone.add("array")
    if gone:
        branch.types -= gone
    return branch if branch.types and branch.values != [] else None
