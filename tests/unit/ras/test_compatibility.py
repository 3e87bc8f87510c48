"""Can what one gives be given to another?"""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from ioi_dagster.ras.compatibility.check import Answer, compatible, media_compatible, modality
from ioi_dagster.ras.compatibility.patterns import matches

TEXT, NUMBER, INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}


def thing(required: tuple[str, ...] = (), **properties: object) -> dict:
    return {"type": "object", "properties": properties, "required": list(required)}


TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": thing(("children",), children={"type": "array", "items": {"$ref": "#/$defs/tree"}}, size=INTEGER)
    },
}
TREES = thing(children={"type": "array", "items": {"$ref": "#"}}, size=NUMBER)
A, B = thing(("kind",), kind={"const": "a"}), thing(("kind",), kind={"const": "b"})


@pytest.mark.parametrize(
    ("gives", "takes", "answer", "path"),
    [
        (INTEGER, NUMBER, Answer.YES, ""),
        (NUMBER, INTEGER, Answer.NO, "$"),
        (INTEGER | {"exclusiveMinimum": 1}, INTEGER | {"minimum": 2}, Answer.YES, ""),
        (NUMBER | {"exclusiveMinimum": 1}, NUMBER | {"minimum": 2}, Answer.NO, "$"),
        ({"enum": ["a", 1]}, {"type": ["string", "integer"]}, Answer.YES, ""),
        ({"const": True}, {"enum": [1]}, Answer.NO, "$"),
        ({"type": ["string", "null"]}, {"anyOf": [TEXT, {"type": "null"}]}, Answer.YES, ""),
        (thing(("a",), a=INTEGER), thing(("a",), a=NUMBER), Answer.YES, ""),
        (thing(a=INTEGER), thing(("a",), a=NUMBER), Answer.NO, "$.a"),
        (thing(("a",), a=thing(("b",), b=TEXT)), thing(a=thing(b=INTEGER)), Answer.NO, "$.a.b"),
        (thing(a=TEXT) | {"additionalProperties": False}, thing(a=TEXT, b=TEXT), Answer.YES, ""),
        (A, {"oneOf": [A, B]}, Answer.YES, ""),
        ({"anyOf": [A, B]}, {"oneOf": [B, A]}, Answer.YES, ""),
        ({"anyOf": [A, thing()]}, {"oneOf": [B, A]}, Answer.NO, "$"),
        (TREE, TREES, Answer.YES, ""),
        (TREES, TREE, Answer.NO, "$.children"),
        (
            {"type": "array", "prefixItems": [TEXT], "items": INTEGER, "minItems": 1},
            {"contains": TEXT},
            Answer.UNKNOWN,
            "$",
        ),
        ({"items": [TEXT], "additionalItems": INTEGER}, {"type": ["array"], "items": [TEXT]}, Answer.NO, "$"),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}, Answer.YES, ""),
        (TEXT, {"type": "string", "format": "date"}, Answer.UNKNOWN, "$"),
        ({"type": "string", "pattern": "(a|b)+"}, {"type": "string", "pattern": "(a|b)*"}, Answer.UNKNOWN, "$"),
        ({"$ref": "https://elsewhere.example/x"}, TEXT, Answer.UNKNOWN, "$"),
        ({"$ref": "#"}, TEXT, Answer.UNKNOWN, "#"),
        ({"type": "text"}, TEXT, Answer.UNKNOWN, "#/type"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, TEXT, Answer.UNKNOWN, "#/$schema"),
        (False, TEXT, Answer.YES, ""),
        (TEXT, {}, Answer.YES, ""),
    ],
)
def test_answers(gives: object, takes: object, answer: Answer, path: str) -> None:
    found = compatible(gives, takes)
    assert (found.answer, found.path) == (answer, path)
    if answer is Answer.NO and not (isinstance(gives, dict) and isinstance(gives.get("items"), list)):
        assert Draft202012Validator(gives).is_valid(found.witness)
        assert not Draft202012Validator(takes).is_valid(found.witness)


def deep(levels: int) -> dict:
    schema: dict = TEXT
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def chain(length: int) -> dict:
    links = {f"d{place}": {"allOf": [{"$ref": f"#/$defs/d{place + 1}"}]} for place in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{length}": TEXT}}


def alternatives(levels: int, name: str) -> dict:
    schema: dict = thing(**{name: TEXT})
    for level in range(levels):
        schema = {"allOf": [{"anyOf": [thing(**{f"{name}{level}": TEXT}), thing(**{f"x{level}": INTEGER})]}, schema]}
    return schema


def cyclic() -> dict:
    schema: dict = {"type": "array"}
    schema["items"] = schema
    return schema


@pytest.mark.parametrize(
    "bomb",
    [
        deep(500),
        chain(500),
        alternatives(20, "a"),
        cyclic(),
        {"enum": list(range(40_000))},
        {"properties": {f"p{place}": {"type": "string"} for place in range(5_000)}},
        {"type": "string", "pattern": "^(a+)+$", "enum": ["a" * 40 + "!"]},
        {"type": "string", "minLength": 10**9},
        thing(("a",), a={"type": "array", "minItems": 10**12}),
    ],
    ids=["deep", "chain", "alternatives", "cyclic", "values", "names", "pattern", "long text", "long list"],
)
def test_what_would_take_long_is_not_known(bomb: dict) -> None:
    for gives, takes in ((bomb, thing(q=INTEGER)), (thing(q=INTEGER), bomb)):
        found = compatible(gives, takes)
        assert found.answer is not Answer.YES
        assert found.reason


def test_patterns_that_could_run_away_are_not_run() -> None:
    assert [matches("^a+$", "aaa"), matches("^a+$", "aab"), matches(r"\d{2}", "x12")] == [True, False, True]
    assert [matches(p, "aaaaaaaaaaaaaaaa!") for p in ("(a+)+$", "(a|a)*b", "a*a*a*b", r"(\w)\1", "a{1000}", "é")] == [
        None
    ] * 6


@pytest.mark.parametrize(
    ("gives", "takes", "answer"),
    [
        (("image/png",), ("image/*",), Answer.YES),
        (("application/geo+json",), ("application/json",), Answer.YES),
        (("text/plain; charset=utf-8",), ("text/plain",), Answer.YES),
        (("text/plain", "image/png"), ("text/plain",), Answer.NO),
        (("image/*",), ("image/png",), Answer.UNKNOWN),
        ((), ("image/png",), Answer.UNKNOWN),
        (("image/png",), (), Answer.YES),
    ],
)
def test_media_types(gives: tuple[str, ...], takes: tuple[str, ...], answer: Answer) -> None:
    assert media_compatible(gives, takes).answer is answer


def test_what_media_are_to_people() -> None:
    media = ("text/csv", "image/png", "application/json", "application/pdf", "application/octet-stream")
    assert [*map(modality, media)] == ["text", "image", "structured data", "document", "binary"]
