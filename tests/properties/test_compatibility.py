"""Answers about types, held against a validator of others: a yes is contradicted by no value, and a no has a value for it."""

from __future__ import annotations

from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ioi_dagster.ras.compatibility.check import Answer, compatible

NAMES = ("a", "b", "ab", "x1")
PATTERNS = ("^a", "b$", "^[a-z]+$", r"\d", "^(a|b)+$", "x{2,}")
numbers = st.sampled_from([-1, 0, 1, 2, 3, 0.5, 1.5, 2.0])
lengths = st.integers(0, 3)
scalars = st.none() | st.booleans() | numbers | st.sampled_from(["", "a", "b", "ab", "xx", "x1", "abc"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def _limits(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    parts = st.lists(inner, min_size=1, max_size=2)
    named = st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)
    return {
        "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True),
        "enum": st.lists(scalars, min_size=1, max_size=3),
        "const": scalars,
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), numbers),
        "multipleOf": st.sampled_from([1, 2, 3, 0.5]),
        **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), lengths),
        "pattern": st.sampled_from(PATTERNS),
        "items": inner,
        "prefixItems": parts,
        "contains": inner,
        "minContains": lengths,
        "maxContains": lengths,
        "uniqueItems": st.booleans(),
        "properties": named,
        "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2),
        "additionalProperties": inner,
        "propertyNames": inner,
        "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "dependentRequired": st.dictionaries(
            st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=2), max_size=1
        ),
        "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), inner, max_size=1),
        "unevaluatedProperties": inner,
        **dict.fromkeys(("allOf", "anyOf", "oneOf"), parts),
        **dict.fromkeys(("not", "if", "then", "else"), inner),
    }


@st.composite
def _schema(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Any:
    limits = _limits(inner)
    kinds = draw(st.sampled_from(_USUAL))
    keywords = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4, unique=True))
    return {keyword: draw(limits[keyword]) for keyword in keywords}


_ANY = tuple(_limits(st.nothing()))
_USUAL = (
    _ANY,
    ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum"),
    ("type", "minLength", "maxLength", "pattern", "enum"),
    ("type", "items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems"),
    ("type", "properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    ("anyOf", "oneOf", "allOf", "not", "type"),
)
leaves = (
    st.booleans()
    | st.just({})
    | st.sampled_from(TYPES).map(lambda name: {"type": name})
    | st.just({"$ref": "#/$defs/d"})
)
schemas = st.recursive(leaves, lambda inner: _schema(inner), max_leaves=6)
objects = schemas.filter(lambda schema: isinstance(schema, dict))


@st.composite
def _changed(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """Much the same: what is worth asking about."""
    kept = {name: part for name, part in schema.items() if draw(st.integers(0, 4))}
    more = draw(_schema(leaves))
    wrap = draw(st.sampled_from(["as it is", "narrower", "either", "one", "both", "not not"]))
    return {
        "as it is": kept,
        "narrower": {**kept, **more},
        "either": {"anyOf": [more, kept]},
        "one": {"oneOf": [kept, more]},
        "both": {"allOf": [kept, more]},
        "not not": {"not": {"not": kept}},
    }[wrap]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Both have definitions that are recursive, and in place of which a reference may stand."""
    one = draw(objects)
    other = draw(_changed(one) | objects)
    inner = draw(_schema(leaves))
    inner = {"type": ["object", "array", "null"], "items": {"$ref": "#/$defs/d"}, "properties": {"a": inner}}
    both = [schema | {"$defs": {"d": inner}} for schema in (one, other)]
    return (both[0], both[1]) if draw(st.booleans()) else (both[1], both[0])


@settings(max_examples=120, deadline=None)
@given(pair=pairs(), tried=st.lists(values, min_size=8, max_size=20))
def test_a_yes_holds_for_every_value_and_a_no_has_one(pair: tuple[Any, Any], tried: list[Any]) -> None:
    gives, takes = pair
    found = compatible(gives, takes)
    event(str(found.answer))
    giver, taker = Draft202012Validator(gives), Draft202012Validator(takes)
    if "refers to itself" in found.reason:
        return
    if found.answer is Answer.NO:
        assert giver.is_valid(found.witness) and not taker.is_valid(found.witness)
    if found.answer is Answer.YES:
        assert [value for value in tried if giver.is_valid(value) and not taker.is_valid(value)] == []
