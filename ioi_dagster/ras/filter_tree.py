"""Filters as trees of conditions, as the registries of AIGr.id have them; their queries are read as they are.

`{"logicalOperator": "AND" | "OR" | "NOT", "conditions": [...]}` or `{"variable", "operator", "value"}` or, over lists,
`{"aggOperator": "count" | "sum" | "avg" | "min" | "max", "target", "operator", "value"}`. What they mean is what AIGr.id's search
server makes of them for its document store:

- A variable is a path with dots; where it meets a list, it goes into each item (or the one of that number). A list meets a
  condition when it does as a whole or an item of it does.
- `==` with null also holds where there is nothing; `!=` holds wherever `==` does not. Others need a value that is there.
- Numbers and texts do not mix, but a text that is a number is one beside a number: AIGr.id's own samples write `"value": "1"`.
- `LIKE` finds its pattern anywhere in the text (so `yolo` is `*yolo*`), capital letters apart from small ones; `*` is any number
  of characters, `^` and `$` at its ends hold it to the ends of the text. Other signs of regular expressions are refused.

`NOT` is ours: none of its conditions holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from ioi_dagster.errors import BadInputError

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_LISTED = 10_000
"""Values of one `IN`: AIGr.id's server writes the ids of clusters there."""
MAX_TEXT = 1_000
MAX_VALUES = 10_000
"""Of one record that a variable leads to; those after them are not looked at."""
MAX_REASONS = 20

Predicate = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Condition:
    """`path` leads to what is compared; `of` says what is counted of it, and is empty where each value is looked at."""

    path: tuple[str, ...]
    operator: str
    value: Any
    of: str = ""

    def __str__(self) -> str:
        name = ".".join(self.path)
        shown = repr(self.value)
        return f"{f'{self.of}({name})' if self.of else name} {self.operator} {shown if len(shown) < 80 else shown[:77] + '…'}"


@dataclass(frozen=True, slots=True)
class Group:
    """`AND`, `OR` or `NOT` of its parts; to be walked by who makes SQL of it."""

    operator: str
    parts: tuple[Condition | Group, ...]


Filter = Condition | Group


def read_filter(document: Any, where: str = "filter") -> Filter:
    """Raises `BadInputError` that names the place of what is wrong."""
    return _Reader(where).read(document, where, 0)


class _Reader:
    def __init__(self, where: str) -> None:
        self.left = MAX_CONDITIONS

    def read(self, document: Any, where: str, depth: int) -> Filter:
        self.left -= 1
        for wrong, what, todo in (
            (not isinstance(document, dict), f"{type(document).__name__} is no condition", "write an object"),
            (depth > MAX_DEPTH, f"nested deeper than {MAX_DEPTH}", "flatten it"),
            (self.left < 0, f"more than {MAX_CONDITIONS} conditions", "ask in parts, or use IN"),
        ):
            if wrong:
                raise BadInputError(what, where=where, todo=todo)
        if "logicalOperator" in document:
            _only(document, ("logicalOperator", "conditions"), where)
            operator, parts = document["logicalOperator"], document.get("conditions")
            if operator not in ("AND", "OR", "NOT"):
                raise BadInputError(f"logicalOperator is {str(operator)[:30]!r}", where=where, todo="AND, OR or NOT")
            if not isinstance(parts, list) or not parts:
                raise BadInputError("conditions is no list of conditions", where=where, todo="write at least one")
            read = (self.read(part, f"{where}.conditions[{place}]", depth + 1) for place, part in enumerate(parts))
            return Group(operator, tuple(read))
        of, path = ("aggOperator", "target") if "aggOperator" in document else ("", "variable")
        _only(document, (*([of] if of else []), path, "operator", "value"), where)
        missing = [name for name in (path, "operator", "value") if name not in document]
        if missing:
            raise BadInputError(f"{missing[0]} is missing", where=where, todo="write variable, operator and value")
        return _checked(document[path], document["operator"], document["value"], document[of] if of else "", where)


def _only(document: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    odd = [str(name)[:40] for name in document if name not in names]
    if odd:
        raise BadInputError(f"{odd[0]!r} is not known here", where=where, todo=f"only {', '.join(names)}")


def _checked(path: Any, operator: Any, value: Any, of: Any, where: str) -> Condition:
    operators = tuple(_TESTS) if not of else ("==", "!=", "<", "<=", ">", ">=")
    listed = value if operator == "IN" and isinstance(value, list) else [value]
    for wrong, what, todo in (
        (
            not isinstance(path, str) or not 0 < len(path) <= MAX_TEXT or "" in path.split("."),
            f"{str(path)[:60]!r} is no variable",
            "write names with dots between them",
        ),
        (
            not isinstance(operator, str) or operator not in operators,
            f"operator is {str(operator)[:30]!r}",
            ", ".join(operators),
        ),
        (
            not isinstance(of, str) or of not in ("", *_AGGREGATES),
            f"aggOperator is {str(of)[:30]!r}",
            "count, sum, avg, min or max",
        ),
        (operator == "IN" and not isinstance(value, list), "IN needs a list", "write the values in a list"),
        (len(listed) > MAX_LISTED, f"more than {MAX_LISTED} values", "ask in parts"),
        (not all(map(_is_plain, listed)), "a value is no text, number, true, false or null", "compare the parts of it"),
        (of and not all(map(_is_number, listed)), "what is counted is compared to numbers", "write a number"),
        (operator == "LIKE" and not isinstance(value, str), "LIKE needs a text", "write a pattern with *"),
    ):
        if wrong:
            raise BadInputError(what, where=where, todo=todo)
    if operator == "LIKE" and isinstance(value, str):
        odd = re.search(r"[()\[\]{}|?+\\]|(?<!^)\^|\$(?!$)", value)
        if odd:
            what = f"{odd[0]!r} of a regular expression in {value[:60]!r}"
            raise BadInputError(what, where=where, todo="LIKE knows * within, and ^ and $ at its ends")
    return Condition(tuple(path.split(".")), operator, tuple(value) if operator == "IN" else value, of)


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and len(value) <= MAX_TEXT)
        or isinstance(value, bool)
        or _is_number(value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def compiled(tree: Filter) -> Predicate:
    """A test of documents: made once, asked for many."""
    if isinstance(tree, Condition):
        return _compiled_condition(tree)
    parts = [compiled(part) for part in tree.parts]
    if tree.operator == "AND":
        return lambda document: all(part(document) for part in parts)
    if tree.operator == "OR":
        return lambda document: any(part(document) for part in parts)
    return lambda document: not any(part(document) for part in parts)


def why_not(tree: Filter, document: Mapping[str, Any]) -> tuple[str, ...]:
    """What of it does not hold, each with what is there instead; empty where all does."""
    return tuple(_reasons(tree, document))[:MAX_REASONS]


def _reasons(tree: Filter, document: Mapping[str, Any]) -> Iterator[str]:
    if compiled(tree)(document):
        return
    if isinstance(tree, Condition):
        yield f"{tree}: it is {_there(tree, document)}"
    elif tree.operator == "AND":
        for part in tree.parts:
            yield from _reasons(part, document)
    elif tree.operator == "OR":
        yield "none of: " + "; ".join(reason for part in tree.parts for reason in _reasons(part, document))[:MAX_TEXT]
    else:
        yield (
            "holds, and may not: " + "; ".join(str(part) for part in tree.parts if compiled(part)(document))[:MAX_TEXT]
        )


def _there(condition: Condition, document: Mapping[str, Any]) -> str:
    if condition.of:
        counted = _counted(condition, document)
        return "not there" if counted is None else str(counted)
    found = [repr(value)[:60] for value in _values(document, condition.path)][:3]
    return ", ".join(found) if found else "not there"


def variables(tree: Filter) -> frozenset[str]:
    """The paths that it asks for."""
    if isinstance(tree, Condition):
        return frozenset({".".join(tree.path)})
    return frozenset().union(*map(variables, tree.parts))


def _found(document: Any, path: tuple[str, ...]) -> list[Any]:
    level = [document]
    for name in path:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += [value[name]] if name in value else []
            elif isinstance(value, list | tuple):
                inner += [value[int(name)]] if name.isdecimal() and len(name) < 9 and int(name) < len(value) else []
                inner += [item[name] for item in value if isinstance(item, Mapping) and name in item]
        level = inner[:MAX_VALUES]
    return level


def _values(document: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """What a path leads to, each list itself before its items."""
    for value in _found(document, path):
        yield value
        if isinstance(value, list | tuple):
            yield from value


def _counted(condition: Condition, document: Mapping[str, Any]) -> float | None:
    if condition.of == "count":
        return sum(len(value) if isinstance(value, list | tuple) else 1 for value in _found(document, condition.path))
    return _AGGREGATES[condition.of]([value for value in _values(document, condition.path) if _is_number(value)])


def _compiled_condition(condition: Condition) -> Predicate:
    path, value = condition.path, condition.value
    if condition.of:
        compare = _NUMBERS[condition.operator]

        def counted(document: Mapping[str, Any]) -> bool:
            found = _counted(condition, document)
            return found is not None and compare(found, value)

        return counted
    if condition.operator == "!=":
        same = _TESTS["=="](value)
        return lambda document: not _meets(document, path, same, value is None)
    test = _TESTS[condition.operator](value)
    or_nothing = (condition.operator == "==" and value is None) or (condition.operator == "IN" and None in value)
    return lambda document: _meets(document, path, test, or_nothing)


def _meets(document: Mapping[str, Any], path: tuple[str, ...], test: Callable[[Any], bool], or_nothing: bool) -> bool:
    met = True
    for value in _values(document, path):
        met = False
        if test(value):
            return True
    return met and or_nothing


def _equal_to(wanted: Any) -> Callable[[Any], bool]:
    return lambda value: _same(value, wanted)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    one, other = _alike(value, wanted)
    return type(one) is type(other) and one == other


def _among(wanted: tuple[Any, ...]) -> Callable[[Any], bool]:
    """By look-up: an `IN` may list thousands."""
    texts = {value for value in wanted if isinstance(value, str)}
    numbers = {float(value) for value in wanted if _is_number(value)}
    said = {_number(text) for text in texts} - {None}

    def test(value: Any) -> bool:
        if isinstance(value, str):
            return value in texts or _number(value) in numbers
        if _is_number(value):
            return float(value) in numbers or float(value) in said
        return any(value is one for one in wanted) if value is None or isinstance(value, bool) else False

    return test


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Callable[[Any], bool]]:
    def of(wanted: Any) -> Callable[[Any], bool]:
        def test(value: Any) -> bool:
            one, other = _alike(value, wanted)
            comparable = isinstance(one, float | str) and type(one) is type(other)
            return comparable and compare(one, other)

        return test

    return of


def _alike(value: Any, wanted: Any) -> tuple[Any, Any]:
    """As numbers where one of them is a number and the other says one."""
    if isinstance(value, str) and isinstance(wanted, str):
        return value, wanted
    one, other = _number(value), _number(wanted)
    return (one, other) if one is not None and other is not None else (value, wanted)


_DECIMAL = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,2})?")


def _number(value: Any) -> float | None:
    if _is_number(value):
        try:
            return float(value)
        except OverflowError:
            return None
    return float(value) if isinstance(value, str) and len(value) <= 50 and _DECIMAL.fullmatch(value) else None


def _like(pattern: str) -> Callable[[Any], bool]:
    """Piece by piece from the left: what it costs grows with the text and the pattern, and no faster."""
    whole = (pattern[1:] if pattern.startswith("^") else "*" + pattern).removesuffix("$")
    whole += "" if pattern.endswith("$") else "*"
    first, *rest = whole.split("*")

    def test(value: Any) -> bool:
        if not isinstance(value, str) or not rest:
            return value == first
        if not value.startswith(first):
            return False
        at = len(first)
        for piece in rest[:-1]:
            found = value.find(piece, at)
            if found < 0:
                return False
            at = found + len(piece)
        return value.endswith(rest[-1]) and len(value) - len(rest[-1]) >= at

    return test


_TESTS: dict[str, Callable[[Any], Callable[[Any], bool]]] = {
    "==": _equal_to,
    "!=": _equal_to,
    "IN": _among,
    "<": _ordered(lt),
    "<=": _ordered(le),
    ">": _ordered(gt),
    ">=": _ordered(ge),
    "LIKE": _like,
}
_NUMBERS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}
_AGGREGATES: dict[str, Callable[[list[float]], float | None]] = {
    "count": len,
    "sum": math.fsum,
    "avg": lambda numbers: math.fsum(numbers) / len(numbers) if numbers else None,
    "min": lambda numbers: min(numbers, default=None),
    "max": lambda numbers: max(numbers, default=None),
}
