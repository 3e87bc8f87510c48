"""JSON Schemas as they come from outside: looked over once, within bounds, before anything follows their references.

What is read: JSON Schema draft 2020-12 and draft 7 (told by `$schema`; 2020-12 where nothing is said), with references inside of
the document only. Nothing is fetched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

MAX_SCHEMAS = 4_000
"""Subschemas of one document."""
MAX_VALUES = 50_000
"""JSON values in one document, names of members among them."""
MAX_DEPTH = 64
"""Of JSON in JSON, and of references and combinations that apply to one and the same value."""
TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


class UnreadableError(Exception):
    """A schema that nothing can be said about: `where` in it, and why."""

    def __init__(self, where: str, why: str) -> None:
        self.where, self.why = where, why
        super().__init__(f"{where}: {why}")


class SpentError(Exception):
    """The work that one question may cost has been done."""


class Budget:
    """Counts steps of work, so that no schema takes longer than others."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise SpentError


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A schema that has been looked over. `targets`: what its references lead to; one that leads elsewhere is not among them."""

    root: Any
    draft7: bool
    targets: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    words: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By id of a subschema: what counts of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A subschema of a document."""

    schema: Any
    document: Document

    @property
    def key(self) -> object:
        """The same for the same subschema, as long as its document lives."""
        return (id(self.schema), id(self.document)) if isinstance(self.schema, dict) else self.schema

    @property
    def keywords(self) -> dict[str, Any]:
        """What counts of it: in draft 7 a reference makes its neighbours void."""
        if isinstance(self.schema, bool):
            return {} if self.schema else {"not": True}
        words = self.document.words.get(id(self.schema))
        if words is None:
            unknown = _NOT_OF_7 if self.document.draft7 else _NOT_OF_2020
            alone = self.document.draft7 and "$ref" in self.schema
            words = (
                {"$ref": self.schema["$ref"]} if alone else {k: v for k, v in self.schema.items() if k not in unknown}
            )
            self.document.words[id(self.schema)] = words
        return words

    @property
    def text(self) -> str:
        return json.dumps(self.schema, sort_keys=True)

    def at(self, schema: Any) -> Node:
        return Node(schema, self.document)

    def target(self, ref: str) -> Node | None:
        """What its reference leads to; None where that is outside of the document."""
        return self.at(self.document.targets[ref]) if ref in self.document.targets else None


def read_document(root: Any) -> Document:
    """Raises `UnreadableError` for what is no schema, too large, too deep, or refers to itself without end."""
    _bounded(root)
    draft7 = _is_draft7(root)
    targets: dict[str, Any] = {}
    document = Document(root, draft7, targets, json.dumps(root, sort_keys=True))
    seen: set[object] = set()
    queue: list[tuple[Any, str]] = [(root, "#")]
    while queue:
        schema, where = queue.pop()
        node = Node(schema, document)
        if isinstance(schema, bool) or node.key in seen:
            continue
        if not isinstance(schema, dict):
            raise UnreadableError(where, "is no schema")
        seen.add(node.key)
        if len(seen) > MAX_SCHEMAS:
            raise UnreadableError("#", f"more than {MAX_SCHEMAS} subschemas")
        _checked(schema, where)
        queue.extend(_parts(schema, where))
        ref = schema.get("$ref")
        if ref is not None and ref not in targets:
            found = _resolved(root, ref)
            if found is not None:
                targets[ref] = found[0]
                queue.append((found[0], ref))
    _no_endless_reference(document)
    return document


def _is_draft7(root: Any) -> bool:
    """Where nothing is said, a list of `items` tells: 2020-12 has none."""
    said = root.get("$schema") if isinstance(root, dict) else None
    if said is None:
        return _has_list_of_items(root)
    for name, draft7 in (("draft/2020-12/", False), ("draft-07/", True), ("draft-06/", True)):
        if name in str(said):
            return draft7
    raise UnreadableError("#/$schema", f"{str(said)[:60]!r} is not read, but drafts 7 and 2020-12 are")


def _has_list_of_items(root: Any) -> bool:
    level = [root]
    while level:
        if any(isinstance(value, dict) and isinstance(value.get("items"), list) for value in level):
            return True
        level = [item for value in level for item in _inside(value)]
    return False


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _bounded(root: Any) -> None:
    level, count = [root], 0
    for _ in range(MAX_DEPTH * 2):
        count += len(level)
        if count > MAX_VALUES:
            raise UnreadableError("#", f"more than {MAX_VALUES} values")
        inner: list[Any] = []
        for value in level:
            inner.extend(_inside(value))
            if isinstance(value, dict) and not all(isinstance(name, str) for name in value):
                raise UnreadableError("#", "a name in it is no text")
            if isinstance(value, float) and not math.isfinite(value):
                raise UnreadableError("#", "a number in it is none of JSON")
            if not isinstance(value, str | int | float | bool | dict | list | None):
                raise UnreadableError("#", f"{type(value).__name__} is nothing of JSON")
        level = inner
        if not level:
            return
    raise UnreadableError("#", f"nested deeper than {MAX_DEPTH * 2}")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return is_number(value) and value >= 0 and value == int(value)


def _type(value: Any) -> bool:
    return all(isinstance(one, str) and one in TYPES for one in (value if isinstance(value, list) else [value]))


_COUNTS = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minContains",
    "maxContains",
)
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "type": _type,
    "enum": lambda value: isinstance(value, list),
    "required": _texts,
    "multipleOf": lambda value: is_number(value) and value > 0,
    "uniqueItems": lambda value: isinstance(value, bool),
    "dependentRequired": lambda value: isinstance(value, dict) and all(_texts(item) for item in value.values()),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), is_number),
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(("pattern", "format", "$ref", "$anchor"), lambda value: isinstance(value, str)),
}
_ONE = (
    *("not", "if", "then", "else", "contains", "propertyNames", "additionalProperties", "additionalItems"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_NOT_OF_7 = frozenset(
    {
        *("prefixItems", "dependentRequired", "dependentSchemas", "minContains", "maxContains"),
        *("unevaluatedItems", "unevaluatedProperties", "$anchor", "$dynamicRef", "$recursiveRef"),
    }
)
_NOT_OF_2020 = frozenset({"dependencies", "additionalItems", "$recursiveRef"})
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")


def _checked(schema: Mapping[str, Any], where: str) -> None:
    for keyword, value in schema.items():
        check = _CHECKS.get(keyword)
        if check is not None and not check(value):
            raise UnreadableError(f"{where}/{keyword}", "is not as drafts 7 and 2020-12 of JSON Schema have it")
    if "$id" in schema and where != "#":
        raise UnreadableError(f"{where}/$id", "documents in documents are not followed")


def _parts(schema: Mapping[str, Any], where: str) -> Iterator[tuple[Any, str]]:
    """(subschema, where it is)."""
    for keyword in schema.keys() & set(_ONE):
        yield schema[keyword], f"{where}/{keyword}"
    for keyword in schema.keys() & set(_LISTS):
        if not isinstance(schema[keyword], list) or not schema[keyword]:
            raise UnreadableError(f"{where}/{keyword}", "is no list of schemas")
        yield from ((part, f"{where}/{keyword}/{place}") for place, part in enumerate(schema[keyword]))
    for keyword in schema.keys() & set(_MAPS):
        if not isinstance(schema[keyword], dict):
            raise UnreadableError(f"{where}/{keyword}", "is no object of schemas")
        yield from ((part, f"{where}/{keyword}/{name}") for name, part in schema[keyword].items())
    items = schema.get("items", True)
    if isinstance(items, list) and "$schema" in schema and "2020-12" in schema["$schema"]:
        raise UnreadableError(f"{where}/items", "is no schema")
    for place, part in enumerate(items if isinstance(items, list) else [items]):
        yield part, f"{where}/items/{place}"
    dependencies = schema.get("dependencies", {})
    if not isinstance(dependencies, dict):
        raise UnreadableError(f"{where}/dependencies", "is no object")
    for name, part in dependencies.items():
        if not _texts(part):
            yield part, f"{where}/dependencies/{name}"


def _resolved(root: Any, ref: str) -> tuple[Any] | None:
    """By JSON Pointer (RFC 6901) or by anchor, within the document."""
    base, _, fragment = ref.partition("#")
    if base and not (isinstance(root, dict) and base == str(root.get("$id", "")).partition("#")[0]):
        return None
    if not fragment:
        return (root,)
    if not fragment.startswith("/"):
        return _anchored(root, fragment)
    found = root
    for part in unquote(fragment[1:]).split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return (found,)


def _anchored(root: Any, name: str) -> tuple[Any] | None:
    level = [root]
    while level:
        for value in level:
            if isinstance(value, dict) and value.get("$anchor") == name:
                return (value,)
        level = [item for value in level for item in _inside(value)]
    return None


def in_place(node: Node) -> list[Node]:
    """Subschemas that apply to the very same value."""
    keywords = node.keywords
    found = [node.at(keywords[keyword]) for keyword in ("not", "if", "then", "else") if keyword in keywords]
    found += [node.at(part) for keyword in ("allOf", "anyOf", "oneOf") for part in keywords.get(keyword, ())]
    found += [node.at(part) for part in keywords.get("dependentSchemas", {}).values()]
    found += [node.at(part) for part in keywords.get("dependencies", {}).values() if not isinstance(part, list)]
    target = node.target(keywords["$ref"]) if "$ref" in keywords else None
    return found + ([target] if target is not None else [])


def _no_endless_reference(document: Document) -> None:
    """A schema that refers to itself for the same value means nothing (JSON Schema 2020-12, 9.4.1), and has no bottom."""
    heights: dict[object, int] = {}
    roots = [document.root, *document.targets.values()]
    for root in roots:
        stack: list[tuple[Node, Iterator[Node]]] = []
        self_and_inner = [Node(root, document)]
        while self_and_inner:
            node = self_and_inner.pop()
            if not isinstance(node.schema, dict) or node.key in heights:
                continue
            stack.append((node, iter(in_place(node))))
            open_keys = {node.key}
            while stack:
                at, inner = stack[-1]
                step = next(inner, None)
                if step is None:
                    stack.pop()
                    open_keys.discard(at.key)
                    heights[at.key] = 1 + max((heights.get(part.key, 0) for part in in_place(at)), default=0)
                    if heights[at.key] > MAX_DEPTH:
                        raise UnreadableError(
                            "#", f"more than {MAX_DEPTH} schemas that refer to each other for one value"
                        )
                    self_and_inner.extend(at.at(part) for part, _ in _parts(at.schema, "#"))
                elif step.key in open_keys:
                    raise UnreadableError(str(at.keywords.get("$ref", "#")), "refers to itself for the same value")
                elif isinstance(step.schema, dict) and step.key not in heights:
                    if len(stack) > MAX_DEPTH:
                        raise UnreadableError(
                            "#", f"more than {MAX_DEPTH} schemas that refer to each other for one value"
                        )
                    open_keys.add(step.key)
                    stack.append((step, iter(in_place(step))))
